"""One SMTP connection of a load generator: what is tried, and what became of it, is in the ledger."""

from __future__ import annotations

import hashlib
import smtplib
import ssl
import time

from everpost.lab.load.ledger import Ledger, boottime

CONNECT = 1.0
PATIENCE = 35.0
"""Seconds for an answer: a hub waits up to 30 for its database."""
PATIENCE_WITH_CHOICE = 4.0
"""The same for a client that has another hub to go to."""
HOME = 5.0
"""Seconds between looks whether the first hub is back."""
SENDER = "load@example.org"


class Sender:
    """A connection to the first hub that answers. `login`: submission, with STARTTLS and a password."""

    def __init__(
        self,
        ledger: Ledger,
        hubs: list[tuple[str, int]],
        *,
        login: tuple[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._ledger = ledger
        self._hubs = hubs
        self._login = login
        self._context = context
        self._client: smtplib.SMTP | None = None
        self._hub = 0
        self._looked = 0.0

    def send(self, identity: str, user: str, raw: bytes) -> bool:
        """One try. True: acknowledged, and the acknowledgement is on disk. `raw` has CRLF line ends."""
        self._ledger.note(
            "try", id=identity, user=user, folder="INBOX", sha=hashlib.sha256(raw).hexdigest(), hub=self._hub
        )
        began = boottime()
        sent = False
        try:
            client = self._connection()
            code, text = self._begin(client, user, raw)
            if code == 354:
                sent = True
                client.send(raw.replace(b"\r\n.", b"\r\n..") + b".\r\n")
                code, text = client.getreply()
        except (OSError, smtplib.SMTPException) as error:
            self._ledger.note("unknown" if sent else "later", id=identity, why=type(error).__name__)
            self._drop()
            return False
        if code == 250:
            took = round(boottime() - began, 4)
            self._ledger.note("ack", sync=True, id=identity, user=user, hub=self._hub, took=took)
            return True
        # 451 after DATA: the hub gave up waiting, the delivery may still come true.
        kind = "unknown" if sent and code == 451 else "later"
        self._ledger.note(kind, id=identity, code=code, text=text.decode("ascii", "replace"))
        return False

    def _begin(self, client: smtplib.SMTP, user: str, raw: bytes) -> tuple[int, bytes]:
        """MAIL, RCPT and DATA in one packet (RFC 2920); the first refusal, or 354."""
        client.send(
            f"MAIL FROM:<{SENDER}> SIZE={len(raw)} BODY=8BITMIME\r\nRCPT TO:<{user}>\r\nDATA\r\n".encode("ascii")
        )
        answers = [client.getreply() for _ in range(3)]
        for code, text in answers[:2]:
            if code not in (250, 251):
                if answers[2][0] == 354:
                    raise smtplib.SMTPServerDisconnected("DATA was taken though a command before it was refused")
                client.rset()
                return code, text
        return answers[2]

    def _connection(self) -> smtplib.SMTP:
        if self._hub and time.monotonic() - self._looked > HOME:
            self._go_home()
        if self._client is None:
            self._client = self._connected(self._hub)
        return self._client

    def _go_home(self) -> None:
        """Leave a stand-in as soon as the first hub answers again."""
        self._looked = time.monotonic()
        try:
            client = self._connected(0)
        except (OSError, smtplib.SMTPException):
            return
        self.close()
        self._client, self._hub = client, 0

    def _connected(self, hub: int) -> smtplib.SMTP:
        client = smtplib.SMTP(*self._hubs[hub], timeout=CONNECT)
        client.ehlo("load.example.org")
        if self._context is not None:
            client.starttls(context=self._context)
            client.ehlo("load.example.org")
        if self._login is not None:
            client.login(*self._login)
        assert client.sock is not None
        client.sock.settimeout(PATIENCE if len(self._hubs) == 1 else PATIENCE_WITH_CHOICE)
        return client

    def _drop(self) -> None:
        self.close()
        self._hub = (self._hub + 1) % len(self._hubs)
        self._looked = time.monotonic()

    def close(self) -> None:
        """Leave without a word."""
        if self._client is not None:
            self._client.close()
        self._client = None


def hubs(text: str) -> list[tuple[str, int]]:
    """`10.77.0.12:25,10.77.0.11:25`."""
    return [(host, int(port)) for host, _, port in (word.rpartition(":") for word in text.split(","))]
