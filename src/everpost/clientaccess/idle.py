"""IDLE (RFC 2177): tell what happens, as it happens, for as long as the client likes and wherever the database goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from everpost.clientaccess.session import Session
from everpost.wire.imap import commands, respond
from everpost.wire.imap.grammar import BadSyntax

STILL_HERE = 120.0
"""Seconds between signs of life: routers forget quiet connections (findings: H4)."""
LOOK = 30.0
"""Seconds between looks at the folder when nothing wakes it: a wake-up may be lost, a look may not (findings: H8)."""


async def on_idle(session: Session, request: commands.Simple) -> bytes:
    """Ends with DONE; commands that came behind it in the same packet are answered next (findings: C1)."""
    session.say(respond.continuation(b"Idling"))
    await session.flush()
    done = asyncio.ensure_future(session.line(None))
    watch = _Watch(session)
    try:
        said = session.services.clock.boottime()
        while not done.done():
            await watch.step(done)
            if done.done():
                break
            told = await watch.tell()
            now = session.services.clock.boottime()
            if not told and now - said >= STILL_HERE:
                await session.begin()
                session.say(respond.untagged(b"OK Still here"))
                told = await session.flush()
            said = now if told else said
    finally:
        await watch.close()
        if not done.done():
            done.cancel()
            await asyncio.wait([done])
    await session.begin()
    if done.result().strip().upper() != b"DONE":
        raise BadSyntax("DONE ends IDLE")
    return b"IDLE done"


class _Watch:
    """Waits for wake-ups (the first one comes at once) and looks at the folder; a look may take long while the
    database moves, and is not waited for then."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._wakes: AsyncIterator[None] | None = None
        self._woken: asyncio.Future[None] | None = None
        self._look: asyncio.Future[None] | None = None
        self._due = False
        if session.view is not None:
            self._wakes = session.store.wake(session.box, session.view.folder_id)

    async def step(self, done: asyncio.Future[bytes]) -> None:
        """Until the client says something, the folder was looked at, or it is time for a sign of life."""
        if self._wakes is not None and self._woken is None:
            self._woken = asyncio.ensure_future(_next(self._wakes))
        if self._due and self._look is None and self._wakes is not None:
            self._due = False
            self._look = asyncio.ensure_future(self._sync())
        waiting = {one for one in (done, self._woken, self._look) if one is not None}
        await asyncio.wait(waiting, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
        woken = self._woken is not None and self._woken.done()
        if woken:
            assert self._woken is not None
            self._woken.result()
            self._woken = None
        self._due |= woken or (self._look is None and not done.done())

    async def _sync(self) -> None:
        await self._session.begin()
        await self._session.sync(expunge=True)

    async def tell(self) -> bool:
        """Write the news of a look that ended; whether there was one. Raises what the look raised."""
        look = self._look
        if look is not None and look.done():
            self._look = None
            look.result()
        return await self._session.flush()

    async def close(self) -> None:
        """Stop. A look under way is given up: it changed nothing yet."""
        waiting = [one for one in (self._woken, self._look) if one is not None]
        for one in waiting:
            one.cancel()
        if waiting:
            await asyncio.wait(waiting)
        if isinstance(self._wakes, AsyncGenerator):
            await self._wakes.aclose()


async def _next(wakes: AsyncIterator[None]) -> None:
    await anext(wakes)
