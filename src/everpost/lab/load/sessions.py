"""Long-living IMAP sessions: readers that idle, read, flag and file copies; writers of drafts that they throw away.

    python -m everpost.lab.load.sessions --ledger F --name N --host H --port P --ca FILE --readers A[,A]
        --drafters A[,A] --password W

A session that fails notes `dropped` and begins anew; one that never did notes `survived` at the end.
"""

from __future__ import annotations

import argparse
import imaplib
import re
import threading
import time
from collections import deque
from typing import Any

from everpost.lab.load.imap import Session
from everpost.lab.load.ledger import Ledger

PAUSE = 0.4
BATCH = 200
_STAMP = re.compile(rb"MODSEQ \((\d+)\)")
_UID = re.compile(rb"UID (\d+)")


class Reader(Session):
    """Learns of new mail by IDLE, reads which messages came, sets and clears flags of its own, files copies in Sent."""

    _next = 1

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._known: list[int] = []
        self._set: deque[tuple[int, str]] = deque()
        self._flag = "$L" + "".join(filter(str.isalnum, self.name))

    def work(self, client: imaplib.IMAP4) -> None:
        if self.turn % 4:
            self.idle(client, PAUSE)
        else:
            self.ok("NOOP", client.noop)
            time.sleep(PAUSE)
        found = self.identities(client, f"{self._next}:{self._next + BATCH - 1}")
        if found:
            self._known += found
            self._next = found[-1] + 1
        if self._known:
            self._change(client)
        if self.turn % 3 == 0:
            self.modseq(client)
        if self.turn % 5 == 0:
            _, validity, uid = self.append(client, "Sent", "(\\Seen)")
            place: dict[str, Any] = {"user": self.user, "folder": "Sent", "validity": validity, "uid": uid}
            self.ledger.note("flag", flag="\\Seen", want=True, **place)

    def _change(self, client: imaplib.IMAP4) -> None:
        """Set a flag; every fourth time clear one that was set before."""
        if self.turn % 4 == 0 and self._set:
            uid, flag = self._set.popleft()
            self._store(client, uid, flag, want=False)
        else:
            uid, flag = self._known[self.turn * 7919 % len(self._known)], f"{self._flag}x{self.turn % 5}"
            if (uid, flag) not in self._set:
                self._store(client, uid, flag, want=True)
                self._set.append((uid, flag))

    def _store(self, client: imaplib.IMAP4, uid: int, flag: str, *, want: bool) -> None:
        self.ledger.note("flagging", flag=flag, want=want, **self.place(uid))
        item = "+FLAGS.SILENT" if want else "-FLAGS.SILENT"
        data = self.ok("UID STORE", lambda: client.uid("STORE", str(uid), item, f"({flag})"))
        self.ledger.note("flag", sync=True, flag=flag, want=want, **self.place(uid))
        for line in data:
            if isinstance(line, bytes):
                found, stamp = _UID.search(line), _STAMP.search(line)
                if found is not None and stamp is not None and int(found[1]) == uid:
                    self.ledger.note("stamp", value=int(stamp[1]), **self.place(uid))


class Drafter(Session):
    """Saves a draft, looks at it, and throws two of three away: the UID of what is gone is never given again."""

    folder = "Drafts"

    def work(self, client: imaplib.IMAP4) -> None:
        identity, _, uid = self.append(client, self.folder, "(\\Draft)")
        time.sleep(PAUSE)
        self.ok("NOOP", client.noop)
        self.identities(client, str(uid))
        if self.turn % 3:
            self.ledger.note("expunging", id=identity)
            self.ok("UID STORE", lambda: client.uid("STORE", str(uid), "+FLAGS.SILENT", "(\\Deleted)"))
            self.ok("UID EXPUNGE", lambda: client.uid("EXPUNGE", str(uid)))
            self.ledger.note("expunged", sync=True, id=identity)
        self.modseq(client)
        time.sleep(PAUSE)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("ledger", "name", "host", "ca", "readers", "password"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--drafters", default="")
    parser.add_argument("--port", type=int, required=True)
    a = parser.parse_args()
    ledger = Ledger(a.ledger)
    threads = []
    for kind, users in ((Reader, a.readers), (Drafter, a.drafters)):
        for number, user in enumerate(filter(None, users.split(","))):
            name = f"{a.name}-{kind.__name__.lower()}-{number}"
            session = kind(ledger, name, (a.host, a.port), a.ca, user, a.password)
            threads.append(threading.Thread(target=session.run, daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
