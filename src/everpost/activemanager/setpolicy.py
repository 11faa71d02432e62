"""When the synchronous set of an open database shrinks and grows (architecture 3.2, 3.7). Pure.

The active's agent builds a `SetView` five times a second; `next_step` says what to do. What each step must prove
before it counts is in `synchronous`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from everpost.model.database import Location, Member

STALL = 1.0
"""Seconds a commit may wait for the set before somebody is asked why (3.7)."""
PAM_ANSWER = 2.0
"""Seconds to wait for PAM's word about a slow but living member; then it is shrunk."""
QUIET = 60.0
"""Seconds a member that was shrunk for slowness must be quiet before it is asked in again; doubled per relapse."""
QUIET_LIMIT = 3600.0
GROW_LAG = 4 * 1024 * 1024
"""Bytes that a candidate may lack when growing begins; the rest is flushed while the names already hold it."""


class Sender(msgspec.Struct, frozen=True, kw_only=True):
    """A member's walsender as the active sees it. `count`: walsenders of that very name (more than one is an alarm)."""

    streaming: bool
    flush_lsn: int
    count: int = 1


class SetView(msgspec.Struct, frozen=True, kw_only=True):
    """`oldest_wait` seconds of the oldest commit waiting for the set, `wait_lsn` the WAL written when it was first
    seen. `senders` by server for the recorded incarnation, `candidates` likewise for copies outside the set.
    `lost`: servers that lost their tenure. `quiet_until`: not before that time may a server be asked in.
    `kept_out`: why a server's copy is to be no member, such as "is suspended"."""

    now: float
    location: Location
    own_flush_lsn: int
    oldest_wait: float
    wait_lsn: int
    senders: Mapping[str, Sender]
    candidates: Mapping[Member, Sender]
    lost: frozenset[str]
    quiet_until: Mapping[str, float]
    kept_out: Mapping[str, str] = {}


class Shrink(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Take a member out. `ask`: its server lives, so PAM is asked first whether to move there instead."""

    server: str
    ask: bool
    reason: str


class Grow(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Try to take a member in."""

    member: Member


def next_step(view: SetView) -> Shrink | Grow | None:
    """The most urgent step, or None."""
    for member in view.location.set:
        sender = view.senders.get(member.server)
        if sender is not None and sender.count > 1:
            return Shrink(
                server=member.server,
                ask=False,
                reason=f"{sender.count} walsenders carry the name of {member.server}'s copy",
            )
    for member in view.location.set:
        if member.server in view.kept_out:
            return Shrink(server=member.server, ask=False, reason=f"{member.server} {view.kept_out[member.server]}")
    if view.oldest_wait > STALL:
        for member in view.location.set:
            sender = view.senders.get(member.server)
            if sender is not None and sender.streaming and sender.flush_lsn >= view.wait_lsn:
                continue
            living = member.server not in view.lost
            why = "is slow" if living else "lost its tenure"
            waited = f"a commit waited {view.oldest_wait:.1f} s for it"
            return Shrink(server=member.server, ask=living, reason=f"{member.server} {why}, {waited}")
        return None
    if view.oldest_wait > STALL / 2:
        return None
    for member in sorted(view.candidates):
        sender = view.candidates[member]
        ready = sender.streaming and sender.count == 1
        near = view.own_flush_lsn - sender.flush_lsn <= GROW_LAG
        quiet = view.now >= view.quiet_until.get(member.server, 0.0)
        if ready and near and quiet and member.server not in view.lost and member.server not in view.kept_out:
            return Grow(member=member)
    return None


def quiet_after(relapses: int) -> float:
    """Seconds of quiet asked of a member that was shrunk for slowness `relapses` times (1 = the first time)."""
    return float(min(QUIET * 2 ** (relapses - 1), QUIET_LIMIT))


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """Whom PAM's host can call."""

    active: bool
    member: bool


def stall_verdict(reach: Reach, *, member_is_complete: bool) -> str | None:
    """PAM's word about a living member that holds commits up (F11): "move" to it when it is the active that cannot be
    reached, "shrink" it otherwise; None when PAM reaches neither and had better say nothing."""
    if reach.member and not reach.active and member_is_complete:
        return "move"
    if reach.active:
        return "shrink"
    return None
