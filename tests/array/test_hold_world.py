"""Two holders never: the real keepers through 200 seeded, simulated rounds of bad lines, frozen processes, lost server
tenures and orders to move; each rule that keeps them apart turns it red when it is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from everpost.array import service
from everpost.array.hold import Hold
from everpost.array.service import Keeper
from everpost.directory.timers import Timers
from everpost.model.tenure import Timing
from tests.array.world import World
from tests.directory.world import simulate

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


SABOTAGED = 60
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
