"""Two holders never: the real keepers through 200 seeded, simulated rounds of bad lines, frozen processes, lost server
tenures and orders to move; each rule that keeps them apart turns it red when it is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from everpost.array import service
from everpost.array.hold import Hold
from everpost.array.service import Keeper
from everpost.directory.memory import MemoryDirectory
from everpost.directory.timers import Timers
from everpost.model.tenure import Timing
from tests.array.world import World
from tests.directory.world import DriftingClock, simulate

pytestmark = pytest.mark.usefixtures("quiet")

ROUNDS = 200
SECONDS = 40.0


def play(folder: Path, rounds: int = ROUNDS, timing: Timing | None = None) -> tuple[int, list[str]]:
    """How often the address changed hosts, and every time that two had it."""
    moves, violations = 0, []
    for seed in range(rounds):
        world = World(seed, timing or Timing(take=2.21), folder)
        simulate(world.run(SECONDS))
        moves += len(world.network.holders)
        violations += [f"seed {seed}: {one}" for one in world.network.violations]
        if violations and rounds < ROUNDS:
            break
    return moves, violations


@pytest.mark.timeout(300)
def test_two_hosts_never_have_the_address(tmp_path: Path) -> None:
    moves, violations = play(tmp_path)
    print(f"{moves} acquisitions in {ROUNDS} rounds")
    assert moves > 2 * ROUNDS, "too little happened to test anything"
    assert not violations


SABOTAGED = 150
"""Rounds within which a broken rule must show; they end at the first violation."""


def test_sabotage_a_life_that_outlasts_the_tenure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LIFE", 4)
    assert play(tmp_path, SABOTAGED)[1]


def test_sabotage_no_look_before_the_address_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hold, "may_extend", lambda self: True)
    assert play(tmp_path, SABOTAGED)[1]


def test_sabotage_a_take_at_a_beat_that_was_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Timers, "expired", lambda self, name, now: True)
    monkeypatch.setattr(Timers, "waited_for", lambda self, name, now: self.revision(name))
    assert play(tmp_path, SABOTAGED)[1]


def test_sabotage_a_beat_counts_for_a_later_tenure_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the process does not see by itself that it has none: else it gives the address back first."""
    monkeypatch.setattr(Hold, "until", property(lambda self: self._validity.until))
    monkeypatch.setattr(Keeper, "_obstacle", lambda self, array: "")
    assert play(tmp_path, SABOTAGED)[1]


def test_sabotage_a_late_answer_counts_from_when_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = Hold._answered
    monkeypatch.setattr(
        Hold, "_answered", lambda self, sent, result: answered(self, sent._replace(at=self._clock.boottime()), result)
    )
    assert play(tmp_path, SABOTAGED)[1]


def test_a_late_answer_counts_from_its_own_send_time_and_only_for_what_is_still_held() -> None:
    simulate(_late_answers())


async def _late_answers() -> None:
    clock, directory, timing = DriftingClock(100.0, 1.0), MemoryDirectory(), Timing()
    hold = Hold(
        directory,
        clock,
        array="A",
        me="EX01",
        instance="w",
        timing=timing,
        serving=lambda: (1e9, 1),
        own_guard=dict,
    )
    assert await hold.acquire(None, {}, "first")
    await clock.sleep(1.0)
    sent = clock.boottime()
    directory.delay_effects(1)
    assert not await hold.renew()
    await clock.sleep(0.5)
    directory.deliver_late()
    assert hold.until == sent + timing.hold
    directory.delay_effects(1)
    assert not await hold.renew()
    await clock.sleep(0.1)
    assert await hold.renew()
    newest = hold.until
    directory.deliver_late()
    assert hold.until == newest, "a newer beat counts already"
    directory.delay_effects(1)
    assert not await hold.renew()
    hold.lapse()
    directory.deliver_late()
    assert hold.until == 0.0, "the address was taken off since: a beat from before does not bring it back"
    assert await hold.renew() and hold.valid()
