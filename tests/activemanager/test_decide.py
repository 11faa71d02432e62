"""The decision core: scenario files a reader can follow, and properties that must hold of any view."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from everpost.activemanager import bestcopy
from everpost.activemanager.decide import Activate, TakeServer, decide
from everpost.activemanager.view import DatabaseView, ServerView, View
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
from everpost.model.tenure import TenureState

from . import scenario

SERVERS = ("EX01", "EX02", "EX03", "EX04")


@pytest.mark.parametrize("path", scenario.files(), ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    decided, expected = scenario.outcome(path.read_text(encoding="utf-8"))
    assert decided == expected


@st.composite
def views(draw: st.DrawFn) -> View:
    servers = {
        name: ServerView(
            name=name,
            tenure=draw(st.sampled_from([None, *TenureState])),
            expired=draw(st.booleans()),
            fence_revision=number + 1,
        )
        for number, name in enumerate(SERVERS)
    }
    active = draw(st.sampled_from(SERVERS))
    members = draw(st.sets(st.sampled_from([s for s in SERVERS if s != active])))
    location = Location(
        database="MB01",
        active=active,
        token=Token(1, draw(st.integers(1, 9))),
        state=draw(st.sampled_from(LocationState)),
        set=tuple(Member(server, "1") for server in sorted(members)),
        eligible=tuple(Member(server, "1") for server in sorted(members | {active})),
        openings=(Opening(Token(1, 1), active, 2, 0, "n"),),
        target=draw(st.sampled_from([None, *SERVERS])),
    )
    copies = {
        server: CopyStatus(
            database="MB01",
            server=server,
            state=draw(st.sampled_from(CopyState)),
            copy_queue=draw(st.sampled_from([None, 0, 9, 10])),
            replay_queue=draw(st.sampled_from([None, 0, 49, 50])),
        )
        for server in SERVERS
        if draw(st.booleans())
    }
    order = draw(st.permutations(SERVERS))
    database = MailboxDatabase(name="MB01", guid="g", number=0, servers=tuple(order))
    seen = draw(st.sampled_from([0.0, 5.0, 60.0]))
    row = DatabaseView(database=database, location=location, revision=5, seen_for=seen, copies=copies)
    pam = draw(st.sampled_from([None, *SERVERS]))
    return View(me=draw(st.sampled_from(SERVERS)), dag="D", pam=pam, pam_revision=2, servers=servers, databases=(row,))


@given(views())
def test_only_eligible_living_copies_are_activated_at_a_higher_epoch(view: View) -> None:
    for action in decide(view):
        if isinstance(action, Activate):
            before = view.databases[0].location
            assert view.is_pam
            assert view.servers[view.me].holds_tenure
            assert action.after.token.epoch == before.token.epoch + 1
            assert any(member.server == action.after.active for member in before.eligible)
            assert view.servers[action.after.active].holds_tenure
            assert action.after.state is LocationState.ACTIVATING
            assert action.after.eligible == before.eligible


@given(views())
def test_an_open_active_is_replaced_only_under_its_taken_fence(view: View) -> None:
    for action in decide(view):
        if isinstance(action, Activate) and view.databases[0].location.state is LocationState.OPEN:
            old = view.servers[view.databases[0].location.active]
            assert old.tenure in (TenureState.TAKEN, TenureState.RELEASED)
            assert action.fences == {old.name: old.fence_revision}


@given(views())
def test_only_a_silent_server_is_taken_and_never_oneself(view: View) -> None:
    for action in decide(view):
        if isinstance(action, TakeServer):
            assert action.server != view.me
            assert view.servers[action.server].expired


@given(views())
def test_nothing_is_decided_without_own_tenure(view: View) -> None:
    mute = replace(view.servers[view.me], tenure=TenureState.TAKEN)
    assert decide(replace(view, servers={**view.servers, view.me: mute})) == []


@given(views(), st.randoms())
def test_order_of_input_never_matters(view: View, random: object) -> None:
    names = list(view.servers)
    random.shuffle(names)  # type: ignore[attr-defined]
    shuffled = replace(view, servers={name: view.servers[name] for name in names})
    assert bestcopy.rank(view, view.databases[0]) == bestcopy.rank(shuffled, view.databases[0])


@given(views())
def test_the_chosen_copy_is_never_behind_another_that_meets_an_earlier_set(view: View) -> None:
    ranking = bestcopy.rank(view, view.databases[0])
    numbers = [candidate.selection_set for candidate in ranking.candidates]
    assert numbers == sorted(numbers)
    named = {candidate.server for candidate in ranking.candidates} | set(ranking.refusals)
    assert named == set(SERVERS)
