"""A hub and an IMAP server over one store in memory: enough for load and audit to run against, and to be deceived."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from everpost.clientaccess.imap import ImapServer
from everpost.clientaccess.session import Services
from everpost.clock import SystemClock
from everpost.model.recipient import Mailbox, MailboxRef
from everpost.net import tls
from everpost.net.listen import Listener
from everpost.store.memory import MemoryStore
from everpost.transport import session as transport
from everpost.transport.receive import Receiver

PASSWORD = "a password"
PEOPLE = {
    name: Mailbox(
        guid=f"guid-{name}",
        name=name,
        alias=name,
        addresses=(f"{name}@contoso.com",),
        database="MB01",
        password_hash="a hash",
    )
    for name in ("anna", "ben")
}
USERS = [mailbox.addresses[0] for mailbox in PEOPLE.values()]


class Tenure:
    """Always held."""

    def serving(self) -> bool:
        return True

    def tenure_epoch(self) -> int:
        return 1

    async def cover(self) -> bool:
        return True


class Directory:
    """Recipients and passwords."""

    def mailbox_by_address(self, address: str) -> Mailbox | None:
        return PEOPLE.get(address.lower().removesuffix("@contoso.com"))

    def mailbox_by_alias(self, alias: str) -> Mailbox | None:
        return PEOPLE.get(alias.lower())

    async def verify(self, password_hash: str | None, password: str) -> bool:
        return password == PASSWORD


class Small:
    """`smtp`, `submission` and `imaps` are ports on 127.0.0.1; `ca` is what clients believe."""

    def __init__(self, folder: Path) -> None:
        self.ca = folder / "ca.crt"
        authority = tls.create_authority("Test")
        authority.save(folder)
        key = tls.new_key()
        (folder / "host.key").write_bytes(tls.private_pem(key))
        (folder / "host.crt").write_bytes(authority.sign(key.public_key(), "EX01", ["127.0.0.1"], ["localhost"]))
        self._context = tls.server_context(folder)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._listeners: list[Listener] = []
        self.store: MemoryStore

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run in the server's thread."""

        async def work() -> Any:
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(30)

    def messages(self, user: str, folder: str) -> dict[int, Any]:
        """What a folder holds, by UID: to be tampered with."""
        box = self.store._mailboxes[MailboxRef("MB01", PEOPLE[user.partition("@")[0]].guid)]
        return box.folders[folder].messages

    def modseq(self, user: str, folder: str, change: int) -> None:
        """Change a folder's HIGHESTMODSEQ."""
        self.store._mailboxes[MailboxRef("MB01", PEOPLE[user.partition("@")[0]].guid)].folders[folder].modseq += change

    async def _listen(self) -> None:
        self.store = MemoryStore()
        clock, directory = SystemClock(), Directory()
        imap = ImapServer(Services(self.store, directory, directory, clock, self._context))
        ports = []
        for handler, context in (
            (self._receiver(directory, clock, submission=False), None),
            (self._receiver(directory, clock, submission=True), None),
            (imap.handle, self._context),
        ):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            listener = Listener(handler, Tenure(), context)
            await listener.start("127.0.0.1", port)
            self._listeners.append(listener)
            ports.append(port)
        self.smtp, self.submission, self.imaps = ports

    def _receiver(self, directory: Directory, clock: SystemClock, *, submission: bool) -> Any:
        settings = transport.ReceiveSettings(hostname="EX01", submission=submission)
        services = transport.Services(settings, self.store, directory, directory, clock, self._context)
        return Receiver(services).handle

    async def _end(self) -> None:
        for listener in self._listeners:
            await listener.stop(1.0)

    @contextlib.contextmanager
    def running(self) -> Iterator[Small]:
        """Listen, until the block ends."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()
