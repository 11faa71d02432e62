"""The directory on etcd, through its JSON gateway over mutual TLS (etcd 3.4.23 to 3.5).

A transaction is sent once, to one member: whoever sends it decides what an unknown outcome means. Reads may try other
members. A watch is restarted from a fresh list whenever anything is odd about it (3.4 is known to lose events).
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import aiohttp

from everpost.directory.gateway import (
    CONNECT_ERRORS,
    MEMBER_ERRORS,
    READ_ATTEMPT,
    Declined,
    Gateway,
    WrongCluster,
)
from everpost.directory.interface import Entry, Event, EventKind, TxnResult
from everpost.errors import EverpostError, OutcomeUnknown, Unavailable

__all__ = ["Declined", "EtcdDirectory", "WrongCluster"]

log = logging.getLogger(__name__)

TXN = "/v3/kv/txn"
ATTEMPT = 0.2
"""Seconds for one try of a transaction (decisions: Engines)."""
LATE = 2.0
"""Seconds for which an answer is listened to where one that comes late is of use."""
READ_LIMIT = 2.0
PAGE = 2000
QUIET = 2.0
"""Seconds without an event after which a watch's member is asked whether it still answers."""
PROBE = 1.0
RELIST = 600.0
"""Seconds after which a watch begins anew, quiet or not: 3.4 may have lost an event."""


def _b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def _after(prefix: str) -> str:
    """The first key behind all keys with that prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _entry(kv: Mapping[str, Any]) -> Entry:
    key = base64.b64decode(kv["key"]).decode()
    return Entry(key, base64.b64decode(kv.get("value", "")), int(kv.get("mod_revision", 0)))


class _Order:
    """Which events of a watch are new: revisions only grow, and one revision changes a key once. 3.4.23 may repeat
    events, and may go back in time after a member took a snapshot."""

    def __init__(self, revision: int) -> None:
        self._revision = revision
        self._keys: set[str] | None = None

    def new(self, entry: Entry) -> bool:
        if entry.revision < self._revision:
            return False
        if entry.revision > self._revision:
            self._revision = entry.revision
            self._keys = set()
        if self._keys is None or entry.key in self._keys:
            return False
        self._keys.add(entry.key)
        return True


class EtcdDirectory:
    """`endpoints` are base URLs, the host's own member first. Satisfies `directory.interface.Directory`.

    `cluster_id` pins the history that this client belongs to; without it the first answer does.
    """

    def __init__(
        self, endpoints: Sequence[str], context: ssl.SSLContext | None, *, cluster_id: str | None = None
    ) -> None:
        self._gateway = Gateway(endpoints, context, cluster_id)
        self.relist = RELIST
        self._listening: set[asyncio.Task[dict[str, Any]]] = set()

    def set_endpoints(self, endpoints: Sequence[str]) -> None:
        """The members changed."""
        self._gateway.set_endpoints(endpoints)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """In order of preference."""
        return self._gateway.endpoints

    @property
    def cluster_id(self) -> str | None:
        """Which history this client belongs to, once a member answered."""
        return self._gateway.cluster_id

    async def call(self, path: str, body: Mapping[str, Any], *, limit: float = READ_LIMIT) -> dict[str, Any]:
        """A request that may be repeated at another member: reads, and questions about members. Raises Declined if a
        member understood and declined, Unavailable if none answered within `limit` seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        error: Exception | None = None
        while (left := end - loop.time()) > 0:
            endpoint = self._gateway.choose()
            try:
                found = await self._gateway.post(endpoint, path, body, min(READ_ATTEMPT, left))
            except MEMBER_ERRORS as failed:
                if not isinstance(error, WrongCluster):  # the last try may have had a moment only, and says nothing
                    error = failed
                self._gateway.failed(endpoint)
                await asyncio.sleep(0.01)
            else:
                self._gateway.worked(endpoint)
                return found
        if isinstance(error, WrongCluster):
            raise error
        raise Unavailable(
            f"The directory does not answer ({error or type(error).__name__}).",
            remedy="See whether a majority of voters runs.",
        )

    async def ask(self, endpoint: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One question to one named member. Raises Unavailable."""
        try:
            return await self._gateway.post(endpoint, path, body, READ_ATTEMPT)
        except WrongCluster:
            raise
        except MEMBER_ERRORS as error:
            raise Unavailable(f"{endpoint} does not answer ({error or type(error).__name__}).") from error

    async def get(self, key: str) -> Entry | None:
        found = await self.call("/v3/kv/range", {"key": _b64(key)})
        kvs = found.get("kvs", [])
        return _entry(kvs[0]) if kvs else None

    async def list(self, prefix: str) -> tuple[list[Entry], int]:
        entries: list[Entry] = []
        revision = 0
        start = prefix
        while True:
            body: dict[str, Any] = {"key": _b64(start), "range_end": _b64(_after(prefix)), "limit": str(PAGE)}
            if revision:
                body["revision"] = str(revision)
            found = await self.call("/v3/kv/range", body)
            revision = revision or int(found["header"]["revision"])
            page = [_entry(kv) for kv in found.get("kvs", [])]
            entries += page
            if not found.get("more") or not page:
                return entries, revision
            start = page[-1].key + "\0"

    async def txn(
        self,
        guards: Mapping[str, int],
        puts: Mapping[str, bytes | None],
        *,
        read_on_failure: tuple[str, ...] = (),
        attempt: float | None = None,
        late: Callable[[TxnResult], object] | None = None,
    ) -> TxnResult:
        endpoint, limit = self._gateway.choose(), attempt or ATTEMPT
        body = _transaction(guards, puts, read_on_failure)
        try:
            if late is None:
                found = await self._gateway.post(endpoint, TXN, body, limit)
            else:
                found = await self._listen(endpoint, body, limit, lambda found: late(_result(found, read_on_failure)))
        except (Declined, WrongCluster) as error:
            if isinstance(error, WrongCluster):
                self._gateway.failed(endpoint)
            raise  # nothing was written in our history
        except CONNECT_ERRORS as error:
            self._gateway.failed(endpoint)
            raise Unavailable(f"{endpoint} cannot be reached.", remedy="Another member is asked next.") from error
        except MEMBER_ERRORS as error:
            self._gateway.failed(endpoint)
            raise OutcomeUnknown(
                f"No answer from {endpoint} ({error or type(error).__name__}).",
                remedy="The change may or may not have happened.",
                retry=True,
            ) from error
        self._gateway.worked(endpoint)
        return _result(found, read_on_failure)

    async def _listen(
        self, endpoint: str, body: Mapping[str, Any], limit: float, late: Callable[[dict[str, Any]], object]
    ) -> dict[str, Any]:
        """The answer, if it comes within `limit` seconds; else TimeoutError, and one that comes within LATE is told to
        `late`. Its connection is kept that long: on a bad line that is what TCP needs to send again."""
        sent = asyncio.create_task(self._gateway.post(endpoint, TXN, body, LATE))
        self._listening.add(sent)

        def came(task: asyncio.Task[dict[str, Any]]) -> None:
            self._listening.discard(task)
            if not task.cancelled() and task.exception() is None and given_up:
                self._gateway.worked(endpoint)
                late(task.result())

        given_up = False
        sent.add_done_callback(came)
        try:
            await asyncio.wait({sent}, timeout=limit)
        finally:
            given_up = not sent.done()
        if given_up:
            raise TimeoutError
        return sent.result()

    async def watch(self, prefix: str) -> AsyncIterator[Event]:
        seen = 0
        while True:
            try:
                entries, revision = await self.list(prefix)
            except EverpostError as error:
                log.debug("the list of %s is tried again: %s", prefix, error)
                await asyncio.sleep(0.1)
                continue
            if revision < seen:  # never show a state older than what was told already
                await asyncio.sleep(0.1)
                continue
            seen = revision
            yield Event(EventKind.RESET, Entry(prefix, b"", revision))
            for entry in entries:
                yield Event(EventKind.PUT, entry)
            yield Event(EventKind.SYNCED, Entry(prefix, b"", revision))
            order = _Order(revision)
            try:
                async with aclosing(self._events(prefix, revision + 1)) as events:
                    async for event in events:
                        if order.new(event.entry):
                            seen = event.entry.revision
                            yield event
            except (*MEMBER_ERRORS, EverpostError) as error:
                log.debug("the watch of %s begins again: %s", prefix, error or type(error).__name__)
                await asyncio.sleep(0.02)

    async def _events(self, prefix: str, revision: int) -> AsyncGenerator[Event, None]:
        """Changes from `revision` on, until the stream ends or it is time to list again."""
        endpoint = self._gateway.choose()
        request = {"key": _b64(prefix), "range_end": _b64(_after(prefix)), "start_revision": str(revision)}
        loop = asyncio.get_running_loop()
        end = loop.time() + self.relist
        try:
            async with self._gateway.stream(endpoint, "/v3/watch", {"create_request": request}) as answer:
                while (left := end - loop.time()) > 0:
                    line = await self._line(answer, endpoint, left)
                    if line is None:
                        return
                    for event in self._gateway.message(endpoint, line).get("events", []):
                        kind = EventKind.DELETE if event.get("type") == "DELETE" else EventKind.PUT
                        yield Event(kind, _entry(event["kv"]))
        except MEMBER_ERRORS:
            self._gateway.failed(endpoint)
            raise

    async def _line(self, answer: aiohttp.ClientResponse, endpoint: str, left: float) -> bytes | None:
        """The next message, None after `left` seconds; while it is quiet the member is asked whether it is still there
        and has a leader."""
        loop = asyncio.get_running_loop()
        end = loop.time() + left
        read = asyncio.ensure_future(answer.content.readline())
        try:
            while True:
                done, _ = await asyncio.wait({read}, timeout=min(QUIET, end - loop.time()))
                if done:
                    line = read.result()
                    if not line:
                        raise aiohttp.ClientPayloadError("the watch ended")
                    return line
                if loop.time() >= end:
                    return None
                await self._gateway.post(endpoint, "/v3/kv/range", {"key": _b64("/"), "count_only": True}, PROBE)
        finally:
            if not read.done():
                read.cancel()

    async def close(self) -> None:
        for sent in self._listening:
            sent.cancel()
        await self._gateway.close()


def _result(found: Mapping[str, Any], read_on_failure: tuple[str, ...]) -> TxnResult:
    revision = int(found["header"]["revision"])
    if found.get("succeeded"):
        return TxnResult(True, revision, {})
    current: dict[str, Entry | None] = {}
    for key, response in zip(read_on_failure, found.get("responses", []), strict=False):
        kvs = response.get("response_range", {}).get("kvs", [])
        current[key] = _entry(kvs[0]) if kvs else None
    return TxnResult(False, revision, current)


def _transaction(
    guards: Mapping[str, int], puts: Mapping[str, bytes | None], read_on_failure: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "compare": [
            {"key": _b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}
            for key, revision in guards.items()
        ],
        "success": [
            {"request_delete_range": {"key": _b64(key)}}
            if value is None
            else {"request_put": {"key": _b64(key), "value": _b64(value)}}
            for key, value in puts.items()
        ],
        "failure": [{"request_range": {"key": _b64(key)}} for key in read_on_failure],
    }
