"""What a server does about the array's address: pure, on a frozen view (spec 6.9).

`decide` alone never makes two holders: each action is performed as a compare-and-swap guarded by the revisions that the
view was read at, and an address stays on a host only while its tenure lasts (`array.hold`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from everpost.model.array import HolderRecord, HolderState, MoveOrder

GRACE = 0.5
"""Seconds that a server waits for each one that is the better place for the address, before it acquires it itself."""
SETTLE = 2.0
"""Seconds after an array was made until it is first acquired: all servers have said by then how they are."""
AGREEMENT = 3.0
"""Seconds for which the gateway must have been silent for the holder alone, beyond the time it takes to find out: the
others notice a gateway that is dead for all a moment later, and say so once a second."""
DATABASE_WAIT = 10.0
"""Seconds for which databases that still are with the silent holder keep others from taking its address (the field's
script waits for ever: `peer silent, database not here`)."""


@dataclass(frozen=True)
class Candidate:
    """A server that may hold the address, as it says itself. `place`: its preference, 0 first; `databases`: how many
    are active on it; `steady`: seconds for which it has had no obstacle."""

    name: str
    place: int
    fresh: bool = True
    obstacle: str = ""
    gateway: bool | None = None
    databases: int = 0
    steady: float = 0.0

    @property
    def able(self) -> bool:
        """Whether it could hold the address now. A gateway that is silent for it stands against it (T-VIP-2)."""
        return self.fresh and not self.obstacle and self.gateway is not False


@dataclass(frozen=True)
class View:
    """`mine`: the record's instance is this process; `silent`: for how long the holder was silent beyond TAKE, None if
    it is not; `stranded`: databases that are active on the holder, whose server is silent
    too and not taken yet; `idle`: for how
    long the address could have been acquired; `failback` as configured. `configured`: the array has an address;
    `blind`: for how long this server knows that the gateway is silent for it."""

    me: str
    candidates: tuple[Candidate, ...]
    holder: HolderRecord | None = None
    mine: bool = False
    silent: float | None = None
    stranded: int = 0
    order: MoveOrder | None = None
    idle: float = 0.0
    failback: float = 0.0
    configured: bool = True
    blind: float = 0.0

    def candidate(self, name: str) -> Candidate | None:
        """By name."""
        return next((one for one in self.candidates if one.name == name), None)


@dataclass(frozen=True)
class Wait:
    """Nothing to do."""

    why: str


@dataclass(frozen=True)
class Hold:
    """Keep the address."""


@dataclass(frozen=True)
class Acquire:
    """Take the address over."""

    why: str


@dataclass(frozen=True)
class Release:
    """Give the address back, for `target` ("": for whoever is best)."""

    target: str
    why: str


Action = Wait | Hold | Acquire | Release


def ranking(view: View, *, target: str = "") -> list[Candidate]:
    """Who is able, the best place first: the named target, then where most databases are active, then the preferred."""
    able = [one for one in view.candidates if one.able]
    return sorted(able, key=lambda one: (one.name != target, -one.databases, one.place, one.name))


def decide(view: View) -> Action:
    """What to do now."""
    return _holding(view) if view.mine else _challenging(view)


def _holding(view: View) -> Action:
    me = view.candidate(view.me)
    if not view.configured or me is None:
        return Release("", "the array has no address any more" if not view.configured else f"{view.me} may not hold it")
    others = [one for one in ranking(view) if one.name != view.me]
    best = others[0].name if others else ""
    for why in _LEAVING:
        reason = why(view, me)
        if reason and best:
            return Release(best, reason)
    order = view.order
    if order is not None and view.holder is not None and order.epoch == view.holder.epoch and order.target != view.me:
        target = view.candidate(order.target)
        if target is not None and target.able:
            return Release(order.target, f"moved by {order.operator or 'an administrator'}")
    if view.failback > 0 and others:
        first = min((*others, me), key=lambda one: one.place)
        if first is not me and first.steady >= view.failback:
            return Release(first.name, f"failback: {first.name} has been well for {view.failback:.0f} s")
    return Hold()


_LEAVING: tuple[Callable[[View, Candidate], str], ...] = (
    lambda view, me: me.obstacle and f"{view.me} {me.obstacle}",
    lambda view, me: (
        f"the gateway is silent for {view.me} alone" if me.gateway is False and view.blind >= AGREEMENT else ""
    ),
)
"""Reasons to give the address to another server, if there is one that is able; else it is kept: a gateway that nobody
sees is the gateway's trouble."""


def _challenging(view: View) -> Action:
    me = view.candidate(view.me)
    if not view.configured:
        return Wait("the array has no address")
    if me is None:
        return Wait(f"{view.me} may not hold it")
    if me.gateway is False:
        return Wait("the gateway is silent: this server's network may be the one that failed")
    if me.obstacle:
        return Wait(f"{view.me} {me.obstacle}")
    if not me.able:
        return Wait(f"{view.me} has not said yet how it is")
    held = view.holder
    if held is None:
        if view.idle < SETTLE:
            return Wait("the other servers have not said yet how they are")
        return _in_turn(view, "", "it was nobody's", settle=SETTLE)
    if held.state is HolderState.FREE:
        return _in_turn(view, held.target, held.reason or "it was given back")
    if held.holder == view.me:
        return Acquire("the process that held it on this server ended")
    if view.silent is None:
        return Wait(f"{held.holder} holds it")
    if view.stranded and view.silent < DATABASE_WAIT:
        return Wait(f"{view.stranded} databases are still with {held.holder}")
    return _in_turn(view, "", f"{held.holder} is silent")


def _in_turn(view: View, target: str, why: str, *, settle: float = 0.0) -> Action:
    able = ranking(view, target=target)
    place = [one.name for one in able].index(view.me)
    # A server that has just become able waits as well: the others may not have heard of each other yet.
    waited = min(view.idle - settle, able[place].steady)
    if waited < place * GRACE:
        return Wait(f"{able[0].name} is the better place")
    return Acquire(why)
