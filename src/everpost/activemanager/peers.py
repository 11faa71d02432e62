"""Calls from one agent to another: HTTP and JSON over mutual TLS on the agents' port."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import aiohttp

from everpost.errors import EverpostError, NotFound, Refused, Unavailable
from everpost.model.server import Server, https


class Agents:
    """Finds a server's agent by the organisation's documents and calls it. One connection pool for all."""

    def __init__(self, find: Callable[[str], Server | None], context: ssl.SSLContext) -> None:
        self._find = find
        self._ssl = context
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self, server: str, method: str, path: str, json: Any = None, *, timeout: float = 2.0
    ) -> dict[str, Any]:
        """The JSON answer. Raises NotFound for a server nobody knows, Unavailable when its agent does not answer
        within `timeout` seconds, Refused with the agent's own words when it declines."""
        host = self._find(server)
        if host is None:
            raise NotFound(f"There is no server {server}.", remedy="Get-ExchangeServer lists the servers.")
        if self._session is None:
            self._session = aiohttp.ClientSession()
        url = https(host.address, host.ports.agent) + path
        limit = aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, 1.0))
        try:
            async with self._session.request(method, url, json=json, ssl=self._ssl, timeout=limit) as answer:
                body: dict[str, Any] = await answer.json()
                if answer.status >= 400:
                    raise Refused(str(body.get("error", answer.reason)), remedy=str(body.get("remedy", "")))
                return body
        except EverpostError:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RuntimeError) as error:
            raise Unavailable(
                f"The agent of {server} does not answer ({type(error).__name__}).",
                remedy=f"See whether {server} runs and can be reached.",
            ) from error

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
