"""Which messages are \\Recent: those that no session of this process was told of before (RFC 3501 2.3.2).

Kept in memory alone: after a restart, or in a session on another server, a message may be recent twice or never. The
flag left IMAP with RFC 9051; nothing may depend on it.
"""

from __future__ import annotations

from collections import OrderedDict

REMEMBERED = 100_000


class Recents:
    """The highest UID told of, by folder."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, int], int] = OrderedDict()

    def claim(self, mailbox: str, folder_id: int, uids: list[int], *, keep: bool) -> set[int]:
        """Those of `uids` that are new here; `keep` False (EXAMINE) leaves them new for the next session."""
        key = (mailbox, folder_id)
        top = uids[-1] if uids else 0
        seen = self._seen.get(key)
        if keep:
            self._seen[key] = max(top, seen or 0)
            self._seen.move_to_end(key)
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return set() if seen is None else {uid for uid in uids if uid > seen}

    def count(self, mailbox: str, folder_id: int, uid_next: int, exists: int) -> int:
        """About how many would be recent for the next session (STATUS)."""
        seen = self._seen.get((mailbox, folder_id))
        return 0 if seen is None else max(0, min(exists, uid_next - 1 - seen))
