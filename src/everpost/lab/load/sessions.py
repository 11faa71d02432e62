"""Long-living IMAP sessions: each selects a mailbox, reads what comes, flags, appends, idles, until it is stopped.

    python -m everpost.lab.load.sessions --ledger F --name N --host H --port P --ca FILE --users A[,A] --password W

A session that loses its connection notes `dropped` and begins anew; one that never did notes `survived` at the end.
Ledger: `seen` (uid and what it is), `flag` (acknowledged, fsynced), `append` (acknowledged, fsynced), `modseq`.
"""

from __future__ import annotations

import argparse
import hashlib
import imaplib
import itertools
import os
import re
import ssl
import threading
import time

from everpost.lab.load.ledger import Ledger
from everpost.lab.load.shapes import message

PATIENCE = 120.0
_FETCHED = re.compile(rb"UID (\d+)")
_IDENTITY = re.compile(rb"X-Ledger-Id: *(\S+)")


class Session:
    """One user's connection."""

    def __init__(self, arguments: argparse.Namespace, ledger: Ledger, user: str, number: int) -> None:
        self._a = arguments
        self._ledger = ledger
        self._user = user
        self._name = f"{arguments.name}-{number}"
        self._next = 1
        self._validity = 0
        self._drops = 0
        self._known: list[int] = []
        self._counter = itertools.count(1)

    def _stopping(self) -> bool:
        return os.path.exists(self._a.ledger + ".stop")

    def run(self) -> None:
        while not self._stopping():
            try:
                self._live()
            except (OSError, imaplib.IMAP4.error, ssl.SSLError) as error:
                self._drops += 1
                self._ledger.note("dropped", session=self._name, why=f"{type(error).__name__}: {error}")
                time.sleep(0.2)
        if self._drops == 0:
            self._ledger.note("survived", session=self._name, sync=True)

    def _live(self) -> None:
        context = ssl.create_default_context(cafile=self._a.ca)
        client = imaplib.IMAP4_SSL(self._a.host, self._a.port, ssl_context=context, timeout=PATIENCE)
        client.login(self._user, self._a.password)
        client.select("INBOX")
        self._validity = int(client.response("UIDVALIDITY")[1][0] or 0)
        self._ledger.note("session", session=self._name)
        for turn in itertools.count(1):
            if self._stopping():
                client.logout()
                return
            client.noop()
            self._read(client)
            if turn % 2 == 0 and self._known:
                self._flag(client)
            if turn % 5 == 0:
                self._append(client)
            if turn % 7 == 0:
                self._idle(client)
            time.sleep(0.1)

    def _read(self, client: imaplib.IMAP4) -> None:
        """New messages, at most 200 a turn."""
        status, data = client.uid(
            "FETCH", f"{self._next}:{self._next + 199}", "(BODY.PEEK[HEADER.FIELDS (X-Ledger-Id)])"
        )
        assert status == "OK"
        for item in data:
            if isinstance(item, tuple):
                uid, identity = _FETCHED.search(item[0]), _IDENTITY.search(item[1])
                if uid is not None and identity is not None:
                    number = int(uid[1])
                    self._note_seen("INBOX", self._validity, number, identity[1].decode())
                    self._known.append(number)
                    self._next = max(self._next, number + 1)
        status, answer = client.status("INBOX", "(HIGHESTMODSEQ UIDNEXT)")
        found = re.search(rb"HIGHESTMODSEQ (\d+)", answer[0] or b"")
        if found is not None:
            self._ledger.note("modseq", session=self._name, user=self._user, value=int(found[1]))

    def _note_seen(self, folder: str, validity: int, uid: int, identity: str) -> None:
        self._ledger.note("seen", user=self._user, folder=folder, validity=validity, uid=uid, id=identity)

    def _flag(self, client: imaplib.IMAP4) -> None:
        uid = self._known[next(self._counter) * 7 % len(self._known)]
        flag = f"$L{self._name.replace('-', '')}{next(self._counter) % 5}"
        status, _ = client.uid("STORE", str(uid), "+FLAGS.SILENT", f"({flag})")
        if status == "OK":
            self._ledger.note(
                "flag", sync=True, user=self._user, folder="INBOX", validity=self._validity, uid=uid, flag=flag
            )

    def _append(self, client: imaplib.IMAP4) -> None:
        identity = f"{self._name}-append-{next(self._counter)}-{self._drops}"
        raw = message(next(self._counter), identity)
        status, answer = client.append("Sent", "(\\Seen)", "", raw)
        found = re.search(rb"APPENDUID (\d+) (\d+)", answer[0] or b"")
        if status == "OK" and found is not None:
            sha = hashlib.sha256(raw).hexdigest()
            self._ledger.note("append", sync=True, user=self._user, folder="Sent", id=identity, sha=sha)
            self._note_seen("Sent", int(found[1]), int(found[2]), identity)

    def _idle(self, client: imaplib.IMAP4) -> None:
        tag = client._new_tag()
        client.send(tag + b" IDLE\r\n")
        while not client.readline().startswith(b"+"):
            pass
        time.sleep(0.3)
        client.send(b"DONE\r\n")
        while not (line := client.readline()).startswith(tag):
            if not line:
                raise ConnectionResetError("closed while idling")


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("ledger", "name", "host", "ca", "users", "password"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    ledger = Ledger(arguments.ledger)
    sessions = [Session(arguments, ledger, user, n) for n, user in enumerate(arguments.users.split(","))]
    threads = [threading.Thread(target=session.run, daemon=True) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
