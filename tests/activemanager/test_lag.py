"""When a lagged copy is played down by itself."""

from __future__ import annotations

import pytest

from everpost.activemanager.lag import AUTOMATIC, LOW_SPACE, THIN_FOR, LagManager

ROOM = 2 * LOW_SPACE


def test_too_few_good_copies_for_a_day_play_it_down_until_they_are_back() -> None:
    manager, reason = LagManager(LOW_SPACE), ""
    for now, good, thin in ((0.0, 1, False), (THIN_FOR - 1, 1, False), (THIN_FOR, 1, True), (THIN_FOR + 1, 2, False)):
        reason = manager.reason(now, reason, free=ROOM, good=good, others=2)
        assert ("fewer than 2 good copies" in reason) is thin, now
    assert manager.reason(2 * THIN_FOR, "", free=ROOM, good=1, others=2) == "", "the day begins anew"


@pytest.mark.parametrize(("good", "others", "thin"), [(1, 1, False), (2, 5, True), (3, 5, False), (0, 0, False)])
def test_no_more_copies_are_asked_for_than_there_are(good: int, others: int, thin: bool) -> None:
    manager = LagManager(LOW_SPACE)
    manager.reason(0.0, "", free=ROOM, good=good, others=others)
    assert bool(manager.reason(THIN_FOR, "", free=ROOM, good=good, others=others)) is thin


def test_a_new_agent_goes_on_with_what_was_decided() -> None:
    thin = f"{AUTOMATIC}fewer than 2 good copies for a day"
    assert LagManager(LOW_SPACE).reason(0.0, thin, free=ROOM, good=1, others=2) == thin
    assert LagManager(LOW_SPACE).reason(0.0, thin, free=ROOM, good=2, others=2) == ""


def test_without_a_limit_no_disk_is_looked_at() -> None:
    assert LagManager(0).reason(0.0, "", free=0, good=2, others=2) == ""
