"""The events of the journal. Ids are stable: monitoring systems filter by them. 4113 to 4115 and 1135 are those that
administrators of the field know (spec 3.11, 3.12, appendix D); our own begin at 5000."""

from __future__ import annotations

import enum
from datetime import datetime

import msgspec


class Level(enum.StrEnum):
    """The field's levels."""

    INFORMATION = "Information"
    WARNING = "Warning"
    ERROR = "Error"


class Kind(msgspec.Struct, frozen=True):
    """An event's id, name and level; `mail`: the administrator gets it as a mail."""

    id: int
    name: str
    level: Level
    mail: bool = False


SERVER_LOST = Kind(1135, "ServerLost", Level.ERROR)
REDUNDANCY_RED = Kind(4113, "DatabaseRedundancyRed", Level.ERROR)
REDUNDANCY_GREEN = Kind(4114, "DatabaseRedundancyGreen", Level.INFORMATION)
REDISTRIBUTED = Kind(4115, "DatabasesRedistributed", Level.INFORMATION)
FAILOVER = Kind(5001, "DatabaseFailover", Level.WARNING, mail=True)
SWITCHOVER = Kind(5002, "DatabaseSwitchover", Level.INFORMATION)
REMOUNTED = Kind(5003, "DatabaseRemounted", Level.WARNING)
SERVER_BACK = Kind(5004, "ServerBack", Level.INFORMATION)
PAM_CHANGED = Kind(5005, "PrimaryActiveManagerChanged", Level.INFORMATION)
POINT_IN_TIME = Kind(5006, "DatabaseActivatedAtPointInTime", Level.WARNING, mail=True)
VOTER_MISSING = Kind(5010, "VoterMissing", Level.ERROR)
VOTER_BACK = Kind(5011, "VoterBack", Level.INFORMATION)
WITNESS_FAILED = Kind(5012, "WitnessFailed", Level.ERROR)
WITNESS_WORKS = Kind(5013, "WitnessWorks", Level.INFORMATION)
COPY_FAILED = Kind(5020, "DatabaseCopyFailed", Level.WARNING)
COPY_WELL = Kind(5021, "DatabaseCopyWell", Level.INFORMATION)
ARRAY_MOVED = Kind(5030, "ClientAccessArrayMoved", Level.WARNING, mail=True)
ARRAY_OFFLINE = Kind(5031, "ClientAccessArrayOffline", Level.ERROR, mail=True)
DNS_STALE = Kind(5040, "DnsRecordsStale", Level.ERROR, mail=True)
DNS_CURRENT = Kind(5041, "DnsRecordsCurrent", Level.INFORMATION)
DNS_CONFLICT = Kind(5042, "DnsRecordsConflict", Level.WARNING, mail=True)
DNS_CONFLICT_OVER = Kind(5043, "DnsRecordsConflictOver", Level.INFORMATION)

KINDS = {
    kind.id: kind
    for kind in (
        SERVER_LOST, REDUNDANCY_RED, REDUNDANCY_GREEN, REDISTRIBUTED, FAILOVER, SWITCHOVER, REMOUNTED, SERVER_BACK,
        PAM_CHANGED, POINT_IN_TIME, VOTER_MISSING, VOTER_BACK, WITNESS_FAILED, WITNESS_WORKS, COPY_FAILED, COPY_WELL,
        ARRAY_MOVED, ARRAY_OFFLINE,
        DNS_STALE, DNS_CURRENT, DNS_CONFLICT, DNS_CONFLICT_OVER,
    )
}  # fmt: skip


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One document of the journal. `server` wrote it, as its `sequence`th; `mailed`: the mail was handed to a hub.
    `mail_to`, `mail_from`: "" means those of the organisation."""

    id: int
    name: str
    level: Level
    time: datetime
    server: str
    sequence: int
    text: str
    facts: dict[str, str] = {}
    mail: bool = False
    mailed: bool = False
    mail_to: str = ""
    mail_from: str = ""
