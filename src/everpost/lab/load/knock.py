"""Looks at a client access array as its clients do: does the name answer, does a login work, is a message taken?

    python -m everpost.lab.load.knock --ledger F --name N --host H --ca F --user A --password P [--ports N,N,N,N]
        [--connect-only]

Facts in the ledger: `answered` (a TCP connection each 10 ms, at the time it was there), `login` (IMAP over TLS, and
the seconds it took), `told` and `back` (an established IMAP session ended, and was there again), `ack` of messages,
`https` (autodiscover named a server).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import http.client
import imaplib
import itertools
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from everpost.lab.load.ledger import Ledger, boottime
from everpost.lab.load.smtp import Sender

EVERY = 0.01
PATIENCE = 1.0
"""Seconds for one connection: a later one may be answered before it."""
TRY = 2.0
TRY_EVERY = 0.2
MOST = 60
"""Tries that wait at a time."""
PAUSE = 0.1
PATH = "/autodiscover/autodiscover.xml"
QUESTION = (
    '<?xml version="1.0" encoding="utf-8"?>'
    '<Autodiscover xmlns="http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006"><Request>'
    "<EMailAddress>{}</EMailAddress><AcceptableResponseSchema>"
    "http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a</AcceptableResponseSchema>"
    "</Request></Autodiscover>"
)


class Knock:
    """What is asked of one array."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._a = arguments
        self._ledger = Ledger(arguments.ledger)
        self._imap, self._imaps, self._smtp, self._https = (int(port) for port in arguments.ports.split(","))
        self._context = ssl.create_default_context(cafile=arguments.ca or None)
        self._context.check_hostname = False
        self._last = 0.0

    async def connect_forever(self) -> None:
        """One attempt each EVERY, whatever became of those before it."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        tasks: set[asyncio.Task[None]] = set()
        for number in itertools.count(1):
            if self._ledger.stopping():
                return
            task = asyncio.create_task(self._connect())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(max(0.0, begin + number * EVERY - loop.time()))

    async def _connect(self) -> None:
        began = boottime()
        try:
            async with asyncio.timeout(PATIENCE):
                _, writer = await asyncio.open_connection(self._a.host, self._imap)
        except (OSError, TimeoutError):
            return
        self._ledger.note("answered", began=round(began, 6))
        writer.transport.abort()

    def _session(self) -> imaplib.IMAP4_SSL:
        client = imaplib.IMAP4_SSL(self._a.host, self._imaps, ssl_context=self._context, timeout=TRY)
        client.login(self._a.user, self._a.password)
        client.select("INBOX")
        return client

    def try_forever(self, what: Callable[[int], None]) -> None:
        """Does it each TRY_EVERY, whatever became of the tries before: a connection begun while the address was
        away is tried again by the kernel only after a second."""
        begin = time.monotonic()
        with ThreadPoolExecutor(MOST) as threads:
            for number in itertools.count(1):
                if self._ledger.stopping():
                    return
                threads.submit(what, number)
                time.sleep(max(0.0, begin + number * TRY_EVERY - time.monotonic()))

    def _login(self, number: int) -> None:
        """Logs in and opens the inbox."""
        began = boottime()
        with contextlib.suppress(OSError, imaplib.IMAP4.error):
            client = self._session()
            self._ledger.note("login", took=round(boottime() - began, 4))
            client.logout()

    def stay_forever(self) -> None:
        """One session that stays; connects anew when it is told that it ended."""
        client: imaplib.IMAP4_SSL | None = None
        while not self._ledger.stopping():
            try:
                if client is None:
                    client = self._session()
                    self._ledger.note("back")
                client.sock.settimeout(0.5)
                with contextlib.suppress(TimeoutError):
                    if client.sock.recv(4096) == b"":  # an idle client hears of the end only by its socket
                        raise ConnectionResetError
            except (OSError, imaplib.IMAP4.error):
                if client is not None:
                    self._ledger.note("told")
                    client = None
                time.sleep(PAUSE / 2)

    def _discover(self, number: int) -> None:
        """Asks as Outlook does, with the user's password, which server to use."""
        login = base64.b64encode(f"{self._a.user}:{self._a.password}".encode()).decode()
        with contextlib.suppress(OSError, http.client.HTTPException):
            client = http.client.HTTPSConnection(self._a.host, self._https, context=self._context, timeout=TRY)
            client.request("POST", PATH, QUESTION.format(self._a.user), {"Authorization": f"Basic {login}"})
            answer = client.getresponse()
            if answer.status == 200 and b"<Server>" in answer.read():
                self._ledger.note("https")
            client.close()

    def _send(self, number: int) -> None:
        """A message on a connection of its own: one that was open waits for the kernel's next repetition, seconds."""
        identity = f"{self._a.name}-{number}"
        raw = f"X-Ledger-Id: {identity}\r\nFrom: <knock@example.org>\r\nSubject: {number}\r\n\r\n.\r\n".encode()
        Sender(self._ledger, [(self._a.host, self._smtp)]).send(identity, self._a.user, raw)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("ledger", "name", "host"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("ca", "user", "password"):
        parser.add_argument(f"--{name}", default="", help="not needed with --connect-only")
    parser.add_argument("--ports", default="143,993,25,443")
    parser.add_argument("--connect-only", action="store_true", help="no log-ins and messages")
    arguments = parser.parse_args()
    knock = Knock(arguments)
    if not arguments.connect_only:
        threading.Thread(target=knock.stay_forever, daemon=True).start()
        for what in (knock._login, knock._send, knock._discover):
            threading.Thread(target=knock.try_forever, args=(what,), daemon=True).start()
    asyncio.run(knock.connect_forever())


if __name__ == "__main__":
    main()
