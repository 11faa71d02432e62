"""The virtual address on real hosts, networks, directory and HAProxy: T-VIP-1 to 3, T-ARR-1 to 3, frozen holders."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from everpost.lab.load.knock import TRY
from everpost.lab.load.ledger import boottime
from everpost.lab.organisation import CommandFailed, Server
from tests.array.conftest import World
from tests.array.rounds import ADDRESS, tree

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.timeout(240),
]


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
    address = second.host.address  # its round robin; the virtual address is looked at in dns/test_records.py
    names = {one["Name"] for one in second.rows("Get-DnsRecords") if one["Type"] == "A" and one["Data"] == address}
    assert names == {"mail.contoso.com.", "casarray.contoso.com."}, "both names are to be entered"
    second.rows("Set-ClientAccessArray CASArray -Fqdn casarray.contoso.com")


def test_the_server_behind_sees_the_client_and_a_drained_one_gets_nobody(world: World) -> None:
    out = world.client.root / "wrong.log"
    code = (
        "import imaplib,ssl;c=imaplib.IMAP4_SSL('10.77.0.50',ssl_context=ssl._create_unverified_context());"
        "c.login('mira','wrong')"
    )

    def seen() -> bool:
        """A busy machine may drop a connection before its log-in is heard."""
        assert world.client.spawn([sys.executable, "-c", code], out).popen.wait(20) != 0
        logs = "".join((one.data / "log" / "clientaccess.log").read_text() for one in world.o.servers)
        return '"peer": "10.77.0.100"' in logs

    world.o.wait(seen, 20, "a log-in that a server heard, with the client's address")
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
    world.zone.holds(both, 15)  # 5 s on an idle machine
    world.o.wait(lambda: status()["StaleSince"] is None and status()["Error"] is None, 30, "all is well")
    world.o.wait(lambda: bool(second.rows("Get-EverpostEvent -Id 5041")), 20, "the end of the alarm")


@contextlib.contextmanager
def refused(server: Server, port: int) -> Iterator[None]:
    """Connections to that port of the server are reset; its ports for balancers work."""
    enter = ["ip", "netns", "exec", server.host.space, "nft"]  # type: ignore[attr-defined]
    chain = f"chain input {{ type filter hook input priority 0; tcp dport {port} reject with tcp reset; }}"
    subprocess.run([*enter, f"add table inet everpost_login {{ {chain}; }}"], check=True)
    try:
        yield
    finally:
        subprocess.run([*enter, "delete table inet everpost_login"], check=True)


def healthz(world: World, server: Server, protocol: str) -> int:
    """What the server's own endpoint says to somebody else's balancer."""
    out = world.client.root / f"healthz-{uuid.uuid4().hex}.log"
    code = (
        "import http.client,ssl,sys;c=http.client.HTTPSConnection(sys.argv[1],timeout=5,"
        "context=ssl._create_unverified_context());c.request('GET','/healthz/'+sys.argv[2]);"
        "print(c.getresponse().status)"
    )
    process = world.client.spawn([sys.executable, "-c", code, server.host.address, protocol], out)
    return int(out.read_text()) if process.popen.wait(20) == 0 else 0


def test_a_server_where_nobody_can_log_in_is_taken_out_and_put_back(world: World) -> None:
    first = world.o.servers[0]
    world.o.wait(lambda: len(first.rows("Get-Mailbox -Monitoring")) > 0, 20, "a health mailbox for MB01")
    assert len(first.rows("Get-Mailbox -Monitoring")) == 1, "one, though both servers would make it"
    assert [row["Name"] for row in first.rows("Get-Mailbox")] == ["mira"], "it is hidden"

    def states(server: str) -> set[str]:
        lines = [line for line in world.status()["Services"] if line.split()[0].endswith(f"/{server}")]
        return {line.split()[1] for line in lines if "imap" in line}

    world.o.wait(lambda: states("EX01") == {"UP"}, 30, "EX01 is balanced to")
    assert healthz(world, first, "imap") == 200 and healthz(world, first, "pop3") == 404
    with refused(first, 993):
        # The greeting of the port that HAProxy itself uses still comes: only the log-in tells.
        world.o.wait(lambda: states("EX01") == {"DOWN"}, 40, "EX01 is taken out")
        assert states("EX02") == {"UP"}
        world.o.wait(lambda: healthz(world, first, "imap") == 503, 40, "it says so itself")
        assert healthz(world, first, "smtp") == 200
    world.o.wait(lambda: states("EX01") == {"UP"}, 40, "EX01 is put back")
    world.o.wait(lambda: healthz(world, first, "imap") == 200, 40, "it says so itself")


def blames_itself(server: Server) -> list[str]:
    """Lines by which the log-in checks of a server took out that server itself."""
    lines = (server.data / "log" / "array.log").read_text().splitlines()
    return [line for line in lines if '"taken out"' in line and f'"server": "{server.name}"' in line]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["EX01", "then the other way round"])
def test_T_VIP_1_all_cards_of_the_holder_off(world: World, order: tuple[int, int]) -> None:
    """The acceptance of the field's texts: clients by HTTPS, IMAP and SMTP go on through the name."""
    lost, other = (world.o.servers[place] for place in order)
    world.at(*order)
    everybody = [server.host.address for server in world.o.servers]
    world.zone.holds(everybody, 30)
    before = blames_itself(other)
    cut = boottime()
    lost.host.cut()
    try:
        took = world.held(other.name, 10, order[1])
        world.zone.holds([other.host.address], 20)
        assert world.zone.when([other.host.address], cut) < 10.0, "3 s on an idle machine"
        world.all_again(cut, 25)
        assert took < 5.0
        [row] = other.rows("Get-MailboxDatabase MB01 -Status")
        assert row["MountedOnServer"] == other.name
        assert blames_itself(other) == before, "log-ins stall while the database moves: that is nobody's fault"

        def told() -> dict[str, Any]:
            events = other.rows("Get-EverpostEvent -Id 5030 -Newest 50")
            return events[-1] if events else {"Properties": {}, "Mailed": False}

        expected = {"server": other.name, "server_before": lost.name}
        world.o.wait(lambda: expected.items() <= told()["Properties"].items(), 10, "the event of the move")
        world.o.wait(lambda: bool(told()["Mailed"]), 30, "its mail")
    finally:
        lost.host.mend()
    world.zone.holds(everybody, 60)
    assert world.zone.always(bool, cut), "the name resolves at every moment"
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


def test_T_VIP_2_peer_silent_and_its_database_cannot_come_here(world: World) -> None:
    """FailoverMon would wait for ever. Here quorum took the dead server, so the address moves at once: the name
    answers, the users of that database alone wait, and they are served as soon as it comes."""
    world.at_home()
    second = world.o.servers[1]
    second.rows("Suspend-MailboxDatabaseCopy MB01\\EX02 -ActivationOnly")
    cut = boottime()
    world.o.servers[0].host.cut()
    try:
        world.held("EX02", 10)
        world.o.wait(lambda: world.again(cut, "answered", "https"), 10, "the name answers")
        time.sleep(TRY)  # what was under way at the cut has ended
        since = boottime()
        time.sleep(2.0)
        assert world.mounted_on("MB01") != "EX02", "the bar against activation holds"
        assert not any(at > since for at in world.times("login")), "nobody else opens that database"
        second.rows("Resume-MailboxDatabaseCopy MB01\\EX02")
        resumed = boottime()
        world.o.wait(lambda: world.again(resumed, "login"), 20, "log-ins once the database came")
        assert world.mounted_on("MB01") == "EX02"
    finally:
        world.o.servers[0].host.mend()
        world.o.retry(lambda: second.rows("Resume-MailboxDatabaseCopy MB01\\EX02"))
    world.no_two_holders()


@pytest.mark.parametrize("round_", range(int(os.environ.get("EVERPOST_VIP_ROUNDS", "2"))))
def test_a_frozen_holder_loses_the_address_and_claims_nothing_when_it_resumes(world: World, round_: int) -> None:
    world.at_home()
    frozen = tree(world.o.servers[0], "array")
    world.o.signal(frozen, signal.SIGSTOP)
    try:
        world.held("EX02", 10)
        held = boottime()
        time.sleep(0.5)
        space = world.o.servers[0].host.space  # type: ignore[attr-defined]
        shown = subprocess.run(["ip", "-n", space, "addr"], capture_output=True, text=True, check=True).stdout
        assert ADDRESS not in shown, "the kernel ended it"
        world.o.wait(lambda: world.again(held, "login"), 15, "log-ins, at a database that did not move")
        assert world.mounted_on("MB01") == "EX01"
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
    before = len(world.net.acquisitions())
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
        assert len(world.net.acquisitions()) - before <= 1, "it may move once, never to and fro"
        began = boottime()
        world.o.wait(lambda: world.again(began, "answered"), 10, "the name answers")
    finally:
        for space, route in routes:
            subprocess.run(["ip", "-n", space, "route", "del", "blackhole", route], check=True)
