"""Which changes of a copy's state are told, and that each is told once."""

from __future__ import annotations

import pytest

from everpost.activemanager.trouble import FAILED_AFTER, Trouble
from everpost.model.database import CopyState

S = CopyState
LONG = FAILED_AFTER + 0.1


@pytest.mark.parametrize(
    ("states", "told"),
    [
        # seconds, state ...: what is told, in order
        ([(0, S.FAILED), (1, S.FAILED), (2, S.HEALTHY)], []),
        ([(0, S.FAILED), (LONG, S.FAILED), (LONG + 1, S.FAILED), (LONG + 2, S.HEALTHY)], [True, False]),
        ([(0, S.FAILED), (5, S.INITIALIZING), (6, S.FAILED), (LONG, S.FAILED)], []),
        ([(0, S.FAILED), (LONG, S.FAILED), (LONG + 1, S.SEEDING), (LONG + 90, S.HEALTHY)], [True, False]),
        # What suspends itself says so elsewhere; that it is well again is told here.
        ([(0, S.FAILED_AND_SUSPENDED), (1, S.FAILED_AND_SUSPENDED), (9, S.SEEDING), (99, S.HEALTHY)], [False]),
        ([(0, S.FAILED), (LONG, S.FAILED), (20, S.FAILED_AND_SUSPENDED), (30, S.HEALTHY), (31, S.HEALTHY)],
         [True, False]),
        ([(0, S.HEALTHY), (1, S.MOUNTED), (2, S.DISMOUNTED), (3, S.SUSPENDED), (4, S.HEALTHY)], []),
    ],
)  # fmt: skip
def test_trouble_is_told_once_when_it_begins_and_once_when_it_is_over(
    states: list[tuple[float, CopyState]], told: list[bool]
) -> None:
    trouble = Trouble()
    found = [trouble.saw(now, state) for now, state in states]
    assert [one for one in found if one is not None] == told
