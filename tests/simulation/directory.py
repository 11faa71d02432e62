"""The directory in memory behind the network: requests and answers are lost, late or cut off, quorum is lost.

One line per agent. A request that was sent may have its effect although nobody hears of it, at once or much later.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from everpost.directory.interface import Entry, Event, EventKind, TxnResult
from everpost.directory.memory import MemoryDirectory
from everpost.errors import OutcomeUnknown, Unavailable
from tests.simulation.loop import NOBODY, Process, expire
from tests.simulation.network import ETCD, Network

ATTEMPT = 0.2
READ = 1.0


class Etcd(MemoryDirectory):
    """The majority. `on_change` is told of every change before anybody else; `log` is what watches deliver."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.quorum = True
        self.log: list[Event] = []
        self.watches: list[Watch] = []
        self.on_change: Callable[[Event], None] = lambda event: None

    def apply(
        self, guards: Mapping[str, int], puts: Mapping[str, bytes | None], read: tuple[str, ...] = ()
    ) -> TxnResult:
        """One transaction, now."""
        return self._apply(guards, puts, read)

    def _tell(self, event: Event) -> None:
        self.log.append(event)
        self.on_change(event)
        for watch in self.watches:
            watch.due()

    def snapshot(self, prefix: str) -> list[Entry]:
        """What is there now."""
        return self._list(prefix)

    def entry(self, key: str) -> Entry | None:
        """One key, now."""
        return self._entries.get(key)

    @property
    def revision(self) -> int:
        """Of the newest change."""
        return self._revision


class Watch:
    """A watch of one agent. Events come together, those of `batch` seconds at once."""

    def __init__(self, etcd: Etcd, host: str, process: Process, batch: float) -> None:
        self._etcd = etcd
        self._host = host
        self.process = process
        self._batch = batch
        self._coming = False
        self._at = 0
        self.arrived = asyncio.Event()
        self.behind = True
        etcd.watches.append(self)

    def due(self) -> None:
        """Something changed."""
        if not self._coming:
            self._coming = True
            delay = self._batch + self._etcd.network.delay(ETCD, self._host)
            self.process.call_later(delay, self._arrive)

    def _arrive(self) -> None:
        etcd = self._etcd
        if not etcd.quorum or not etcd.network.passes(ETCD, self._host):
            self.behind = True  # it ends; when it comes back it begins with a snapshot
            self.process.call_later(0.2, self._arrive)
            return
        self._coming = False
        self.arrived.set()

    def take(self) -> list[Event]:
        """What came since the last time."""
        etcd = self._etcd
        at, self._at = self._at, len(etcd.log)
        if not self.behind:
            return etcd.log[at:]
        self.behind = False
        there = [Event(EventKind.PUT, entry) for entry in etcd.snapshot("")]
        mark = Entry("", b"", etcd.revision)
        return [Event(EventKind.RESET, mark), *there, Event(EventKind.SYNCED, mark)]


class Line:
    """`directory.interface.Directory` for one agent. `bad`: the share of requests to which something happens."""

    def __init__(self, etcd: Etcd, host: str, process: Process, chance: random.Random, batch: float) -> None:
        self._etcd = etcd
        self._host = host
        self._process = process
        self._chance = chance
        self._batch = batch
        self.bad = 0.0

    async def get(self, key: str) -> Entry | None:
        found: Entry | None = await self._read(lambda: self._etcd.entry(key))
        return found

    async def list(self, prefix: str) -> tuple[list[Entry], int]:
        found: tuple[list[Entry], int] = await self._read(lambda: (self._etcd.snapshot(prefix), self._etcd.revision))
        return found

    async def _read(self, look: Callable[[], Any]) -> Any:
        try:
            return await self._send(look, READ, self._fate())
        except OutcomeUnknown:
            raise Unavailable("The directory does not answer.") from None

    async def txn(
        self,
        guards: Mapping[str, int],
        puts: Mapping[str, bytes | None],
        *,
        read_on_failure: tuple[str, ...] = (),
        attempt: float | None = None,
        late: Callable[[TxnResult], None] | None = None,
    ) -> TxnResult:
        guards, puts = dict(guards), dict(puts)
        result: TxnResult = await self._send(
            lambda: self._etcd.apply(guards, puts, read_on_failure), attempt or ATTEMPT, self._fate(), late
        )
        return result

    def _fate(self) -> str:
        if self.bad and self._chance.random() < self.bad:
            return self._chance.choice(("refused", "request lost", "answer lost", "late", "late"))
        return "well"

    async def _send(
        self, work: Callable[[], Any], limit: float, fate: str, told: Callable[[TxnResult], None] | None = None
    ) -> Any:
        if fate == "refused":
            await asyncio.sleep(0.01)
            raise Unavailable("The directory refuses.")
        loop, network, host = self._process.loop, self._etcd.network, self._host
        answer: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()
        late = fate == "late"

        def arrive() -> None:
            nonlocal late
            if not self._etcd.quorum:
                if not late:  # it waits at a member; perhaps the next leader takes it up
                    late = True
                    loop.call_later(3.0 * self._chance.random(), arrive)
                return
            value = work()
            if fate != "answer lost":
                loop.call_later(network.delay(ETCD, host), come_back, value, context=context)

        def come_back(value: object) -> None:
            if not network.passes(ETCD, host):
                return
            if not answer.done():
                answer.set_result(value)
            elif told is not None and isinstance(value, TxnResult):
                told(value)

        if fate != "request lost" and network.passes(host, ETCD):
            delay = network.delay(host, ETCD) + (4.0 * self._chance.random() if late else 0.0)
            loop.call_later(delay, arrive, context=NOBODY)
        giving_up = loop.call_later(limit, expire, answer)
        try:
            return await answer
        except TimeoutError:
            raise OutcomeUnknown("No answer came.", retry=True) from None
        finally:
            giving_up.cancel()

    async def watch(self, prefix: str) -> AsyncIterator[Event]:
        watch = Watch(self._etcd, self._host, self._process, self._batch)
        watch.due()
        try:
            while True:
                await watch.arrived.wait()
                watch.arrived.clear()
                for event in watch.take():
                    if event.entry.key.startswith(prefix) or not event.entry.key:
                        yield event
        finally:
            if watch in self._etcd.watches:
                self._etcd.watches.remove(watch)

    async def close(self) -> None:
        pass
