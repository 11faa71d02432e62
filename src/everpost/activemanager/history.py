"""Whether what a passive copy replays is the history that the record tells (architecture 3.5)."""

from __future__ import annotations

from everpost.databases.interface import Engine, StandbyPositions
from everpost.errors import EverpostError
from everpost.model.database import Location, Opening, Token

EVERY = 30.0
"""Seconds between looks."""


class History:
    """Of one copy. An activation that died before it was recorded, and the next one, may begin at one place on
    timelines of one number; a copy that followed the first by itself looks as if it followed the second."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._at = 0.0
        self._looked_for: tuple[Token, int] | None = None
        """Under which token openings were missed, and how far the active's log went then: they lie before that."""

    def begin(self, now: float) -> None:
        """The copy follows another active, or anew."""
        self._at, self._looked_for = now + EVERY, None

    async def missing(self, now: float, location: Location, positions: StandbyPositions) -> tuple[Opening, ...]:
        """From time to time: recorded openings that the log which was replayed here does not hold. Nobody is judged by
        an end of the log that was told before the newest opening began."""
        known_end = positions.known_generated_lsn
        if now < self._at or known_end is None or known_end <= location.openings[-1].begin_lsn:
            return ()
        self._at = now + EVERY
        try:
            known = set(await self._engine.openings())
        except EverpostError:
            return ()
        found = tuple(one for one in location.openings if (one.token, one.nonce) not in known)
        if not found:
            self._looked_for = None
        elif self._looked_for is None or self._looked_for[0] != location.token:
            self._looked_for = location.token, known_end
        elif positions.replayed_lsn >= self._looked_for[1]:
            return found
        return ()
