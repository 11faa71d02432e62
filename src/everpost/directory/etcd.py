"""The directory on etcd, through its JSON gateway over mutual TLS (etcd 3.4.23 to 3.5).

A transaction is sent once, to one member: whoever sends it decides what an unknown outcome means. Reads may try other
members. A watch is restarted from a fresh list whenever anything is odd about it (3.4 is known to lose events).
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp

from everpost.directory.interface import Entry, Event, EventKind, TxnResult
from everpost.errors import EverpostError, OutcomeUnknown, Unavailable

log = logging.getLogger(__name__)

ATTEMPT = 0.2
"""Seconds for one try of a transaction (decisions: Engines)."""
READ_ATTEMPT = 0.5
READ_LIMIT = 2.0
PAGE = 2000
AVOID = 1.0
"""Seconds during which a member that failed is not asked first."""
QUIET = 2.0
"""Seconds without an event after which a watch's member is asked whether it still answers."""
RELIST = 600.0


class WrongCluster(EverpostError):
    """A member answered that belongs to another history than the one this client began with."""


def _b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def _after(prefix: str) -> str:
    """The first key behind all keys with that prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _entry(kv: Mapping[str, Any]) -> Entry:
    key = base64.b64decode(kv["key"]).decode()
    return Entry(key, base64.b64decode(kv.get("value", "")), int(kv.get("mod_revision", 0)))


class EtcdDirectory:
    """`endpoints` are base URLs, the host's own member first. Satisfies `directory.interface.Directory`."""

    def __init__(self, endpoints: Sequence[str], context: ssl.SSLContext | None) -> None:
        self._endpoints = list(endpoints)
        self._context = context
        self._failed: dict[str, float] = {}
        self._session: aiohttp.ClientSession | None = None
        self._cluster: str | None = None

    def set_endpoints(self, endpoints: Sequence[str]) -> None:
        """The members changed."""
        if endpoints:
            self._endpoints = list(endpoints)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """In order of preference."""
        return tuple(self._endpoints)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30))
        return self._session

    def _choose(self) -> str:
        now = time.monotonic()
        for endpoint in self._endpoints:
            if now >= self._failed.get(endpoint, 0.0):
                return endpoint
        return min(self._endpoints, key=lambda endpoint: self._failed.get(endpoint, 0.0))

    def _avoid(self, endpoint: str) -> None:
        self._failed[endpoint] = time.monotonic() + AVOID

    async def _post(self, endpoint: str, path: str, body: Mapping[str, Any], limit: float) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=limit)
        ssl_context: ssl.SSLContext | bool = self._context if self._context is not None else True
        async with self._open().post(endpoint + path, json=body, ssl=ssl_context, timeout=timeout) as answer:
            found: dict[str, Any] = await answer.json(content_type=None)
            if answer.status != 200 or "error" in found:
                raise aiohttp.ClientPayloadError(str(found.get("error", answer.status)))
        cluster = found.get("header", {}).get("cluster_id")
        if cluster is not None:
            if self._cluster is None:
                self._cluster = cluster
            elif cluster != self._cluster:
                raise WrongCluster(
                    f"{endpoint} belongs to another cluster.", remedy="It was restored or belongs to somebody else."
                )
        return found

    async def call(self, path: str, body: Mapping[str, Any], *, limit: float = READ_LIMIT) -> dict[str, Any]:
        """A request that may be repeated at another member: reads, and questions about members."""
        end = time.monotonic() + limit
        error: Exception | None = None
        while time.monotonic() < end:
            endpoint = self._choose()
            try:
                found = await self._post(endpoint, path, body, min(READ_ATTEMPT, limit))
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as failed:
                error = failed
                self._avoid(endpoint)
                await asyncio.sleep(0.01)
            else:
                self._failed.pop(endpoint, None)
                return found
        raise Unavailable(
            f"The directory does not answer ({error or 'no member'}).", remedy="See whether a majority of voters runs."
        )

    async def ask(self, endpoint: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One question to one named member. Raises Unavailable."""
        try:
            return await self._post(endpoint, path, body, READ_ATTEMPT)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
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
            body: dict[str, Any] = {"key": _b64(start), "range_end": _b64(_after(prefix)), "limit": PAGE}
            if revision:
                body["revision"] = revision
            found = await self.call("/v3/kv/range", body)
            revision = revision or int(found["header"]["revision"])
            page = [_entry(kv) for kv in found.get("kvs", [])]
            entries += page
            if not found.get("more"):
                return entries, revision
            start = page[-1].key + "\0"

    async def txn(
        self,
        guards: Mapping[str, int],
        puts: Mapping[str, bytes | None],
        *,
        read_on_failure: tuple[str, ...] = (),
        attempt: float | None = None,
    ) -> TxnResult:
        body = {
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
        endpoint = self._choose()
        try:
            found = await self._post(endpoint, "/v3/kv/txn", body, attempt or ATTEMPT)
        except aiohttp.ClientConnectorError as error:
            self._avoid(endpoint)
            raise Unavailable(f"{endpoint} cannot be reached.", remedy="Another member is asked next.") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._avoid(endpoint)
            raise OutcomeUnknown(
                f"No answer from {endpoint} ({error or type(error).__name__}).",
                remedy="The change may or may not have happened.",
                retry=True,
            ) from error
        self._failed.pop(endpoint, None)
        revision = int(found["header"]["revision"])
        if found.get("succeeded"):
            return TxnResult(True, revision, {})
        current: dict[str, Entry | None] = {}
        for key, response in zip(read_on_failure, found.get("responses", []), strict=False):
            kvs = response.get("response_range", {}).get("kvs", [])
            current[key] = _entry(kvs[0]) if kvs else None
        return TxnResult(False, revision, current)

    async def watch(self, prefix: str) -> AsyncIterator[Event]:
        seen = 0
        while True:
            try:
                entries, revision = await self.list(prefix)
            except EverpostError:
                await asyncio.sleep(0.1)
                continue
            if revision < seen:
                continue  # a member that lags behind what was told already
            seen = revision
            yield Event(EventKind.RESET, Entry(prefix, b"", revision))
            for entry in entries:
                yield Event(EventKind.PUT, entry)
            yield Event(EventKind.SYNCED, Entry(prefix, b"", revision))
            try:
                async for event in self._events(prefix, revision + 1):
                    if event.entry.revision > seen or event.entry.revision == seen:
                        seen = max(seen, event.entry.revision)
                        yield event
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, EverpostError) as error:
                log.debug("watch of %s begins again: %s", prefix, error)
                await asyncio.sleep(0.02)

    async def _events(self, prefix: str, revision: int) -> AsyncIterator[Event]:
        endpoint = self._choose()
        body = {
            "create_request": {
                "key": _b64(prefix),
                "range_end": _b64(_after(prefix)),
                "start_revision": str(revision),
            }
        }
        ssl_context: ssl.SSLContext | bool = self._context if self._context is not None else True
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=READ_ATTEMPT)
        end = time.monotonic() + RELIST
        try:
            async with self._open().post(
                endpoint + "/v3/watch",
                json=body,
                ssl=ssl_context,
                timeout=timeout,
                headers={"Grpc-Metadata-hasleader": "true"},
                read_bufsize=16 * 1024 * 1024,
            ) as answer:
                while time.monotonic() < end:
                    line = await self._line(answer, endpoint)
                    message = json.loads(line)
                    if "error" in message:
                        raise ValueError(str(message["error"]))
                    result = message["result"]
                    if result.get("canceled"):
                        raise ValueError(f"canceled {result.get('cancel_reason', '')}")
                    for event in result.get("events", []):
                        kind = EventKind.DELETE if event.get("type") == "DELETE" else EventKind.PUT
                        yield Event(kind, _entry(event["kv"]))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            self._avoid(endpoint)
            raise

    async def _line(self, answer: aiohttp.ClientResponse, endpoint: str) -> bytes:
        """The next message; while it is quiet the member is asked whether it is still there and has a leader."""
        read = asyncio.ensure_future(answer.content.readline())
        try:
            while True:
                done, _ = await asyncio.wait({read}, timeout=QUIET)
                if done:
                    line = read.result()
                    if not line:
                        raise aiohttp.ClientPayloadError("the watch ended")
                    return line
                await self._post(endpoint, "/v3/kv/range", {"key": _b64("/"), "count_only": True}, 1.0)
        finally:
            if not read.done():
                read.cancel()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
