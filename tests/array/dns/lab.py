"""A DNS server on a host of the lab, and what a client host is told of the array's name, with times."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from everpost.lab.hosts import USER, NamespaceHost
from everpost.lab.organisation import Organisation
from tests.array.dns.servers import KEY, KINDS

NAME = "casarray.contoso.com"
_WATCH = """
import json, sys, time
import dns.exception, dns.message, dns.query
address, name = sys.argv[1:]
last = None
while True:
    try:
        answer = dns.query.udp(dns.message.make_query(name, "A"), address, 1.0)
        told = sorted(one.to_text() for rrset in answer.answer for one in rrset)
    except (OSError, dns.exception.DNSException):
        told = last
    if told != last:
        last = told
        print(json.dumps({"at": time.clock_gettime(time.CLOCK_BOOTTIME), "told": told}), flush=True)
    time.sleep(0.1)
"""


def owned(path: Path, text: str) -> None:
    """A file that the lab's user alone may read."""
    path.write_text(text)
    path.chmod(0o600)
    entry = pwd.getpwnam(USER)
    os.chown(path, entry.pw_uid, entry.pw_gid)


class LabZone:
    """contoso.com on the host DNS; the servers have its key."""

    def __init__(self, o: Organisation, client: NamespaceHost, kind: str = "bind") -> None:
        host = o.lab.host("DNS", 53)
        assert isinstance(host, NamespaceHost)
        self._o, self.host = o, host
        self._line = KINDS[kind](host.root, host.address, 53)
        for path in host.root.iterdir():
            path.chmod(0o755)
        self.start()
        for server in o.servers:
            owned(server.data / "dns.key", KEY)
        self._log = client.root / "dns.log"
        client.spawn([sys.executable, "-c", _WATCH, host.address, NAME], self._log)

    def start(self) -> None:
        """The DNS server runs."""
        self._process = self.host.spawn(self._line, self.host.root / "out.log")

    def stop(self) -> None:
        """It is killed."""
        self._process.popen.kill()
        self._process.popen.wait()

    def told(self) -> list[tuple[float, list[str]]]:
        """When the answer changed to what."""
        lines = self._log.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [(float(one["at"]), list(one["told"])) for one in found]

    def now(self) -> list[str]:
        told = self.told()
        return told[-1][1] if told else []

    def holds(self, addresses: Iterable[str], seconds: float) -> None:
        """Until the name resolves to exactly these."""
        wanted = sorted(addresses)
        self._o.wait(lambda: self.now() == wanted, seconds, f"{NAME} resolves to {', '.join(wanted)}")

    def when(self, addresses: Iterable[str], since: float) -> float:
        """Seconds from `since` until it did."""
        wanted = sorted(addresses)
        return next(at - since for at, told in self.told() if at >= since and told == wanted)

    def always(self, condition: Callable[[list[str]], bool], since: float) -> bool:
        """Whether every answer from then on met it."""
        return all(condition(told) for at, told in self.told() if at >= since)
