"""Every move of the location record: states x moves, and what never changes by any of them."""

from __future__ import annotations

import contextlib

import pytest
from msgspec.structs import replace

from everpost.activemanager import transitions as t
from everpost.activemanager.relation import Remedy, relate
from everpost.databases.interface import Files
from everpost.model.database import Location, LocationState, Member, Opening, Token

A, B, C = Member("EX01", "a1"), Member("EX02", "b1"), Member("EX03", "c1")
OPENING = Opening(Token(1, 4), "EX01", 5, 1000, "n4")


def location(state: LocationState, **changes: object) -> Location:
    base = Location(
        database="MB01",
        active="EX01",
        token=Token(1, 4),
        state=state,
        set=(B,),
        eligible=(B, A),
        openings=(OPENING,),
    )
    return replace(base, **changes)


def _moves(before: Location) -> dict[LocationState, list[object]]:
    opening = Opening(before.token, before.active, 6, 2000, "n5")
    return {
        LocationState.ACTIVATING: [lambda: t.begin_activation(before, "EX02", reason="r")],
        LocationState.OPEN: [lambda: t.opened(before, A, opening), lambda: t.move_abandoned(before, reason="r")],
        LocationState.MOVING: [
            lambda: t.moving(before, "EX02", reason="r"),
            lambda: t.opened(replace(before, dismount=True), A, opening),
            lambda: t.move_abandoned(replace(before, dismount=True), reason="r"),
        ],
        LocationState.CLOSED: [lambda: t.closed(before, 1, 1), lambda: t.mount_asked(before, reason="r")],
        LocationState.DISMOUNTED: [
            lambda: t.dismounted(before, reason="r"),
            lambda: t.dismounted_without_closing(replace(before, dismount=True), reason="r"),
            lambda: t.dismounted_unopened(replace(before, dismount=True), reason="r"),
        ],
    }


@pytest.mark.parametrize("state", LocationState)
def test_no_move_outside_the_table(state: LocationState) -> None:
    for target, moves in _moves(location(state)).items():
        for move in moves:
            try:
                after = move()  # type: ignore[operator]
            except t.IllegalMove:
                continue
            assert after.state is target
            assert target in t.MOVES[state] or target is state


def test_activation_raises_the_epoch_and_keeps_who_is_eligible() -> None:
    after = t.begin_activation(location(LocationState.OPEN), "EX02", reason="EX01 died")
    assert after.token == Token(1, 5)
    assert after.eligible == (B, A)
    assert after.set == ()


def test_after_the_opening_only_the_new_set_and_the_active_are_eligible() -> None:
    activating = t.begin_activation(location(LocationState.OPEN), "EX02", reason="EX01 died")
    after = t.opened(activating, B, Opening(activating.token, "EX02", 6, 2000, "n5"))
    assert after.eligible == (B,)
    assert after.single
    assert after.openings[-1].timeline == 6


def test_an_opening_at_another_epoch_is_refused() -> None:
    activating = t.begin_activation(location(LocationState.OPEN), "EX02", reason="EX01 died")
    with pytest.raises(t.IllegalMove):
        t.opened(activating, B, Opening(Token(1, 4), "EX02", 6, 2000, "n5"))


def test_a_shrunk_member_is_not_eligible_and_a_grown_one_is() -> None:
    single = t.shrunk(location(LocationState.OPEN), "EX02", reason="gone")
    assert single.set == ()
    assert single.eligible == (A,)
    again = t.grown(single, Member("EX02", "b2"))
    assert again.set == (Member("EX02", "b2"),)
    assert set(again.eligible) == {A, Member("EX02", "b2")}


def test_a_move_to_a_copy_outside_the_set_is_refused() -> None:
    with pytest.raises(t.IllegalMove, match="EX03 is not in the synchronous set"):
        t.moving(location(LocationState.OPEN), "EX03", reason="r")


@pytest.mark.parametrize("target", [None, "EX02"])
@pytest.mark.parametrize("state", [one for one in LocationState if one is not LocationState.UNKNOWN])
def test_an_ordered_dismount_outlives_every_way_of_getting_on(state: LocationState, target: str | None) -> None:
    """T-AM-6: from whatever state it was ordered in, no path ends open; only an administrator's mount takes it back."""
    moving = state is LocationState.MOVING
    asked = t.dismount_asked(location(state, target=target if moving else None), reason="an administrator")
    seen, todo = set(), [asked]
    while todo:
        one = todo.pop()
        key = (one.state, one.target, one.dismount)
        if key in seen:
            continue
        seen.add(key)
        assert one.state is not LocationState.OPEN, "clients would be let in"
        if one.state is LocationState.DISMOUNTED:
            assert not one.dismount, "the next mount would end closed"
            continue
        opening = Opening(one.token, one.active, 6, 2000, "n5")
        for move in (
            lambda one=one: t.begin_activation(one, "EX01", reason="r"),
            lambda one=one, opening=opening: t.opened(one, A, opening),
            lambda one=one: t.refuse(one, one.active, "r"),
            lambda one=one: t.shrunk(one, "EX02", reason="r"),
            lambda one=one: t.move_abandoned(one, reason="r"),
            lambda one=one: t.closed(one, 1, 1),
            lambda one=one: t.dismounted(one, reason="r"),
            lambda one=one: t.dismounted_without_closing(one, reason="r"),
            lambda one=one: t.dismounted_unopened(one, reason="r"),
        ):
            with contextlib.suppress(t.IllegalMove):
                todo.append(move())
    assert any(key[0] is LocationState.DISMOUNTED for key in seen)


HISTORY = location(
    LocationState.OPEN,
    active="EX02",
    openings=(OPENING, Opening(Token(1, 5), "EX02", 6, 2000, "n5")),
)


@pytest.mark.parametrize(
    ("files", "remedy"),
    [
        (Files(present=False), Remedy.RESEED),
        (Files(present=True, spoilt=True, timeline=6), Remedy.RESEED),
        (Files(present=True, timeline=6, end_lsn=9000), Remedy.ATTACH),
        (Files(present=True, timeline=5, end_lsn=2000), Remedy.ATTACH),
        (Files(present=True, timeline=5, end_lsn=2001), Remedy.REWIND),
        (Files(present=True, timeline=5, was_primary=True, end_lsn=None), Remedy.REWIND),
        (Files(present=True, timeline=5, was_primary=True, end_lsn=1900), Remedy.ATTACH),
        (Files(present=True, timeline=5, was_primary=True, end_lsn=2000), Remedy.REWIND),
        (Files(present=True, timeline=6, mark_token=Token(1, 5), mark_nonce="n5"), Remedy.ATTACH),
        # Promoted at epoch 5 too, but another promotion of that number was the recorded one: same timeline number.
        (Files(present=True, timeline=6, mark_token=Token(1, 5), mark_nonce="other"), Remedy.RESEED),
        (Files(present=True, timeline=6, mark_token=Token(1, 7), mark_nonce="n7"), Remedy.RESEED),
    ],
)
def test_relation_of_files_to_the_history(files: Files, remedy: Remedy) -> None:
    assert relate(files, HISTORY).remedy is remedy


def test_the_losing_copy_of_a_lossy_activation_is_quarantined() -> None:
    lossy = replace(HISTORY, openings=(OPENING, Opening(Token(1, 5), "EX02", 6, 2000, "n5", lossy=True)))
    files = Files(present=True, timeline=5, was_primary=True, end_lsn=None)
    assert relate(files, lossy).remedy is Remedy.QUARANTINE


LOSS = replace(HISTORY, openings=(OPENING, Opening(Token(1, 5), "EX02", 6, 2000, "n5", lossy=True)))


@pytest.mark.parametrize(
    ("files", "remedy"),
    [
        # A copy that only followed: the log that it received beyond the fork may hold acknowledged mail too.
        (Files(present=True, timeline=5, end_lsn=2001), Remedy.QUARANTINE),
        (Files(present=True, timeline=5, end_lsn=None), Remedy.QUARANTINE),
        (Files(present=True, timeline=5, end_lsn=2000), Remedy.ATTACH),
        (Files(present=True, timeline=6, end_lsn=9000, begin_lsn=2000), Remedy.ATTACH),
        # It followed a timeline 6 that began elsewhere: one of the same number as the recorded.
        (Files(present=True, timeline=6, end_lsn=9000, begin_lsn=2500), Remedy.QUARANTINE),
        # Chosen without loss, and dead before its opening was recorded: it was complete, and EX02 was not.
        (Files(present=True, timeline=6, mark_token=Token(1, 4), mark_nonce="other"), Remedy.QUARANTINE),
        (Files(present=True, timeline=7, mark_token=Token(1, 6), mark_nonce="n6"), Remedy.RESEED),
    ],
)
def test_what_a_follower_of_a_lost_history_may_have_is_quarantined(files: Files, remedy: Remedy) -> None:
    verdict = relate(files, LOSS)
    assert verdict.remedy is remedy
    assert (verdict.left_by == Token(1, 5)) == (remedy is Remedy.QUARANTINE)


def test_a_follower_of_a_promotion_that_was_never_recorded_is_seeded_anew() -> None:
    files = Files(present=True, timeline=6, end_lsn=9000, begin_lsn=1990)
    assert relate(files, HISTORY).remedy is Remedy.RESEED


# -- as it was at a point in time (LAG-6) -------------------------------------------------------------------------

CLOSED = location(LocationState.DISMOUNTED, closed_lsn=3000, closed_timeline=5)


def test_the_point_in_time_stays_until_the_opening_and_in_its_history_for_good() -> None:
    ordered = t.activation_in_the_past(CLOSED, "EX03", 99.5, reason="r")
    assert (ordered.active, ordered.lossy, ordered.until, ordered.token) == ("EX03", True, 99.5, Token(1, 5))
    assert ordered.eligible == (B, A), "who has everything is still known to have it"
    refused = t.refuse(ordered, "EX03", "no log")
    assert refused.until == 99.5
    after = t.opened(refused, C, Opening(ordered.token, "EX03", 6, 2000, "n5", True, "r", 99.5))
    assert (after.until, after.lossy, after.eligible, after.openings[-1].until) == (None, False, (C,), 99.5)


def test_the_point_in_time_is_forgotten_with_the_order() -> None:
    ordered = t.activation_in_the_past(CLOSED, "EX03", 99.5, reason="r")
    assert t.begin_activation(ordered, "EX01", reason="taken back").until is None
    assert t.dismounted_unopened(t.dismount_asked(ordered, reason="r"), reason="r").until is None


@pytest.mark.parametrize(
    ("before", "server"),
    [
        (location(LocationState.OPEN), "EX03"),
        (location(LocationState.CLOSED, closed_lsn=3000), "EX03"),
        (location(LocationState.DISMOUNTED), "EX03"),
        (CLOSED, "EX02"),
    ],
    ids=["open", "about to be opened", "not closed cleanly", "a complete copy"],
)
def test_nothing_is_given_up_where_its_end_is_not_known_or_the_copy_has_it(before: Location, server: str) -> None:
    with pytest.raises(t.IllegalMove):
        t.activation_in_the_past(before, server, 99.5, reason="r")


def test_a_point_in_time_is_a_loss_by_intent() -> None:
    with pytest.raises(t.IllegalMove):
        t.begin_activation(location(LocationState.CLOSED), "EX03", reason="r", until=99.5)


@pytest.mark.parametrize(
    "files",
    [
        Files(present=True, was_primary=True, timeline=5, end_lsn=3000, mark_token=Token(1, 4), mark_nonce="n4"),
        Files(present=True, timeline=5, end_lsn=3000),
    ],
    ids=["the former active, closed cleanly", "a member of its set"],
)
def test_what_came_after_the_point_in_time_is_quarantined_with_a_remedy(files: Files) -> None:
    ordered = t.activation_in_the_past(CLOSED, "EX03", 99.5, reason="r")
    after = t.opened(ordered, C, Opening(ordered.token, "EX03", 6, 2000, "n5", True, "r", 99.5))
    verdict = relate(files, after)
    assert (verdict.remedy, verdict.left_by, verdict.fork_lsn) == (Remedy.QUARANTINE, Token(1, 5), 2000)
