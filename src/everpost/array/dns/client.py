"""Conversations with a DNS server: signed questions, signed updates, and what its refusals mean."""

from __future__ import annotations

import ipaddress

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rdtypes.txtbase
import dns.rrset
import dns.tsig
import dns.update

from everpost.array.dns.key import Key
from everpost.array.dns.plan import MARK_TTL, Change, Mark, Seen, mark_name, read_mark
from everpost.array.dns.records import RecordSet
from everpost.errors import EverpostError, Refused

LIMIT = 2.0
"""Seconds for one answer of one server; then the next one is asked."""
PORT = 53


class DnsTrouble(EverpostError):
    """The zone could not be read or changed now."""


class Taken(EverpostError):
    """A condition that something be absent failed: somebody else's records, or a mark that was not seen."""


class Outdated(EverpostError):
    """The mark is not as it was seen."""


def endpoint(text: str) -> tuple[str, int]:
    """`192.0.2.53`, `192.0.2.53:5353`, `2001:db8::53` or `[2001:db8::53]:5353`. Raises Refused."""
    host, port = text, str(PORT)
    if text.startswith("["):
        host, _, port = text[1:].partition("]:")
        host, port = host.rstrip("]"), port or str(PORT)
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise Refused(f"{text} is not an address.", remedy="Name one such as 192.0.2.53 or 192.0.2.53:5353.") from None
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise Refused(f"{text} has no port from 1 to 65535.", remedy="Name one such as 192.0.2.53:5353.")
    return host, int(port)


class Client:
    """One zone on one server under one key."""

    def __init__(self, server: str, zone: str, key: Key) -> None:
        self.server = server
        self._host, self._port = endpoint(server)
        self._zone = dns.name.from_text(zone)
        self._key = key
        self._ring = {
            dns.name.from_text(key.name): dns.tsig.Key(key.name, key.secret, dns.name.from_text(key.algorithm))
        }

    async def see(self, name: str, kinds: tuple[str, ...]) -> Seen:
        """A name as it is now. Raises DnsTrouble."""
        found = set()
        for kind in kinds:
            rrset = await self._ask(name, kind)
            if rrset is not None:
                data = tuple(sorted(one.to_text() for one in rrset))
                found.add(RecordSet(name, kind, rrset.ttl, data))
        return Seen(await self._mark(name), frozenset(found))

    async def _mark(self, name: str) -> Mark | None:
        for one in await self._ask(mark_name(name), "TXT") or ():
            if isinstance(one, dns.rdtypes.txtbase.TXTBase):
                mark = read_mark(part.decode(errors="replace") for part in one.strings)
                if mark is not None:
                    return mark
        return None

    async def _ask(self, name: str, kind: str) -> dns.rrset.RRset | None:
        query = dns.message.make_query(name, kind, flags=dns.flags.Flag(0))
        answer = await self._exchange(query)
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise self._refusal(answer)
        if not answer.flags & dns.flags.AA:
            raise DnsTrouble(
                f"{self.server} does not hold the zone {self._zone}.",
                remedy="Name the server that does: Set-DnsUpdate -Server.",
            )
        wanted = dns.rdatatype.from_text(kind)
        owner = dns.name.from_text(name)
        return next((one for one in answer.answer if one.name == owner and one.rdtype == wanted), None)

    async def update(self, change: Change) -> None:
        """Do it. Raises Taken, Outdated or DnsTrouble; with the last it may have happened."""
        answer = await self._exchange(self._message(change))
        code = answer.rcode()
        if code in (dns.rcode.YXRRSET, dns.rcode.YXDOMAIN):
            raise Taken(f"{change.name} exists.")
        if code in (dns.rcode.NXRRSET, dns.rcode.NXDOMAIN):
            raise Outdated("The mark has changed.")
        if code != dns.rcode.NOERROR:
            raise self._refusal(answer)

    def _message(self, change: Change) -> dns.update.UpdateMessage:
        message = dns.update.UpdateMessage(self._zone)
        name, mark = dns.name.from_text(change.name), dns.name.from_text(mark_name(change.name))
        if change.mark is None:
            message.absent(mark, "TXT")
        else:
            message.present(mark, "TXT", _txt(change.mark))
        for kind in change.absent:
            if kind is None:
                message.absent(name)
            else:
                message.absent(name, kind)
        for kind in change.kinds:
            message.delete(name, kind)
        for one in change.records:
            for data in one.data:
                message.add(name, one.ttl, one.kind, data)
        if change.new_mark != change.mark:
            message.delete(mark, "TXT")
            if change.new_mark is not None:
                message.add(mark, MARK_TTL, "TXT", _txt(change.new_mark))
        return message

    async def _exchange(self, message: dns.message.Message) -> dns.message.Message:
        message.use_tsig(self._ring, dns.name.from_text(self._key.name), algorithm=self._key.algorithm)
        try:
            if isinstance(message, dns.update.UpdateMessage):
                return await dns.asyncquery.tcp(message, self._host, LIMIT, self._port)
            answer, _ = await dns.asyncquery.udp_with_fallback(message, self._host, LIMIT, self._port)
        except (dns.tsig.PeerBadKey, dns.tsig.PeerBadSignature) as error:
            what = "does not know" if isinstance(error, dns.tsig.PeerBadKey) else "has another secret for"
            raise DnsTrouble(
                f"{self.server} {what} the TSIG key {self._key}.",
                remedy="Enter the same name, algorithm and secret there and in the key file, and allow it to update the"
                " zone (docs/dns.md).",
            ) from None
        except dns.tsig.PeerBadTime:
            raise DnsTrouble(
                f"The clocks of this server and of {self.server} differ by more than five minutes.",
                remedy="Set them by NTP.",
            ) from None
        except (dns.exception.Timeout, OSError, EOFError) as error:
            why = "no answer in time" if isinstance(error, dns.exception.Timeout | TimeoutError) else str(error)
            raise DnsTrouble(
                f"{self.server} does not answer: {why}.", remedy="See whether it runs, and the path to it.", retry=True
            ) from None
        except dns.exception.FormError as error:
            raise DnsTrouble(
                f"{self.server} gives no signed answer about {self._zone}: {error}.",
                remedy=f"See whether it holds that zone and knows the key {self._key.name}.",
            ) from None
        except (dns.exception.DNSException, ValueError) as error:
            raise DnsTrouble(f"{self.server} gave an answer that cannot be believed: {error}.") from None
        return answer

    def _refusal(self, answer: dns.message.Message) -> DnsTrouble:
        code = answer.rcode()
        if code == dns.rcode.REFUSED:
            return DnsTrouble(
                f"{self.server} refuses updates of {self._zone} by the key {self._key.name}.",
                remedy="Allow that key to update the zone (allow-update in BIND, acl in Knot: docs/dns.md).",
            )
        if code in (dns.rcode.NOTAUTH, dns.rcode.NOTZONE):
            return DnsTrouble(
                f"{self.server} does not hold the zone {self._zone}.",
                remedy="Name its primary server: Set-DnsUpdate -Server.",
            )
        return DnsTrouble(f"{self.server} answers {dns.rcode.to_text(code)}.", remedy="Its log says more.", retry=True)


def _txt(mark: Mark) -> str:
    return " ".join(f'"{text}"' for text in mark.strings())
