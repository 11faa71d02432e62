"""One IMAP session of a load generator: every command must be answered OK on the connection it began with."""

from __future__ import annotations

import hashlib
import imaplib
import itertools
import re
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any

from everpost.lab.load.ledger import Ledger, boottime
from everpost.lab.load.shapes import message

CONNECT = 3.0
PATIENCE = 120.0
STALL = 0.5
"""Seconds after which an answer is noted as late."""
AGAIN = 0.3
_APPENDED = re.compile(rb"APPENDUID (\d+) (\d+)")
_MODSEQ = re.compile(rb"HIGHESTMODSEQ (\d+)")
_FETCHED = re.compile(rb"UID (\d+)")
_IDENTITY = re.compile(rb"X-Ledger-Id: *(\S+)")

Answer = Sequence[Any]


class Refused(imaplib.IMAP4.error):
    """NO or BAD: no client is ever told that because a database moves."""


class Session:
    """A user's connection. `work` is what it does again and again; `folder` is selected.

    Ledger: `session` at each log-in, `dropped` when a connection or a command failed, `survived` at the end if none
    did.
    """

    folder = "INBOX"

    def __init__(self, ledger: Ledger, name: str, server: tuple[str, int], ca: str, user: str, password: str) -> None:
        self.ledger = ledger
        self.name = name
        self.user = user
        self.validity = 0
        self.turn = 0
        self._server = server
        self._context = ssl.create_default_context(cafile=ca)
        self._password = password
        self._drops = 0
        self._numbers = itertools.count(1)

    def run(self) -> None:
        """Until the lab asks to stop."""
        while not self.ledger.stopping():
            client: imaplib.IMAP4_SSL | None = None
            try:
                client = self._log_in()
                while not self.ledger.stopping():
                    self.turn += 1
                    self.work(client)
                self.ok("LOGOUT", client.logout, wanted="BYE")
            except (OSError, imaplib.IMAP4.error, ValueError) as error:
                self._drops += 1
                self.ledger.note("dropped", session=self.name, why=f"{type(error).__name__}: {error}")
                if client is not None:
                    client.shutdown()
                time.sleep(AGAIN)
        if self._drops == 0:
            self.ledger.note("survived", session=self.name, sync=True)

    def work(self, client: imaplib.IMAP4) -> None:
        """One turn."""
        raise NotImplementedError

    def _log_in(self) -> imaplib.IMAP4_SSL:
        host, port = self._server
        client = imaplib.IMAP4_SSL(host, port, ssl_context=self._context, timeout=CONNECT)
        client.sock.settimeout(PATIENCE)
        self.ok("LOGIN", lambda: client.login(self.user, self._password))
        self.ok("SELECT", lambda: client.select(self.folder))
        self.validity = int(client.response("UIDVALIDITY")[1][0] or 0)
        self.ledger.note("session", session=self.name)
        return client

    def ok(self, verb: str, command: Callable[[], tuple[str, Answer]], wanted: str = "OK") -> Answer:
        """The data of an answer that must be OK; a late one is noted."""
        began = boottime()
        status, data = command()
        took = boottime() - began
        if took > STALL:
            self.ledger.note("stall", session=self.name, verb=verb, seconds=round(took, 3))
        if status != wanted:
            raise Refused(f"{verb} was answered {status}: {data}")
        return data

    def place(self, uid: int) -> dict[str, Any]:
        """A UID of the selected folder, as the ledger names it."""
        return {"user": self.user, "folder": self.folder, "validity": self.validity, "uid": uid}

    def append(self, client: imaplib.IMAP4, folder: str, flags: str) -> tuple[str, int, int]:
        """Append a message: its identity, UIDVALIDITY and UID, acknowledged."""
        number = next(self._numbers)
        identity = f"{self.name}-{folder}-{number}"
        raw = message(number, identity)
        sha = hashlib.sha256(raw).hexdigest()
        self.ledger.note("try", id=identity, user=self.user, folder=folder, sha=sha)
        try:
            data = self.ok("APPEND", lambda: client.append(folder, flags, "", raw))
        except BaseException:
            self.ledger.note("unknown", id=identity)
            raise
        found = _APPENDED.search(data[0] or b"")
        if found is None:
            raise Refused(f"APPEND was answered without APPENDUID: {data[0]!r}")
        validity, uid = int(found[1]), int(found[2])
        where: dict[str, Any] = {"user": self.user, "folder": folder, "validity": validity, "uid": uid}
        self.ledger.note("ack", sync=True, id=identity, user=self.user)
        self.ledger.note("seen", id=identity, **where)
        return identity, validity, uid

    def identities(self, client: imaplib.IMAP4, uids: str) -> list[int]:
        """Fetch which messages stand at `uids` and note it; the UIDs that exist, in order."""
        there = []
        data = self.ok("UID FETCH", lambda: client.uid("FETCH", uids, "(BODY.PEEK[HEADER.FIELDS (X-Ledger-Id)])"))
        for item in data:
            if isinstance(item, tuple):
                uid, identity = _FETCHED.search(item[0]), _IDENTITY.search(item[1])
                if uid is not None:
                    name = identity[1].decode() if identity is not None else ""
                    self.ledger.note("seen", id=name, **self.place(int(uid[1])))
                    there.append(int(uid[1]))
        return sorted(there)

    def modseq(self, client: imaplib.IMAP4) -> None:
        """Note HIGHESTMODSEQ, with when it was asked for."""
        began = boottime()
        data = self.ok("STATUS", lambda: client.status(self.folder, "(HIGHESTMODSEQ UIDNEXT)"))
        found = _MODSEQ.search(data[0] or b"")
        if found is None:
            raise Refused(f"STATUS was answered without HIGHESTMODSEQ: {data[0]!r}")
        self.ledger.note(
            "modseq", session=self.name, user=self.user, folder=self.folder, value=int(found[1]), began=began
        )

    def idle(self, client: imaplib.IMAP4, seconds: float) -> None:
        """IDLE for a while (imaplib knows it from Python 3.14 only)."""
        tag = client._new_tag()
        client.send(tag + b" IDLE\r\n")
        while not (line := _line(client)).startswith(b"+"):
            if line.startswith(tag):
                raise Refused(f"IDLE was answered {line!r}")
        time.sleep(seconds)
        client.send(b"DONE\r\n")
        began = boottime()
        while not (line := _line(client)).startswith(tag):
            pass
        if not line.startswith(tag + b" OK"):
            raise Refused(f"DONE was answered {line!r}")
        if boottime() - began > STALL:
            self.ledger.note("stall", session=self.name, verb="DONE", seconds=round(boottime() - began, 3))


def _line(client: imaplib.IMAP4) -> bytes:
    line = client.readline()
    if not line:
        raise ConnectionResetError("the server closed the connection")
    if line.startswith(b"* BYE"):
        raise ConnectionResetError(line.decode("ascii", "replace").strip())
    return line
