"""The selected folder as a session sees it: sequence numbers, flags, and what it has been told."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from everpost.store.interface import Folder, FolderChanges, FolderSnapshot, MessageState
from everpost.wire.imap.grammar import NumberSet, format_flags


class Selected:
    """Sequence numbers change only when EXPUNGE is told; until then a vanished message keeps its place."""

    def __init__(self, snapshot: FolderSnapshot, *, read_only: bool) -> None:
        self.folder: Folder = snapshot.folder
        self.read_only = read_only
        self.uids: list[int] = [state.uid for state in snapshot.messages]
        self.states: dict[int, MessageState] = {state.uid: state for state in snapshot.messages}
        self.modseq = snapshot.folder.highest_modseq
        self.recent: set[int] = set()
        self._vanished: set[int] = set()

    @property
    def largest_uid(self) -> int:
        return self.uids[-1] if self.uids else 0

    def number(self, uid: int) -> int:
        """The sequence number of a UID that is there."""
        return bisect_left(self.uids, uid) + 1

    def by_set(self, numbers: NumberSet, *, uid: bool) -> list[int]:
        """UIDs of a set of sequence numbers or UIDs, ascending; unknown ones are left out (RFC 3501 6.4.8)."""
        found: set[int] = set()
        largest = self.largest_uid if uid else len(self.uids)
        for first, last in numbers:
            low, high = sorted((first or largest, last or largest))
            if uid:
                found.update(self.uids[bisect_left(self.uids, low) : bisect_left(self.uids, high + 1)])
            else:
                found.update(self.uids[max(low, 1) - 1 : high])
        return sorted(found)

    def out_of_range(self, numbers: NumberSet) -> bool:
        """Whether a sequence number is named that does not exist: BAD."""
        return any(number > len(self.uids) for pair in numbers for number in pair) or (
            not self.uids and any(0 in pair for pair in numbers)
        )

    def fetch_line(self, uid: int, *, with_uid: bool, condstore: bool) -> bytes:
        """`* 3 FETCH (FLAGS (...))` as the session is told of a change."""
        state = self.states[uid]
        parts = [b"UID %d" % uid] if with_uid else []
        parts.append(b"FLAGS " + format_flags(state.flags, recent=uid in self.recent))
        if condstore:
            parts.append(b"MODSEQ (%d)" % state.modseq)
        return b"* %d FETCH (%b)\r\n" % (self.number(uid), b" ".join(parts))

    def learn(self, states: Iterable[MessageState]) -> None:
        """Flags that the client was told or caused itself."""
        for state in states:
            if state.uid in self.states:
                self.states[state.uid] = state

    def apply(self, changes: FolderChanges, *, condstore: bool, with_uid: bool) -> bytes:
        """Take over changes; the untagged FETCH and EXISTS lines for them. Vanished ones wait for `expunge`."""
        out = bytearray()
        self._vanished.update(uid for uid in changes.vanished if uid in self.states)
        grown = False
        for state in changes.messages:
            known = self.states.get(state.uid)
            if known is None:
                if state.uid > self.largest_uid:
                    self.uids.append(state.uid)
                    self.states[state.uid] = state
                    self.recent.add(state.uid)
                    grown = True
            elif known.modseq != state.modseq:
                self.states[state.uid] = state
                if known.flags != state.flags:
                    out += self.fetch_line(state.uid, with_uid=with_uid, condstore=condstore)
        self.folder = changes.folder
        self.modseq = max(self.modseq, changes.folder.highest_modseq)
        if grown:
            out = bytearray(b"* %d EXISTS\r\n* %d RECENT\r\n" % (len(self.uids), len(self.recent))) + out
        return bytes(out)

    def expunge(self) -> bytes:
        """EXPUNGE lines for what vanished, where they are allowed."""
        out = bytearray()
        for uid in sorted(self._vanished):
            at = bisect_left(self.uids, uid)
            if at < len(self.uids) and self.uids[at] == uid:
                out += b"* %d EXPUNGE\r\n" % (at + 1)
                del self.uids[at]
                self.states.pop(uid, None)
                self.recent.discard(uid)
        self._vanished.clear()
        return bytes(out)
