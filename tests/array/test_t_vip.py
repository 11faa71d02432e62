"""The virtual address on real hosts, networks, directory and HAProxy: T-VIP-1 to 3, T-ARR-1 to 3, frozen holders."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everpost.lab.hosts import NamespaceHost, open_lab
from everpost.lab.load.ledger import boottime
from everpost.lab.organisation import CommandFailed, Organisation, Server
from everpost.lab.workload import Workload
from tests.array.dns.lab import LabZone

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.timeout(240),
]
ADDRESS, GATEWAY, PASSWORD, USER = "10.77.0.50", "10.77.0.1", "Secret-4711", "mira@contoso.com"


class World:
    """EX01 and EX02 with MB01 and the array, a gateway, and a client host with a capture of who claims the address."""

    def __init__(self, o: Organisation, gateway: NamespaceHost, client: NamespaceHost) -> None:
        self.o, self.gateway, self.client = o, gateway, client
        self.load = Workload(o, client, PASSWORD)
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

    def at_home(self) -> None:
        """All is well, and EX01 has the database and the address."""
        second = self.o.servers[1]
        self.o.wait(lambda: all(self.o.whole(one) for one in self.o.servers), 90, "whole")
        if second.rows("Get-MailboxDatabase MB01 -Status")[0]["MountedOnServer"] != "EX01":
            self.o.retry(lambda: second.rows("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX01"))
            self.o.wait(lambda: self.o.whole(second), 60, "whole at home")
        self.ready("EX01")
        self.ready("EX02")
        if self.holder() != "EX01":
            self.o.retry(lambda: second.rows("Move-ClusterGroup CASArray -Node EX01"))
        self.held("EX01", 10)

    def times(self, kind: str) -> list[float]:
        return [fact["at"] for fact in self.load.ledgers.facts("knock") if fact["kind"] == kind]

    def again(self, since: float, *kinds: str) -> bool:
        return all(any(at > since + 0.5 for at in self.times(kind)) for kind in kinds)

    def mac(self, server: Server) -> str:
        shown = subprocess.run(
            ["ip", "-n", server.host.space, "-j", "link", "show", "mapi"],  # type: ignore[attr-defined]
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return str(json.loads(shown.stdout)[0]["address"])

    def acquired(self) -> list[tuple[int, float, str]]:
        """By epoch: when that server's process knew that it had acquired the address. One that was frozen in between
        may know it when the next one has it already."""
        found = []
        for server in self.o.servers:
            for line in (server.data / "log" / "array.log").read_text().splitlines():
                entry = json.loads(line) if line.startswith("{") else {}
                if entry.get("text") == "acquired":
                    found.append((int(entry["epoch"]), float(entry["at"]), server.name))
        return sorted(found)

    def no_two_holders(self) -> int:
        """By the capture: whoever claims the address acquired it at the highest epoch that anybody knew of by then.
        Returns how many claims there were."""
        owners = {self.mac(server): server.name for server in self.o.servers}
        acquired = self.acquired()
        claims = [fact for fact in self.load.ledgers.facts("arpwatch") if fact["kind"] == "claim"]
        for fact in claims:
            last = [name for _, at, name in acquired if at < fact["at"]][-1]
            assert owners[fact["mac"]] == last, f"{owners[fact['mac']]} claims it at {fact['at']}: {acquired}"
        return len(claims)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    o = Organisation(open_lab("array-vip", "netns"))
    gateway, client = o.lab.host("GATEWAY", 1), o.lab.host("CLIENT", 100)
    assert isinstance(gateway, NamespaceHost) and isinstance(client, NamespaceHost)
    failed = True
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
        found.load.watch_claims(ADDRESS)
        found.load.knock(ADDRESS, USER)
        o.wait(lambda: bool(found.times("login")) and bool(found.times("ack")), 30, "a login and a message")
        yield found
        found.no_two_holders()
        failed = False
    finally:
        o.close(keep_files=failed and bool(os.environ.get("EVERPOST_KEEP")))


def test_T_ARR_1_every_database_has_the_array_also_one_from_before(world: World) -> None:
    first = world.o.servers[0]
    assert first.rows("Get-MailboxDatabase MB01")[0]["RpcClientAccessServer"] == "casarray.contoso.com"
    first.rows("Set-MailboxDatabase MB01 -RpcClientAccessServer EX02")
    assert first.rows("Get-MailboxDatabase MB01")[0]["RpcClientAccessServer"] == "ex02.contoso.com"
    first.rows("Get-MailboxDatabase | Set-MailboxDatabase -RpcClientAccessServer casarray.contoso.com")
    assert first.rows("Get-MailboxDatabase MB01")[0]["RpcClientAccessServer"] == "casarray.contoso.com"
    with pytest.raises(CommandFailed, match="neither"):
        first.rows("Set-MailboxDatabase MB01 -RpcClientAccessServer nowhere.contoso.com")


def test_T_ARR_2_one_array_for_each_site(world: World) -> None:
    with pytest.raises(CommandFailed, match="has the array CASArray already"):
        world.o.servers[1].rows("New-ClientAccessArray -Name Second -Fqdn second.contoso.com")


def test_T_ARR_3_a_former_name_keeps_working(world: World) -> None:
    second = world.o.servers[1]
    second.rows("Set-ClientAccessArray CASArray -Fqdn mail.contoso.com")
    [row] = second.rows("Get-ClientAccessArray casarray.contoso.com")
    assert row["Fqdn"] == "mail.contoso.com" and row["Aliases"] == ["casarray.contoso.com"]
    assert second.rows("Get-MailboxDatabase MB01")[0]["RpcClientAccessServer"] == "mail.contoso.com"
    address = second.host.address
    names = {one["Name"] for one in second.rows("Get-DnsRecords") if one["Type"] == "A" and one["Data"] == address}
    assert names == {"mail.contoso.com.", "casarray.contoso.com."}, "both names are to be entered"
    second.rows("Set-ClientAccessArray CASArray -Fqdn casarray.contoso.com")


def test_the_server_behind_sees_the_client_and_a_drained_one_gets_nobody(world: World) -> None:
    out = world.client.root / "wrong.log"
    code = (
        "import imaplib,ssl;c=imaplib.IMAP4_SSL('10.77.0.50',ssl_context=ssl._create_unverified_context());"
        "c.login('mira','wrong')"
    )
    assert world.client.spawn([sys.executable, "-c", code], out).popen.wait(20) != 0
    logs = "".join((one.data / "log" / "clientaccess.log").read_text() for one in world.o.servers)
    assert '"peer": "10.77.0.100"' in logs, out.read_text()
    second = world.o.servers[1]
    second.rows("Set-ClientAccessArray CASArray -Drained EX01")
    try:
        world.o.wait(lambda: world.status()["Drained"] == ["EX01"], 5, "drained")
        time.sleep(1.5)  # the new configuration is taken up, its statistics begin anew
        began = boottime()
        world.o.wait(lambda: world.again(began, "login"), 10, "logins")
        world.o.wait(lambda: _total(world.status(), "imaps/EX02") > 0, 5, "statistics")
        assert _total(world.status(), "imaps/EX01") == 0
    finally:
        second.rows("Set-ClientAccessArray CASArray -Drained $null")


def _total(row: dict[str, Any], name: str) -> int:
    line = next((one for one in row["Services"] if one.startswith(name + " ")), f"{name} DOWN 0 now, 0 in all")
    return int(line.split(", ")[1].split()[0])


def test_the_name_in_DNS_follows_drains_modes_and_a_silent_DNS_server(world: World) -> None:
    second = world.o.servers[1]
    both = [server.host.address for server in world.o.servers]
    world.zone.holds(both, 30)

    def status() -> dict[str, Any]:
        [row] = second.rows("Get-DnsUpdate contoso.com -Status", 10.0)
        return row

    row = status()
    assert row["Updater"] in ("EX01", "EX02") and row["Server"] == "10.77.0.53" and row["Error"] is None
    assert row["Key"] == "everpost (hmac-sha256)"
    world.o.wait(lambda: status()["RoundRobin"][0] == "CASArray EX01: published", 10, "what it says of EX01")
    assert "_imaps._tcp.contoso.com" in str(row["Conflicts"]), "somebody else's record stays"
    second.rows("Set-ClientAccessArray CASArray -Drained EX01")
    world.zone.holds(both[1:], 10)
    world.o.wait(lambda: status()["RoundRobin"][0] == "CASArray EX01: is drained", 10, "why EX01 is not there")
    second.rows("Set-ClientAccessArray CASArray -Drained $null")
    world.zone.holds(both, 20)
    second.rows("Set-ClientAccessArray CASArray -DnsMode VirtualIP")
    world.zone.holds([ADDRESS], 10)
    world.zone.stop()
    second.rows("Set-ClientAccessArray CASArray -DnsMode RoundRobin")
    world.o.wait(lambda: status()["StaleSince"] is not None, 20, "the records are known to be stale")
    assert "does not answer" in status()["Error"]
    world.o.wait(lambda: bool(second.rows("Get-EverpostEvent -Id 5040")), 40, "the alarm")
    world.zone.start()
    world.zone.holds(both, 40)
    world.o.wait(lambda: status()["StaleSince"] is None and status()["Error"] is None, 30, "all is well")
    world.o.wait(lambda: bool(second.rows("Get-EverpostEvent -Id 5041")), 20, "the end of the alarm")


def test_T_VIP_1_all_cards_of_the_holder_off(world: World) -> None:
    world.at_home()
    both = [server.host.address for server in world.o.servers]
    world.zone.holds(both, 30)
    cut = boottime()
    world.o.servers[0].host.cut()
    try:
        took = world.held("EX02", 10)
        world.zone.holds(both[1:], 20)
        assert world.zone.when(both[1:], cut) < 10.0, "3 s on an idle machine"
        world.o.wait(lambda: world.again(cut, "answered", "login", "ack"), 20, "name, login and pending mail")
        assert took < 5.0
        [row] = world.o.servers[1].rows("Get-MailboxDatabase MB01 -Status")
        assert row["MountedOnServer"] == "EX02"

        def told() -> dict[str, Any]:
            events = world.o.servers[1].rows("Get-EverpostEvent -Id 5030 -Newest 50")
            return events[-1] if events else {"Properties": {}, "Mailed": False}

        expected = {"server": "EX02", "server_before": "EX01"}
        world.o.wait(lambda: expected.items() <= told()["Properties"].items(), 10, "the event of the move")
        world.o.wait(lambda: bool(told()["Mailed"]), 30, "its mail")
    finally:
        world.o.servers[0].host.mend()
    world.zone.holds(both, 60)
    assert world.zone.always(bool, cut), "the name resolves at every moment"
    world.at_home()
    assert world.no_two_holders() > 50


def test_T_VIP_2_who_cannot_see_the_gateway_acquires_nothing(world: World) -> None:
    world.at_home()
    world.gateway.cut()
    try:
        world.o.wait(lambda: "EX02: cannot see the gateway" in world.status()["Candidates"], 15, "a silent gateway")
        assert world.holder() == "EX01", "nobody sees it, so the holder keeps the address"
        world.o.servers[0].host.cut()
        end = time.monotonic() + 6.0
        while time.monotonic() < end:
            assert world.holder() == "EX01", "the record still names the silent holder: nobody acquired it"
            time.sleep(0.2)
        world.gateway.mend()
        world.held("EX02", 15)
    finally:
        world.gateway.mend()
        world.o.servers[0].host.mend()
    world.at_home()
    world.no_two_holders()


def processes(server: Server) -> list[int]:
    """The array process and its HAProxy."""
    pid = server.pid("array")
    assert pid is not None
    found, left = [], [pid]
    while left:
        one = left.pop()
        found.append(one)
        left += [int(word) for word in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
    return found


@pytest.mark.parametrize("round_", range(int(os.environ.get("EVERPOST_VIP_ROUNDS", "2"))))
def test_a_frozen_holder_loses_the_address_and_claims_nothing_when_it_resumes(world: World, round_: int) -> None:
    world.at_home()
    frozen = processes(world.o.servers[0])
    world.o.signal(frozen, signal.SIGSTOP)
    try:
        world.held("EX02", 10)
        time.sleep(0.5)
        space = world.o.servers[0].host.space  # type: ignore[attr-defined]
        shown = subprocess.run(["ip", "-n", space, "addr"], capture_output=True, text=True, check=True).stdout
        assert ADDRESS not in shown, "the kernel ended it"
    finally:
        world.o.signal(frozen, signal.SIGCONT)
    time.sleep(1.0)
    world.ready("EX01")
    world.no_two_holders()


def test_a_killed_process_is_back_at_once(world: World) -> None:
    world.at_home()
    pid = world.o.servers[0].pid("array")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    began = boottime()
    world.o.wait(lambda: world.again(began, "answered", "login"), 15, "the name again")
    world.no_two_holders()


def test_a_planned_move_is_short_and_sessions_are_told(world: World) -> None:
    world.at_home()
    world.o.wait(lambda: world.times("back")[-1] > max(world.times("told"), default=0.0), 20, "an established session")
    began = boottime()
    world.o.servers[1].rows("Move-ClusterGroup CASArray -Node EX02")
    assert world.holder() == "EX02"
    world.o.wait(lambda: any(at > began for at in world.times("back")), 10, "the session again")
    assert any(at > began for at in world.times("told"))
    answered = sorted(at for at in world.times("answered") if at > began - 0.1)
    gap = max(after - before for before, after in itertools.pairwise(answered))
    assert gap < 1.0, "0.15 s on an idle machine (bench/array)"
    with pytest.raises(CommandFailed, match="not a client access server"):
        world.o.servers[1].rows("Move-ClusterGroup CASArray -Node EX10-CAHT")
    world.no_two_holders()


def test_T_VIP_3_the_link_between_the_servers_cut(world: World) -> None:
    """Stands last: the set that shrank grows again only after a quiet minute."""
    world.at_home()
    before = len(world.acquired())
    one, two = (server.host for server in world.o.servers)
    routes = [
        (host.space, f"{address}/32")  # type: ignore[attr-defined]
        for host, peer in ((one, two), (two, one))
        for address in (peer.address, peer.replication_address)
    ]
    for space, route in routes:
        subprocess.run(["ip", "-n", space, "route", "add", "blackhole", route], check=True)
    try:
        time.sleep(6.0)
        assert world.no_two_holders() > 50
        assert len(world.acquired()) - before <= 1, "it may move once, never to and fro"
        began = boottime()
        world.o.wait(lambda: world.again(began, "answered"), 10, "the name answers")
    finally:
        for space, route in routes:
            subprocess.run(["ip", "-n", space, "route", "del", "blackhole", route], check=True)
