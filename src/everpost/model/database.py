"""Mailbox databases, their copies, and where each is active (architecture 3)."""

from __future__ import annotations

import enum

import msgspec


class Token(msgspec.Struct, frozen=True, order=True, array_like=True):
    """Fencing token. Generation changes when etcd was restored or forced; the epoch grows with every activation."""

    generation: int
    epoch: int

    def __str__(self) -> str:
        return f"{self.generation}.{self.epoch}"


class SeedOrder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An administrator's order to seed a copy anew (spec 2.4), carried out by the copy's own agent until it is done or
    taken back. `source` "": the active copy; `delete_existing`: the old files go first, not after the seed."""

    id: str
    source: str = ""
    delete_existing: bool = False
    manual_resume: bool = False


class CopySettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an administrator set for one copy (spec 2.3, 2.5, 2.8). Lags in seconds, at most 14 days. `suspended`: it
    neither copies nor replays; `activation_suspended`: only its automatic activation is blocked. `resumes` counts the
    resumptions: a copy that suspended itself tries again when it grows. `set_aside`: what openings with loss up to
    this one left behind here may be put aside, so that the copy can follow again; an administrator's word (3.4).
    `lag_disabled`: why `replay_lag` does not count now; who played the copy down says it. `replay_to`:
    Unix seconds; a suspended copy replays up to this time and stands there, to be read by its administrator."""

    replay_lag: float = 0.0
    truncation_lag: float = 0.0
    suspended: bool = False
    activation_suspended: bool = False
    suspend_comment: str = ""
    seed: SeedOrder | None = None
    resumes: int = 0
    set_aside: Token | None = None
    lag_disabled: str = ""
    replay_to: float | None = None

    @property
    def lag(self) -> float:
        """Seconds by which the copy's replay is to stay behind now."""
        return 0.0 if self.lag_disabled else self.replay_lag

    @property
    def kept_out(self) -> str:
        """Why this copy is no member of the synchronous set, or "" (architecture 3.5)."""
        if self.seed is not None:
            return "is to be seeded"
        if self.suspended:
            return "is suspended"
        return "is a lagged copy" if self.lag > 0 else ""


class MailboxDatabase(msgspec.Struct, frozen=True, kw_only=True):
    """A mailbox database. `number` gives its port and its slot in the shared page; `servers` is ordered by
    activation preference (first = 1); `copies` has the settings of those that are not as all others.
    `circular_logging` does not change how logs are kept, which is bounded anyway; the rules of spec 2.3 ask for it.
    `rpc_client_access_server`: the name that clients are told; "": the array of the site (spec 6.2, P15)."""

    name: str
    guid: str
    number: int
    servers: tuple[str, ...]
    dag: str | None = None
    copies: dict[str, CopySettings] = {}
    circular_logging: bool = False
    rpc_client_access_server: str = ""

    def copy(self, server: str) -> CopySettings:
        """The settings of the copy on that server."""
        return self.copies.get(server, CopySettings())

    def with_copy(self, server: str, settings: CopySettings) -> MailboxDatabase:
        """The same with other settings of the copy on that server."""
        others = {name: one for name, one in self.copies.items() if name != server}
        plain = settings == CopySettings()
        return msgspec.structs.replace(self, copies=others if plain else {**others, server: settings})


class Member(msgspec.Struct, frozen=True, order=True, array_like=True):
    """One life of a copy's files: a server's name and the incarnation (hex, new after seed, rewind, restore)."""

    server: str
    incarnation: str


class Opening(msgspec.Struct, frozen=True, array_like=True):
    """One recorded opening of a database: the timeline that began at `begin_lsn` under `token`. `comment`: who ordered
    it and why, when it was with loss; `until`: Unix seconds, when what came after that time was given up (LAG-6)."""

    token: Token
    server: str
    timeline: int
    begin_lsn: int
    nonce: str
    lossy: bool = False
    comment: str = ""
    until: float | None = None


class LocationState(enum.StrEnum):
    """States of a location; each has an owner and a next step that any PAM can take from the record (3.13)."""

    ACTIVATING = "activating"  # owner: the agent of `active`; clients are shut out
    OPEN = "open"  # owner: the agent of `active`
    MOVING = "moving"  # owner: the agent of `active`, which closes it for `target`
    CLOSED = "closed"  # owner: PAM; cleanly shut down at `closed_lsn`
    DISMOUNTED = "dismounted"  # by an administrator; nobody opens it without a word
    UNKNOWN = "unknown"  # after a change of generation; an administrator decides


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """Why a copy could not be opened in this round of activation."""

    server: str
    reason: str


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """The location record of a database, changed only by compare-and-swap on its mod-revision (architecture 3).

    `set`: the members that must flush a commit, besides the active, before it is acknowledged.
    `eligible`: the members that may be activated without loss; always holds the active's own member once opened.
    `openings`: the history of openings, oldest first, by which forks are recognised (3.5).
    `dismount`: an administrator wants it closed; whatever is under way now ends so, at whoever's hands (T-AM-6).
    `until`: Unix seconds; the copy that is activated with loss is opened as it was then, and nothing later (LAG-6).
    """

    database: str
    active: str
    token: Token
    state: LocationState
    set: tuple[Member, ...] = ()
    eligible: tuple[Member, ...] = ()
    lossy: bool = False
    openings: tuple[Opening, ...] = ()
    target: str | None = None
    closed_lsn: int | None = None
    closed_timeline: int | None = None
    refused: tuple[Refusal, ...] = ()
    reason: str = ""
    dismount: bool = False
    until: float | None = None

    @property
    def single(self) -> bool:
        """Whether a commit is acknowledged by one copy alone (`Resilience: single`)."""
        return not self.set

    def kept(self, token: Token, lsn: int) -> int:
        """How far a log that reached `lsn` under `token` is still a part of this history: each later opening with loss
        gave up what lay behind its beginning."""
        later = [opening.begin_lsn for opening in self.openings if opening.lossy and opening.token > token]
        return min((lsn, *later))


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A floor under what was acknowledged, written each second by the active, apart from the location (3, F9)."""

    token: Token
    timeline: int
    acknowledged_lsn: int
    generated_lsn: int


class CopyState(enum.StrEnum):
    """States of a database copy (spec 2.6)."""

    MOUNTED = "Mounted"
    MOUNTING = "Mounting"
    DISMOUNTING = "Dismounting"
    DISMOUNTED = "Dismounted"
    HEALTHY = "Healthy"
    INITIALIZING = "Initializing"
    RESYNCHRONIZING = "Resynchronizing"
    SEEDING = "Seeding"
    SEEDING_SOURCE = "SeedingSource"
    SUSPENDED = "Suspended"
    FAILED = "Failed"
    FAILED_AND_SUSPENDED = "FailedAndSuspended"
    SERVICE_DOWN = "ServiceDown"
    DISCONNECTED_AND_HEALTHY = "DisconnectedAndHealthy"
    DISCONNECTED_AND_RESYNCHRONIZING = "DisconnectedAndResynchronizing"


ACTIVATABLE = frozenset(
    {
        CopyState.HEALTHY,
        CopyState.DISCONNECTED_AND_HEALTHY,
        CopyState.DISCONNECTED_AND_RESYNCHRONIZING,
        CopyState.SEEDING_SOURCE,
    }
)
"""States from which a copy may be activated automatically (spec 2.6)."""


class CopyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent knows of its own copy; LSNs are bytes, queues are 1 MB generations (`None` = unknown).
    `generated_at`: when the newest known log was first known, Unix seconds. `seed_*` while it is being seeded.
    `resumes`: the administrator's resumptions that this state already answers to. `diverged`: folders on that server
    with what openings with loss left behind there. `stands_at`: the point in time (Unix seconds) up to which it has
    replayed, and not further."""

    database: str
    server: str
    state: CopyState
    incarnation: str = ""
    token: Token | None = None
    timeline: int | None = None
    received_lsn: int | None = None
    replayed_lsn: int | None = None
    generated_lsn: int | None = None
    copy_queue: int | None = None
    replay_queue: int | None = None
    resilience: str = ""
    error: str = ""
    generated_at: float | None = None
    seed_percent: int | None = None
    seed_source: str = ""
    resumes: int = 0
    diverged: tuple[str, ...] = ()
    stands_at: float | None = None
