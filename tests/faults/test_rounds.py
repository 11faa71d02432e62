"""Fault rounds on a real organisation: two servers and a witness, writers that never stop (issue: Stage A).

`EVERPOST_ROUNDS` and `EVERPOST_SEED` make a longer or another run; `python -m tests.faults.rounds --rounds N --seed S`
is the same with its progress shown. The seed fixes the faults and their order; when exactly each strikes is chance.
"""

from __future__ import annotations

import os

import pytest

from .rounds import run

ROUNDS = int(os.environ.get("EVERPOST_ROUNDS", "50"))
SEED = int(os.environ.get("EVERPOST_SEED", "2026"))


@pytest.mark.fault
@pytest.mark.timeout(120 + 60 * ROUNDS)
def test_nothing_acknowledged_is_lost_whatever_dies_freezes_or_is_cut() -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        print(text, flush=True)

    print(f"seed {SEED}, {ROUNDS} rounds", flush=True)
    report = run(ROUNDS, SEED, None, say)
    print(report)
    assert report["lost"] == []
    acknowledged = report["acknowledged"]
    assert isinstance(acknowledged, dict)
    assert all(count > 20 * ROUNDS for count in acknowledged.values()), "the writers hardly wrote"
