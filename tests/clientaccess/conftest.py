"""A real listener in front of a store in memory, in a thread's loop of its own for clients that block."""

from __future__ import annotations

import asyncio
import imaplib
import ssl
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from everpost.clientaccess.imap import ImapServer
from everpost.clientaccess.session import Passwords, Services
from everpost.clock import SystemClock
from everpost.model.recipient import Mailbox, MailboxRef
from everpost.net import tls
from everpost.net.listen import Listener

from .faulty import FaultyStore

T = TypeVar("T")
PASSWORD = 'pass word \\ "quoted"'
ANNA = Mailbox(
    guid="11111111-1111-1111-1111-111111111111",
    name="Anna",
    alias="anna",
    addresses=("anna@contoso.com",),
    database="MB01",
    password_hash="a hash",
)


class Tenure:
    """What the shared page says."""

    def __init__(self) -> None:
        self.held = True
        self.epoch = 1

    def serving(self) -> bool:
        return self.held

    def tenure_epoch(self) -> int:
        return self.epoch

    async def cover(self) -> bool:
        return True


class People:
    """Recipients."""

    mailbox = ANNA

    def mailbox_by_address(self, address: str) -> Mailbox | None:
        return self.mailbox if address.lower() in self.mailbox.addresses else None

    def mailbox_by_alias(self, alias: str) -> Mailbox | None:
        return self.mailbox if alias.lower() == self.mailbox.alias else None


class Anyone:
    """Passwords that cost nothing, where log-in is not the subject."""

    async def verify(self, password_hash: str | None, password: str) -> bool:
        return password_hash is not None and password == PASSWORD


class Serving:
    """The server in its thread. `run` awaits something there; `store` may be looked at between commands."""

    def __init__(self, store: FaultyStore, tenure: Tenure, services: Services, loop: asyncio.AbstractEventLoop) -> None:
        self.store = store
        self.tenure = tenure
        self.services = services
        self.server = ImapServer(services)
        self.loop = loop
        self.listeners: list[Listener] = []
        self.port = 0
        self.tls_port = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def call(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        async def work() -> T:
            return function(*arguments, **named)

        return self.run(work())

    def client(self, *, login: bool = True) -> imaplib.IMAP4:
        client = imaplib.IMAP4("127.0.0.1", self.port, timeout=20)
        if login:
            client.login("anna@contoso.com", PASSWORD)
        return client


@pytest.fixture(scope="session")
def certificates() -> Iterator[Path]:
    """A host certificate of an authority made for the tests."""
    with tempfile.TemporaryDirectory(prefix="everpost-test-", dir="/var/tmp") as name:
        folder = Path(name)
        authority = tls.create_authority("Test")
        authority.save(folder)
        key = tls.new_key()
        (folder / "host.key").write_bytes(tls.private_pem(key))
        (folder / "host.crt").write_bytes(authority.sign(key.public_key(), "EX01", ["127.0.0.1"], ["localhost"]))
        yield folder


@pytest.fixture
def client_tls(certificates: Path) -> ssl.SSLContext:
    """What a mail client trusts."""
    return ssl.create_default_context(cafile=str(certificates / "ca.crt"))


@pytest.fixture
def passwords() -> Passwords:
    """Overridden where they are the subject."""
    return Anyone()


@pytest.fixture
def serving(certificates: Path, free_ports: Callable[[int], list[int]], passwords: Passwords) -> Iterator[Serving]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> Serving:
        store, tenure = FaultyStore(MailboxRef(ANNA.database, ANNA.guid)), Tenure()
        context = tls.server_context(certificates)
        services = Services(store, People(), passwords, SystemClock(), context)
        made = Serving(store, tenure, services, loop)
        made.port, made.tls_port = free_ports(2)
        for port, encrypted in ((made.port, None), (made.tls_port, context)):
            listener = Listener(made.server.handle, tenure, encrypted)
            await listener.start("127.0.0.1", port)
            made.listeners.append(listener)
        return made

    made = asyncio.run_coroutine_threadsafe(start(), loop).result(30)

    async def end() -> None:
        made.store.reopen()
        made.tenure.held = True
        made.server.stop()
        for listener in made.listeners:
            await listener.stop(2)

    yield made
    made.run(end())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()
