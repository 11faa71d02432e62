"""What the Active Manager asks of a copy's engine. `databases.engine` is the real one; tests have small ones.

A copy's files have one incarnation at a time; the engine always starts as a standby (3.6).
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from everpost.errors import EverpostError
from everpost.model.database import Opening, Token


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy's files say of themselves. `end_lsn` None: unknown, as after a crash of an active; `was_primary`:
    the control file says that it ran, or was shut down, as a primary; `mark_*`: the last promotion begun here;
    `mark_until`: of one at a point in time, which (Unix seconds); `begin_lsn`: where their newest timeline began, None
    if that is not known; `next_timeline`: the newest that has a history here, which a start replays."""

    present: bool
    spoilt: bool = False
    was_primary: bool = False
    timeline: int = 0
    end_lsn: int | None = None
    mark_token: Token | None = None
    mark_nonce: str = ""
    mark_until: float | None = None
    begin_lsn: int | None = None
    next_timeline: int = 0


class Upstream(NamedTuple):
    """The active to follow, or a copy to seed from: its addresses in order of preference (separated by commas, as in a
    connection string), its port, and the epoch at which the active opened. `delay`: seconds by which replay stays
    behind (a lagged copy). `compress`: a seed from there is compressed on its way."""

    server: str
    host: str
    port: int
    token: Token
    delay: float = 0.0
    compress: bool = False


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a copy suspended itself, kept with its files. `resumes`: how often it had been resumed by then; `heal`: a
    new seed from a good copy removes the cause, and needs nobody's word."""

    reason: str
    resumes: int = 0
    heal: bool = False


class Interrupted(EverpostError):
    """A seed broke off because its source could not be reached any more: the same again may succeed."""


class Received(NamedTuple):
    """Where a stopped receiver ended: LSN in bytes and timeline."""

    lsn: int
    timeline: int


class Promoted(NamedTuple):
    """A promotion's outcome. `complete`: the new timeline begins at or after the received LSN, or the record there was
    incomplete when the receiver stopped (then nothing behind it can have been acknowledged)."""

    timeline: int
    begin_lsn: int
    complete: bool


class SenderRow(NamedTuple):
    """One walsender of the active."""

    name: str
    state: str
    flush_lsn: int
    replay_lsn: int


class Positions(NamedTuple):
    """One look at an active: `waiters` name the commits that wait for the set, each by backend and transaction."""

    flush_lsn: int
    insert_lsn: int
    senders: Sequence[SenderRow]
    waiters: Sequence[str]


class StandbyPositions(NamedTuple):
    """One look at a passive; `streaming`: its receiver is connected and running. `stands_at`: Unix seconds, to the
    microsecond; it was started to replay up to then, its log goes beyond, and it replays no more."""

    received_lsn: int
    replayed_lsn: int
    timeline: int
    streaming: bool
    known_generated_lsn: int | None
    stands_at: float | None = None


class Probe(Protocol):
    """A commit of the agent's own, used to see a wait. Never cancelled; given up by aborting its connection."""

    @property
    def waiter(self) -> str:
        """Its backend: what stands before the colon in `Positions.waiters`."""

    @property
    def done(self) -> bool:
        """Whether its COMMIT has returned."""

    def abandon(self) -> None:
        """Abort the connection; the outcome does not matter."""


class NoStream(enum.Enum):
    """Why a copy's files as they are cannot follow its upstream."""

    FORKED = "forked"
    """The upstream's timeline begins before what was replayed here: it must be rewound first."""
    LOG_IS_GONE = "log is gone"
    """The upstream does not have the log any more."""


class Engine(Protocol):
    """One copy of one database on this server. Every method may be repeated after a crash at any point."""

    @property
    def incarnation(self) -> str:
        """The life of the files, "" before the first."""

    def on_lost(self, tell: Callable[[], None]) -> None:
        """`tell` is called when the instance is seen to go away. A hint: it may come late, or for nothing."""

    def outline(self) -> Files:
        """Of `files` only `present` and `spoilt`, at no cost."""

    async def files(self) -> Files:
        """What the files say of themselves; the instance need not run."""

    async def running(self) -> Token | bool | None:
        """False: no postmaster. None: one that is not guarded (a standby). A token: guarded since that activation."""

    async def alive(self) -> bool:
        """Whether the postmaster lives and the reserved connection answers."""

    async def create(self) -> None:
        """Make an empty database; a new incarnation, ready to start as a standby."""

    async def start(self, upstream: Upstream | None, until: float | None = None) -> None:
        """Start as a standby, following `upstream` if given; `until` (Unix seconds): replay up to then and stand there,
        readable, until it is told to follow."""

    async def follow(self, upstream: Upstream | None) -> None:
        """Follow another active, or none: returns when the receiver has stopped or been told."""

    async def received(self) -> Received:
        """Where the receiver ended; call after `follow(None)`."""

    async def keep_log(self, seconds: float | None) -> None:
        """Keep the log that was written in the last `seconds`, besides what every copy keeps; None: that only."""

    def free_space(self) -> int:
        """Bytes that are free where the files and the log lie."""

    async def standby_positions(self) -> StandbyPositions:
        """Queue lengths of a passive."""

    async def mark(self, token: Token, nonce: str, until: float | None = None) -> None:
        """Note durably that a promotion at `token` begins (3.3), at a point in time if there is one; refused below the
        highest token ever seen."""

    async def promote(self, token: Token, received: Received) -> Promoted:
        """Guard the instance at the deadline, promote, make it a standby for its next start."""

    async def record_opening(self, opening: Opening, prepare: Callable[[object, Opening], Awaitable[None]]) -> None:
        """The opening transaction: schema, opening row, and the jump of UIDs if it is lossy; committed on return."""

    async def upkeep(self, work: Callable[[object], Awaitable[None]]) -> None:
        """The store's daily work on an open active, on a connection of its own; its COMMIT waits as long as it must."""

    async def openings(self) -> list[tuple[Token, str]]:
        """(token, nonce) of each opening that this copy has replayed, oldest first."""

    async def forget_openings(self, tokens: Sequence[Token]) -> None:
        """Delete the rows of these openings on a promoted copy; repeating it changes nothing."""

    async def set_names(self, names: Sequence[str]) -> None:
        """Write synchronous_standby_names durably and signal; never cleared elsewhere (3.1)."""

    async def admit(self, open_to_clients: bool) -> None:
        """Let clients in, or shut new ones out."""

    async def positions(self) -> Positions:
        """Positions of an active, its walsenders and waiting commits."""

    async def probe(self) -> Probe:
        """Begin a commit of the agent's own."""

    async def commit_locally(self) -> None:
        """A commit that waits for no set: shows that this host can still write (3.7)."""

    async def commit_with_set(self) -> None:
        """A commit that waits for the set as a client's does, on a line of its own; returns when it is acknowledged, be
        that never: on an idle database it shows a member that does not flush any more (3.7)."""

    async def waits_were_cancelled(self) -> bool:
        """Whether the log shows `canceling wait for synchronous replication` since the last call (3.9)."""

    async def checkpoint(self) -> None:
        """CHECKPOINT, so that the shutdown is short."""

    async def close(self) -> Received:
        """Fast shutdown; the LSN and timeline of the shutdown checkpoint. Raises if it was not clean."""

    async def kill(self) -> None:
        """Fence: no process of the instance is left when this returns."""

    async def rewind(self, upstream: Upstream) -> None:
        """Rewind the files to follow `upstream`; a new incarnation. The instance is stopped before."""

    async def set_aside(self, left_by: Token, fork_lsn: int | None) -> str:
        """Keep what an opening with loss left behind here: the log from the fork on, copied to a folder of its own; if
        a seed instead of a rewind takes their place, the whole files. Returns the folder; nothing else changes."""

    def diverged(self) -> tuple[str, ...]:
        """The folders that were set aside and not yet deleted by anybody."""

    async def fetch_seed(self, upstream: Upstream, percent: Callable[[int], None]) -> None:
        """Step one: copy from `upstream` beside the old files, and fsync; nothing of them changes. May be cancelled.
        Raises Interrupted."""

    async def adopt_seed(self, order: str) -> None:
        """Step two: the finished seed takes the place of the old files; a new incarnation. `order` is remembered."""

    async def drop_files(self) -> None:
        """Delete the files of the current incarnation, which does not run; afterwards there are none."""

    def seeded(self) -> str:
        """The order of the seed that these files came from."""

    def failure(self) -> Failure | None:
        """Why this copy suspended itself."""

    def fail(self, failure: Failure | None) -> None:
        """Note durably why, or that it is over."""

    def no_stream(self) -> NoStream | None:
        """Why the upstream cannot be followed, if that was found since the last start."""

    def scrubbed_at(self) -> float:
        """When the pages were last read through (Unix seconds)."""

    async def scrub(self, now: float) -> str:
        """Read every page of the running copy and check it against its checksum: what is damaged, "" if nothing."""

    def standby_name(self, server: str, incarnation: str, token: Token) -> str:
        """The name under which that member's receiver connects at that epoch (3.1)."""
