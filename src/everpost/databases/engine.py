"""The engine of one copy: `databases.interface.Engine` on a PostgreSQL instance whose parent is the warden."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import asyncpg

from everpost.databases import config, control, processes, queries, wal
from everpost.databases.binaries import Binaries
from everpost.databases.bootstrap import bootstrap, forget_openings
from everpost.databases.connection import CommitProbe, Line, connect
from everpost.databases.files import write_durably
from everpost.databases.interface import (
    Failure,
    Files,
    NoStream,
    Positions,
    Promoted,
    Received,
    SenderRow,
    StandbyPositions,
    Upstream,
)
from everpost.databases.layout import Layout, Mark
from everpost.databases.mending import Mending
from everpost.databases.retention import Retention
from everpost.databases.serverlog import ServerLog
from everpost.databases.standing import must_not_be_beyond
from everpost.databases.tools import Tools
from everpost.databases.warden_client import WardenClient
from everpost.errors import EverpostError, Unavailable
from everpost.model.database import Opening, Token

START_LIMIT = 120.0
"""Seconds a start may take: it replays what a crash left."""
PROMOTE_LIMIT = 120.0
KEEP_LOGS = 1024
"""Generations (1 MB) that an active keeps for absent and suspended copies, unless the settings say otherwise."""
CLOSE_LIMIT = 10.0
FOLLOW_LIMIT = 2.0
"""Seconds a receiver may take to stop."""


class PostgresEngine:
    """One copy of one database on this host. `addresses` to listen on: MAPI and replication network."""

    def __init__(
        self,
        *,
        database: str,
        server: str,
        data_dir: Path,
        run_dir: Path,
        tls_dir: Path,
        addresses: Sequence[str],
        port: int,
        binaries: Binaries,
        warden: WardenClient,
        keep_logs: int = KEEP_LOGS,
    ) -> None:
        self.database = database
        self.layout = Layout(data_dir, database)
        self.layout.prepare()
        self.layout.discard_beside()
        self._server = server
        self._sockets = run_dir / "pg"
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        self._tls = tls_dir
        self._addresses = tuple(addresses)
        self._port = port
        self._binaries = binaries
        self._warden = warden
        self._tools = Tools(binaries, self.layout.log)
        self._line = Line(self._sockets, port, "postgres")
        self._mail = Line(self._sockets, port, config.MAIL)
        self._local = Line(self._sockets, port, "postgres")
        self._beat = Line(self._sockets, port, "postgres")
        self._tail: wal.Tail | None = None
        self._log = ServerLog(self.layout.log)
        self._retention = Retention(self.layout.conf / "keep.conf", keep_logs)
        self._mending = Mending(self.layout, self._tools)

    @property
    def incarnation(self) -> str:
        """The life of the files, "" before the first."""
        return self.layout.state().incarnation

    def standby_name(self, server: str, incarnation: str, token: Token) -> str:
        """The name of a member's receiver (3.1)."""
        return config.standby_name(self.database, server, incarnation, token)

    # -- what there is ------------------------------------------------------------------------------------------

    def on_lost(self, tell: Callable[[], None]) -> None:
        """By the end of the connection that looks at it."""
        self._line.on_lost = tell

    def outline(self) -> Files:
        """From state.json."""
        state = self.layout.state()
        if not state.folder or not (self.layout.pgdata / "PG_VERSION").exists():
            return Files(present=False)
        return Files(present=True, spoilt=state.spoilt)

    async def files(self) -> Files:
        """From state.json, mark.json and pg_controldata."""
        outline = self.outline()
        if not outline.present or outline.spoilt:
            return outline
        data = await self._tools.controldata(self.layout.pgdata)
        mark = self.layout.mark()
        end: int | None = None
        timeline = data.timeline
        if data.was_primary:
            end = data.checkpoint_lsn if data.state == "shut down" else None
        else:
            timeline = max(timeline, data.min_recovery_timeline)
            running = await self.running()
            if running is None and await self.alive():
                positions = await self.standby_positions()
                end = max(positions.received_lsn, positions.replayed_lsn)
                timeline = max(timeline, positions.timeline)
            else:
                last, end = await self._tools.log_end(self.layout.pgdata)
                timeline, end = max(timeline, last), max(end, data.min_recovery_lsn)
        return Files(
            present=True,
            was_primary=data.was_primary,
            timeline=timeline,
            end_lsn=end,
            mark_token=mark.token if mark is not None else None,
            mark_nonce=mark.nonce if mark is not None else "",
            mark_until=mark.until if mark is not None else None,
            begin_lsn=control.began(self.layout.pgdata, timeline),
            next_timeline=control.newest_timeline(self.layout.pgdata),
        )

    async def running(self) -> Token | bool | None:
        """By the warden's word."""
        child = (await self._warden.children()).get(self.database)
        if child is None or not child.running:
            return False
        if child.label is None:
            return None
        generation, _, epoch = child.label.partition(".")
        return Token(int(generation), int(epoch))

    async def alive(self) -> bool:
        """Whether it answers."""
        try:
            await self._line.row("select 1")
        except EverpostError:
            return False
        return True

    # -- life ---------------------------------------------------------------------------------------------------

    async def create(self) -> None:
        """initdb beside, then adopt."""
        incarnation = self.layout.new_incarnation()
        folder = self.layout.root / f"seed-{incarnation}"
        await self._tools.initdb(folder)
        self.layout.adopt(folder, incarnation)

    def _configure(self, upstream: Upstream | None, until: float | None = None) -> None:
        conf = self.layout.conf
        text = config.main_file(
            conf,
            addresses=self._addresses,
            port=self._port,
            sockets=self._sockets,
            tls=self._tls,
            name=f"{self.database}-{self._server}",
        )
        write_durably(conf / "postgresql.conf", text)
        write_durably(conf / "hba.conf", config.hba_file(admitted=False))
        write_durably(conf / "ident.conf", config.ident_file(pwd.getpwuid(os.geteuid()).pw_name))
        write_durably(conf / "names.conf", config.names_file(()))
        if not (conf / "keep.conf").exists():
            self._retention.by_number()
        write_durably(conf / config.UPSTREAM, self._upstream_file(upstream, until))

    def _upstream_file(self, upstream: Upstream | None, until: float | None = None) -> str:
        delay = upstream.delay if upstream is not None else 0.0
        target = config.target(until, self.incarnation) if until is not None else ""
        return config.upstream_file(self._conninfo(upstream), delay) + target

    def _conninfo(self, upstream: Upstream | None) -> str | None:
        if upstream is None:
            return None
        name = self.standby_name(self._server, self.incarnation, upstream.token)
        return config.conninfo(upstream.host, upstream.port, tls=self._tls, application_name=name)

    async def start(self, upstream: Upstream | None, until: float | None = None) -> None:
        """Always as a standby, whatever the files were (3.6)."""
        self._drop_lines()
        self._tools.end_orphans(self.layout.root)
        pgdata = self.layout.pgdata
        if until is not None:
            await must_not_be_beyond(until, config.target(until, self.incarnation), self.layout, self._tools)
        self._configure(upstream, until)
        for stray in ("promote", "recovery.signal", "postmaster.pid"):
            (pgdata / stray).unlink(missing_ok=True)
        # An ALTER SYSTEM in there, or one that a seed or rewind brought along, would override the names.
        write_durably(pgdata / "postgresql.auto.conf", "")
        write_durably(pgdata / "standby.signal", "")
        program = self._binaries.path("postgres")
        argv = [program, "-D", str(pgdata), "-c", f"config_file={self.layout.conf}/postgresql.conf"]
        self._log.started()
        await self._warden.start(self.database, argv, self.layout.log)
        end = time.monotonic() + START_LIMIT
        while not processes.accepts(pgdata):
            if await self.running() is False:
                raise EverpostError(
                    f"PostgreSQL of {self.database} did not start: {self._log.tail()}",
                    remedy=f"See {self.layout.log}.",
                )
            if time.monotonic() > end:
                raise EverpostError(f"PostgreSQL of {self.database} did not become ready.", retry=True)
            await asyncio.sleep(0.01)

    def _drop_lines(self) -> None:
        for line in (self._line, self._mail, self._local, self._beat):
            line.drop()

    async def kill(self) -> None:
        """Through the warden: SIGQUIT, 200 ms, SIGKILL of the whole tree."""
        self._drop_lines()
        await self._warden.kill(self.database)

    async def close(self) -> Received:
        """SIGINT, and the control file must say `shut down`."""
        self._drop_lines()
        await self._warden.signal(self.database, signal.SIGINT)
        end = time.monotonic() + CLOSE_LIMIT
        while await self.running() is not False:
            if time.monotonic() > end:
                raise EverpostError(f"{self.database} did not shut down within {CLOSE_LIMIT:.0f} s.", retry=True)
            await asyncio.sleep(0.005)
        data = await self._tools.controldata(self.layout.pgdata)
        if data.state != "shut down":
            raise EverpostError(f"{self.database} was not shut down cleanly ({data.state}).", retry=True)
        return Received(data.checkpoint_lsn, data.timeline)

    # -- a passive ----------------------------------------------------------------------------------------------

    async def follow(self, upstream: Upstream | None) -> None:
        """Change primary_conninfo; with None, wait until the receiver is gone."""
        if config.TARGET in (self.layout.conf / config.UPSTREAM).read_text():
            await self.kill()  # it stands at a point in time, and would not go on
            await self.start(upstream)
            return
        write_durably(self.layout.conf / config.UPSTREAM, self._upstream_file(upstream))
        await self._warden.signal(self.database, signal.SIGHUP)
        if upstream is not None:
            return
        if not await self._line.until(queries.NO_RECEIVER, FOLLOW_LIMIT):
            raise Unavailable(f"The receiver of {self.database} does not stop.")

    async def standby_positions(self) -> StandbyPositions:
        """From pg_stat_wal_receiver and the replay functions."""
        row = await self._line.row(queries.STANDBY)
        return StandbyPositions(
            received_lsn=max(row["received"], row["replayed"]),
            replayed_lsn=row["replayed"],
            timeline=row["received_tli"] or 0,
            streaming=row["status"] == "streaming",
            known_generated_lsn=row["generated"],
            stands_at=config.moment(row["stands"]),
        )

    async def keep_log(self, seconds: float | None) -> None:
        """By the times at which its files were written."""
        if seconds is None:
            changed = self._retention.by_number()
        else:
            changed = await asyncio.to_thread(self._retention.by_time, self.layout.pgdata, time.time() - seconds)
        if changed:
            await self._warden.signal(self.database, signal.SIGHUP)

    def free_space(self) -> int:
        """By the file system."""
        return shutil.disk_usage(self.layout.root).free

    async def received(self) -> Received:
        """Where the log ends, with its last segments read for the check after promotion."""
        positions = await self.standby_positions()
        lsn = positions.received_lsn
        suffix = control.segment_name(0, max(lsn - 1, 0))[8:]
        names = [path.name for path in (self.layout.pgdata / "pg_wal").glob(f"*{suffix}") if len(path.name) == 24]
        timeline = max((int(name[:8], 16) for name in names), default=0)
        self._tail = wal.read_tail(self.layout.pgdata, timeline, lsn)
        return Received(lsn, timeline)

    async def openings(self) -> list[tuple[Token, str]]:
        """From the control table, as far as it was replayed here."""
        sql = "select generation, epoch, nonce from everpost.opening order by 1, 2"
        rows = await self._mail.ask(lambda connection: connection.fetch(sql))
        return [(Token(row["generation"], row["epoch"]), row["nonce"]) for row in rows]

    # -- becoming active ----------------------------------------------------------------------------------------

    async def mark(self, token: Token, nonce: str, until: float | None = None) -> None:
        """fsynced before the promotion begins."""
        self.layout.save_mark(Mark(token=token, nonce=nonce, until=until))

    async def promote(self, token: Token, received: Received) -> Promoted:
        """Guarded first; standby.signal is back before anything else is done."""
        await self._warden.guard(self.database, str(token))
        pgdata = self.layout.pgdata
        self._retention.by_number()  # read with the names: what an active keeps has no lag
        (pgdata / "promote").touch()
        await self._warden.signal(self.database, signal.SIGUSR1)
        if not await self._line.until("select not pg_is_in_recovery()", PROMOTE_LIMIT):
            raise Unavailable(f"{self.database} was not promoted within {PROMOTE_LIMIT:.0f} s.")
        write_durably(pgdata / "standby.signal", "")
        row = await self._line.row("select pg_walfile_name(pg_current_wal_lsn()) as name")
        timeline = int(row["name"][:8], 16)
        history = control.parse_history((pgdata / "pg_wal" / f"{timeline:08X}.history").read_text())
        begin = history[-1].lsn
        tail = self._tail
        complete = begin >= received.lsn or (
            tail is not None and wal.ends_in_incomplete_record(tail, begin, received.lsn)
        )
        return Promoted(timeline, begin, complete)

    async def record_opening(self, opening: Opening, prepare: Callable[[object, Opening], Awaitable[None]]) -> None:
        """Roles, database and schema if they are missing; then one transaction."""
        if not await self._is_set_up():
            await bootstrap(self._sockets, self._port)
        connection = await connect(self._sockets, self._port, config.MAIL)
        try:
            async with connection.transaction():
                await connection.execute(
                    "insert into everpost.opening (generation, epoch, server, timeline, begin_lsn, nonce)"
                    " values ($1, $2, $3, $4, $5, $6)",
                    opening.token.generation,
                    opening.token.epoch,
                    opening.server,
                    opening.timeline,
                    opening.begin_lsn,
                    opening.nonce,
                )
                await prepare(connection, opening)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Unavailable(f"The opening of {self.database} could not be written: {error}.") from error
        finally:
            connection.terminate()

    async def _is_set_up(self) -> bool:
        """Whether an opening was written here before: then everything is there that a new database needs once."""
        try:
            return bool(await self.openings())
        except EverpostError:
            return False

    async def upkeep(self, work: Callable[[object], Awaitable[None]]) -> None:
        """Given up only with the connection, which dies with the instance."""
        connection = await connect(self._sockets, self._port, config.MAIL)
        try:
            await work(connection)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Unavailable(f"The upkeep of {self.database} did not end well: {error}.") from error
        finally:
            connection.terminate()

    async def forget_openings(self, tokens: Sequence[Token]) -> None:
        """Waits as upkeep does."""
        await self.upkeep(lambda connection: forget_openings(connection, tokens))

    # -- an active ----------------------------------------------------------------------------------------------

    async def set_names(self, names: Sequence[str]) -> None:
        """By file and signal only: works when no connection can be had (F24)."""
        write_durably(self.layout.conf / "names.conf", config.names_file(names))
        await self._warden.signal(self.database, signal.SIGHUP)

    async def admit(self, open_to_clients: bool) -> None:
        """By pg_hba; who is connected stays until the shutdown, which the page and the epoch make harmless."""
        write_durably(self.layout.conf / "hba.conf", config.hba_file(admitted=open_to_clients))
        await self._warden.signal(self.database, signal.SIGHUP)

    async def positions(self) -> Positions:
        """One query."""
        row = await self._line.row(queries.POSITIONS)
        senders = [SenderRow(*fields) for fields in json.loads(row["senders"])]
        waiters = [str(pid) if xid is None else f"{pid}:{xid}" for pid, xid in json.loads(row["waiters"])]
        return Positions(row["flush"], row["insert"], senders, waiters)

    async def probe(self) -> CommitProbe:
        """On a connection of its own."""
        return CommitProbe(await connect(self._sockets, self._port, "postgres"))

    async def commit_locally(self) -> None:
        """Writes WAL and flushes it on this host's disk; waits for no set."""

        async def question(connection: asyncpg.Connection[asyncpg.Record]) -> None:
            await connection.execute(
                "begin; set local synchronous_commit = local;"
                " select pg_logical_emit_message(true, 'everpost', 'local'); commit"
            )

        await self._local.ask(question, limit=None)

    async def commit_with_set(self) -> None:
        """Given up only with the connection."""

        async def question(connection: asyncpg.Connection[asyncpg.Record]) -> None:
            await connection.execute("select pg_logical_emit_message(true, 'everpost', 'beat')")

        await self._beat.ask(question, limit=None)

    async def checkpoint(self) -> None:
        """So that the shutdown checkpoint is small."""

        async def question(connection: asyncpg.Connection[asyncpg.Record]) -> None:
            await connection.execute("checkpoint")

        await self._local.ask(question, limit=30.0)

    async def waits_were_cancelled(self) -> bool:
        """Reads on in the log from where it stopped."""
        return self._log.waits_were_cancelled()

    # -- mending ------------------------------------------------------------------------------------------------

    async def rewind(self, upstream: Upstream) -> None:
        """After a CHECKPOINT on the source; with our settings, see `tools.rewind`."""
        info = self._tool_conninfo(upstream, "rewind", "postgres")
        await self._tools.checkpoint_remote(upstream.host, upstream.port, self._tls)
        self._configure(None)
        await self._mending.rewind(info)

    async def set_aside(self, left_by: Token, fork_lsn: int | None) -> str:
        """A folder beside the files, fsynced before it has its name."""
        return await asyncio.to_thread(self._mending.set_aside, str(left_by), fork_lsn)

    def diverged(self) -> tuple[str, ...]:
        """By their names."""
        return tuple(str(path) for path in self.layout.diverged())

    async def fetch_seed(self, upstream: Upstream, percent: Callable[[int], None]) -> None:
        """pg_basebackup beside the old files."""
        await self._mending.fetch_seed(self._tool_conninfo(upstream, "seed", ""), percent, compress=upstream.compress)

    async def adopt_seed(self, order: str) -> None:
        """The swap, which waits for the disk."""
        await asyncio.get_running_loop().run_in_executor(None, self._mending.adopt_seed, order)

    async def drop_files(self) -> None:
        """Known to be gone before the first file is."""
        await asyncio.get_running_loop().run_in_executor(None, self.layout.drop)

    def seeded(self) -> str:
        """From state.json."""
        return self.layout.state().seeded

    def failure(self) -> Failure | None:
        """From state.json."""
        return self.layout.state().failure

    def fail(self, failure: Failure | None) -> None:
        """Into state.json."""
        self._mending.fail(failure)

    def no_stream(self) -> NoStream | None:
        """By the words of walreceiver and startup process since the start."""
        return self._mending.no_stream(self._log.begin)

    def scrubbed_at(self) -> float:
        """From state.json."""
        return self.layout.state().scrubbed_at

    async def scrub(self, now: float) -> str:
        """Through the running instance, slowly."""
        return await self._mending.scrub(self._sockets, self._port, now)

    def _tool_conninfo(self, upstream: Upstream, purpose: str, dbname: str) -> str:
        name = f"everpost_{purpose}_{self._server}".lower()
        return config.conninfo(upstream.host, upstream.port, tls=self._tls, application_name=name, dbname=dbname)
