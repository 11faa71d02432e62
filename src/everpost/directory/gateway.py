"""etcd's JSON gateway: one HTTPS request to one member, and which member to ask.

Integers of 64 bits are strings, keys and values base64, false and zero fields are left out (etcd 3.4 gateway).
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from everpost.errors import Unavailable

READ_ATTEMPT = 0.5
AVOID = (0.5, 1.0, 2.0, 4.0)
"""Seconds during which a member that failed once, twice, ... in a row is not asked first."""
CONNECT_SHARE = 0.8
"""Of an attempt's time: a connection that takes longer is given up, and then surely nothing was sent."""
BUFFER = 16 * 1024 * 1024
"""Bytes of one watch message: a transaction of many documents comes as one."""

_DEFINITE = frozenset({3, 5, 6, 7, 8, 9, 11, 12, 16})
"""gRPC codes with which nothing was written (invalid, not found, exists, denied, no space, precondition, compacted)."""
_MEMBERSHIP = ("unhealthy cluster", "too many learner")
"""Refused changes of membership carry a code that otherwise means that the member is not available."""


class Declined(Unavailable):
    """A member understood the request and declined it; nothing was written."""


class WrongCluster(Unavailable):
    """A member answered that belongs to another history than the one this client began with; nothing was written in
    ours."""


class MemberError(Exception):
    """A member answered that it cannot serve now; whether a change happened is not known."""


CONNECT_ERRORS = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""The request was not sent."""
MEMBER_ERRORS = (
    MemberError,
    WrongCluster,
    aiohttp.ClientError,
    TimeoutError,
    OSError,
    ValueError,
    KeyError,
    RuntimeError,  # aiohttp's word for reading on from a connection that was closed at this moment
)
"""Another member should be asked."""


def _failure(error: object, status: int) -> Exception:
    """What an error answer means. In streams the fields have other names than in answers."""
    fields = error if isinstance(error, dict) else {}
    text = str(fields.get("message") or fields.get("error") or error or f"status {status}")
    code = int(fields.get("code") or fields.get("grpc_code") or 0)
    if code in _DEFINITE or any(word in text for word in _MEMBERSHIP):
        remedy = "Compact and defragment etcd, then disarm its alarm." if "space exceeded" in text else ""
        return Declined(f"The directory declined: {text}.", remedy=remedy, retry=False)
    return MemberError(text)


class Gateway:
    """Requests to members, the preferred one first; who failed lately is asked last."""

    def __init__(self, endpoints: Sequence[str], context: ssl.SSLContext | None, cluster_id: str | None) -> None:
        self._endpoints = list(endpoints)
        self._context: ssl.SSLContext | bool = context if context is not None else True
        self._failures: dict[str, tuple[int, float]] = {}
        self._session: aiohttp.ClientSession | None = None
        self.cluster_id = cluster_id

    def set_endpoints(self, endpoints: Sequence[str]) -> None:
        """The members changed. An empty list changes nothing: there is always somebody to ask."""
        if endpoints:
            self._endpoints = list(dict.fromkeys(endpoints))
            self._failures = {one: found for one, found in self._failures.items() if one in self._endpoints}

    @property
    def endpoints(self) -> tuple[str, ...]:
        """In order of preference."""
        return tuple(self._endpoints)

    def choose(self) -> str:
        """The first member that did not fail lately, else the one whose failure is longest ago."""
        if not self._endpoints:
            raise Unavailable("No member of the directory is known.", remedy="Join this host with a token.")
        now = time.monotonic()
        for endpoint in self._endpoints:
            count, at = self._failures.get(endpoint, (0, 0.0))
            if not count or now >= at + AVOID[min(count, len(AVOID)) - 1]:
                return endpoint
        return min(self._endpoints, key=lambda endpoint: self._failures[endpoint][1])

    def failed(self, endpoint: str) -> None:
        """It did not answer as it should."""
        count, _ = self._failures.get(endpoint, (0, 0.0))
        if endpoint in self._endpoints:
            self._failures[endpoint] = (count + 1, time.monotonic())

    def worked(self, endpoint: str) -> None:
        """It answered."""
        self._failures.pop(endpoint, None)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30))
        return self._session

    async def post(self, endpoint: str, path: str, body: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """One request, never repeated here. Raises CONNECT_ERRORS, Declined, or others of MEMBER_ERRORS."""
        timeout = aiohttp.ClientTimeout(total=limit, sock_connect=limit * CONNECT_SHARE)
        async with self._open().post(endpoint + path, json=body, ssl=self._context, timeout=timeout) as answer:
            found = await answer.json(content_type=None)
            if not isinstance(found, dict) or answer.status != 200 or "error" in found:
                raise _failure(found, answer.status)
        self._belongs(endpoint, found)
        return found

    def _belongs(self, endpoint: str, found: Mapping[str, Any]) -> None:
        cluster = found.get("header", {}).get("cluster_id")
        if cluster is None or cluster == self.cluster_id:
            return
        if self.cluster_id is not None:
            raise WrongCluster(
                f"{endpoint} belongs to another cluster.", remedy="It was restored or belongs to somebody else."
            )
        self.cluster_id = cluster

    @asynccontextmanager
    async def stream(self, endpoint: str, path: str, body: Mapping[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request whose answer is lines without end. It ends 2 s after the member lost its leader (`hasleader`)."""
        async with self._open().post(
            endpoint + path,
            json=body,
            ssl=self._context,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=READ_ATTEMPT),
            headers={"Grpc-Metadata-hasleader": "true"},
            read_bufsize=BUFFER,
        ) as answer:
            _keep_alive(answer)
            yield answer

    def message(self, endpoint: str, line: bytes) -> dict[str, Any]:
        """One line of a watch. Raises Declined if the watch was cancelled, as after a compaction."""
        found = json.loads(line)
        if "error" in found:
            raise _failure(found["error"], 200)
        result: dict[str, Any] = found["result"]
        self._belongs(endpoint, result)
        if result.get("canceled"):
            reason = result.get("cancel_reason") or f"compacted up to {result.get('compact_revision', '?')}"
            raise Declined(f"The watch was cancelled: {reason}.", retry=True)
        return result

    async def close(self) -> None:
        """Release connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _keep_alive(answer: aiohttp.ClientResponse) -> None:
    """Let the kernel notice a peer that vanished behind a connection on which we only read."""
    connection = answer.connection
    transport = connection.transport if connection is not None else None
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is None:
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3)):
        found.setsockopt(socket.IPPROTO_TCP, option, value)
