"""What the Primary Active Manager does next: a pure function of a view. No I/O, no clock, no chance.

Each action carries the revisions that make it safe and the sentence that explains it.
"""

from __future__ import annotations

import msgspec

from everpost.activemanager import bestcopy, loss, transitions
from everpost.activemanager.view import DatabaseView, View
from everpost.model.database import Location, LocationState
from everpost.model.tenure import TenureState

RESTART_LIMIT = 2.0
"""Seconds that an active's own restart may take before another copy is activated (decisions: Engines)."""
RESTART = "restart"
"""How the reason of an activation begins that a copy's own agent began for its own copy."""
ACTIVATION_LIMIT = 30.0
"""Seconds after which an activation, or a move, that did not come to an end is given to the next copy."""
RETRY_REFUSED = 10.0
"""Seconds after which a round in which every copy refused is begun anew."""


class TakeServer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Take a silent server's tenure; with it the role of PAM if it had that."""

    server: str
    with_pam: bool
    reason: str


class TakePam(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Become PAM: nobody is, or the holder's tenure was taken or given back."""

    dag: str
    reason: str


class Activate(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Write `after` at `revision`, guarded by `guards` (fence or tenure revisions of servers) too."""

    database: str
    revision: int
    after: Location
    fences: dict[str, int]
    reason: str


class Settle(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Finish an administrator's dismount whose active is gone: write `after` at `revision`, guarded by `fences`."""

    database: str
    revision: int
    after: Location
    fences: dict[str, int]
    reason: str


Action = TakeServer | TakePam | Activate | Settle


def decide(view: View) -> list[Action]:
    """The actions that this server should take now, most urgent first."""
    mine = view.servers.get(view.me)
    if mine is None or not mine.holds_tenure:
        return []
    actions: list[Action] = []
    for server in view.servers.values():
        if server.name != view.me and server.tenure is TenureState.UP and server.expired:
            with_pam = view.pam == server.name and not _leaves_pam_to_others(view)
            actions.append(
                TakeServer(server=server.name, with_pam=with_pam, reason=f"{server.name} did not renew its tenure")
            )
    if view.dag is not None and _pam_is_vacant(view) and not _leaves_pam_to_others(view):
        actions.append(TakePam(dag=view.dag, reason=f"{view.pam or 'nobody'} is no Primary Active Manager any more"))
    if view.is_pam:
        load = bestcopy.load_of(view)
        for database in view.databases:
            action = _for_database(view, database, load)
            if action is not None:
                actions.append(action)
                _count(load, action)
    return actions


def _count(load: dict[str, set[str]], action: Activate | Settle) -> None:
    """What was decided a moment ago is there already for the next database: limits hold within one round too."""
    for names in load.values():
        names.discard(action.database)
    if isinstance(action, Activate):
        load.setdefault(action.after.active, set()).add(action.database)


def stuck(view: View) -> dict[str, str]:
    """Databases that wait because no copy can be activated, each with the reason for every copy. For the log."""
    if not view.is_pam:
        return {}
    load = bestcopy.load_of(view)
    found: dict[str, str] = {}
    for database in view.databases:
        location = database.location
        closed = location.state is LocationState.CLOSED
        refused = location.state is LocationState.ACTIVATING and any(
            one.server == location.active for one in location.refused
        )
        lost = location.state in (LocationState.OPEN, LocationState.ACTIVATING) and _gone(view, location.active)
        if (closed or refused or lost) and _for_database(view, database, load) is None:
            found[location.database] = bestcopy.rank(view, database, prefer=location.target, load=load).explain()
    return found


def _pam_is_vacant(view: View) -> bool:
    if view.pam is None:
        return True
    holder = view.servers.get(view.pam)
    return holder is None or holder.tenure in (None, TenureState.TAKEN, TenureState.RELEASED)


def _leaves_pam_to_others(view: View) -> bool:
    """A server in maintenance decides only when nobody else can."""
    mine = view.servers[view.me]
    return mine.maintenance and any(
        one.holds_tenure and not one.maintenance for one in view.servers.values() if one.name != view.me
    )


def _gone(view: View, server: str) -> bool:
    """Whether the server's tenure was taken or given back: it cannot acknowledge anything any more."""
    host = view.servers.get(server)
    return host is not None and host.tenure in (TenureState.TAKEN, TenureState.RELEASED)


def _for_database(view: View, database: DatabaseView, load: bestcopy.Load) -> Activate | Settle | None:
    location = database.location
    wished = _dismount_wished(view, database)
    if wished is not None:
        return wished
    match location.state:
        case LocationState.MOVING if location.target is None:
            # An administrator's dismount: its own agent finishes it, or PAM when that lost its tenure.
            return _settle(view, database) if _gone(view, location.active) else None
        case LocationState.OPEN | LocationState.MOVING:
            if _gone(view, location.active):
                reason = f"{location.active} lost its tenure"
                return _activate(view, database, load, prefer=location.target, reason=reason)
            if location.state is LocationState.MOVING and database.seen_for > ACTIVATION_LIMIT:
                return _again(view, database, "the move did not come to an end")
        case LocationState.CLOSED:
            reason = location.reason or "closed"
            return _activate(view, database, load, prefer=location.target, reason=reason)
        case LocationState.ACTIVATING:
            return _for_activating(view, database, load)
        case LocationState.DISMOUNTED | LocationState.UNKNOWN:
            return None
    return None


def _dismount_wished(view: View, database: DatabaseView) -> Settle | None:
    """End an ordered dismount whose moment has come: what was under way is closed, or came to no end. While it goes on
    it is left alone; its end is a close."""
    location = database.location
    if not location.dismount or not location.openings:
        return None
    reason = "dismounted by an administrator"
    match location.state:
        case LocationState.CLOSED:
            after = transitions.dismounted(location, reason=reason)
        case LocationState.MOVING if _gone(view, location.active):
            return _settle(view, database)
        case LocationState.ACTIVATING if (
            _gone(view, location.active)
            or any(one.server == location.active for one in location.refused)
            or database.seen_for > ACTIVATION_LIMIT
        ):
            after = transitions.dismounted_unopened(location, reason=f"{reason}; {location.active} did not open it")
        case _:
            return None
    return Settle(database=location.database, revision=database.revision, after=after, fences={}, reason=reason)


def _settle(view: View, database: DatabaseView) -> Settle:
    location = database.location
    reason = f"dismounted by an administrator; {location.active} lost its tenure on the way"
    after = transitions.dismounted_without_closing(location, reason=reason)
    fences = _guards(view, database)
    return Settle(database=location.database, revision=database.revision, after=after, fences=fences, reason=reason)


def _for_activating(view: View, database: DatabaseView, load: bestcopy.Load) -> Activate | None:
    location = database.location
    refused = {refusal.server: refusal.reason for refusal in location.refused}
    if _gone(view, location.active):
        return _activate(view, database, load, reason=f"{location.active} lost its tenure while activating")
    if location.active in refused:
        action = _activate(view, database, load, reason=f"{location.active} refused: {refused[location.active]}")
        if action is None and database.seen_for > RETRY_REFUSED:
            return _new_round(view, database, load)
        return action
    limit = RESTART_LIMIT if location.reason.startswith(RESTART) else ACTIVATION_LIMIT
    if database.seen_for > limit:
        ranking = bestcopy.rank(view, database, avoid=location.active, load=load)
        others = [candidate for candidate in ranking.candidates if candidate.server != location.active]
        if others or limit == ACTIVATION_LIMIT:
            return _activate(view, database, load, avoid=location.active, reason=f"{location.active} took too long")
    return None


def _guards(view: View, database: DatabaseView) -> dict[str, int]:
    """The old active is fenced by a taken tenure (its fence must stay as it is), or the record itself is CLOSED or
    was never open at this epoch (ACTIVATING: nobody was let in)."""
    location = database.location
    if location.state in (LocationState.OPEN, LocationState.MOVING):
        return {location.active: view.servers[location.active].fence_revision}
    return {}


def _activate(
    view: View,
    database: DatabaseView,
    load: bestcopy.Load,
    *,
    reason: str,
    prefer: str | None = None,
    avoid: str | None = None,
) -> Activate | None:
    location = database.location
    ranking = bestcopy.rank(view, database, prefer=prefer, avoid=avoid, load=load)
    refused = location.refused if location.state is LocationState.ACTIVATING else ()
    if ranking.candidates:
        best = ranking.candidates[0]
        after = transitions.begin_activation(
            location, best.server, reason=reason, lossy=location.lossy, until=location.until, refused=refused
        )
        why = f"{reason}; {best.server} meets set {best.selection_set}"
    else:
        server = _by_dial(view, database, load)
        if server is None:
            return None
        what = f"{reason}; by the mount dial of {server}: {loss.sentence(database, server)}"
        after = transitions.begin_activation(location, server, reason=what, lossy=True, refused=refused)
        why = what
    if ranking.refusals:
        why += "; " + ranking.explain()
    return Activate(
        database=location.database,
        revision=database.revision,
        after=after,
        fences=_guards(view, database),
        reason=why,
    )


def _by_dial(view: View, database: DatabaseView, load: bestcopy.Load) -> str | None:
    """The copy that an administrator's dial allows to be activated with loss when no complete one can be had: the one
    that lacks least. Only where the old active itself recorded that it is closed (3.4): a server that merely lost its
    tenure may still be running with the rest of its set, so there an administrator must say that it is off."""
    location = database.location
    if location.closed_lsn is None or location.lossy:
        return None
    refused = {refusal.server for refusal in location.refused}
    found: list[tuple[int, int, str]] = []
    for preference, server in enumerate(database.database.servers):
        host = view.servers.get(server)
        if host is None or not host.holds_tenure or server in refused:
            continue
        if any(member.server == server for member in location.eligible):
            continue
        lacks = loss.missing(database, server)
        if lacks is None or loss.refusal(database, server, host.mount_dial) is not None:
            continue
        if bestcopy.administrative_refusal(view, database, server, load) is None:
            found.append((lacks, preference, server))
    return min(found)[2] if found else None


def _again(view: View, database: DatabaseView, why: str) -> Activate | None:
    """Tell the active's own agent to activate its copy anew, whatever state its instance is in."""
    location = database.location
    host = view.servers.get(location.active)
    if host is None or not host.holds_tenure:
        return None
    after = transitions.begin_activation(location, location.active, reason=why)
    return Activate(database=location.database, revision=database.revision, after=after, fences={}, reason=why)


def _new_round(view: View, database: DatabaseView, load: bestcopy.Load) -> Activate | None:
    location = database.location
    refused = {refusal.server for refusal in location.refused}
    cleared = msgspec.structs.replace(location, refused=())
    # Whoever refused says Failed for just that reason; held against it, it would never be asked again.
    others = {server: status for server, status in database.copies.items() if server not in refused}
    fresh = msgspec.structs.replace(database, location=cleared, copies=others)
    return _activate(view, fresh, load, reason="every copy refused; trying all of them again")
