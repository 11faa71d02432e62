"""The client that has a message waiting: it presses Send when it is told to, and sees the message sent and arrived.

    python -m everpost.lab.load.composer --ledger F --name N --host H --submission P --imaps P --ca FILE
        --user A --to A --password W

It waits for the file LEDGER.go, then submits one message until it is acknowledged, files its copy in Sent, and looks
into the recipient's INBOX. Ledger: `sent` and `arrived`, with seconds since Send was pressed.
"""

from __future__ import annotations

import argparse
import imaplib
import os
import ssl
import time

from everpost.lab.load.imap import Session
from everpost.lab.load.ledger import Ledger, boottime
from everpost.lab.load.smtp import Sender

LOOK = 0.02
LIMIT = 60.0


class Composer(Session):
    """The sender's own IMAP session; the message goes over the submission port."""

    sender: Sender
    to = ""
    password = ""
    server: tuple[str, int]
    context: ssl.SSLContext

    def work(self, client: imaplib.IMAP4) -> None:
        go = self.ledger.path + ".go"
        while not os.path.exists(go):
            if self.ledger.stopping():
                return
            time.sleep(LOOK)
        began = boottime()
        identity = f"{self.name}-waiting"
        raw = (
            f"X-Ledger-Id: {identity}\r\nFrom: <{self.user}>\r\nTo: <{self.to}>\r\nSubject: It waited\r\n\r\nHello\r\n"
        )
        while not self.sender.send(identity, self.to, raw.encode()):
            if self.ledger.stopping():
                return
            time.sleep(LOOK)
        self.ledger.note("sent", seconds=round(boottime() - began, 3))
        self.append(client, "Sent", "(\\Seen)")
        if self._arrived(identity):
            self.ledger.note("arrived", sync=True, seconds=round(boottime() - began, 3))
        os.unlink(go)

    def _arrived(self, identity: str) -> bool:
        """Looks as the recipient would."""
        client = imaplib.IMAP4_SSL(*self.server, ssl_context=self.context, timeout=LIMIT)
        client.login(self.to, self.password)
        client.select("INBOX", readonly=True)
        _, data = client.uid("SEARCH", "HEADER", "X-Ledger-Id", identity)
        client.logout()
        return bool(data[0].split())


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("ledger", "name", "host", "ca", "user", "to", "password"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--submission", type=int, required=True)
    parser.add_argument("--imaps", type=int, required=True)
    a = parser.parse_args()
    ledger = Ledger(a.ledger)
    composer = Composer(ledger, a.name, (a.host, a.imaps), a.ca, a.user, a.password)
    composer.to, composer.password, composer.server = a.to, a.password, (a.host, a.imaps)
    composer.context = ssl.create_default_context(cafile=a.ca)
    hub = [(a.host, a.submission)]
    composer.sender = Sender(ledger, hub, login=(a.user, a.password), context=composer.context)
    composer.run()


if __name__ == "__main__":
    main()
