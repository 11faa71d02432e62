"""The real holder and the real challengers through hundreds of seeded, simulated minutes of bad lines."""

from __future__ import annotations

import pytest

from everpost.directory.interface import TxnResult
from everpost.directory.tenure import Tenure
from everpost.directory.timers import Timers
from everpost.model.tenure import Timing
from tests.directory.world import World, simulate

SEEDS = 60
SECONDS = 60.0


def play(timing: Timing, seeds: range) -> tuple[int, list[str]]:
    """How often A was taken, and every time that this was too early."""
    takes, late, violations = 0, 0, []
    for seed in seeds:
        world = World(seed, timing)
        simulate(world.run(SECONDS))
        takes += world.takes
        late += world.answers_late
        violations += [f"seed {seed}: {one}" for one in world.violations]
    assert late > len(seeds), "hardly an answer came late"
    return takes, violations


def test_a_taken_server_had_stopped() -> None:
    takes, violations = play(Timing(take=2.21), range(SEEDS))  # as short as the rule allows
    assert Timing(take=2.21).refusal() is None
    assert takes > SEEDS, "the lines were not bad enough to test anything"
    assert not violations


def test_sabotage_a_hold_above_take_turns_it_red() -> None:
    timing = Timing(hold=2.5, take=2.3)
    assert timing.refusal() is not None
    assert play(timing, range(SEEDS))[1]


def test_sabotage_taking_at_a_revision_that_was_not_waited_for_turns_it_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Timers, "waited_for", lambda self, server, now: self.revision(server))
    assert play(Timing(take=2.21), range(SEEDS))[1]


def test_sabotage_a_late_answer_counted_from_when_it_came_turns_it_red(monkeypatch: pytest.MonkeyPatch) -> None:
    def came_late(self: Tenure, sent: float, fence_revision: int, result: TxnResult) -> None:
        if result.succeeded:
            self._late = self._clock.boottime()

    monkeypatch.setattr(Tenure, "_came_late", came_late)
    assert play(Timing(take=2.21), range(SEEDS))[1]
