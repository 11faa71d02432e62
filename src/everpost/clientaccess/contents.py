"""Messages that clients are reading piece by piece: phones fetch 20 MB in hundreds of cuts, and each would load it all.

A message's content never changes, so what is kept here stays right; that somebody may see it was decided before.
"""

from __future__ import annotations

from collections import OrderedDict

from everpost.model.recipient import MailboxRef
from everpost.store.interface import MessageData, Part

MOST_BYTES = 64 * 1024 * 1024
LEAST_BYTES = 16 * 1024
"""Smaller messages are not worth a place."""

_Key = tuple[str, int, int]


class Contents:
    """The messages used last, up to MOST_BYTES of them in the process."""

    def __init__(self) -> None:
        self._known: OrderedDict[_Key, tuple[MessageData, Part]] = OrderedDict()
        self._bytes = 0

    def get(self, mailbox: MailboxRef, folder_id: int, uid: int, parts: Part) -> MessageData | None:
        """The message, if at least these parts of it are here."""
        key = (mailbox.guid, folder_id, uid)
        found = self._known.get(key)
        if found is None or parts & ~found[1]:
            return None
        self._known.move_to_end(key)
        return found[0]

    def keep(self, mailbox: MailboxRef, folder_id: int, data: MessageData, parts: Part) -> None:
        """Remember it; the one unused for longest goes."""
        size = len(data.raw or b"")
        if not LEAST_BYTES <= size <= MOST_BYTES:
            return
        key = (mailbox.guid, folder_id, data.uid)
        self._drop(key)
        self._known[key] = (data, parts)
        self._bytes += size
        while self._bytes > MOST_BYTES:
            self._drop(next(iter(self._known)))

    def _drop(self, key: _Key) -> None:
        found = self._known.pop(key, None)
        if found is not None:
            self._bytes -= len(found[0].raw or b"")
