"""When a copy's trouble is worth an event of the journal: once when it begins, once when it is over. Pure."""

from __future__ import annotations

from everpost.model.database import CopyState

FAILED_AFTER = 10.0
"""Seconds a copy is Failed before that is told: it tries again by itself, and most causes are over sooner."""
WELL = frozenset({CopyState.HEALTHY, CopyState.SEEDING_SOURCE, CopyState.MOUNTED})


class Trouble:
    """Follows one copy's states. A copy that suspended itself says so when it does, and not again when its agent is
    restarted: here that only means that its recovery will be told."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._told = False

    def saw(self, now: float, state: CopyState) -> bool | None:
        """True: tell that the copy failed; False: that it is well again; None: nothing to tell."""
        if state is CopyState.FAILED_AND_SUSPENDED:
            self._since, self._told = None, True
            return None
        if state is CopyState.FAILED:
            self._since = now if self._since is None else self._since
            if self._told or now - self._since < FAILED_AFTER:
                return None
            self._told = True
            return True
        self._since = None
        if state in WELL and self._told:
            self._told = False
            return False
        return None
