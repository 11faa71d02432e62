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

    @property
    def follows(self) -> bool:
        """Whether the files may simply follow."""
        return self.remedy is Remedy.ATTACH


def relate(files: Files, location: Location) -> Verdict:
    """The remedy that lets these files follow the database's newest opening."""
    if not files.present:
        return Verdict(Remedy.RESEED, "there are no files yet")
    if files.spoilt:
        return Verdict(Remedy.RESEED, "a rewind or seed of these files was interrupted")
    timeline = files.timeline
    if files.mark_token is not None:
        own = [o for o in location.openings if o.token == files.mark_token and o.nonce == files.mark_nonce]
        if not own:
            return _never_recorded(files.mark_token, location)
        # An opening with loss on a copy that never had our timeline may have begun another one of the same number.
        newer = [o for o in location.openings if o.token > own[0].token]
        if any(opening.timeline <= own[0].timeline for opening in newer):
            why = f"{QUARANTINED}: an activation with loss left its timeline {own[0].timeline} behind"
            return Verdict(Remedy.QUARANTINE, why, left_by=newer[-1].token)
        timeline = max(timeline, own[0].timeline)
    elif files.begin_lsn is not None:
        # A follower of such a timeline, or of a promotion that was never recorded, which it needs no mark for.
        same = [opening for opening in location.openings if opening.timeline == timeline]
        if same and same[-1].begin_lsn != files.begin_lsn:
            return _same_number(timeline, [o for o in location.openings if o.token >= same[-1].token])
    later = [opening for opening in location.openings if opening.timeline > timeline]
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


def _same_number(timeline: int, newer: Sequence[Opening]) -> Verdict:
    """Another timeline of this number was recorded: a rewind would not see the difference."""
    if any(opening.lossy for opening in newer):
        why = f"{QUARANTINED}: its timeline {timeline} is another one than the recorded"
        return Verdict(Remedy.QUARANTINE, why, left_by=_newest_loss(newer))
    return Verdict(Remedy.RESEED, f"its timeline {timeline} is another one than the recorded")


def _never_recorded(mark: Token, location: Location) -> Verdict:
    """It was complete when it was promoted, and nobody could write to it: nothing is lost with it, unless a later
    opening was on a copy that had less."""
    newer = [opening for opening in location.openings if opening.token > mark]
    if any(opening.lossy for opening in newer):
        return Verdict(Remedy.QUARANTINE, QUARANTINED, left_by=_newest_loss(newer))
    return Verdict(Remedy.RESEED, f"it was promoted at {mark} and that opening was never recorded")


def _newest_loss(openings: Sequence[Opening]) -> Token:
    return max(opening.token for opening in openings if opening.lossy)
