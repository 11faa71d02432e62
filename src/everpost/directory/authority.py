"""A role's view of who may serve (`model.authority.Authority`): the shared page, the locations, and confirmation."""

from __future__ import annotations

import asyncio
import ssl
import time

import aiohttp
from yarl import URL

from everpost.directory.page import SharedPage
from everpost.directory.schema import OrganizationView
from everpost.model.authority import NotConfirmed
from everpost.model.database import Location, LocationState

CONFIRM_LIMIT = 2.0
"""Seconds after which a commit whose confirmation did not come is of unknown outcome."""


class _Round:
    """One question to an agent, shared by all commits that returned before it was sent."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def end(self, confirmed: bool) -> None:
        """The answer came, or never will."""
        if not self.answer.done():
            self.answer.set_result(confirmed)


_TENURE = ("", 0)
"""The key of the question for this host's tenure itself."""


class RoleAuthority:
    """One per role process. `wake` must be called when the organisation's view changed. `strict_reads`: what leaves
    this host is covered by a renewal that was sent after it was computed (3.8)."""

    def __init__(
        self,
        me: str,
        page: SharedPage,
        organization: OrganizationView,
        context: ssl.SSLContext,
        *,
        strict_reads: bool = False,
    ) -> None:
        self._me = me
        self._page = page
        self._organization = organization
        self._context = context
        self._strict_reads = strict_reads
        self._session: aiohttp.ClientSession | None = None
        self._changed: asyncio.Event = asyncio.Event()
        self._waiting: dict[tuple[str, int], _Round] = {}
        self._busy: set[tuple[str, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def serving(self) -> bool:
        """This host's tenure, by the page."""
        return self._page.serving()

    def tenure_epoch(self) -> int:
        """Which tenure of this host it is; a reply computed under another one is never sent."""
        return self._page.epoch

    async def cover(self) -> bool:
        """Whether what was computed before this call may be shown: with `strict_reads`, once a renewal that was sent
        after the call is confirmed. The page alone cannot tell a host whose clock stood still with it."""
        return not self._strict_reads or await self._shared(*_TENURE, self._me)

    def location(self, database: str) -> Location | None:
        """The last location seen."""
        found = self._organization.locations.get(database)
        return found[0] if found is not None else None

    def endpoint(self, database: str) -> tuple[str, int] | None:
        """Address and port of the open active copy."""
        location = self.location(database)
        row = self._organization.databases.get(database)
        if location is None or row is None or location.state not in (LocationState.OPEN, LocationState.MOVING):
            return None
        server = self._organization.servers.get(location.active)
        return None if server is None else (server.address, server.ports.postgres + row.number)

    def wake(self) -> None:
        """Something under the watched prefixes changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def location_changed(self, database: str, seen: Location | None, timeout: float) -> Location | None:
        """Until the location differs from `seen`, at most `timeout` seconds."""
        end = time.monotonic() + timeout
        while (location := self.location(database)) == seen:
            left = end - time.monotonic()
            if left <= 0:
                break
            changed = self._changed
            try:
                async with asyncio.timeout(left):
                    await changed.wait()
            except TimeoutError:
                break
        return location

    async def confirm(self, database: str, location: Location) -> None:
        """See `model.authority`. On the active's own host the page is read; elsewhere its agent is asked."""
        epoch = location.token.epoch
        row = self._organization.databases.get(database)
        if row is None:
            raise NotConfirmed(f"{database} is not known any more.")
        if location.active == self._me:
            open_epoch, single = self._page.database(row.number)
            if open_epoch != epoch or not self._page.serving():
                raise NotConfirmed(f"{database} is not open here at epoch {epoch} any more.", retry=True)
            if not single:
                return
        if not await self._shared(database, epoch, location.active):
            raise NotConfirmed(f"{location.active} did not confirm a commit to {database}.", retry=True)

    async def _shared(self, database: str, epoch: int, server: str) -> bool:
        key = (database, epoch)
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = _Round()
            if key not in self._busy:
                self._busy.add(key)
                task = asyncio.create_task(self._ask_rounds(key, server))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(waiting.answer)

    async def _ask_rounds(self, key: tuple[str, int], server: str) -> None:
        current: _Round | None = None
        try:
            while (current := self._waiting.pop(key, None)) is not None:
                # Popped before it is sent: whoever comes from here on waits for the next round.
                current.end(await self._ask(server, *key))
        finally:
            # Ended early, by `close` or by a fault: whoever waits learns that nothing is confirmed.
            for left in (current, self._waiting.pop(key, None)):
                if left is not None:
                    left.end(False)
            self._busy.discard(key)

    async def _ask(self, server: str, database: str, epoch: int) -> bool:
        host = self._organization.servers.get(server)
        if host is None:
            return False
        if self._session is None:
            self._session = aiohttp.ClientSession()
        path = "/v1/cover" if (database, epoch) == _TENURE else "/v1/confirm"
        url = URL.build(scheme="https", host=host.address, port=host.ports.agent, path=path)
        timeout = aiohttp.ClientTimeout(total=CONFIRM_LIMIT)
        try:
            async with self._session.post(
                url, json={"database": database, "epoch": epoch}, ssl=self._context, timeout=timeout
            ) as answer:
                body = await answer.json() if answer.status == 200 else None
                return isinstance(body, dict) and body.get("confirmed") is True
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RuntimeError):
            return False

    async def close(self) -> None:
        """End what is asked, unconfirmed, and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
