"""Starts of a copy that is to stand at a point in time."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

from everpost.databases import config
from everpost.databases.layout import Layout
from everpost.databases.tools import Tools
from everpost.errors import EverpostError

CHECKPOINT_GRAIN = 2.0
"""Seconds by which commits before a checkpoint may be later than its time, which is cut to whole seconds and read
before the checkpoint's place in the log is known."""


async def must_not_be_beyond(until: float, target: str, layout: Layout, tools: Tools) -> None:
    """PostgreSQL begins at its last restartpoint and stops at the next commit that is later: it would stand and show
    what lies between. If the last start of these files had the same `target`, nothing did. Raises EverpostError."""
    with contextlib.suppress(FileNotFoundError):
        if target in (layout.conf / config.UPSTREAM).read_text():
            return
    data = await tools.controldata(layout.pgdata)
    if data.checkpoint_at + CHECKPOINT_GRAIN > until:
        at = datetime.fromtimestamp(data.checkpoint_at, UTC).isoformat(sep=" ")
        raise EverpostError(
            f"The copy has been replayed up to {at} at least.",
            remedy="It cannot go back: name a time 2 s later or more, or another copy.",
        )
