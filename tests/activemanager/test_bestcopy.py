"""Best copy selection: the documented vectors (T-AM-1), administrators' settings (T-AM-3, 4), the dial (T-AM-2)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from everpost.activemanager import bestcopy, loss
from everpost.activemanager.bestcopy import Index, Standing
from everpost.activemanager.decide import Activate, decide, stuck
from everpost.activemanager.view import DatabaseView, ServerView, View
from everpost.model.database import (
    CopySettings,
    CopyState,
    CopyStatus,
    Location,
    LocationState,
    MailboxDatabase,
    Member,
    Opening,
    Progress,
    Refusal,
    Token,
)
from everpost.model.server import ActivationPolicy, MountDial
from everpost.model.tenure import TenureState

MB = 1 << 20

VECTOR = (
    Standing("S2", 2, 4, 0, Index.HEALTHY, last_log=96),
    Standing("S3", 3, 2, 2, Index.HEALTHY, last_log=98),
    Standing("S4", 4, 10, 0, Index.CRAWLING, last_log=90),
)


def test_T_AM_1_by_last_log_when_no_dial_is_lossless() -> None:
    for copies in (VECTOR, VECTOR[::-1]):
        assert bestcopy.order(copies, by_preference=False) == (("S3", 1), ("S2", 1), ("S4", 4))


def test_T_AM_1_by_preference_when_a_dial_is_lossless() -> None:
    for copies in (VECTOR, VECTOR[::-1]):
        assert [one.server for one in bestcopy.order(copies, by_preference=True)] == ["S2", "S3", "S4"]


@pytest.mark.parametrize(
    ("copy", "number"),
    [
        (Standing("S", 1, 9, 49, Index.HEALTHY), 1),
        (Standing("S", 1, 9, 49, Index.CRAWLING), 2),
        (Standing("S", 1, 10, 49, Index.HEALTHY), 3),
        (Standing("S", 1, 10, 49, Index.CRAWLING), 4),
        (Standing("S", 1, 10, 49, Index.FAILED), 5),
        (Standing("S", 1, 9, 49, Index.FAILED), 5),
        (Standing("S", 1, 9, 50, Index.HEALTHY), 6),
        (Standing("S", 1, 9, 50, Index.CRAWLING), 7),
        (Standing("S", 1, 10, 50, Index.HEALTHY), 8),
        (Standing("S", 1, None, None, Index.HEALTHY), 8),
        (Standing("S", 1, 10, 50, Index.CRAWLING), 9),
        (Standing("S", 1, 10, 50, Index.FAILED), 10),
    ],
)
def test_T_AM_1_each_of_the_ten_sets_at_its_bounds(copy: Standing, number: int) -> None:
    assert bestcopy.order([copy], by_preference=True) == (("S", number),)


def status(name: str, server: str, **changes: object) -> CopyStatus:
    base = CopyStatus(
        database=name,
        server=server,
        state=CopyState.HEALTHY,
        timeline=2,
        received_lsn=100 * MB,
        copy_queue=0,
        replay_queue=0,
    )
    return replace(base, **changes)


def row(
    name: str,
    active: str = "EX01",
    *,
    state: LocationState = LocationState.OPEN,
    eligible: str = "EX01 EX02 EX03",
    settings: dict[str, CopySettings] | None = None,
    servers: tuple[str, ...] = ("EX01", "EX02", "EX03"),
    **changes: object,
) -> DatabaseView:
    members = tuple(Member(server, "1") for server in eligible.split())
    location = Location(
        database=name,
        active=active,
        token=Token(1, 4),
        state=state,
        set=tuple(member for member in members if member.server != active),
        eligible=members,
        openings=(Opening(Token(1, 4), active, 2, MB, "n"),),
    )
    return DatabaseView(
        database=MailboxDatabase(name=name, guid=name, number=0, servers=servers, copies=settings or {}),
        location=replace(location, **changes),
        revision=7,
        seen_for=0.0,
        copies={server: status(name, server) for server in servers},
    )


def view(*rows: DatabaseView, **servers: dict[str, object]) -> View:
    """EX01 is dead, the others live; keyword arguments change a server."""
    hosts = {
        name: ServerView(name=name, tenure=TenureState.TAKEN if name == "EX01" else TenureState.UP, fence_revision=n)
        for n, name in enumerate(("EX01", "EX02", "EX03"), 1)
    }
    for name, changes in servers.items():
        hosts[name] = replace(hosts[name], **changes)
    return View(me="EX03", dag="D", pam="EX03", pam_revision=3, servers=hosts, databases=rows)


def decided(found: View) -> dict[str, str]:
    return {action.database: action.after.active for action in decide(found) if isinstance(action, Activate)}


def test_T_AM_3_a_full_server_is_not_given_a_third_database() -> None:
    rows = [row("A", "EX02"), row("B", "EX02"), row("C", eligible="EX01 EX02", servers=("EX01", "EX02"))]
    full = view(*rows, EX02={"maximum_active": 2})
    assert decided(full) == {}
    assert "MaximumActiveDatabases is 2" in stuck(full)["C"]
    assert decided(view(*rows, EX02={"maximum_active": 3})) == {"C": "EX02"}


def test_T_AM_3_the_limit_holds_within_one_round_of_decisions_too() -> None:
    rows = [row(name) for name in "ABCD"]
    found = decided(view(*rows, EX02={"maximum_active": 1}, EX03={"maximum_active": 2}))
    assert sorted(found.values()) == ["EX02", "EX03", "EX03"]


def test_the_preferred_limit_only_orders() -> None:
    rows = [row(name) for name in "ABC"]
    found = decided(view(*rows, EX02={"maximum_preferred": 1}, EX03={"maximum_preferred": 1}))
    assert found == {"A": "EX02", "B": "EX03", "C": "EX02"}


@pytest.mark.parametrize(
    ("settings", "server", "why"),
    [
        ({}, {"activation_policy": ActivationPolicy.BLOCKED}, "is Blocked"),
        ({}, {"maintenance": True}, "in maintenance"),
        ({}, {"activation_policy": ActivationPolicy.INTRASITE_ONLY, "site": "Elsewhere"}, "IntrasiteOnly"),
        ({"EX02": CopySettings(activation_suspended=True)}, {}, "activation of its copy on EX02 is suspended"),
    ],
)
def test_T_AM_4_what_is_blocked_is_passed_over_but_for_a_named_target(
    settings: dict[str, CopySettings], server: dict[str, object], why: str
) -> None:
    here = {"site": "Here"} if "site" in server else {}
    found = view(row("A", settings=settings), EX01=here, EX02=server, EX03=here)
    assert decided(found) == {"A": "EX03"}
    assert why in bestcopy.rank(found, found.databases[0]).refusals["EX02"]
    named = row("A", settings=settings, state=LocationState.CLOSED, target="EX02", closed_lsn=MB)
    assert decided(view(named, EX01=here, EX02=server, EX03=here)) == {"A": "EX02"}


def test_a_suspended_copy_is_refused_even_when_named() -> None:
    found = view(row("A", settings={"EX02": CopySettings(suspended=True)}))
    ranking = bestcopy.rank(found, found.databases[0], prefer="EX02")
    assert [one.server for one in ranking.candidates] == ["EX03"]
    assert ranking.refusals["EX02"] == "its copy on EX02 is suspended"


def test_a_lagged_copy_comes_last() -> None:
    found = view(row("A", settings={"EX02": CopySettings(replay_lag=7200.0)}))
    assert [one.server for one in bestcopy.rank(found, found.databases[0]).candidates] == ["EX03", "EX02"]


def test_what_was_closed_goes_home_to_a_blocked_server() -> None:
    home = row("A", "EX02", state=LocationState.CLOSED, target="EX01", closed_lsn=MB, eligible="EX01 EX02")
    assert decided(view(home, EX02={"activation_policy": ActivationPolicy.BLOCKED})) == {"A": "EX02"}


def behind(generations: int, **changes: object) -> DatabaseView:
    """EX01 had everything; EX02 lacks so many generations and is not eligible."""
    found = row("A", servers=("EX01", "EX02"), eligible="EX01", **changes)
    progress = Progress(
        token=Token(1, 4), timeline=2, acknowledged_lsn=110 * MB, generated_lsn=(100 + generations) * MB
    )
    return replace(found, progress=progress)


@pytest.mark.parametrize(
    ("dial", "generations", "allowed"),
    [
        (MountDial.LOSSLESS, 0, False),
        (MountDial.GOOD_AVAILABILITY, 6, True),
        (MountDial.GOOD_AVAILABILITY, 7, False),
        (MountDial.BEST_AVAILABILITY, 7, True),
        (MountDial.BEST_AVAILABILITY, 12, True),
        (MountDial.BEST_AVAILABILITY, 13, False),
        (MountDial.BEST_EFFORT, 5000, True),
    ],
)
def test_T_AM_2_the_dial_against_what_is_missing(dial: MountDial, generations: int, allowed: bool) -> None:
    assert (loss.refusal(behind(generations), "EX02", dial) is None) is allowed


def test_T_AM_2_a_dead_server_is_no_proof_that_it_is_off_so_no_dial_applies() -> None:
    for dial in MountDial:
        assert decided(view(behind(0), EX02={"mount_dial": dial})) == {}


def test_T_AM_2_what_recorded_itself_as_closed_is_mounted_by_the_dial() -> None:
    closed = behind(0, state=LocationState.CLOSED, closed_lsn=107 * MB)
    assert decided(view(closed, EX02={"mount_dial": MountDial.GOOD_AVAILABILITY})) == {}
    [action] = decide(view(closed, EX02={"mount_dial": MountDial.BEST_AVAILABILITY}))
    assert isinstance(action, Activate)
    assert action.after.lossy
    assert action.after.active == "EX02"
    assert "lacks at least 7 generations" in action.after.reason


@pytest.mark.parametrize(("lossy", "lacks"), [(False, 12), (True, 1)])
def test_what_was_recorded_before_an_opening_with_loss_counts_up_to_it(lossy: bool, lacks: int) -> None:
    """The new active has recorded nothing yet: what lay behind the beginning of its log was given up."""
    found = behind(12)
    first = found.location.openings[0]
    openings = (first, Opening(Token(1, 9), "EX01", first.timeline, 101 * MB, "n9", lossy))
    found = replace(found, location=replace(found.location, openings=openings))
    assert loss.missing(found, "EX02") == lacks


def test_a_new_try_of_an_activation_at_a_point_in_time_is_of_the_same_copy_and_time() -> None:
    refused = (Refusal("EX02", "it has no log beyond that time"),)
    ordered = behind(0, active="EX02", state=LocationState.ACTIVATING, lossy=True, until=99.5, refused=refused)
    row = view(replace(ordered, seen_for=60.0), EX01={"tenure": TenureState.UP})
    [action] = decide(row)
    assert isinstance(action, Activate)
    assert (action.after.active, action.after.lossy, action.after.until) == ("EX02", True, 99.5)


def test_T_AM_2_the_old_server_returns_and_is_mounted_without_loss() -> None:
    closed = behind(0, state=LocationState.CLOSED, closed_lsn=107 * MB)
    found = view(closed, EX01={"tenure": TenureState.UP}, EX02={"mount_dial": MountDial.BEST_AVAILABILITY})
    [action] = decide(found)
    assert isinstance(action, Activate)
    assert (action.after.active, action.after.lossy) == ("EX01", False)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"state": CopyState.FAILED_AND_SUSPENDED}, "FailedAndSuspended"),
        ({"state": CopyState.SEEDING}, "Seeding"),
        ({"timeline": 1}, "no log of the last opening"),
    ],
)
def test_a_fork_or_half_a_seed_is_never_activated_by_any_dial(changes: dict[str, object], why: str) -> None:
    found = behind(0)
    found = replace(found, copies={**found.copies, "EX02": status("A", "EX02", **changes)})
    assert why in (loss.refusal(found, "EX02", MountDial.BEST_EFFORT) or "")


def test_unknown_is_not_little() -> None:
    found = replace(behind(0), progress=None)
    assert loss.missing(found, "EX02") is None
    assert loss.refusal(found, "EX02", MountDial.BEST_AVAILABILITY) is not None
    assert loss.refusal(found, "EX02", MountDial.BEST_EFFORT) is None
