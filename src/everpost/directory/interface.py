"""What a directory is. etcd and the in-memory directory pass one contract suite."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Mapping
from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """A key with its value and the revision of its last change."""

    key: str
    value: bytes
    revision: int


class EventKind(enum.StrEnum):
    """RESET: forget the prefix, a snapshot follows. SYNCED: the snapshot is complete."""

    RESET = "reset"
    SYNCED = "synced"
    PUT = "put"
    DELETE = "delete"


class Event(NamedTuple):
    """A change under a watched prefix, in order of revision; never older than what was seen before."""

    kind: EventKind
    entry: Entry


class TxnResult(NamedTuple):
    """`succeeded`: all guards held and the puts are durable at `revision`. `current`: what was asked to be read
    when a guard failed."""

    succeeded: bool
    revision: int
    current: Mapping[str, Entry | None]


class Directory(Protocol):
    """Linearizable keys and values with compare-and-swap on mod-revisions."""

    async def get(self, key: str) -> Entry | None:
        """The current value, linearizable. Raises Unavailable."""

    async def list(self, prefix: str) -> tuple[list[Entry], int]:
        """All entries under `prefix` at one revision, ordered by key, and that revision. Raises Unavailable."""

    async def txn(
        self,
        guards: Mapping[str, int],
        puts: Mapping[str, bytes | None],
        *,
        read_on_failure: tuple[str, ...] = (),
        attempt: float | None = None,
        late: Callable[[TxnResult], object] | None = None,
    ) -> TxnResult:
        """One compare-and-swap: if every key of `guards` has that mod-revision (0 = absent), do all `puts`
        (None deletes). Sent once to one member; raises OutcomeUnknown when no answer came (it may still happen),
        Unavailable when it certainly was not sent. `late` is told of an answer that comes after OutcomeUnknown."""

    def watch(self, prefix: str) -> AsyncIterator[Event]:
        """RESET, the snapshot as PUTs, SYNCED, then changes, for ever; re-lists by itself after compaction, loss
        of a member or of quorum. A hint only: decisions are guarded by revisions, never by what a watch said."""

    async def close(self) -> None:
        """Release connections."""
