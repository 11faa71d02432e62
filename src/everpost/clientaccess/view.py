"""A folder as one session's client knows it: message numbers, flags, and what it has yet to be told. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from everpost.errors import EverpostError
from everpost.store.interface import Folder, FolderChanges, FolderSnapshot, MessageState
from everpost.wire.imap.grammar import STAR, BadSyntax, NumberSet, format_flags


class Diverged(EverpostError):
    """The folder is not the one the client knows any more: the session ends, the client selects anew."""


@dataclass
class Update:
    """What the client must be told, in this order. `expunged`: numbers before any of it; `changed`: UIDs."""

    expunged: list[int] = field(default_factory=list)
    exists: int | None = None
    keywords: bool = False
    changed: list[int] = field(default_factory=list)


class FolderView:
    """Message number n is at index n - 1. UIDs, MODSEQs and shared flag sets take 20 bytes a message."""

    def __init__(self, snapshot: FolderSnapshot, *, read_only: bool) -> None:
        folder = snapshot.folder
        self.folder_id = folder.id
        self.name = folder.name
        self.uid_validity = folder.uid_validity
        self.uid_next = folder.uid_next
        self.highest_modseq = folder.highest_modseq
        self.read_only = read_only
        self.recent: set[int] = set()
        self.uids = array("I")
        self.modseqs = array("Q")
        self.flags: list[frozenset[str]] = []
        self.keywords: set[str] = set()
        self._shared: dict[frozenset[str], frozenset[str]] = {}
        self._shown: dict[frozenset[str], bytes] = {}
        self._gone: set[int] = set()
        for state in snapshot.messages:
            self._append(state)

    def __len__(self) -> int:
        return len(self.uids)

    def _append(self, state: MessageState) -> None:
        self.uids.append(state.uid)
        self.modseqs.append(state.modseq)
        self.flags.append(self._intern(state.flags))

    def _intern(self, flags: frozenset[str]) -> frozenset[str]:
        known = self._shared.get(flags)
        if known is None:
            known = self._shared[flags] = flags
            self.keywords.update(flag for flag in flags if not flag.startswith("\\"))
        return known

    def index(self, uid: int) -> int | None:
        """Where a UID stands."""
        at = bisect_left(self.uids, uid)
        return at if at < len(self.uids) and self.uids[at] == uid else None

    def shown_flags(self, index: int) -> bytes:
        """The flags of a message as a list in parentheses."""
        flags = self.flags[index]
        if self.uids[index] in self.recent:
            return format_flags(flags, recent=True)
        shown = self._shown.get(flags)
        if shown is None:
            shown = self._shown[flags] = format_flags(flags)
        return shown

    def first_unseen(self) -> int | None:
        """The number of the first message without \\Seen."""
        return next((at + 1 for at, flags in enumerate(self.flags) if "\\Seen" not in flags), None)

    # -- sets -------------------------------------------------------------------------------------------------------

    def select(self, numbers: NumberSet, *, by_uid: bool) -> list[int]:
        """Indexes in order, each once. UIDs that do not exist are passed over; a message number that does not is
        BAD (RFC 3501 6.4.8, 9), but in an empty folder every set is empty: clients ask for 1:* there."""
        size = len(self.uids)
        if not size:
            return []
        spans = [self._uid_span(*pair) if by_uid else self._span(*pair) for pair in numbers]
        if len(spans) == 1:
            return list(range(*spans[0]))
        found: set[int] = set()
        for low, high in spans:
            found.update(range(low, high))
        return sorted(found)

    def _span(self, first: int, last: int) -> tuple[int, int]:
        size = len(self.uids)
        if STAR not in (first, last) and max(first, last) > size:
            raise BadSyntax(f"there are only {size} messages")
        low, high = sorted((min(first or size, size), min(last or size, size)))
        return low - 1, high

    def _uid_span(self, first: int, last: int) -> tuple[int, int]:
        top = self.uids[-1]
        low, high = sorted((first or top, last or top))
        return bisect_left(self.uids, min(low, 0xFFFFFFFF)), bisect_right(self.uids, min(high, 0xFFFFFFFF))

    def uids_at(self, indexes: Iterable[int]) -> list[int]:
        """UIDs of indexes."""
        return [self.uids[at] for at in indexes]

    # -- changes ----------------------------------------------------------------------------------------------------

    def learn(self, states: Iterable[MessageState]) -> None:
        """States that an own command brought about: the client is told by that command."""
        for state in states:
            at = self.index(state.uid)
            if at is not None and state.modseq >= self.modseqs[at]:
                self.modseqs[at] = state.modseq
                self.flags[at] = self._intern(state.flags)

    def apply(self, changes: FolderChanges, *, expunge: bool) -> Update:
        """Take up what happened in the store. `expunge` False: what is gone keeps its number until a command that may
        tell of it (RFC 3501 7.4.1). Raises Diverged."""
        if changes.folder.uid_validity != self.uid_validity:
            raise Diverged("The folder was made anew.")
        update = Update()
        before, known = len(self.uids), len(self.keywords)
        top = self.uids[-1] if before else 0
        for state in changes.messages:
            if state.uid > top:
                self._append(state)
                continue
            at = self.index(state.uid)
            if at is None:
                raise Diverged("A message appeared among older ones.")
            if self.modseqs[at] != state.modseq:
                self.learn((state,))
                update.changed.append(state.uid)
        self._gone.update(uid for uid in changes.vanished if self.index(uid) is not None)
        appended = len(self.uids) > before
        if expunge and self._gone:
            update.expunged = self._remove()
        if appended:
            update.exists = len(self.uids)
        update.keywords = len(self.keywords) > known
        self.highest_modseq = max(self.highest_modseq, changes.folder.highest_modseq)
        self.uid_next = changes.folder.uid_next
        return update

    def _remove(self) -> list[int]:
        indexes = [at for at in map(self.index, sorted(self._gone)) if at is not None]
        numbers = [at + 1 for at in indexes]
        if len(indexes) > 20:
            gone = set(indexes)
            keep = [at for at in range(len(self.uids)) if at not in gone]
            self.uids = array("I", [self.uids[at] for at in keep])
            self.modseqs = array("Q", [self.modseqs[at] for at in keep])
            self.flags = [self.flags[at] for at in keep]
        else:
            for at in reversed(indexes):
                del self.uids[at], self.modseqs[at], self.flags[at]
        self.recent -= self._gone
        self._gone.clear()
        return numbers

    def agrees(self, folder: Folder) -> bool:
        """Whether the numbers of messages agree: after a lossy activation mail may be gone that nobody removed."""
        return folder.exists == len(self.uids) - len(self._gone)

    def difference(self, snapshot: FolderSnapshot) -> FolderChanges:
        """The way from what is known here to the snapshot."""
        there = {state.uid for state in snapshot.messages}
        vanished = [uid for uid in self.uids if uid not in there]
        changed = [state for state in snapshot.messages if self._news(state)]
        return FolderChanges(folder=snapshot.folder, messages=changed, vanished=vanished)

    def _news(self, state: MessageState) -> bool:
        at = self.index(state.uid)
        return at is None or self.modseqs[at] != state.modseq

    def any_gone(self, indexes: Sequence[int]) -> bool:
        """Whether some of these messages were removed by somebody else already."""
        return bool(self._gone) and any(self.uids[at] in self._gone for at in indexes)
