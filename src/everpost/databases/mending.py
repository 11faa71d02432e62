"""Making a copy's files anew, and finding out that it is needed: rewind, seed in two steps, scrub, noted failures."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from everpost.databases.control import SEGMENT, format_lsn
from everpost.databases.files import sync_folder, sync_tree
from everpost.databases.interface import Failure, NoStream
from everpost.databases.layout import Layout
from everpost.databases.tools import Tools
from everpost.databases.wal import lies_there, segment_lsn
from everpost.errors import EverpostError
from everpost.log import fact

log = logging.getLogger(__name__)

SCRUB_RATE = "8M"
"""Bytes a second that a scrub reads: 1 TB in a day and a half, and hardly felt by a disk."""
_GONE = b"has already been removed"
_FORKED = re.compile(rb"forked off current database system timeline \d+ before current recovery point")
_TAIL = 8192


def _log_behind(pgdata: Path, lsn: int) -> list[Path]:
    """Files of the log, on any timeline, that reach behind `lsn`, and the histories of timelines."""
    found = sorted((pgdata / "pg_wal").glob("*.history"))
    for path in sorted((pgdata / "pg_wal").glob("[0-9A-F]" * 24)):
        if segment_lsn(path.name) + SEGMENT > lsn and lies_there(path):
            found.append(path)
    return found


class Mending:
    """The files of one copy. Everything may be repeated after a crash at any point."""

    def __init__(self, layout: Layout, tools: Tools) -> None:
        self._layout = layout
        self._tools = tools
        self._seed: tuple[Path, str] | None = None

    def set_aside(self, left_by: str, fork_lsn: int | None) -> str:
        """Copied, as pg_rewind writes into some of these files and deletes others. A folder that is there is whole."""
        layout = self._layout
        folder = layout.root / f"diverged-{left_by}"
        if not folder.exists():
            part = folder.with_name(f"{folder.name}.part")
            try:
                self._copy_log(part, left_by, fork_lsn)
            except OSError as error:
                shutil.rmtree(part, ignore_errors=True)
                raise EverpostError(f"The diverged log of {layout.root.name} cannot be set aside: {error}.") from error
            part.rename(folder)
            sync_folder(layout.root)
        layout.save(replace(layout.state(), aside=(layout.state().folder, folder.name)))
        return str(folder)

    def _copy_log(self, folder: Path, left_by: str, fork_lsn: int | None) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "log").mkdir(parents=True)
        fork = "unknown: the whole files are kept, the log among them"
        if fork_lsn is not None:
            fork = format_lsn(fork_lsn)
            for path in _log_behind(self._layout.pgdata, fork_lsn):
                shutil.copy2(path, folder / "log" / path.name)
        about = f"What the opening with loss under {left_by} left behind in this copy of {self._layout.root.name}.\n"
        (folder / "README").write_text(f"{about}Its history parts from the database's at {fork}.\n")
        sync_tree(folder)

    async def rewind(self, info: str) -> None:
        """The files count as spoilt from before the first change until after the last."""
        layout = self._layout
        layout.save(replace(layout.state(), spoilt=True, incarnation=layout.new_incarnation()))
        pgdata = layout.pgdata
        (pgdata / "standby.signal").unlink(missing_ok=True)  # crash recovery runs in single-user mode, which refuses it
        await self._tools.rewind(pgdata, info, layout.conf / "postgresql.conf")
        sync_folder(pgdata)
        (layout.root / "mark.json").unlink(missing_ok=True)
        layout.save(replace(layout.state(), spoilt=False, aside=None))

    async def fetch_seed(self, info: str, percent: Callable[[int], None], *, compress: bool) -> None:
        """pg_basebackup beside the old files, which live until the swap."""
        self._seed = None
        incarnation = self._layout.new_incarnation()
        self._tools.end_orphans(self._layout.root)
        await asyncio.to_thread(self._layout.sweep)
        folder = self._layout.root / f"seed-{incarnation}"
        try:
            ends = await self._tools.basebackup(folder, info, percent, compress=compress)
        except BaseException:
            self._layout.retire()
            self._layout.discard_beside()
            raise
        fact(log, "seed fetched", database=self._layout.root.name, compressed=compress, ends=ends)
        self._seed = folder, incarnation

    def adopt_seed(self, order: str) -> None:
        """The swap; the old files are deleted meanwhile and later. Raises EverpostError if no seed was finished."""
        if self._seed is None:
            raise EverpostError(f"There is no finished seed of {self._layout.root.name}.")
        folder, incarnation = self._seed
        self._seed = None
        self._layout.adopt(folder, incarnation, order)
        self._layout.discard_beside()

    def fail(self, failure: Failure | None) -> None:
        """Durably; writes only what is new."""
        state = self._layout.state()
        if state.failure != failure:
            self._layout.save(replace(state, failure=failure))

    def no_stream(self, since: int) -> NoStream | None:
        """By the end of the server's log, as far as it was written behind byte `since`."""
        try:
            with self._layout.log.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(since, size - _TAIL))
                said = file.read()
        except OSError:
            return None
        if _FORKED.search(said):
            return NoStream.FORKED
        return NoStream.LOG_IS_GONE if _GONE in said else None

    async def scrub(self, sockets: Path, port: int, now: float) -> str:
        """Read all pages; the time is noted when the reading came to its end."""
        found = await self._tools.read_pages(self._layout.root, sockets, port, SCRUB_RATE)
        self._layout.save(replace(self._layout.state(), scrubbed_at=now))
        return found
