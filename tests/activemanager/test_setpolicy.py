"""When the synchronous set shrinks and grows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from everpost.activemanager import setpolicy
from everpost.activemanager.setpolicy import Grow, Reach, Sender, SetView, Shrink, next_step, stall_verdict
from everpost.model.database import Location, LocationState, Member, Opening, Token

A, B, C = Member("EX01", "a"), Member("EX02", "b"), Member("EX03", "c")


def view(**changes: object) -> SetView:
    location = Location(
        database="MB01",
        active="EX01",
        token=Token(1, 2),
        state=LocationState.OPEN,
        set=(B,),
        eligible=(B, A),
        openings=(Opening(Token(1, 2), "EX01", 2, 0, "n"),),
    )
    base = SetView(
        now=100.0,
        location=location,
        own_flush_lsn=1000,
        oldest_wait=0.0,
        wait_lsn=0,
        senders={"EX02": Sender(streaming=True, flush_lsn=1000)},
        candidates={},
        lost=frozenset(),
        quiet_until={},
    )
    return replace(base, **changes)


def test_nothing_to_do_while_commits_flow() -> None:
    assert next_step(view()) is None


def test_a_dead_member_is_shrunk_without_asking_once_its_tenure_is_lost() -> None:
    step = next_step(view(oldest_wait=1.2, wait_lsn=1000, senders={}, lost=frozenset({"EX02"})))
    assert isinstance(step, Shrink)
    assert not step.ask


def test_a_slow_but_living_member_is_shrunk_only_after_pam_was_asked() -> None:
    late = {"EX02": Sender(streaming=True, flush_lsn=900)}
    step = next_step(view(oldest_wait=1.2, wait_lsn=1000, senders=late))
    assert isinstance(step, Shrink)
    assert step.ask


def test_nobody_is_shrunk_before_the_stall_limit() -> None:
    assert next_step(view(oldest_wait=0.9, wait_lsn=1000, senders={}, lost=frozenset({"EX02"}))) is None


def test_only_the_laggard_of_two_members_is_shrunk() -> None:
    both = replace(view().location, set=(B, C), eligible=(B, C, A))
    senders = {"EX02": Sender(streaming=True, flush_lsn=1000), "EX03": Sender(streaming=True, flush_lsn=999)}
    step = next_step(view(location=both, oldest_wait=1.5, wait_lsn=1000, senders=senders))
    assert isinstance(step, Shrink)
    assert step.server == "EX03"


def test_two_walsenders_of_one_name_are_an_alarm_at_once() -> None:
    double = {"EX02": Sender(streaming=True, flush_lsn=1000, count=2)}
    step = next_step(view(senders=double))
    assert isinstance(step, Shrink)
    assert "2 walsenders" in step.reason


def test_a_current_candidate_is_asked_in_and_a_quiet_one_is_not() -> None:
    candidates = {C: Sender(streaming=True, flush_lsn=1000)}
    assert next_step(view(candidates=candidates)) == Grow(member=C)
    assert next_step(view(candidates=candidates, quiet_until={"EX03": 100.5})) is None
    assert next_step(view(candidates=candidates, lost=frozenset({"EX03"}))) is None
    far = {C: Sender(streaming=True, flush_lsn=1000)}
    assert next_step(view(candidates=far, own_flush_lsn=10 * setpolicy.GROW_LAG)) is None


def test_quiet_time_doubles_up_to_an_hour() -> None:
    assert [setpolicy.quiet_after(n) for n in (1, 2, 3, 7, 40)] == [60.0, 120.0, 240.0, 3600.0, 3600.0]


@given(st.booleans(), st.booleans(), st.booleans())
def test_pam_moves_only_to_a_complete_member_and_only_when_the_active_is_the_one_out_of_reach(
    active: bool, member: bool, complete: bool
) -> None:
    verdict = stall_verdict(Reach(active=active, member=member), member_is_complete=complete)
    assert (verdict == "move") == (member and complete and not active)
    assert (verdict == "shrink") == active


def test_a_copy_that_is_to_be_kept_out_is_shrunk_at_once_and_not_asked_in() -> None:
    step = next_step(view(kept_out={"EX02": "is suspended"}))
    assert isinstance(step, Shrink) and not step.ask and step.reason == "EX02 is suspended"
    location = replace(view().location, set=(), eligible=(A,))
    ready = {B: Sender(streaming=True, flush_lsn=1000)}
    assert isinstance(next_step(view(location=location, senders={}, candidates=ready)), Grow)
    lagged = view(location=location, senders={}, candidates=ready, kept_out={"EX02": "is a lagged copy"})
    assert next_step(lagged) is None
