"""What a server does about the address: rules one by one, and what must hold of any view."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everpost.array.decide import (
    AGREEMENT,
    DATABASE_WAIT,
    GRACE,
    SETTLE,
    Acquire,
    Candidate,
    Hold,
    Release,
    View,
    Wait,
    decide,
)
from everpost.model.array import HolderRecord, HolderState, MoveOrder

ONE = Candidate("EX01", 0, gateway=True, databases=2, steady=60.0)
TWO = Candidate("EX02", 1, gateway=True, databases=0, steady=60.0)


def held(name: str, state: HolderState = HolderState.HELD, target: str = "") -> HolderRecord:
    return HolderRecord(array="A", holder=name, instance="i", epoch=7, state=state, target=target)


def following(**changes: object) -> View:
    """EX02 while EX01 holds."""
    return replace(View(me="EX02", candidates=(ONE, TWO), holder=held("EX01")), **changes)  # type: ignore[arg-type]


def holding(**changes: object) -> View:
    """EX01 while it holds."""
    return replace(View(me="EX01", candidates=(ONE, TWO), holder=held("EX01"), mine=True), **changes)  # type: ignore[arg-type]


def test_a_live_holder_is_left_alone() -> None:
    assert decide(following()) == Wait("EX01 holds it")


def test_T_VIP_1_a_silent_holder_is_replaced_at_once() -> None:
    dead = replace(ONE, fresh=False)
    assert isinstance(decide(following(silent=0.0, candidates=(dead, TWO))), Acquire)


def test_T_VIP_2_nobody_acquires_who_cannot_see_the_gateway() -> None:
    dead = replace(ONE, fresh=False)
    blind = replace(TWO, gateway=False)
    found = decide(following(silent=100.0, idle=100.0, candidates=(dead, blind)))
    assert isinstance(found, Wait) and "gateway" in found.why


def test_peer_silent_but_databases_still_with_it_waits_and_not_for_ever() -> None:
    dead = replace(ONE, fresh=False)
    view = following(silent=1.0, stranded=2, idle=1.0, candidates=(dead, TWO))
    assert isinstance(decide(view), Wait)
    assert isinstance(decide(replace(view, silent=DATABASE_WAIT)), Acquire)


def test_the_better_place_goes_first() -> None:
    free = View(me="EX02", candidates=(ONE, TWO), holder=held("EX03", HolderState.FREE))
    assert decide(free) == Wait("EX01 is the better place")
    assert isinstance(decide(replace(free, idle=GRACE)), Acquire)
    assert isinstance(decide(replace(free, me="EX01")), Acquire)


def test_the_target_of_a_move_goes_first_though_the_databases_are_elsewhere() -> None:
    free = View(me="EX02", candidates=(ONE, TWO), holder=held("EX01", HolderState.FREE, target="EX02"))
    assert isinstance(decide(free), Acquire)
    assert isinstance(decide(replace(free, me="EX01")), Wait)


def test_a_new_array_waits_until_all_have_spoken() -> None:
    view = View(me="EX01", candidates=(ONE, TWO), idle=SETTLE / 2)
    assert isinstance(decide(view), Wait)
    assert isinstance(decide(replace(view, idle=SETTLE)), Acquire)
    assert isinstance(decide(replace(view, me="EX02", idle=SETTLE)), Wait)


def test_an_order_is_for_its_own_tenure_only() -> None:
    order = MoveOrder(target="EX02", epoch=7, operator="root")
    assert decide(holding(order=order)) == Release("EX02", "moved by root")
    assert decide(holding(order=replace_epoch(order, 6))) == Hold()
    unable = replace(TWO, obstacle="is in maintenance")
    assert decide(holding(order=order, candidates=(ONE, unable))) == Hold()


def replace_epoch(order: MoveOrder, epoch: int) -> MoveOrder:
    return MoveOrder(target=order.target, epoch=epoch, operator=order.operator)


@pytest.mark.parametrize("trouble", [{"gateway": False}, {"obstacle": "reaches no service"}])
def test_trouble_releases_only_to_somebody_without_it(trouble: dict[str, object]) -> None:
    ill = replace(ONE, **trouble)  # type: ignore[arg-type]
    found = decide(holding(candidates=(ill, TWO), blind=AGREEMENT))
    assert isinstance(found, Release) and found.target == "EX02"
    also_ill = replace(TWO, **trouble)  # type: ignore[arg-type]
    assert decide(holding(candidates=(ill, also_ill), blind=AGREEMENT)) == Hold()
    assert decide(holding(candidates=(ill, replace(TWO, fresh=False)), blind=AGREEMENT)) == Hold()


def test_a_gateway_that_may_be_silent_for_all_is_no_reason_yet() -> None:
    blind = replace(ONE, gateway=False)
    assert decide(holding(candidates=(blind, TWO), blind=AGREEMENT - 0.1)) == Hold()


def test_failback_waits_for_its_hold_down_and_is_off_by_default() -> None:
    view = View(me="EX02", candidates=(ONE, TWO), holder=held("EX02"), mine=True)
    assert decide(view) == Hold()
    assert decide(replace(view, failback=61.0)) == Hold()
    assert isinstance(decide(replace(view, failback=60.0)), Release)


def test_a_restarted_process_takes_its_own_address_again_without_waiting() -> None:
    assert isinstance(decide(View(me="EX01", candidates=(ONE, TWO), holder=held("EX01"))), Acquire)


names = st.sampled_from(["EX01", "EX02", "EX03", "EX04"])
candidates = st.lists(
    st.builds(
        Candidate,
        names,
        st.integers(0, 3),
        fresh=st.booleans(),
        obstacle=st.sampled_from(["", "holds no tenure"]),
        gateway=st.sampled_from([None, True, False]),
        databases=st.integers(0, 3),
        steady=st.floats(0, 100),
    ),
    unique_by=lambda one: one.name,
    max_size=4,
)
views = st.builds(
    View,
    me=names,
    candidates=candidates.map(tuple),
    holder=st.none() | st.builds(held, names, st.sampled_from(HolderState), names | st.just("")),
    mine=st.booleans(),
    silent=st.none() | st.floats(0, 20),
    stranded=st.integers(0, 2),
    order=st.none() | st.builds(MoveOrder, target=names, epoch=st.sampled_from([6, 7])),
    idle=st.floats(0, 20),
    blind=st.floats(0, 10),
    failback=st.sampled_from([0.0, 10.0]),
    configured=st.booleans(),
)


@given(views)
def test_of_any_view(view: View) -> None:
    action = decide(view)
    me = view.candidate(view.me)
    if isinstance(action, Acquire):
        assert not view.mine and view.configured and me is not None and me.able
        record = view.holder
        if record is not None and record.state is HolderState.HELD and record.holder != view.me:
            assert view.silent is not None, "a live holder is never taken from"
    if isinstance(action, Release):
        assert view.mine
        if action.target:
            target = view.candidate(action.target)
            assert target is not None and target.able and target.name != view.me, "to somebody who can hold it"
        else:
            assert not view.configured or me is None
    assert decide(replace(view, candidates=view.candidates[::-1])) == action, "order of input never matters"


@given(views)
def test_somebody_acquires_in_the_end(view: View) -> None:
    """Whatever the view, of the able ones at least one acquires a silent holder's address within DATABASE_WAIT."""
    long = replace(
        view,
        mine=False,
        configured=True,
        silent=DATABASE_WAIT,
        idle=DATABASE_WAIT,
        candidates=tuple(replace(one, steady=60.0) for one in view.candidates),
    )
    able = [one.name for one in long.candidates if one.able]
    assert not able or any(isinstance(decide(replace(long, me=name)), Acquire) for name in able)
