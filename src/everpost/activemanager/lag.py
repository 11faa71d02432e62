"""When a lagged copy gives its lag up by itself, and when it takes it up again (spec 2.9, 10: ReplayLagManager). Pure.

Played down, it replays all that it has and becomes a copy like any other; its ReplayLagTime stays as it was set.
Damaged pages are no reason here: a copy is healed by a seed, for which no log needs to be replayed elsewhere.
"""

from __future__ import annotations

EVERY = 10.0
"""Seconds between looks."""
LOW_SPACE = 10 * 1024**3
"""Bytes that must stay free where the log waits for its replay."""
ROOM_AGAIN = 1.5
"""The lag is taken up again when that many times as much is free: else it would come and go."""
GOOD_COPIES = 3
"""Fewer good copies without lag than this (or than there are such copies) for THIN_FOR seconds are too few."""
THIN_FOR = 86400.0
AUTOMATIC = "ReplayLagManager: "
"""What the reason begins with when nobody typed it: only such a play-down ends by itself."""


class LagManager:
    """Of one copy. `low_space`: bytes; 0 looks at no disk."""

    def __init__(self, low_space: int) -> None:
        self._low_space = low_space
        self._thin_since: float | None = None

    def reason(self, now: float, before: str, *, free: int, good: int, others: int) -> str:
        """Why the copy should have no lag now, "" if it should. `before`: what was said last; `good` of the `others`,
        the copies that have no lag of their own, could serve."""
        if before and not before.startswith(AUTOMATIC):
            return before  # an administrator's
        wanted = min(GOOD_COPIES, others)
        if good >= wanted:
            self._thin_since = None
        elif self._thin_since is None:
            self._thin_since = now
        low = f"{AUTOMATIC}less than {self._low_space >> 20} MB are free on its disk"
        if free < self._low_space * (ROOM_AGAIN if before == low else 1.0):
            return low
        thin = self._thin_since is not None and now - self._thin_since >= THIN_FOR
        thin_text = f"{AUTOMATIC}fewer than {wanted} good copies for a day"
        # An agent that was restarted has not waited for a day; what was decided before holds until they are back.
        return thin_text if thin or (before == thin_text and self._thin_since is not None) else ""
