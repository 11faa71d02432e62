"""Two members and a witness on real etcd and PostgreSQL: losses, alarms, coordination after restarts, networks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from everpost.databases import processes
from everpost.lab.hosts import NamespaceHost, open_lab
from everpost.lab.organisation import DAG, WITNESS, CommandFailed, Organisation, Server

from .real import dag, holds, mounted, query, said

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.timeout(240),
]
ADMINISTRATOR = "admin@contoso.com"


@pytest.fixture(scope="module")
def organisation() -> Iterator[Organisation]:
    found = Organisation(open_lab("dagops2", "netns"), roles="mailbox,hubtransport")
    try:
        found.build()
        _own_boot(found)
        found.database("MB01", "EX01")
        found.database("MB02", "EX02")
        first = found.servers[0]
        first.shell("New-Mailbox -Name Admin -Database MB01 -Password Secret-4711")
        first.shell(f"Set-OrganizationConfig -AdministratorMail {ADMINISTRATOR}")
        found.wait(found.whole, 60, "the organisation whole")
        yield found
    finally:
        found.close(keep_files=bool(os.environ.get("EVERPOST_KEEP")))


def _own_boot(organisation: Organisation) -> None:
    """The hosts of a lab share a kernel; the witness gets a boot of its own, which a test can change."""
    witness = organisation.witness
    witness.stop()
    boot(organisation, "boot-1")
    line = f'boot_id_file = "{witness.host.root / "boot_id"}"\n'
    witness.config.write_text(line + witness.config.read_text())
    witness.start()
    organisation.wait_agent(witness)
    organisation.wait(lambda: dag(organisation.servers[0], DAG)["VotersMissing"] == [], 20, "all voters")


def boot(organisation: Organisation, name: str) -> None:
    path = organisation.witness.host.root / "boot_id"
    path.write_text(name)
    path.chmod(0o644)


def health(server: Server, identity: str = "") -> dict[str, str]:
    """Failed checks and their errors."""
    rows = server.rows(f"Test-ReplicationHealth {identity}", 30.0)
    return {row["Check"]: row["Error"] for row in rows if row["Result"] != "Passed"}


def events(server: Server, id: int, since: float = 0.0) -> list[dict[str, Any]]:
    return server.rows(f"Get-EverpostEvent -Id {id} -Newest 500", 20.0)


def link(host: NamespaceHost, network: str, state: str) -> None:
    """The cable of one card."""
    card = host._links[("mapi", "repl").index(network)]
    subprocess.run(["ip", "-n", host._cable, "link", "set", card, state], check=True)


def kill_all(server: Server) -> None:
    """A power cut."""
    while pids := [pid for pid in server.host.pids() if processes.alive(pid)]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # its parent's death took it along
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def whole(organisation: Organisation, seconds: float = 90.0) -> None:
    """Every database mounted, every copy well and in its set."""
    organisation.wait(lambda: all(organisation.whole(server) for server in organisation.servers), seconds, "whole")


def at_home(organisation: Organisation) -> None:
    """Whole, and MB01 on EX01, MB02 on EX02: an election of etcd on a busy machine may have moved one."""
    first = organisation.servers[0]
    for database, server in (("MB01", "EX01"), ("MB02", "EX02")):
        organisation.wait(lambda name=database: mounted(organisation, first, name) is not None, 30, database)  # type: ignore[misc]
        whole(organisation)
        if mounted(organisation, first, database) != server:
            first.shell(f"Move-ActiveMailboxDatabase {database} -ActivateOnServer {server}")
    whole(organisation)
    # Members of etcd that were cut from each other connect anew within seconds; a further loss before that is two
    # failures at once, and an election then may take longer than a tenure.
    organisation.wait(lambda: holds(lambda: health(first) == {}, 6.0), 60, "a DAG at rest")


def test_a_healthy_dag_passes_every_check_and_survives(organisation: Organisation) -> None:
    first = organisation.servers[0]
    organisation.wait(lambda: health(first) == {}, 20, "a healthy DAG")
    rows = first.rows("Test-ReplicationHealth EX02", 30.0)
    names = [row["Check"] for row in rows]
    assert names[:3] == ["ClusterService", "ReplayService", "ActiveManager"] and "DBLogReplayKeepingUp" in names
    first.command("test", "replication-health", "--config", str(first.config))  # ends with 0
    for name in ("EX01", "EX02", WITNESS):
        [row] = first.rows(f"Test-DatabaseAvailabilityGroupShutdown {name}", 20.0)
        assert row["Survives"] and row["Obstacles"] == []


def test_T_QUO_2_and_9_a_lost_witness_is_loud_and_dismounts_nothing(organisation: Organisation) -> None:
    first = organisation.servers[0]
    before = len(events(first, 5010))
    organisation.witness.host.cut()
    began = time.monotonic()
    try:
        organisation.wait(lambda: len(events(first, 5010)) > before, 60, "the alarm of a missing voter")
        assert time.monotonic() - began < 60
        failed = health(first)
        assert set(failed) >= {"FileShareQuorum", "QuorumGroup"} and "DBCopyFailed" not in failed
        assert holds(lambda: mounted(organisation, first, "MB01") == "EX01", 5.0)
        assert mounted(organisation, first, "MB02") == "EX02"
        text = first.command("get", "mailbox-database", "--config", str(first.config))
        assert f"WARNING: {WITNESS}" in text, "every command says so"
        [row] = first.rows("Test-DatabaseAvailabilityGroupShutdown EX02", 20.0)
        assert not row["Survives"] and "1 of 3 voters" in row["Obstacles"][0]
        with pytest.raises(CommandFailed):
            first.command(
                "test", "database-availability-group-shutdown", "EX02", "--config", str(first.config)
            )  # ends with 1
    finally:
        organisation.witness.host.mend()
    organisation.wait(lambda: health(first) == {}, 40, "a healthy DAG again")
    organisation.wait(lambda: bool(events(first, 5011)), 20, "the voter's return in the journal")


def test_T_QUO_1_and_3_one_of_three_goes_on_two_of_three_do_not(organisation: Organisation) -> None:
    first, second = organisation.servers
    at_home(organisation)
    red = len(events(first, 4113))
    began = time.monotonic()
    second.host.cut()
    try:
        organisation.wait(lambda: mounted(organisation, first, "MB02") == "EX01", 10, "MB02 on EX01")
        assert mounted(organisation, first, "MB01") == "EX01", organisation.status(first)
        organisation.wait(lambda: len(events(first, 4113)) >= red + 2, 60, "the single copy alarm of both")
        assert time.monotonic() - began < 60, "single copies are an alarm within a minute"
        moves = [row for row in events(first, 5001) if row["Properties"]["database"] == "MB02"]
        assert moves and moves[-1]["Properties"]["server"] == "EX01"
        organisation.wait(lambda: bool(events(first, 5001)[-1]["Mailed"]), 30, "the mail to the administrator")
        assert {"DagMembersUp", "DatabaseRedundancy"} <= set(health(first))
        [row] = first.rows("Test-DatabaseAvailabilityGroupShutdown EX01", 20.0)
        assert any("no other copy" in text for text in row["Obstacles"])
        organisation.witness.host.cut()
        try:
            organisation.wait(lambda: mounted(organisation, first, "MB01") is None, 10, "everything dismounted")
            assert holds(lambda: mounted(organisation, first, "MB02") is None, 3.0)
        finally:
            organisation.witness.host.mend()
        organisation.wait(lambda: mounted(organisation, first, "MB01") == "EX01", 20, "MB01 mounted with two of three")
    finally:
        second.host.mend()
    whole(organisation)
    organisation.wait(lambda: bool(events(first, 4114)), 30, "the green event")


def test_the_journal_outlives_its_author(organisation: Organisation) -> None:
    second = organisation.servers[1]
    written = {row["Server"] for row in second.rows("Get-EverpostEvent -Newest 500", 20.0)}
    assert "EX01" in written


def test_T_DAC_3_one_member_restarts_and_mounts_at_once(organisation: Organisation) -> None:
    second = organisation.servers[1]
    kill_all(second)
    began = time.monotonic()
    second.start()
    organisation.wait_agent(second)
    organisation.wait(
        lambda: next(row["Tenure"] for row in second.rows("Get-ExchangeServer EX02", 5.0)), 10, "the tenure of EX02"
    )
    print(f"tenure {time.monotonic() - began:.1f} s after the start")
    whole(organisation)


def test_T_DAC_4_and_5_the_last_of_two_compares_the_witness_boot(organisation: Organisation) -> None:
    first, second = organisation.servers
    at_home(organisation)
    second.stop()
    organisation.wait(lambda: mounted(organisation, first, "MB02") == "EX01", 20, "all on EX01")
    kill_all(first)
    first.start()
    organisation.wait_agent(first)
    took = organisation.wait(lambda: mounted(organisation, first, "MB01") == "EX01", 20, "MB01 after a restart alone")
    print(f"T-DAC-4: mounted {took:.1f} s after the agent answered")
    kill_all(first)
    boot(organisation, "boot-2")
    first.start()
    organisation.wait_agent(first)
    organisation.wait(lambda: "witness was restarted" in health(first).get("ActiveManager", ""), 20, "the reason")
    assert holds(lambda: mounted(organisation, first, "MB01") is None, 5.0)
    second.start()
    organisation.wait(lambda: mounted(organisation, first, "MB01") is not None, 30, "MB01 once both are there")
    whole(organisation)


def test_both_members_restart_and_come_up_by_themselves(organisation: Organisation) -> None:
    for server in organisation.servers:
        kill_all(server)
    began = time.monotonic()
    for server in organisation.servers:
        server.start()
    first = organisation.servers[0]
    organisation.wait_agent(first)
    organisation.wait(lambda: mounted(organisation, first, "MB01") is not None, 15, "MB01 by itself")
    print(f"mounted {time.monotonic() - began:.1f} s after both were started")
    whole(organisation)


def sender(server: Server) -> str:
    """Whom the passive copy of MB01 follows, by its own word."""
    return query(server, "MB01", "select sender_host from pg_stat_wal_receiver where status = 'streaming'")


def test_T_NET_1_replication_falls_back_to_the_mapi_network(organisation: Organisation) -> None:
    first, second = organisation.servers
    at_home(organisation)
    organisation.wait(lambda: sender(second) == first.host.replication_address, 30, "the replication network")
    epoch = organisation.status(first)["MB01\\EX01"]["Epoch"]
    host = second.host
    assert isinstance(host, NamespaceHost)
    link(host, "repl", "down")
    try:
        took = organisation.wait(lambda: sender(second) == first.host.address, 25, "the MAPI network")
        print(f"T-NET-1: follows over the MAPI network after {took:.1f} s")
        organisation.wait(lambda: organisation.status(first)["MB01\\EX02"]["Status"] == "Healthy", 10, "a healthy copy")
        assert "ReplicationDagNetwork01" in health(first)["ClusterNetwork"]
        assert organisation.status(first)["MB01\\EX01"]["Epoch"] == epoch, "a replication network is no failover"
        rows = {row["Name"]: row for row in first.rows(f"Get-DatabaseAvailabilityGroupNetwork {DAG}", 20.0)}
        assert rows["MapiDagNetwork"]["Subnets"] == ["{10.77.0.0/24,Up}"]
        assert rows["ReplicationDagNetwork01"]["Subnets"] == ["{10.78.0.0/24,Partitioned}"]
    finally:
        link(host, "repl", "up")
    whole(organisation, 120.0)


def test_T_NET_2_without_its_mapi_network_a_server_loses_its_databases(organisation: Organisation) -> None:
    first, second = organisation.servers
    at_home(organisation)
    host = first.host
    assert isinstance(host, NamespaceHost)
    link(host, "mapi", "down")
    try:
        took = organisation.wait(lambda: mounted(organisation, second, "MB01") == "EX02", 10, "MB01 on EX02")
        print(f"T-NET-2: active elsewhere after {took:.1f} s")
        assert took < 5.0
        assert mounted(organisation, first, "MB01") is None
    finally:
        link(host, "mapi", "up")
    whole(organisation, 120.0)


def test_T_DAC_2_and_6_coordination_cannot_be_switched_off(organisation: Organisation) -> None:
    first = organisation.servers[0]
    assert "cannot be switched off" in said(first, f"Set-DatabaseAvailabilityGroup {DAG} -DatacenterActivationMode Off")
    assert "datacenter switchover" in said(first, f"Stop-DatabaseAvailabilityGroup {DAG} -MailboxServer EX02")
    assert dag(first, DAG)["DatacenterActivationMode"] == "DagOnly"


def test_compression_is_chosen_by_its_names(organisation: Organisation) -> None:
    first = organisation.servers[0]
    assert dag(first, DAG)["NetworkCompression"] == "InterSubnetOnly"
    assert "SeedOnly" in said(first, f"Set-DatabaseAvailabilityGroup {DAG} -NetworkCompression On")
    first.rows(f"Set-DatabaseAvailabilityGroup {DAG} -NetworkCompression seedonly")
    assert dag(first, DAG)["NetworkCompression"] == "SeedOnly"
    first.rows(f"Set-DatabaseAvailabilityGroup {DAG} -NetworkCompression InterSubnetOnly")


def test_metrics_for_this_host_and_for_certificates(organisation: Organisation) -> None:
    first = organisation.servers[0]
    host = first.host
    assert isinstance(host, NamespaceHost)
    tls = first.data / "tls"
    url = f"https://{host.address}:64326/metrics"

    def all_up() -> bool:
        page = _fetch(host, "http://127.0.0.1:64326/metrics")
        return "everpost_tenure 1" in page and 'everpost_voter_up{voter="EX02"} 1' in page

    organisation.wait(all_up, 30, "metrics of a host whose voters are up")
    bare = _fetch(host, url, str(tls / "ca.crt"))
    assert "401" in bare and "everpost_tenure" not in bare
    page = _fetch(host, url, str(tls / "ca.crt"), str(tls / "host.crt"), str(tls / "host.key"))
    assert "everpost_may_mount 1" in page


FETCH = """
import ssl, sys, urllib.request, urllib.error
url, *files = sys.argv[1:]
context = ssl.create_default_context(cafile=files[0]) if files else None
if len(files) > 1:
    context.load_cert_chain(files[1], files[2])
try:
    print(urllib.request.urlopen(url, context=context, timeout=10).read().decode())
except urllib.error.HTTPError as error:
    print(error.code)
"""


def _fetch(host: NamespaceHost, url: str, *files: str) -> str:
    argv = ["ip", "netns", "exec", host.space, sys.executable, "-c", FETCH, url, *files]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20).stdout


TALK = """
import socket, sys
lines = socket.create_connection((sys.argv[1], 25), 60).makefile()
print(lines.readline(), end="", flush=True)
if len(sys.argv) > 2:
    print(lines.read(), end="")
"""


def test_maintenance_sends_clients_to_the_other_server_and_its_end_lets_them_in(organisation: Organisation) -> None:
    first, second = organisation.servers
    at_home(organisation)

    def greeting(server: Server) -> str:
        return _talk(server).communicate(timeout=20)[0]

    stays = _talk(first, "until the end")
    assert stays.stdout is not None and stays.stdout.readline().startswith("220 ")
    rows = second.rows("Start-DagServerMaintenance EX01 -OverrideMinimumTwoCopies", 60.0)
    try:
        assert ("hubtransport", "EX02") in [(row["Object"], row["Target"]) for row in rows]
        assert stays.communicate(timeout=20)[0].startswith("421 "), "who waits is sent away"
        assert greeting(first).startswith("421 ") and greeting(second).startswith("220 ")
    finally:
        second.rows("Stop-DagServerMaintenance EX01", 60.0)
    organisation.wait(lambda: greeting(first).startswith("220 "), 10, "clients are welcome again")
    at_home(organisation)


def _talk(server: Server, *arguments: str) -> subprocess.Popen[str]:
    """What SMTP says to a client on the server's own host: its greeting, or all of it."""
    host = server.host
    assert isinstance(host, NamespaceHost)
    argv = ["ip", "netns", "exec", host.space, sys.executable, "-c", TALK, host.address, *arguments]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
