"""The location record's moves: each a pure function from the record before to the record after (architecture 3).

Every function checks that the move is legal and raises `IllegalMove` otherwise. Who may make a move, and under which
guards, is said in its docstring; the guards themselves are compare-and-swaps on revisions made by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from everpost.errors import EverpostError
from everpost.model.database import Location, LocationState, Member, Opening, Refusal, Token

S = LocationState

MOVES: dict[LocationState, frozenset[LocationState]] = {
    S.ACTIVATING: frozenset({S.OPEN, S.ACTIVATING, S.MOVING, S.DISMOUNTED}),
    S.OPEN: frozenset({S.OPEN, S.MOVING, S.ACTIVATING}),
    S.MOVING: frozenset({S.CLOSED, S.OPEN, S.ACTIVATING, S.DISMOUNTED}),
    S.CLOSED: frozenset({S.ACTIVATING, S.DISMOUNTED}),
    S.DISMOUNTED: frozenset({S.CLOSED}),
    S.UNKNOWN: frozenset({S.CLOSED}),
}
"""Legal moves; the diagram in docs/failover.md follows this table."""


class IllegalMove(EverpostError):
    """The record is in a state from which this move is not made."""


def _must(location: Location, to: LocationState) -> None:
    if to not in MOVES[location.state]:
        raise IllegalMove(f"{location.database} cannot go from {location.state} to {to}.")


def begin_activation(
    location: Location,
    server: str,
    *,
    reason: str,
    lossy: bool = False,
    until: float | None = None,
    refused: Iterable[Refusal] = (),
) -> Location:
    """Step one of an activation (3.3). By PAM, guarded by the PAM key, its own fence, this record, and the old
    active's taken fence or a CLOSED record; or by the active's own agent for its own copy, guarded by its fence.
    The epoch grows, clients stay out, and `eligible` stays the former set until the opening. A dismount that was
    ordered stays ordered. `until`: only what was committed by then is opened, which is a loss by intent."""
    _must(location, S.ACTIVATING)
    if until is not None and not lossy:
        raise IllegalMove(f"What {location.database} received after a point in time is given up with loss only.")
    return replace(
        location,
        active=server,
        token=Token(location.token.generation, location.token.epoch + 1),
        state=S.ACTIVATING,
        set=(),
        lossy=lossy,
        until=until,
        target=None,
        refused=tuple(refused),
        reason=reason,
        dismount=location.dismount or (location.state is S.MOVING and location.target is None),
    )


def refuse(location: Location, server: str, why: str) -> Location:
    """The activating copy says that it must not be opened. By its agent, guarded by its fence; PAM tries the next."""
    if location.state is not S.ACTIVATING or location.active != server:
        raise IllegalMove(f"{server} is not activating {location.database}.")
    return replace(location, refused=(*location.refused, Refusal(server, why)))


def opened(location: Location, member: Member, opening: Opening, new_set: Iterable[Member] = ()) -> Location:
    """Step two (3.3). By the activating copy's agent, guarded by its fence, after names were loaded and the opening
    row was committed. From here on only the new set and the active itself are eligible. With a dismount ordered it is
    recorded as on its way to being closed, so that no client is let in."""
    _must(location, S.OPEN)
    if location.state is not S.ACTIVATING or opening.token != location.token or member.server != location.active:
        raise IllegalMove(f"{location.database} is not being activated by {member.server} at {opening.token}.")
    members = tuple(sorted(new_set))
    return replace(
        location,
        state=S.MOVING if location.dismount else S.OPEN,
        set=members,
        eligible=(*members, member),
        lossy=False,
        until=None,
        openings=(*location.openings, opening),
        closed_lsn=None,
        closed_timeline=None,
        refused=(),
    )


def shrunk(location: Location, server: str, *, reason: str) -> Location:
    """A member leaves the set and what is eligible. By the active's agent (its fence) before its name leaves the
    names, or by the member's own agent before it touches its files (3.2, 3.5)."""
    return replace(
        location,
        set=tuple(m for m in location.set if m.server != server),
        eligible=tuple(m for m in location.eligible if m.server != server),
        reason=reason,
    )


def grown(location: Location, member: Member) -> Location:
    """A member enters the set: only after its name was proven to hold commits back and it flushed all (3.2)."""
    if location.state is not S.OPEN:
        raise IllegalMove(f"{location.database} is {location.state}; its set grows only while it is open.")
    if member.server == location.active:
        raise IllegalMove(f"{member.server} is the active of {location.database}.")
    members = tuple(sorted({*(m for m in location.set if m.server != member.server), member}))
    own = tuple(m for m in location.eligible if m.server == location.active)
    return replace(location, set=members, eligible=(*members, *own), reason=f"{member.server} joined")


def moving(location: Location, target: str, *, reason: str) -> Location:
    """A planned move begins (3.13). By an administrator's command or PAM; the active closes for `target`."""
    _must(location, S.MOVING)
    if not any(member.server == target for member in location.set):
        raise IllegalMove(f"{target} is not in the synchronous set of {location.database}.")
    return replace(location, state=S.MOVING, target=target, reason=reason)


def dismounting(location: Location, *, reason: str) -> Location:
    """An administrator's dismount begins: a move to nowhere."""
    _must(location, S.MOVING)
    return replace(location, state=S.MOVING, target=None, dismount=True, reason=reason)


def dismount_asked(location: Location, *, reason: str) -> Location:
    """An administrator's dismount at whatever moment: of an open database it begins, a closed one is dismounted, and
    where something is under way the order is recorded for whoever ends that."""
    match location.state:
        case S.OPEN:
            return dismounting(location, reason=reason)
        case S.CLOSED:
            return dismounted(location, reason=reason)
        case S.ACTIVATING:
            return replace(location, dismount=True)
        case S.MOVING:
            return location if location.target is None else replace(location, dismount=True)
        case S.DISMOUNTED:
            return location
    raise IllegalMove(f"{location.database} is {location.state}.")


def dismount_taken_back(location: Location) -> Location:
    """An administrator's mount while an ordered dismount waits for what is under way."""
    return replace(location, dismount=False)


def move_abandoned(location: Location, *, reason: str) -> Location:
    """The active gives a move up before it stopped anything."""
    if location.state is not S.MOVING or location.target is None:
        raise IllegalMove(f"{location.database} is not moving.")
    return replace(location, state=S.MOVING if location.dismount else S.OPEN, target=None, reason=reason)


def closed(location: Location, lsn: int, timeline: int) -> Location:
    """The active was shut down cleanly at `lsn`. By its agent, guarded by its fence."""
    _must(location, S.CLOSED)
    wished = location.dismount or location.target is None
    return replace(location, state=S.CLOSED, closed_lsn=lsn, closed_timeline=timeline, dismount=wished)


def dismounted(location: Location, *, reason: str) -> Location:
    """An administrator's dismount of a closed database; it stays so until a mount."""
    _must(location, S.DISMOUNTED)
    return replace(location, state=S.DISMOUNTED, target=None, dismount=False, reason=reason)


def dismounted_without_closing(location: Location, *, reason: str) -> Location:
    """An administrator's dismount whose active died on the way: it is off, if not cleanly, and stays so. By its own
    agent (its fence) after no process of it is left, or by PAM guarded by the active's taken fence. `closed_lsn` stays
    empty, as nobody knows where the log ends: the mount is an activation as after a crash."""
    _must(location, S.DISMOUNTED)
    if location.state is not S.MOVING or not (location.dismount or location.target is None):
        raise IllegalMove(f"{location.database} is not being dismounted.")
    return replace(
        location,
        state=S.DISMOUNTED,
        target=None,
        dismount=False,
        closed_lsn=None,
        closed_timeline=None,
        reason=reason,
    )


def dismounted_unopened(location: Location, *, reason: str) -> Location:
    """A dismount ordered during an activation that came to no end. By PAM: nobody was let in at this epoch, and what
    would still open it finds another record. What must be there of a log (`closed_lsn`) stays known; an order to lose
    something does not outlive it."""
    _must(location, S.DISMOUNTED)
    if location.state is not S.ACTIVATING or not location.dismount:
        raise IllegalMove(f"No dismount of {location.database} was ordered while it is activated.")
    return replace(location, state=S.DISMOUNTED, dismount=False, lossy=False, until=None, refused=(), reason=reason)


def mount_asked(location: Location, *, reason: str) -> Location:
    """An administrator's mount: PAM may open it where it was."""
    _must(location, S.CLOSED)
    return replace(location, state=S.CLOSED, target=location.active, refused=(), reason=reason)


def activation_in_the_past(location: Location, server: str, until: float, *, reason: str) -> Location:
    """An administrator gives up what came after `until`, and has the copy that stands there opened (LAG-6). Only of a
    database that its active closed cleanly: nobody writes to it, and how much is given up is known."""
    if location.state is not S.DISMOUNTED or location.closed_lsn is None:
        raise IllegalMove(f"{location.database} was not closed cleanly.")
    if any(member.server == server for member in location.eligible):
        raise IllegalMove(f"{server} has every acknowledged change of {location.database}.")
    return begin_activation(mount_asked(location, reason=reason), server, reason=reason, lossy=True, until=until)
