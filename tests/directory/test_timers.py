"""Tenure's two clocks: whatever is lost, late or drifting, nobody takes a server that may still serve (3.8)."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from everpost.directory.timers import Timers, Validity
from everpost.model.tenure import Timing


class Renewal(NamedTuple):
    """One renewal: seconds until it is sent, committed, answered, and seen by the challenger. None: never."""

    pause: float
    commit: float | None
    answer: float | None
    receipt: float | None


class World(NamedTuple):
    """Rates of the two hosts' clocks, the renewals, and how long a take is under way."""

    holder_rate: float
    challenger_rate: float
    renewals: tuple[Renewal, ...]
    poll: float
    take_delay: float


def overlap(world: World, timing: Timing) -> float | None:
    """Run the holder's and the challenger's clocks through `world`. For how many seconds of true time the holder might
    have served after it was taken (negative: it stopped before that); None: it was never taken."""
    validity, timers = Validity(timing), Timers(timing)
    revision, taken, served_until = 1, None, 0.0
    timers.saw("A", revision, 0.0)
    queue: list[tuple[float, int, str, int]] = []
    sent: list[float] = []

    def later(at: float, what: str, value: int) -> None:
        heapq.heappush(queue, (at, len(sent) + len(queue), what, value))

    for index, renewal in enumerate(world.renewals):
        sent.append((sent[-1] if sent else 0.0) + renewal.pause)
        if renewal.commit is not None:
            later(sent[-1] + renewal.commit, "commit", index)
    later(world.poll, "poll", 0)
    while queue and (now := queue[0][0]) < 60.0:
        _, _, what, value = heapq.heappop(queue)
        if what == "commit" and taken is None:  # afterwards the fence is another
            revision += 1
            if (answer := world.renewals[value].answer) is not None:
                later(now + answer, "answer", value)
            if (receipt := world.renewals[value].receipt) is not None:
                later(now + receipt, "receipt", revision)
        elif what == "answer":
            validity.confirmed(sent[value] * world.holder_rate)
            served_until = (validity.until + timing.stop) / world.holder_rate
        elif what == "receipt":
            timers.saw("A", value, now * world.challenger_rate)
        elif what == "poll" and taken is None:
            waited = timers.waited_for("A", now * world.challenger_rate)
            if waited is None:
                later(now + world.poll, "poll", 0)
            else:
                later(now + world.take_delay, "take", waited)
        elif what == "take":
            if value == revision:
                taken = now
            else:
                timers.saw("A", revision, now * world.challenger_rate)
                later(now + world.poll, "poll", 0)
    return None if taken is None else served_until - taken


DRIFT = 0.01
short = st.floats(0.0, 4.0)
renewals = st.builds(Renewal, st.floats(0.001, 1.5), st.none() | short, st.none() | short, st.none() | short)
rates = st.floats(1 - DRIFT, 1 + DRIFT)
worlds = st.builds(
    World, rates, rates, st.lists(renewals, min_size=1, max_size=12).map(tuple), st.floats(0.05, 0.5), short
)
LAST = World(1 - DRIFT, 1 + DRIFT, (Renewal(0.3, 0.0, 0.0, 0.0),), 0.001, 0.0)
"""The hardest of all: one prompt renewal, then silence, the holder's clock slow and the challenger's fast."""


@given(worlds, st.floats(0.2, 3.0), st.floats(0.0, 0.5))
@example(LAST, 1.8, 0.4)
def test_no_server_is_taken_that_may_still_serve(world: World, hold: float, stop: float) -> None:
    timing = Timing(hold=hold, stop=stop, take=(hold + stop) * (1 + DRIFT) / (1 - DRIFT) + 1e-9, drift=DRIFT)
    assert timing.refusal() is None
    late = overlap(world, timing)
    assert late is None or late <= 1e-6


@pytest.mark.parametrize("take", [2.3, 2.1])
def test_sabotage_a_hold_above_take_is_found_and_refused(take: float) -> None:
    timing = Timing(hold=take + 0.2, take=take)
    assert timing.refusal() is not None
    late = overlap(LAST, timing)
    assert late is not None and late > 0


def test_the_presets_are_safe() -> None:
    assert Timing().refusal() is None
    assert overlap(LAST, Timing()) is not None


def test_the_wait_begins_when_a_revision_was_first_received() -> None:
    timers = Timers(Timing(take=2.0))
    timers.saw("A", 5, 10.0)
    timers.saw("A", 5, 11.0)  # the watch began anew and showed the same
    timers.saw("A", 4, 11.5)  # and something older
    assert not timers.expired("A", 11.9)
    assert timers.waited_for("A", 12.0) == 5
    timers.saw("A", 6, 12.0)
    assert timers.waited_for("A", 12.1) is None
    assert timers.waited_for("A", 14.0) == 6


def test_who_was_never_seen_is_never_taken() -> None:
    timers = Timers(Timing())
    assert not timers.expired("A", 1e9) and timers.waited_for("A", 1e9) is None
    timers.saw("A", 3, 0.0)
    timers.forget("A")
    assert not timers.expired("A", 1e9)


def test_an_older_confirmation_that_comes_late_shortens_nothing() -> None:
    validity = Validity(Timing(hold=2.0))
    validity.confirmed(10.0)
    validity.confirmed(9.0)
    assert validity.until == 12.0 and validity.valid(11.9) and not validity.valid(12.0)
    validity.drop()
    assert not validity.valid(10.0)
