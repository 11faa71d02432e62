"""One organisation with an array, for all tests of this folder that need real hosts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from everpost.lab.hosts import NamespaceHost, open_lab
from everpost.lab.load.ledger import boottime
from everpost.lab.organisation import Organisation
from everpost.lab.workload import Workload
from tests.array.dns.lab import LabZone
from tests.array.rounds import ADDRESS, GATEWAY, Net

PASSWORD, USER = "Secret-4711", "mira@contoso.com"


@pytest.fixture
def quiet() -> Iterator[None]:
    """For worlds in simulated time, whose keepers say thousands of lines about the faults that are put to them."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


class World:
    """EX01 and EX02 with MB01 and the array, a gateway, and a client host with a capture of who claims the address."""

    def __init__(self, o: Organisation, gateway: NamespaceHost, client: NamespaceHost) -> None:
        self.o, self.gateway, self.client = o, gateway, client
        self.load = Workload(o, client, PASSWORD)
        self.net = Net(o, self.load)
        self.zone = LabZone(o, client)

    def holder(self, by: int = 1) -> str | None:
        rows = self.o.servers[by].rows("Get-ClusterGroup CASArray", 5.0)
        return str(rows[0]["OwnerNode"]) if rows and rows[0]["OwnerNode"] else None

    def held(self, name: str, seconds: float, by: int = 1) -> float:
        return self.o.wait(lambda: self.holder(by) == name, seconds, f"{name} holds the address")

    def status(self, by: int = 1) -> dict[str, Any]:
        [row] = self.o.servers[by].rows("Get-ClientAccessArray CASArray -Status", 5.0)
        return row

    def ready(self, name: str) -> None:
        self.o.wait(lambda: f"{name}: ready" in self.status()["Candidates"], 40, f"{name} can hold the address")

    def mounted_on(self, database: str, by: int = 1) -> str | None:
        [row] = self.o.servers[by].rows(f"Get-MailboxDatabase {database} -Status", 5.0)
        mounted: str | None = row["MountedOnServer"]
        return mounted

    def at_home(self) -> None:
        """All is well, and EX01 has the database and the address."""
        self.at(0, 1)

    def at(self, place: int, other: int) -> None:
        """All is well, and the server at `place` has the database and the address."""
        name, by = self.o.servers[place].name, self.o.servers[other]
        self.o.wait(lambda: all(self.o.whole(one) for one in self.o.servers), 90, "whole")
        if self.mounted_on("MB01", other) != name:
            self.o.retry(lambda: by.rows(f"Move-ActiveMailboxDatabase MB01 -ActivateOnServer {name}"))
            self.o.wait(lambda: self.o.whole(by), 60, f"whole at {name}")
        self.ready("EX01")
        self.ready("EX02")
        if self.holder() != name:
            self.o.retry(lambda: by.rows(f"Move-ClusterGroup CASArray -Node {name}"))
        self.held(name, 10)
        self.ready("EX01")  # who gave it back has a new balancer, which has yet to look around
        self.ready("EX02")

    def times(self, kind: str) -> list[float]:
        return [fact["at"] for fact in self.load.ledgers.facts("knock") if fact["kind"] == kind]

    def again(self, since: float, *kinds: str) -> bool:
        return all(any(at > since + 0.5 for at in self.times(kind)) for kind in kinds)

    def all_again(self, since: float, seconds: float) -> None:
        """Everything that clients do through the name happened anew after `since`."""
        for kind in ("answered", "login", "ack", "https"):
            left = since + seconds - boottime()
            self.o.wait(lambda kind=kind: self.again(since, kind), max(left, 0.1), f"{kind} after the cut")  # type: ignore[misc]

    def no_two_holders(self) -> int:
        """By the capture (`tests.array.holders`). Returns how many answers there were."""
        assert self.net.wrong() == []
        return len(self.net.answers())


@pytest.fixture(scope="package")
def world() -> Iterator[World]:
    o = Organisation(open_lab("array-vip", "netns"))
    gateway, client = o.lab.host("GATEWAY", 1), o.lab.host("CLIENT", 100)
    assert isinstance(gateway, NamespaceHost) and isinstance(client, NamespaceHost)
    try:
        o.build()
        o.database("MB01", "EX01")
        first = o.servers[0]
        first.rows(f"New-Mailbox -Name mira -Alias mira -Database MB01 -Password {PASSWORD}")
        assert first.rows("Get-MailboxDatabase MB01")[0]["RpcClientAccessServer"] == "ex01.contoso.com"
        first.rows(
            f"New-ClientAccessArray -Name CASArray -Fqdn casarray.contoso.com -IP {ADDRESS} -Gateway {GATEWAY}"
            f" -MailTo {USER} -MailFrom failmon@contoso.com -DnsMode RoundRobin"
        )
        first.rows("Set-DnsUpdate contoso.com -Server 10.77.0.53 -PublishMx $true")
        found = World(o, gateway, client)
        found.held("EX01", 30)
        found.load.capture(ADDRESS)
        # It must know which host accepted a connection from the first one on.
        o.wait(lambda: found.net.answers() != [], 30, "the capture")
        found.load.knock(ADDRESS, USER)
        o.wait(lambda: all(found.times(one) for one in ("login", "ack", "https")), 40, "every client")
        yield found
    finally:
        o.close(keep_files=bool(os.environ.get("EVERPOST_KEEP")))
