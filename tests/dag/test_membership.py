"""Membership on a real organisation of three servers and a witness (T-DAG-1..11), one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from everpost.lab.hosts import NamespaceHost, open_lab
from everpost.lab.organisation import WITNESS, CommandFailed, Organisation, Server

from .real import DAG, dag, said

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def organisation() -> Iterator[Organisation]:
    found = Organisation(open_lab("dagops", "netns"), roles="mailbox")
    found.add_server("EX03", 14)
    try:
        found.join()
        yield found
    finally:
        found.close()


def voters_are(organisation: Organisation, wanted: set[str], seconds: float = 30.0) -> None:
    first = organisation.servers[0]
    organisation.wait(lambda: set(dag(first)["Voters"]) == wanted, seconds, f"voters {wanted}")


def test_T_DAG_1_and_2_an_empty_dag_with_a_witness_of_its_own(organisation: Organisation) -> None:
    first = organisation.servers[0]
    assert "at most 15" in said(first, "New-DatabaseAvailabilityGroup -Name ABCDEFGHIJKLMNOP")
    assert "is the name of a server" in said(first, "New-DatabaseAvailabilityGroup -Name ex01")
    assert "full path" in said(first, f"New-DatabaseAvailabilityGroup -Name {DAG} -WitnessDirectory fsw")
    assert "full path" in said(first, f"New-DatabaseAvailabilityGroup -Name {DAG} -WitnessDirectory c:\\")
    [row] = first.rows(f"New-DatabaseAvailabilityGroup -Name {DAG}")
    assert (row["WitnessServer"], row["WitnessDirectory"]) == (WITNESS, f"/var/lib/everpost/witness/{DAG}.contoso.com")
    assert row["MemberServers"] == []
    assert "already" in said(first, f"New-DatabaseAvailabilityGroup -Name {DAG.lower()}")
    place = f"-WitnessServer {WITNESS} -WitnessDirectory /var/lib/everpost/witness/{DAG}.contoso.com"
    assert "witness directory of DAG1" in said(first, f"New-DatabaseAvailabilityGroup -Name DAG2 {place}")
    [row] = first.rows("New-DatabaseAvailabilityGroup -Name DAG2 -WitnessDirectory c:\\FSW")
    assert (row["WitnessServer"], row["WitnessDirectory"]) == (WITNESS, "c:\\FSW")


def test_T_DAG_11_two_servers_added_as_first_at_the_same_moment(organisation: Organisation) -> None:
    """Each on its own agent: one DAG, one cluster."""
    failed: list[Exception] = []

    def add(name: str) -> None:
        try:
            server = organisation.server(name)
            server.shell(f"Add-DatabaseAvailabilityGroupServer {DAG} {name}", timeout=100)
        except CommandFailed as error:
            failed.append(error)

    threads = [threading.Thread(target=add, args=(name,)) for name in ("EX01", "EX02")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for server in organisation.servers[:2]:
        row = dag(server)
        assert set(row["MemberServers"]) == {"EX01", "EX02"}
        assert set(row["Voters"]) == {"EX01", "EX02", WITNESS}
    for name in ("EX02", "EX01"):
        organisation.servers[0].rows(f"Remove-DatabaseAvailabilityGroupServer {DAG} {name}", 60.0)
    assert dag(organisation.servers[0])["MemberServers"] == []


def test_T_DAG_3_the_first_member(organisation: Organisation) -> None:
    first = organisation.servers[0]
    first.rows(f"Add-DatabaseAvailabilityGroupServer {DAG} EX01", 60.0)
    row = dag(first)
    assert row["QuorumModel"] == "NodeMajority" and row["WitnessShareInUse"] == "None"
    organisation.wait(lambda: dag(first)["PrimaryActiveManager"] == "EX01", 10, "EX01 as PAM")
    voters_are(organisation, {"EX01"})


def test_T_DAG_4_the_second_member_brings_the_witness(organisation: Organisation) -> None:
    first = organisation.servers[0]
    first.rows(f"Add-DatabaseAvailabilityGroupServer {DAG} EX02", 60.0)
    row = dag(first)
    assert row["QuorumModel"] == "NodeAndFileShareMajority" and row["WitnessShareInUse"] == "Primary"
    voters_are(organisation, {"EX01", "EX02", WITNESS})
    place = organisation.witness.host.root / f"paths/var/lib/everpost/witness/{DAG}.contoso.com"
    assert any(place.glob("member-*"))
    assert "member of DAG1" in said(first, f"Set-DatabaseAvailabilityGroup {DAG} -WitnessServer EX02")
    assert "witness directory of DAG2" in said(
        first, f"Set-DatabaseAvailabilityGroup {DAG} -WitnessServer {WITNESS} -WitnessDirectory c:\\FSW"
    )


def test_the_witness_moves_to_another_directory_and_host(organisation: Organisation) -> None:
    """With one command while there is quorum (WIT-5)."""
    first = organisation.servers[0]
    first.rows(f"Set-DatabaseAvailabilityGroup {DAG} -WitnessDirectory /var/lib/fsw", 90.0)
    assert any((organisation.witness.host.root / "paths/var/lib/fsw").glob("member-*"))
    voters_are(organisation, {"EX01", "EX02", WITNESS})
    first.rows(f"Set-DatabaseAvailabilityGroup {DAG} -AlternateWitnessServer EX03", 60.0)
    row = dag(first)
    assert row["AlternateWitnessServer"] == "EX03" and row["WitnessServer"] == WITNESS


def test_a_lost_witness_is_replaced_with_one_command(organisation: Organisation) -> None:
    first = organisation.servers[0]
    organisation.witness.host.cut()
    try:
        organisation.wait(lambda: WITNESS in dag(first)["VotersMissing"], 20, "the witness to be missed")
        assert dag(first)["WitnessShareInUse"] == "InvalidConfiguration"
        first.rows(f"Set-DatabaseAvailabilityGroup {DAG} -WitnessServer EX03", 90.0)
        voters_are(organisation, {"EX01", "EX02", "EX03"})
    finally:
        organisation.witness.host.mend()
    organisation.wait(lambda: not (organisation.witness.data / "etcd.json").exists(), 30, "the old one to let go")
    first.rows(f"Set-DatabaseAvailabilityGroup {DAG} -WitnessServer {WITNESS} -WitnessDirectory /var/lib/fsw", 90.0)
    voters_are(organisation, {"EX01", "EX02", WITNESS})


def test_T_DAG_5_with_a_third_member_the_witness_does_not_vote(organisation: Organisation) -> None:
    first = organisation.servers[0]
    first.rows(f"Add-DatabaseAvailabilityGroupServer {DAG} EX03", 90.0)
    row = dag(first)
    assert row["QuorumModel"] == "NodeMajority" and row["WitnessServer"] == WITNESS
    voters_are(organisation, {"EX01", "EX02", "EX03"})
    organisation.wait(lambda: not (organisation.witness.data / "etcd.json").exists(), 30, "the witness to let go")


def test_T_DAG_9_and_10_refusals(organisation: Organisation) -> None:
    first = organisation.servers[0]
    assert "EX01, EX02, EX03" in said(first, f"Remove-DatabaseAvailabilityGroup {DAG}")
    refusal = said(first, "Add-DatabaseAvailabilityGroupServer DAG2 EX01")
    assert "EX01 is a member of DAG1" in refusal and "Remove-DatabaseAvailabilityGroupServer DAG1 EX01" in refusal
    assert "no mailbox role" in said(first, f"Add-DatabaseAvailabilityGroupServer {DAG} {WITNESS}")
    assert "is alive" in said(first, f"Remove-DatabaseAvailabilityGroupServer {DAG} EX03 -ConfigurationOnly")
    assert "cannot be switched off" in said(first, f"Set-DatabaseAvailabilityGroup {DAG} -DatacenterActivationMode Off")


def test_T_DAG_7_a_server_with_copies_stays(organisation: Organisation) -> None:
    first = organisation.servers[0]
    organisation.database("DB1", "EX01")
    before = dag(first)
    refusal = said(first, f"Remove-DatabaseAvailabilityGroupServer {DAG} EX02")
    assert "DB1\\EX02" in refusal and "Remove-MailboxDatabaseCopy DB1\\EX02" in refusal
    assert dag(first) == before


def test_T_DAG_8_a_dead_member_is_removed_and_comes_back_as_a_plain_server(organisation: Organisation) -> None:
    first, lost = organisation.servers[0], organisation.server("EX03")
    lost.host.cut()
    organisation.wait(lambda: "EX03" not in dag(first)["OperationalServers"], 10, "EX03 to be missed")
    assert "-ConfigurationOnly" in said(first, f"Remove-DatabaseAvailabilityGroupServer {DAG} EX03")
    first.rows(f"Remove-DatabaseAvailabilityGroupServer {DAG} EX03 -ConfigurationOnly", 90.0)
    assert dag(first)["MemberServers"] == ["EX01", "EX02"]
    voters_are(organisation, {"EX01", "EX02", WITNESS})
    lost.host.mend()
    organisation.wait(lambda: not (lost.data / "etcd.json").exists(), 40, "EX03 to let go of its member")
    organisation.wait(
        lambda: next(row["Tenure"] for row in first.rows("Get-ExchangeServer EX03")), 30, "EX03 as a plain server"
    )
    first.rows("Remove-ExchangeServer EX03", 60.0)
    assert "There is no server EX03" in said(first, "Get-ExchangeServer EX03")


def test_a_host_that_only_serves_clients_greets_them(organisation: Organisation) -> None:
    """It has a tenure of its own, by which its roles may answer, and no warden."""
    first = organisation.servers[0]
    found = Server(organisation.lab.host("CAS1", 15))
    host = found.host
    assert isinstance(host, NamespaceHost)
    token = first.command("server", "token", "--config", str(first.config)).strip().splitlines()[-1]
    found.command("server", "join", "--token", token, "--roles", "clientaccess,hubtransport", *found.folders())
    found.start()
    try:
        organisation.wait_agent(found)
        organisation.wait(lambda: first.rows("Get-ExchangeServer CAS1", 5.0)[0]["Tenure"], 20, "its tenure")
        organisation.wait(lambda: _greeting(host, 143).startswith("* OK"), 20, "the greeting of IMAP")
        organisation.wait(lambda: _greeting(host, 25).startswith("220 "), 20, "the greeting of SMTP")
        found.stop()
        assert not first.rows("Get-ExchangeServer CAS1", 5.0)[0]["Tenure"], "it gives its tenure back"
    finally:
        found.stop()


GREETING = "import socket, sys; print(socket.create_connection(sys.argv[1:], 5).makefile().readline())"


def _greeting(host: NamespaceHost, port: int) -> str:
    argv = ["ip", "netns", "exec", host.space, sys.executable, "-c", GREETING, host.address, str(port)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20).stdout
