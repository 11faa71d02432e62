"""How a copy's files relate to the history of openings: may it simply follow, or must it be rewound or reseeded?

Pure. A fork is never guessed (3.5): only recorded openings count, and a copy that promoted itself without a recorded
opening is reseeded, since two promotions at one point give one timeline number.
"""

from __future__ import annotations

import enum

import msgspec

from everpost.databases.interface import Files
from everpost.model.database import Location


class Remedy(enum.StrEnum):
    """What to do with a passive copy's files."""

    ATTACH = "attach"
    REWIND = "rewind"
    RESEED = "reseed"
    QUARANTINE = "quarantine"


QUARANTINED = "it may hold acknowledged mail that an activation with loss left behind"
"""Such files are deleted by an administrator's word only (3.4)."""


class Verdict(msgspec.Struct, frozen=True):
    """The remedy and its reason."""

    remedy: Remedy
    reason: str


def relate(files: Files, location: Location) -> Verdict:
    """The remedy that lets these files follow the database's newest opening."""
    if not files.present:
        return Verdict(Remedy.RESEED, "there are no files yet")
    if files.spoilt:
        return Verdict(Remedy.RESEED, "a rewind or seed of these files was interrupted")
    if files.mark_token is not None:
        own = [o for o in location.openings if o.token == files.mark_token and o.nonce == files.mark_nonce]
        if not own:
            return Verdict(Remedy.RESEED, f"it was promoted at {files.mark_token} and that opening was never recorded")
        # An opening with loss on a copy that never had our timeline may have begun another one of the same number.
        if any(o.token > own[0].token and o.timeline <= own[0].timeline for o in location.openings):
            return Verdict(Remedy.QUARANTINE, f"an activation with loss left its timeline {own[0].timeline} behind")
    later = [opening for opening in location.openings if opening.timeline > files.timeline]
    if not later:
        return Verdict(Remedy.ATTACH, "it is on the newest timeline")
    begin = later[0].begin_lsn
    if files.was_primary:
        diverged = files.end_lsn is None or files.end_lsn >= begin
    else:
        diverged = files.end_lsn is not None and files.end_lsn > begin
    if not diverged:
        return Verdict(Remedy.ATTACH, f"it ends before timeline {later[0].timeline} began")
    if any(opening.lossy for opening in later):
        return Verdict(Remedy.QUARANTINE, QUARANTINED)
    return Verdict(Remedy.REWIND, f"it may hold changes behind the beginning of timeline {later[0].timeline}")
