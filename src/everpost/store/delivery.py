"""Deliveries in groups: while one transaction commits, the next group collects (one commit, many messages)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from everpost.store.interface import Delivery, StoreUnavailable
from everpost.store.sessions import Connection, Databases, remaining
from everpost.wire.mime import summarize

CHUNK = 512 * 1024
"""Bytes of a row of a body: bounds memory, as drivers hold a whole value."""
GROUP_MESSAGES = 200
GROUP_BYTES = 8 * 1024 * 1024
GROUPS = 2
"""Transactions of one database under way at a time from one process: one commits while another one writes."""
OFF_LOOP = 256 * 1024
"""Bytes from which a scan is done in a thread, so that it does not hold up other connections."""

_DELIVER = "select everpost_mail.deliver($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"


class Packed:
    """Messages as the SQL functions take them, one list per column.

    `content_of` has an entry per message: the number (from 1) of its content. The same bytes object given twice, as for
    many recipients of one message, is one content. `sizes` to `structures` have an entry per content, the others one
    per piece of what follows the header.
    """

    def __init__(self) -> None:
        self.content_of: list[int] = []
        self.sizes: list[int] = []
        self.headers: list[bytes] = []
        self.envelopes: list[bytes] = []
        self.bodies: list[bytes] = []
        self.bodystructures: list[bytes] = []
        self.structures: list[bytes] = []
        self.chunk_of: list[int] = []
        self.chunk_n: list[int] = []
        self.chunk_data: list[bytes] = []

    def columns(self) -> list[list[Any]]:
        """In the order of the SQL functions' arguments."""
        return [
            self.content_of,
            self.sizes,
            self.headers,
            self.envelopes,
            self.bodies,
            self.bodystructures,
            self.structures,
            self.chunk_of,
            self.chunk_n,
            self.chunk_data,
        ]

    def add(self, other: Packed) -> None:
        """Append the messages of another one."""
        base = len(self.sizes)
        for mine, theirs in zip(self.columns(), other.columns(), strict=True):
            numbered = theirs is other.content_of or theirs is other.chunk_of
            mine += [base + number for number in theirs] if numbered else theirs


def pack(raws: Sequence[bytes]) -> Packed:
    """Scan messages."""
    packed = Packed()
    known: dict[int, int] = {}
    for raw in raws:
        number = known.get(id(raw))
        if number is None:
            number = known[id(raw)] = len(packed.sizes) + 1
            summary = summarize(raw)
            packed.sizes.append(summary.size)
            packed.headers.append(raw[: summary.header_size])
            packed.envelopes.append(summary.envelope)
            packed.bodies.append(summary.body)
            packed.bodystructures.append(summary.bodystructure)
            packed.structures.append(summary.structure)
            for n, start in enumerate(range(summary.header_size, len(raw), CHUNK)):
                packed.chunk_of.append(number)
                packed.chunk_n.append(n)
                packed.chunk_data.append(raw[start : start + CHUNK])
        packed.content_of.append(number)
    return packed


async def pack_aside(raws: Sequence[bytes]) -> Packed:
    """`pack`, in a thread if it takes long."""
    if sum(map(len, raws)) > OFF_LOOP:
        return await asyncio.to_thread(pack, raws)
    return pack(raws)


class _Waiting:
    """One caller's deliveries."""

    def __init__(self, deliveries: Sequence[Delivery], packed: Packed, deadline: float | None) -> None:
        self.deliveries = deliveries
        self.packed = packed
        self.deadline = deadline
        self.size = sum(packed.sizes)
        self.left = False
        """The caller was told that nothing is certain and may send the message again: not tried any more."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self, error: BaseException | None) -> None:
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)
                self.done.exception()  # its caller may have gone: that is no unhandled error


class Batcher:
    """Groups the deliveries of one database."""

    def __init__(self, database: str, databases: Databases, touch: Callable[[str, int], None]) -> None:
        self._database = database
        self._databases = databases
        self._touch = touch
        self._waiting: list[_Waiting] = []
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def deliver(self, deliveries: Sequence[Delivery], deadline: float | None) -> None:
        """Returns when all are acknowledged. Raises StoreUnavailable at the deadline: what was sent by then may have
        happened; it is not sent again, as the caller's client will do that."""
        packed = await pack_aside([delivery.raw for delivery in deliveries])
        one = _Waiting(deliveries, packed, deadline)
        self._waiting.append(one)
        self._start()
        try:
            done, _ = await asyncio.wait({one.done}, timeout=remaining(deadline))
        finally:
            if not one.done.done():
                one.left = True
                if one in self._waiting:
                    self._waiting.remove(one)
        if not done:
            raise StoreUnavailable(f"{self._database} is not available just now.", remedy="Try again in a moment.")
        one.done.result()

    def _start(self) -> None:
        if self._running < GROUPS and self._waiting:
            group: list[_Waiting] = []
            messages = size = 0
            while self._waiting and messages < GROUP_MESSAGES and size < GROUP_BYTES:
                one = self._waiting.pop(0)
                messages += len(one.deliveries)
                size += one.size
                group.append(one)
            self._running += 1
            task = asyncio.create_task(self._run(group))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, group: list[_Waiting]) -> None:
        try:
            await self._commit(group)
        finally:
            self._running -= 1
            self._start()

    async def _commit(self, group: list[_Waiting]) -> None:
        """One transaction. If the store refuses it, each caller's deliveries are tried alone: one bad message must not
        take others with it."""
        deadlines = [one.deadline for one in group if one.deadline is not None]
        latest = max(deadlines) if len(deadlines) == len(group) else None
        try:
            touched = await self._databases.run(self._database, self._work(group), write=True, deadline=latest)
        except StoreUnavailable as error:
            for one in group:
                one.end(error)
        except Exception as error:
            if len(group) == 1:
                group[0].end(error)
            else:
                for one in group:
                    await self._commit([one])
        else:
            for folder in touched:
                self._touch(self._database, folder)
            for one in group:
                one.end(None)

    def _work(self, group: list[_Waiting]) -> Callable[[Connection], Any]:
        now = datetime.now(UTC)

        async def work(connection: Connection) -> list[int]:
            staying = [one for one in group if not one.left]
            if not staying:
                return []
            touched: list[int] = await connection.fetchval(_DELIVER, *_arguments(staying, now))
            return touched

        return work


def _arguments(group: list[_Waiting], now: datetime) -> list[Any]:
    deliveries = [delivery for one in group for delivery in one.deliveries]
    merged = Packed()
    for one in group:
        merged.add(one.packed)
    return [
        [delivery.operation_id for delivery in deliveries],
        [delivery.mailbox.guid for delivery in deliveries],
        [delivery.internal_date or now for delivery in deliveries],
        *merged.columns(),
    ]
