"""Which servers' addresses a round robin has: pure. A dead one leaves at once, one that is well again comes back after
a while, one that keeps falling after a longer while, and the last one never leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

BACK = 5.0
"""Seconds for which a server must have been well before it is published again."""
BACK_AT_MOST = 300.0
QUIET = 600.0
"""A server that stays well for so long has its relapses forgotten."""
FRESH = "has just come back"


@dataclass(frozen=True)
class Look:
    """A server now. `dead`: why no client can use it; `planned`: why an administrator wants no clients there."""

    server: str
    address: str
    dead: str = ""
    planned: str = ""


@dataclass
class _State:
    published: bool
    well_since: float | None = None
    relapses: int = 0
    fell: float = field(default=float("-inf"))

    @property
    def hold(self) -> float:
        return min(BACK * 2.0 ** max(0, self.relapses - 1), BACK_AT_MOST)


class Rotation:
    """One array. `before`: what the former updater published, by server with "" for a published one; None: nothing."""

    def __init__(self, before: Mapping[str, str] | None = None) -> None:
        self._before = before
        self._states: dict[str, _State] = {}
        self._last: dict[str, str] = {}
        """What was published at last: addresses by server."""

    def look(self, now: float, looks: Iterable[Look]) -> tuple[tuple[str, ...], dict[str, str]]:
        """The addresses to publish, and by server "" or why it is not published."""
        seen = {one.server: one for one in looks}
        self._states = {name: state for name, state in self._states.items() if name in seen}
        for name, one in seen.items():
            state = self._states.setdefault(name, self._begin(name, one))
            self._follow(state, one, now)
        reasons = {name: self._against(self._states[name], one) for name, one in seen.items()}
        chosen = {name for name in seen if not reasons[name]} or self._least_bad(seen)
        for name in chosen:
            if reasons[name]:
                reasons[name] = ""
        self._last = {name: seen[name].address for name in chosen}
        return tuple(sorted(self._last.values())), reasons

    def _begin(self, name: str, one: Look) -> _State:
        fit = not one.dead and not one.planned
        return _State(published=fit if self._before is None else self._before.get(name) == "")

    def _follow(self, state: _State, one: Look, now: float) -> None:
        if one.dead or one.planned:
            if state.published and one.dead:
                state.relapses = state.relapses + 1 if now - state.fell < QUIET else 1
                state.fell = now
            state.published, state.well_since = False, None
            return
        if state.well_since is None:
            state.well_since = now
        if now - state.well_since >= state.hold:
            state.published = True

    @staticmethod
    def _against(state: _State, one: Look) -> str:
        if one.dead or one.planned:
            return one.dead or one.planned
        return "" if state.published else FRESH

    def _least_bad(self, seen: Mapping[str, Look]) -> set[str]:
        """Nobody is as it should be: an empty name helps no client."""
        fit = {name for name, one in seen.items() if not one.dead and not one.planned}
        alive = {name for name, one in seen.items() if not one.dead}
        return fit or alive or set(self._last) & set(seen) or self._published_before(seen) or set(seen)

    def _published_before(self, seen: Mapping[str, Look]) -> set[str]:
        return {name for name in seen if self._before is not None and self._before.get(name) == ""}
