"""One seed of a passive copy: fetched beside the old files as a task, put in their place by a confirmed step (3.5).

An administrator's order stands in the directory until it is done or taken back; a seed that the copy needs by itself
has no order. Either begins again by itself after its source was cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from everpost.databases.interface import Engine, Interrupted, Upstream
from everpost.log import fact
from everpost.model.database import CopySettings

log = logging.getLogger(__name__)

AGAIN = 1.0
"""Seconds after which a seed that did not succeed begins again."""
MOST_FAILURES = 3
"""A seed that failed so often, though its source answered, is no use: an administrator must look."""


class Seeding:
    """A seed that is being fetched, from `upstream` at its token, for `order` ("": the copy's own need). `ended` is
    called when it ended, well or not."""

    def __init__(self, engine: Engine, upstream: Upstream, order: str, ended: Callable[[], None]) -> None:
        self.upstream = upstream
        self.order = order
        self.percent = 0
        self._task = asyncio.create_task(engine.fetch_seed(upstream, self._progress))
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._task.add_done_callback(lambda _: ended())

    def _progress(self, percent: int) -> None:
        self.percent = percent

    @property
    def done(self) -> bool:
        """Whether it ended, well or not."""
        return self._task.done()

    @property
    def error(self) -> BaseException | None:
        """Why it ended, if not well."""
        return asyncio.CancelledError() if self._task.cancelled() else self._task.exception()

    @property
    def interrupted(self) -> bool:
        """Whether it ended because its source was lost."""
        return isinstance(self.error, Interrupted)

    async def cancel(self) -> None:
        """End it; returns when nothing of it runs."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task


def wanted(settings: CopySettings) -> str | None:
    """The order that the settings ask for; "" when there is none; None when no seed may run."""
    if settings.seed is not None:
        return settings.seed.id
    return None if settings.suspended else ""


def told(database: str, seeding: Seeding, what: str, why: str = "") -> None:
    """One line of the log."""
    level = logging.WARNING if why else logging.INFO
    fact(log, what, level=level, database=database, seed_source=seeding.upstream.server, order=seeding.order, why=why)
