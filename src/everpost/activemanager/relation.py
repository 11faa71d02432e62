"""How a copy's files relate to the history of openings: may it simply follow, or must it be rewound or reseeded?

Pure. A fork is never guessed (3.5): only recorded openings count, and a copy that promoted itself without a recorded
opening is reseeded, since two promotions at one point give one timeline number.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from everpost.databases.interface import Files
from everpost.model.database import Location, Opening, Token


class Remedy(enum.StrEnum):
    """What to do with a passive copy's files."""

    ATTACH = "attach"
    REWIND = "rewind"
    RESEED = "reseed"
    QUARANTINE = "quarantine"


QUARANTINED = "it may hold acknowledged mail that an activation with loss left behind"
"""Such files are deleted by an administrator's word only (3.4)."""


class Verdict(msgspec.Struct, frozen=True):
    """The remedy and its reason. Of a quarantine: `left_by`, the newest opening with loss that left these files behind;
    `fork_lsn`, where its history parts from theirs, None where a rewind could not tell one from the other."""

    remedy: Remedy
    reason: str
    left_by: Token | None = None
    fork_lsn: int | None = None


def relate(files: Files, location: Location) -> Verdict:
    """The remedy that lets these files follow the database's newest opening."""
    if not files.present:
        return Verdict(Remedy.RESEED, "there are no files yet")
    if files.spoilt:
        return Verdict(Remedy.RESEED, "a rewind or seed of these files was interrupted")
    timeline, base = files.timeline, files.followed
    if files.mark_token is not None:
        own = [o for o in location.openings if o.token == files.mark_token and o.nonce == files.mark_nonce]
        if not own:
            return _never_recorded(files.mark_token, location)
        timeline = max(timeline, own[0].timeline)
        base = own[0].token if base is None else max(own[0].token, base)
    newer = [opening for opening in location.openings if base is not None and opening.token > base]
    # An opening with loss on a copy that never had our timeline may have begun another one of the same number.
    if any(opening.timeline <= timeline for opening in newer):
        why = f"an activation with loss left its timeline {timeline} behind"
        return Verdict(Remedy.QUARANTINE, f"{QUARANTINED}: {why}", left_by=_newest_loss(newer))
    later = [opening for opening in location.openings if opening.timeline > timeline or opening in newer]
    if not later:
        return Verdict(Remedy.ATTACH, "it is on the newest timeline")
    begin = min(opening.begin_lsn for opening in later)
    lossy = any(opening.lossy for opening in later)
    if files.was_primary:
        diverged = files.end_lsn is None or files.end_lsn >= begin
    else:
        # A follower whose end nobody knows is safe to try, as PostgreSQL refuses a fork; but after a loss the next
        # remedy would wipe what it alone may have.
        diverged = lossy if files.end_lsn is None else files.end_lsn > begin
    if not diverged:
        return Verdict(Remedy.ATTACH, f"it ends before timeline {later[0].timeline} began")
    if lossy:
        return Verdict(Remedy.QUARANTINE, QUARANTINED, left_by=_newest_loss(later), fork_lsn=begin)
    return Verdict(Remedy.REWIND, f"it may hold changes behind the beginning of timeline {later[0].timeline}")


def _never_recorded(mark: Token, location: Location) -> Verdict:
    """It was complete when it was promoted, and nobody could write to it: nothing is lost with it, unless a later
    opening was on a copy that had less."""
    newer = [opening for opening in location.openings if opening.token > mark]
    if any(opening.lossy for opening in newer):
        return Verdict(Remedy.QUARANTINE, QUARANTINED, left_by=_newest_loss(newer))
    return Verdict(Remedy.RESEED, f"it was promoted at {mark} and that opening was never recorded")


def _newest_loss(openings: Sequence[Opening]) -> Token:
    return max((opening.token for opening in openings if opening.lossy), default=openings[-1].token)
