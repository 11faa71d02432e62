"""Real DNS servers, each in a folder and on a loopback port of its own: BIND's named and Knot's knotd."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.tsig
import dns.tsigkeyring
import dns.update

ZONE = "contoso.com"
SECRET = "c2VjcmV0IG9mIHRoZSB0ZXN0IHdpdGggMzIgYnl0ZXMh"
OTHER_SECRET = "YW5vdGhlciBzZWNyZXQgb2YgMzIgYnl0ZXMgaGVyZSEh"
KEY = f'key "everpost" {{\n    algorithm hmac-sha256;\n    secret "{SECRET}";\n}};\n'
_ZONE_FILE = """\
$TTL 300
@ SOA ns.contoso.com. hostmaster.contoso.com. 1 3600 600 86400 60
@ NS ns.contoso.com.
@ TXT "v=spf1 mx -all"
ns A 192.0.2.53
www A 192.0.2.80
mail A 192.0.2.25
_imaps._tcp SRV 5 1 993 other.contoso.com.
"""
"""`mail` and `_imaps._tcp` are somebody else's."""


def free_port(address: str = "127.0.0.1") -> int:
    """One that is free for TCP and UDP."""
    while True:
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            stream.bind((address, 0))
            port = int(stream.getsockname()[1])
            with contextlib.suppress(OSError):
                datagram.bind((address, port))
                return port


def copied(program: str, folder: Path) -> str:
    """A copy of a program: AppArmor knows the system's by its path, and lets it into the system's folders only."""
    found = shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
    assert found, f"{program} is missing; scripts/setup test installs it"
    return shutil.copy(found, folder / program)


def bind(folder: Path, address: str, port: int) -> list[str]:
    """Files of a named, and how to start it."""
    (folder / "contoso.com.zone").write_text(_ZONE_FILE)
    (folder / "named.conf").write_text(f"""\
{KEY}
key "readonly" {{ algorithm hmac-sha256; secret "{SECRET}"; }};
options {{
    directory "{folder}";
    pid-file none;
    session-keyfile none;
    lock-file none;
    listen-on port {port} {{ {address}; }};
    listen-on-v6 {{ none; }};
    recursion no;
    notify no;
    dnssec-validation no;
    empty-zones-enable no;
}};
controls {{ }};
zone "contoso.com" {{
    type primary;
    file "contoso.com.zone";
    update-policy {{ grant everpost zonesub ANY; }};
}};
""")
    return [copied("named", folder), "-f", "-n", "1", "-c", str(folder / "named.conf"), "-L", str(folder / "named.log")]


def knot(folder: Path, address: str, port: int) -> list[str]:
    """Files of a knotd, and how to start it."""
    (folder / "contoso.com.zone").write_text(_ZONE_FILE)
    (folder / "knot.conf").write_text(f"""\
server:
    rundir: "{folder}"
    listen: {address}@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: "{folder}"
key:
  - id: everpost
    algorithm: hmac-sha256
    secret: {SECRET}
  - id: readonly
    algorithm: hmac-sha256
    secret: {SECRET}
acl:
  - id: everpost-updates
    key: everpost
    action: update
zone:
  - domain: contoso.com
    storage: "{folder}"
    file: "contoso.com.zone"
    zonefile-sync: -1
    journal-content: changes
    acl: everpost-updates
""")
    return [copied("knotd", folder), "-c", str(folder / "knot.conf")]


KINDS = {"bind": bind, "knot": knot}


def ask(address: str, port: int, name: str, kind: str, limit: float = 5.0) -> list[str]:
    """What anybody is told, sorted; [] for nothing."""
    answer = dns.query.udp(dns.message.make_query(name, kind), address, limit, port)
    assert answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN), answer
    return sorted(one.to_text() for rrset in answer.answer if rrset.rdtype == _type(kind) for one in rrset)


def _type(kind: str) -> int:
    return int(dns.message.make_query(".", kind).question[0].rdtype)


class DnsServer:
    """A running server."""

    def __init__(self, kind: str, folder: Path, port: int, address: str = "127.0.0.1") -> None:
        self.kind, self.folder, self.port, self.address = kind, folder, port, address
        self._line = KINDS[kind](folder, address, port)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{self.address}:{self.port}"

    def start(self) -> None:
        with (self.folder / "out.log").open("ab") as out:
            self._process = subprocess.Popen(self._line, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/")
        end = time.monotonic() + 20
        while True:
            try:
                if ask(self.address, self.port, "www.contoso.com", "A", 0.3) == ["192.0.2.80"]:
                    return
            except (OSError, dns.exception.DNSException, AssertionError):
                pass
            assert self._process.poll() is None and time.monotonic() < end, (self.folder / "out.log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ask(self, name: str, kind: str) -> list[str]:
        return ask(self.address, self.port, name, kind)

    def edit(self, *changes: Sequence[str]) -> None:
        """Somebody else's hand: ("delete", name[, kind]) or ("add", name, ttl, kind, data)."""
        message = dns.update.UpdateMessage(ZONE, keyring=dns.tsigkeyring.from_text({"everpost.": SECRET}))
        for verb, name, *rest in changes:
            if verb == "delete":
                message.delete(dns.name.from_text(name), *rest)
            else:
                message.add(dns.name.from_text(name), int(rest[0]), *rest[1:])
        assert dns.query.tcp(message, self.address, 5.0, self.port).rcode() == dns.rcode.NOERROR
