"""The mail client of `bench/loss`: the same program for Everpost and for Dovecot.

    python mailclient.py load --ledger F --deliver smtp:HOST:PORT --imap HOST:PORT [--ca FILE]
        --users A[,A] --password W --deliveries 100 --flags 20
    python mailclient.py read --imap HOST:PORT [--ca FILE] --users A[,A] --password W --out FILE

`load` delivers by SMTP or LMTP and sets flags by IMAP at a steady rate, each flag once on one message, until
LEDGER.stop appears. What was acknowledged is fsynced in the ledger first: `ack` with a message's identity, `flag` with
identity and flag. `read` writes what the mailboxes hold as JSON: {user: {identity: [flags]}}.
"""

from __future__ import annotations

import argparse
import imaplib
import json
import random
import re
import smtplib
import ssl
import threading
import time
from pathlib import Path

from everpost.lab.load.ledger import Ledger
from everpost.lab.load.shapes import message

FLAGS = ("\\Flagged", "\\Answered", "\\Seen", "\\Draft", "$Label1", "$Label2")
SENDER = "load@example.org"
THREADS = 10
LIMIT = 20.0
AGAIN = 0.2
LOOK = 1.0
"""Seconds between looks for new mail."""
_UID = re.compile(rb"UID (\d+)")
_KEPT = re.compile(rb"FLAGS \(([^)]*)\)")
_IDENTITY = re.compile(rb"X-Ledger-Id: *(\S+)", re.I)
LOST = (OSError, smtplib.SMTPException, imaplib.IMAP4.error)


class Pace:
    """Gives turns at a steady rate to many threads; turns that could not be taken in time are not made up for."""

    def __init__(self, rate: float) -> None:
        self._step = 1.0 / rate
        self._next = time.monotonic()
        self._lock = threading.Lock()

    def turn(self) -> None:
        """Wait for it."""
        with self._lock:
            at = self._next = max(self._next + self._step, time.monotonic() - 0.5)
        time.sleep(max(0.0, at - time.monotonic()))


def log_in(place: str, ca: str | None, user: str, password: str) -> imaplib.IMAP4:
    """With INBOX selected."""
    host, _, port = place.rpartition(":")
    client: imaplib.IMAP4
    if ca:
        context = ssl.create_default_context(cafile=ca)
        client = imaplib.IMAP4_SSL(host, int(port), ssl_context=context, timeout=LIMIT)
    else:
        client = imaplib.IMAP4(host, int(port), timeout=LIMIT)
    client.login(user, password)
    client.select("INBOX")
    return client


class Load:
    """Threads that deliver, and one that flags for each user."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._a = arguments
        self._ledger = Ledger(arguments.ledger)
        self._users = arguments.users.split(",")
        self._deliveries = Pace(arguments.deliveries)
        self._flags = Pace(arguments.flags)

    def run(self) -> None:
        """Until the file LEDGER.stop appears."""
        work = [(self._deliver, (number,)) for number in range(THREADS)] + [
            (self._flag, (user,)) for user in self._users
        ]
        threads = [threading.Thread(target=target, args=arguments, daemon=True) for target, arguments in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _connect(self) -> smtplib.SMTP:
        kind, host, port = self._a.deliver.split(":")
        make = smtplib.LMTP if kind == "lmtp" else smtplib.SMTP
        return make(host, int(port), local_hostname="load.example.org", timeout=LIMIT)

    def _deliver(self, number: int) -> None:
        client: smtplib.SMTP | None = None
        count = 0
        while not self._ledger.stopping():
            self._deliveries.turn()
            count += 1
            identity, user = f"{self._users[0]}-{number}-{count}", self._users[(count + number) % len(self._users)]
            try:
                client = client or self._connect()
                refused = client.sendmail(SENDER, [user], message(number * 1_000_000 + count, identity))
                if not refused:
                    self._ledger.note("ack", sync=True, id=identity, user=user)
            except LOST as error:
                self._ledger.note("failed", why=f"{type(error).__name__}: {error}"[:200])
                if client is not None:
                    client.close()
                client = None
                time.sleep(AGAIN)

    def _flag(self, user: str) -> None:
        chance = random.Random(user)
        while not self._ledger.stopping():
            try:
                self._flagging(log_in(self._a.imap, self._a.ca, user, self._a.password), user, chance)
            except LOST as error:
                self._ledger.note("failed", why=f"{type(error).__name__}: {error}"[:200])
                time.sleep(AGAIN)

    def _flagging(self, client: imaplib.IMAP4, user: str, chance: random.Random) -> None:
        names: dict[int, str] = {}
        set_before: set[tuple[int, str]] = set()
        looked = 0.0
        while not self._ledger.stopping():
            self._flags.turn()
            if time.monotonic() - looked > LOOK:
                looked = time.monotonic()
                names |= self._new(client, max(names, default=0) + 1)
            free = [(uid, flag) for uid in names for flag in FLAGS if (uid, flag) not in set_before]
            if free:
                uid, flag = chance.choice(free)
                set_before.add((uid, flag))
                if client.uid("STORE", str(uid), "+FLAGS.SILENT", f"({flag})")[0] == "OK":
                    self._ledger.note("flag", sync=True, id=names[uid], user=user, flag=flag)

    @staticmethod
    def _new(client: imaplib.IMAP4, first: int) -> dict[int, str]:
        client.noop()
        _, data = client.uid("FETCH", f"{first}:*", "(BODY.PEEK[HEADER.FIELDS (X-LEDGER-ID)])")
        found = {}
        for item in data:
            if isinstance(item, tuple):
                uid, identity = _UID.search(item[0]), _IDENTITY.search(item[1])
                if uid is not None and identity is not None and int(uid[1]) >= first:
                    found[int(uid[1])] = identity[1].decode()
        return found


def read(arguments: argparse.Namespace) -> dict[str, dict[str, list[str]]]:
    """What every mailbox holds."""
    held: dict[str, dict[str, list[str]]] = {}
    for user in arguments.users.split(","):
        client = log_in(arguments.imap, arguments.ca, user, arguments.password)
        _, data = client.uid("FETCH", "1:*", "(FLAGS BODY.PEEK[HEADER.FIELDS (X-LEDGER-ID)])")
        mine = held.setdefault(user, {})
        for item, after in zip(data, [*data[1:], b""], strict=True):
            if isinstance(item, tuple):
                items = item[0] + b" " + (after if isinstance(after, bytes) else b"")
                identity, kept = _IDENTITY.search(item[1]), _KEPT.search(items)
                if identity is not None and kept is not None:
                    mine.setdefault(identity[1].decode(), []).extend(kept[1].decode().split())
        client.logout()
    return held


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("load", "read"))
    for name in ("imap", "users", "password"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("ca", "ledger", "deliver", "out"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--deliveries", type=float, default=100.0)
    parser.add_argument("--flags", type=float, default=20.0)
    arguments = parser.parse_args()
    threading.stack_size(512 * 1024)
    if arguments.what == "load":
        Load(arguments).run()
    else:
        Path(arguments.out).write_text(json.dumps(read(arguments)))


if __name__ == "__main__":
    main()
