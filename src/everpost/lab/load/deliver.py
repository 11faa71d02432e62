"""Delivers messages by SMTP, again and again until each is acknowledged.

    python -m everpost.lab.load.deliver --ledger F --name N --hubs H:P[,H:P] --to A[,A] --rate 60 [--own DIR]

Ledger: `ack` (id, to, hub, sha, tries) after 250, fsynced; `unknown` when an answer was lost after the message had been
sent (the message is sent again: its second copy is a resubmission, not the server's doing); `later` for a 4xx.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import smtplib
import threading
import time

from everpost.lab.load.ledger import Ledger
from everpost.lab.load.own import own_messages
from everpost.lab.load.shapes import message

PATIENCE = 35.0
"""Seconds for an answer: a hub waits up to 30 for its database."""
CONNECT = 1.0


class Worker:
    """One thread with one connection."""

    def __init__(self, arguments: argparse.Namespace, ledger: Ledger, number: int, own: list[bytes]) -> None:
        self._a = arguments
        self._ledger = ledger
        self._number = number
        self._own = own
        self._hubs = [hub.rsplit(":", 1) for hub in arguments.hubs.split(",")]
        self._to = arguments.to.split(",")
        self._client: smtplib.SMTP | None = None
        self._hub = 0

    def _stopping(self) -> bool:
        return os.path.exists(self._a.ledger + ".stop")

    def _connect(self) -> smtplib.SMTP:
        if self._client is None:
            host, port = self._hubs[self._hub % len(self._hubs)]
            self._client = smtplib.SMTP(timeout=CONNECT)
            self._client.connect(host, int(port))
            self._client.ehlo("load.example.org")
            assert self._client.sock is not None
            self._client.sock.settimeout(PATIENCE if len(self._hubs) == 1 else 4.0)
        return self._client

    def _drop(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None
        self._hub += 1

    def _try(self, identity: str, to: str, raw: bytes) -> bool:
        """One try; what became of it is in the ledger."""
        sent = False
        try:
            client = self._connect()
            for code, text in (client.mail("load@example.org"), client.rcpt(to), client.docmd("DATA")):
                if code not in (250, 251, 354):
                    self._ledger.note("later", id=identity, code=code, text=text.decode("ascii", "replace"))
                    client.rset()
                    return False
            quoted = smtplib._quote_periods(raw)  # type: ignore[attr-defined]
            sent = True
            client.send(quoted + b".\r\n")
            code, text = client.getreply()
            if code == 250:
                return True
            self._ledger.note("later", id=identity, code=code, text=text.decode("ascii", "replace"))
            if code == 451:
                self._ledger.note("unknown", id=identity)  # the delivery may still come true
            return False
        except (OSError, smtplib.SMTPException) as error:
            if sent:
                self._ledger.note("unknown", id=identity, why=type(error).__name__)
            self._drop()
            return False

    def run(self) -> None:
        """Until the stop file appears; the message under way is given up only if it was never sent."""
        pause = self._a.threads / self._a.rate
        for count in itertools.count(1):
            if self._stopping():
                return
            began = time.monotonic()
            identity = f"{self._a.name}-{self._number}-{count}"
            seed = self._number * 1_000_000 + count
            large = self._a.large and self._number == 0 and count == 20
            raw = self._own[seed % len(self._own)] if self._own else message(seed, identity, large=large)
            if self._own:
                raw = b"X-Ledger-Id: " + identity.encode() + b"\r\n" + raw
            to = self._to[count % len(self._to)]
            tries = 1
            while not self._try(identity, to, raw):
                tries += 1
                if self._stopping():
                    return
                time.sleep(0.02)
            sha = hashlib.sha256(raw).hexdigest()
            self._ledger.note("ack", sync=True, id=identity, to=to, sha=sha, tries=tries)
            time.sleep(max(0.0, pause - (time.monotonic() - began)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--hubs", required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--rate", type=float, default=60.0)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--own")
    arguments = parser.parse_args()
    ledger = Ledger(arguments.ledger)
    own = own_messages(arguments.own) if arguments.own else []
    workers = [Worker(arguments, ledger, number, own) for number in range(arguments.threads)]
    threads = [threading.Thread(target=worker.run, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
