"""Deliveries in groups: while one transaction commits, the next group collects (one commit, many messages)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from everpost.store.interface import Delivery
from everpost.store.sessions import Connection, Databases
from everpost.wire.mime import summarize

CHUNK = 512 * 1024
"""Bytes of a row of a body: bounds memory, as drivers hold a whole value."""
GROUP_MESSAGES = 200
GROUP_BYTES = 8 * 1024 * 1024
GROUPS = 2
"""Transactions of one database under way at a time from one process: one commits while another one writes."""


def columns(raws: Sequence[bytes]) -> tuple[list[Any], ...]:
    """Messages as arrays for the SQL functions: sizes, headers, envelopes, bodies, bodystructures, structures,
    chunk_of (1-based), chunk_data."""
    sizes: list[Any] = []
    headers: list[Any] = []
    envelopes: list[Any] = []
    bodies: list[Any] = []
    bodystructures: list[Any] = []
    structures: list[Any] = []
    chunk_of: list[Any] = []
    chunk_data: list[Any] = []
    for number, raw in enumerate(raws, 1):
        summary = summarize(raw)
        sizes.append(summary.size)
        headers.append(raw[: summary.header_size])
        envelopes.append(summary.envelope)
        bodies.append(summary.body)
        bodystructures.append(summary.bodystructure)
        structures.append(summary.structure)
        for start in range(0, len(raw), CHUNK):
            chunk_of.append(number)
            chunk_data.append(raw[start : start + CHUNK])
    return sizes, headers, envelopes, bodies, bodystructures, structures, chunk_of, chunk_data


class _Waiting:
    def __init__(self, deliveries: Sequence[Delivery], packed: tuple[list[Any], ...]) -> None:
        self.deliveries = deliveries
        self.packed = packed
        self.size = sum(packed[0])
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


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
        """Returns when all are acknowledged. A caller that gives up leaves the delivery under way: it is repeated by
        nobody, and harmless if the client repeats it under the same ids."""
        raws = [delivery.raw for delivery in deliveries]
        big = sum(map(len, raws)) > 256 * 1024
        packed = await asyncio.to_thread(columns, raws) if big else columns(raws)
        waiting = _Waiting(deliveries, packed)
        self._waiting.append(waiting)
        self._start(deadline)
        await asyncio.shield(waiting.done)

    def _start(self, deadline: float | None) -> None:
        if self._running < GROUPS and self._waiting:
            group: list[_Waiting] = []
            size = 0
            while self._waiting and len(group) < GROUP_MESSAGES and (not group or size < GROUP_BYTES):
                group.append(self._waiting.pop(0))
                size += group[-1].size
            self._running += 1
            task = asyncio.create_task(self._run(group, deadline))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, group: list[_Waiting], deadline: float | None) -> None:
        try:
            touched = await self._databases.run(self._database, self._work(group), write=True, deadline=deadline)
        except Exception as error:
            for one in group:
                if not one.done.done():
                    one.done.set_exception(error)
                    one.done.exception()  # its waiter may have gone: that is no unhandled error
        else:
            for folder in set(touched):
                self._touch(self._database, folder)
            for one in group:
                if not one.done.done():
                    one.done.set_result(None)
        finally:
            self._running -= 1
            self._start(deadline)

    def _work(self, group: list[_Waiting]) -> Callable[[Connection], Any]:
        deliveries = [delivery for one in group for delivery in one.deliveries]
        merged: list[list[Any]] = [[] for _ in range(8)]
        base = 0
        for one in group:
            for column, values in zip(merged[:6], one.packed[:6], strict=True):
                column += values
            merged[6] += [base + owner for owner in one.packed[6]]
            merged[7] += one.packed[7]
            base += len(one.packed[0])
        now = datetime.now(UTC)
        arguments = [
            [delivery.operation_id for delivery in deliveries],
            [delivery.mailbox.guid for delivery in deliveries],
            [delivery.internal_date or now for delivery in deliveries],
            *merged,
        ]

        async def work(connection: Connection) -> list[int]:
            sql = "select everpost_mail.deliver($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
            touched: list[int] = await connection.fetchval(sql, *arguments)
            return touched

        return work
