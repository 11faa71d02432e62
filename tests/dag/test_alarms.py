"""Alarms, moves, health checks, journal and networks, each by itself."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest
from msgspec.structs import replace

from everpost.activemanager import transitions
from everpost.clock import SystemClock
from everpost.databases.config import conninfo
from everpost.directory import keys
from everpost.directory.memory import MemoryDirectory
from everpost.directory.schema import OrganizationDocument, decode, encode
from everpost.model import network
from everpost.model.database import (
    CopyState,
    CopyStatus,
    Location,
    LocationState,
    MailboxDatabase,
    Member,
    Opening,
    Token,
)
from everpost.model.server import DagNetwork, DatabaseAvailabilityGroup, NetworkCompression, Role, Server
from everpost.monitoring import catalogue, health, mail, metrics
from everpost.monitoring.alarms import REDUNDANCY_RED, Alarms, Movements, good_copies
from everpost.monitoring.catalogue import Event, Level
from everpost.monitoring.health import CopyHealth, Health
from everpost.monitoring.journal import SLOTS, Journal, read
from everpost.monitoring.monitor import LOOK_EVERY

# -- alarms --------------------------------------------------------------------------------------------------------


def test_an_alarm_is_raised_once_repeated_and_over() -> None:
    alarms = Alarms(20.0, repeat=900.0)
    fault = {"MB01": "one copy"}
    assert alarms.look(0.0, fault) == {} and alarms.standing == {}
    assert alarms.look(19.0, fault) == {}
    assert alarms.look(20.0, fault)["MB01"].red
    assert alarms.standing == fault and alarms.look(21.0, fault) == {}
    assert alarms.look(920.0, fault)["MB01"].red
    assert not alarms.look(921.0, {})["MB01"].red
    assert alarms.standing == {} and alarms.look(922.0, {}) == {}


def test_a_short_fault_is_no_alarm_and_no_all_clear() -> None:
    alarms = Alarms(20.0)
    alarms.look(0.0, {"MB01": "x"})
    assert alarms.look(10.0, {}) == {}
    assert alarms.look(15.0, {"MB01": "x"}) == {} and alarms.look(30.0, {"MB01": "x"}) == {}


def test_the_single_copy_alarm_comes_within_a_minute() -> None:
    assert REDUNDANCY_RED + 2 * LOOK_EVERY < 60.0


OPEN = Location(
    database="MB01",
    active="A",
    token=Token(1, 3),
    state=LocationState.OPEN,
    set=(Member("B", "1"),),
    eligible=(Member("A", "0"), Member("B", "1")),
)


def opened(location: Location) -> Location:
    member = Member(location.active, "0")
    opening = Opening(location.token, location.active, 2, 0, "n")
    return transitions.opened(location, member, opening)


def test_a_failover_a_switchover_and_a_remount_are_told_apart() -> None:
    seen = Movements()
    assert seen.saw(OPEN) is None
    lost = transitions.begin_activation(OPEN, "B", reason="A lost its tenure")
    assert seen.saw(lost) is None
    move = seen.saw(opened(lost))
    assert move is not None and (move.kind, move.before, move.after) == ("failover", "A", "B")
    assert move.reason == "A lost its tenure"
    back = replace(opened(lost), set=(Member("A", "0"),))
    assert seen.saw(back) is None
    steps = [transitions.moving(back, "A", reason="by an administrator")]
    steps.append(transitions.closed(steps[-1], 1, 1))
    steps.append(transitions.begin_activation(steps[-1], "A", reason="moved"))
    assert [seen.saw(step) for step in steps] == [None] * 3
    move = seen.saw(opened(steps[-1]))
    assert move is not None and move.kind == "switchover"
    again = transitions.begin_activation(opened(steps[-1]), "A", reason="restart")
    seen.saw(again)
    move = seen.saw(opened(again))
    assert move is not None and move.kind == "remount"


def test_good_copies_are_the_mounted_one_and_living_members_of_its_set() -> None:
    database = MailboxDatabase(name="MB01", guid="g", number=0, servers=("A", "B", "C"))
    states = {"A": CopyState.MOUNTED, "B": CopyState.HEALTHY, "C": CopyState.HEALTHY}

    def status(**changed: CopyState) -> dict[str, CopyStatus]:
        found = {**states, **changed}
        return {name: CopyStatus(database="MB01", server=name, state=state) for name, state in found.items()}

    assert good_copies(database, OPEN, {"A", "B", "C"}, status()) == ["A", "B"]  # C follows, but is not in the set
    assert good_copies(database, OPEN, {"A"}, status()) == ["A"]
    assert good_copies(database, OPEN, {"A", "B"}, status(B=CopyState.FAILED)) == ["A"]
    assert good_copies(database, replace(OPEN, state=LocationState.ACTIVATING), {"A"}, status()) == []


# -- health --------------------------------------------------------------------------------------------------------

WELL = Health(
    server="A",
    dag="DAG1",
    role="Primary",
    pam="A",
    voters={"A": True, "B": True, "W": True},
    wanted=("A", "B", "W"),
    witness_votes=True,
    copies=(
        CopyHealth(name="MB01\\A", state=CopyState.MOUNTED, active=True, copies=2, good=2),
        CopyHealth(name="MB02\\A", state=CopyState.HEALTHY, copies=2, good=2, copy_queue=1, replay_queue=2),
    ),
)


def failed(found: Health) -> set[str]:
    return {result.check for result in health.run(found) if result.error}


def copy(**fields: object) -> Health:
    return replace(WELL, copies=(replace(WELL.copies[1], **fields), *WELL.copies[:1]))


@pytest.mark.parametrize(
    ("found", "checks"),
    [
        (WELL, set()),
        (replace(WELL, agent="no answer"), {"ReplayService", "ActiveManager", "TasksRpcListener"}),
        (replace(WELL, tenure=False), {"ActiveManager"}),
        (replace(WELL, pam=None), {"ActiveManager"}),
        (replace(WELL, coordination="B does not answer"), {"ActiveManager"}),
        (replace(WELL, cluster="silent"), {"ClusterService"}),
        (replace(WELL, listeners="nothing listens"), {"TcpListener"}),
        (replace(WELL, members_down=("B",)), {"DagMembersUp"}),
        (replace(WELL, networks_down=("B at 10.78.0.2",)), {"ClusterNetwork"}),
        (replace(WELL, voters={"A": True, "B": True, "W": False}, witness="silent"),
         {"QuorumGroup", "FileShareQuorum"}),
        (replace(WELL, voters={"A": True, "B": True}), {"QuorumGroup"}),
        (replace(WELL, witness="no write", witness_votes=False), set()),  # an odd number: the witness does not matter
        (copy(state=CopyState.SUSPENDED), {"DBCopySuspended"}),
        (copy(state=CopyState.FAILED_AND_SUSPENDED), {"DBCopySuspended", "DBCopyFailed"}),
        (copy(state=CopyState.INITIALIZING), {"DBInitializing"}),
        (copy(state=CopyState.DISCONNECTED_AND_HEALTHY), {"DBDisconnected"}),
        (copy(copy_queue=100), {"DBLogCopyKeepingUp"}),
        (copy(replay_queue=100), {"DBLogReplayKeepingUp"}),
        (copy(good=1), {"DatabaseRedundancy"}),
        (copy(good=0, mounted_somewhere=False), {"DatabaseRedundancy", "DatabaseAvailability"}),
        (copy(copies=1, good=1), set()),  # an unreplicated database lacks nothing that it ever had
    ],
)  # fmt: skip
def test_each_check_answers_its_own_question(found: Health, checks: set[str]) -> None:
    assert failed(found) == checks


def test_a_server_outside_a_dag_runs_three_checks() -> None:
    assert [one.check for one in health.run(Health(server="A", dag=None))] == [
        "ReplayService",
        "ActiveManager",
        "TasksRpcListener",
    ]


# -- the journal ---------------------------------------------------------------------------------------------------


async def write_all(journal: Journal, directory: MemoryDirectory, count: int) -> None:
    task = asyncio.create_task(journal.run())
    async with asyncio.timeout(5.0):
        while len([one async for one in _events(directory)]) < count:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)
    task.cancel()


async def _events(directory: MemoryDirectory):  # type: ignore[no-untyped-def]
    for entry in (await directory.list(keys.JOURNAL))[0]:
        yield entry


def pen(directory: MemoryDirectory) -> Journal:
    return Journal(directory, "A", SystemClock(), lambda: directory._list(keys.JOURNAL))


async def test_the_journal_is_bounded_goes_on_after_a_restart_and_survives_lost_answers() -> None:
    directory = MemoryDirectory()
    journal = pen(directory)
    directory.lose_answers(2, effect=True)
    for number in range(SLOTS + 7):
        journal.record(catalogue.FAILOVER, f"event {number}", database="MB01")
    await write_all(journal, directory, SLOTS)
    async with asyncio.timeout(5.0):
        while read(directory._list(keys.JOURNAL))[-1][0].text != f"event {SLOTS + 6}":
            await asyncio.sleep(0.01)
    later = pen(directory)
    later.record(catalogue.SERVER_LOST, "after a restart")
    await write_all(later, directory, SLOTS)
    found = [event for event, _ in read(directory._list(keys.JOURNAL))]
    assert len(found) == SLOTS
    assert found[-1].text == "after a restart" and found[-1].sequence == SLOTS + 8
    assert len({event.sequence for event in found}) == SLOTS


async def test_events_wait_while_the_directory_is_silent() -> None:
    directory = MemoryDirectory()
    directory.available = False
    journal = pen(directory)
    journal.record(catalogue.FAILOVER, "kept")
    task = asyncio.create_task(journal.run())
    await asyncio.sleep(0.05)
    directory.available = True
    async with asyncio.timeout(5.0):
        while not directory._list(keys.JOURNAL):
            await asyncio.sleep(0.01)
    task.cancel()


def test_ids_that_monitoring_systems_know_stay() -> None:
    assert {one.name: number for number, one in catalogue.KINDS.items()} | {
        "DatabaseRedundancyRed": 4113,
        "DatabaseRedundancyGreen": 4114,
        "DatabasesRedistributed": 4115,
        "DatabaseFailover": 5001,
    } == {one.name: number for number, one in catalogue.KINDS.items()}


# -- mail ----------------------------------------------------------------------------------------------------------

EVENT = Event(
    id=5001,
    name="DatabaseFailover",
    level=Level.WARNING,
    time=datetime(2026, 1, 2, tzinfo=UTC),
    server="A",
    sequence=7,
    text="MB01 failed over from A to B: A lost its tenure",
    facts={"database": "MB01"},
    mail=True,
)


def server(name: str, *roles: Role, address: str = "10.77.0.1", replication: str = "") -> Server:
    return Server(name=name, address=address, replication_address=replication or address, roles=roles)


def test_the_mail_says_what_happened_and_where_to_look() -> None:
    organization = OrganizationDocument(name="Contoso", domain="contoso.com", administrator_mail="a@contoso.com")
    message = mail.compose(EVENT, organization)
    assert message["To"] == "a@contoso.com" and "MB01 failed over from A to B" in message["Subject"]
    assert "Get-EverpostEvent" in message.get_content()
    hubs = [server("A", Role.MAILBOX), server("B", Role.HUB_TRANSPORT), server("C", Role.HUB_TRANSPORT)]
    assert [hub.name for hub in mail.hubs(hubs, "C")] == ["C", "B"]


async def test_a_mail_is_tried_again_and_marked_once_it_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = MemoryDirectory()
    key = keys.event("A", 7)
    now = SystemClock()
    await directory.txn({}, {key: encode(replace(EVENT, time=now.wall()))})
    taken: list[str] = []
    refusals = [OSError("down")]

    def hand_over(hub: Server, message: object) -> None:
        if refusals:
            raise refusals.pop()
        taken.append(hub.name)

    monkeypatch.setattr(mail, "_hand_over", hand_over)
    monkeypatch.setattr(mail, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(mail, "AGAIN", 0.05)
    mailer = mail.Mailer(
        "A",
        directory,
        now,
        known=lambda: directory._list(keys.JOURNAL),
        organization=lambda: OrganizationDocument(name="Contoso", administrator_mail="a@contoso.com"),
        servers=lambda: [server("B", Role.HUB_TRANSPORT)],
        responsible=lambda: True,
    )
    task = asyncio.create_task(mailer.run())
    async with asyncio.timeout(5.0):
        while not decode(Event, directory._list(keys.JOURNAL)[0].value).mailed:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    task.cancel()
    assert taken == ["B"]


def test_an_organisation_document_of_an_older_release_is_read() -> None:
    assert decode(OrganizationDocument, b'{"v":1,"name":"Contoso"}').administrator_mail == ""
    assert decode(DatabaseAvailabilityGroup, b'{"v":1,"name":"DAG1"}').networks == ()


# -- networks ------------------------------------------------------------------------------------------------------

A = server("A", Role.MAILBOX, address="10.77.0.11", replication="10.78.0.11")
B = server("B", Role.MAILBOX, address="10.79.0.12", replication="10.78.0.12")
GROUP = DatabaseAvailabilityGroup(name="DAG1", members=("A", "B"))


def test_networks_follow_the_addresses_and_all_mapi_subnets_are_one() -> None:
    found = {one.name: one.subnets for one in network.networks(GROUP, [A, B])}
    assert found == {network.MAPI: ("10.77.0.0/24", "10.79.0.0/24"), network.REPLICATION: ("10.78.0.0/24",)}


def test_T_NET_1_addresses_in_order_of_preference() -> None:
    assert network.replication_addresses(GROUP, A) == ("10.78.0.11", "10.77.0.11")
    for field in ({"replication_enabled": False}, {"ignore_network": True}):
        closed = network.changed(GROUP, DagNetwork(name="R", subnets=("10.78.0.0/24",), **field))
        assert network.replication_addresses(closed, A) == ("10.77.0.11",)
    alone = server("C", Role.MAILBOX, address="10.77.0.13")
    assert network.replication_addresses(GROUP, alone) == ("10.77.0.13",)


def test_a_seed_is_compressed_between_subnets_or_as_the_dag_says() -> None:
    assert not network.compressed_seed(GROUP, A, B), "the replication network is one subnet"
    apart = network.changed(GROUP, DagNetwork(name="R", subnets=("10.78.0.0/24",), replication_enabled=False))
    assert network.compressed_seed(apart, A, B), "10.77 to 10.79"
    wide = network.changed(apart, DagNetwork(name="M", subnets=("10.76.0.0/14",)))
    assert not network.compressed_seed(wide, A, B), "one described subnet"
    for value, expected in (("Disabled", False), ("Enabled", True), ("SeedOnly", True)):
        group = msgspec.structs.replace(apart, network_compression=NetworkCompression(value))
        assert network.compressed_seed(group, A, B) is expected
        assert network.compressed_seed(group, A, A) is expected
    assert not network.compressed_seed(None, A, B)


def test_a_connection_string_names_all_addresses(tmp_path: object) -> None:
    from pathlib import Path

    text = conninfo("10.78.0.11,10.77.0.11", 64328, tls=Path("/tls"), application_name="x")
    assert "host='10.78.0.11,10.77.0.11'" in text and "port='64328,64328'" in text


# -- metrics -------------------------------------------------------------------------------------------------------


def test_metrics_are_well_formed_and_leave_out_what_is_unknown() -> None:
    copies = (CopyStatus(database='M"B', server="A", state=CopyState.HEALTHY, copy_queue=None, replay_queue=3),)
    page = metrics.text(
        metrics.Reading(
            server="A", version="1", tenure=True, longest_gap=0.5, may_mount=True, pam=False, copies=copies,
            good={"MB01": 2}, voters={"A": True, "W": False}, alarms=("voter W",),
        )
    )  # fmt: skip
    lines = page.splitlines()
    assert 'everpost_replay_queue{database="M\\"B"} 3' in lines
    assert not any(line.startswith("everpost_copy_queue{") for line in lines)
    assert 'everpost_voter_up{voter="W"} 0' in lines and 'everpost_alarm{alarm="voter W"} 1' in lines
    assert all(line.startswith("#") or line.rsplit(" ", 1)[1] for line in lines)
