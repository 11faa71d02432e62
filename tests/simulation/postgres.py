"""A small PostgreSQL: WAL with timelines, streaming, and commits that wait as PostgreSQL 15 was measured to make them.

A commit waits if the checkpointer has taken up that names are set; it is released by the walsender of a named standby,
by the names as that walsender has read them. Both read the file some time after the signal. What was written and not
flushed is lost by a crash from a random place on. Two promotions at one place give one timeline number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from everpost.databases import config
from everpost.databases.interface import Upstream
from everpost.errors import Unavailable
from everpost.model.database import Token
from tests.simulation.loop import Process
from tests.simulation.network import reset
from tests.simulation.storage import SIZE, Record, Storage, place

if TYPE_CHECKING:
    from tests.simulation.host import Host

RETRY = 0.2
"""Seconds between a receiver's tries to connect, and between retransmissions."""
TIMEOUT = 5.0
"""wal_sender_timeout, wal_receiver_timeout."""
KEEPALIVE = 1.0

standby_name = functools.cache(config.standby_name)


class Backend:
    """One COMMIT. `callback(error or None)` tells its client; nothing ever cancels it."""

    __slots__ = ("callback", "done", "local", "name", "record")

    def __init__(self, name: str, record: Record, local: bool, callback: Callable[[Exception | None], None]) -> None:
        self.name = name
        self.record = record
        self.local = local
        self.callback = callback
        self.done = False

    def end(self, error: Exception | None) -> None:
        """The connection hears of it."""
        self.done = True
        self.callback(error)


class Instance:
    """A running PostgreSQL on one copy's storage."""

    def __init__(self, host: Host, database: str, storage: Storage) -> None:
        self.host = host
        self.database = database
        self.storage = storage
        self.process = Process(host.loop, f"postgres {host.name} {database}")
        self.standby = True
        self.accepting = False
        self.closing = False
        self.label: Token | None = None
        self.receiver: Stream | None = None
        self.streams: list[Stream] = []
        self.names = storage.names
        self.waiting_defined = bool(storage.names)
        self.released = 0
        self.visible: dict[object, None] = {}
        self.committing: list[Backend] = []
        self.waiters: list[Backend] = []
        self.admitted = False
        self._flushing = False
        self._connecting = 0
        self._backends = 0
        self._given_up: tuple[list[Record], list[tuple[int, int]]] | None = None
        storage.was_primary, storage.shutdown = False, None

    # -- life ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Recovery is over, connections are accepted."""
        self.accepting = True
        self._connect()

    def die(self) -> None:
        """Killed, with all backends."""
        if not self.process.alive:
            return
        self.process.kill()
        reset(self.process)
        storage = self.storage
        storage.cut(self.host.chance.randint(storage.flushed, len(storage.wal)))
        self._promoted_in_vain()
        if storage.was_primary:
            storage.replayed = storage.flushed
        self._end_backends()
        for stream in list(self.streams):
            stream.close(by=self)
        if self.receiver is not None:
            self.receiver.close(by=self)
        self.host.instance_ended(self)

    def _end_backends(self) -> None:
        ended = self.committing + self.waiters
        self.committing, self.waiters = [], []
        for backend in ended:
            if not backend.done:
                backend.end(Unavailable("the connection broke"))

    def shut_down(self) -> None:
        """Fast: backends end, a checkpoint is written, standbys that are connected receive it."""
        if self.closing or self.standby:
            return
        self.closing = True
        self._end_backends()
        self._write("shutdown", None)
        self.flush_soon()
        self._shut_when_sent()

    def _shut_when_sent(self) -> None:
        storage = self.storage
        done = storage.flushed == len(storage.wal)
        if done and all(stream.flush_lsn >= storage.end for stream in self.streams):
            storage.shutdown = storage.wal[-1].start
            self.die()
        else:
            self.process.call_later(0.005, self._shut_when_sent)

    def replay(self) -> int:
        """How many records are replayed by now: a delay keeps commits back, a point in time stops at the first later
        one."""
        storage = self.storage
        if not self.standby:
            return storage.flushed
        delay = storage.upstream.delay if storage.upstream is not None else 0.0
        latest = self.host.loop.now - delay
        if storage.until is not None:
            latest = min(latest, storage.until)
        while storage.replayed < storage.flushed:
            record = storage.wal[storage.replayed]
            if record.commit and record.at > latest:
                break
            storage.replayed += 1
        return storage.replayed

    def stands(self) -> bool:
        """Whether it replays no more, as a point in time is reached and there is log behind it."""
        return self.standby and self.storage.stop() == self.replay()

    def promote(self) -> int:
        """The LSN at which the new timeline begins: where it stands, else behind all that it has."""
        storage = self.storage
        if self.receiver is not None:
            self.receiver.close(by=self)
        timeline = storage.timeline
        if self.stands():
            self._given_up = storage.wal[storage.replayed : storage.flushed], list(storage.history)
            storage.cut(storage.replayed)
        begin = storage.end
        self.standby = False
        storage.was_primary = True
        self.visible = dict.fromkeys(row.value for row in storage.wal if row.kind == "op")
        storage.append(Record(begin + SIZE, begin, timeline + 1, "promotion", None, self.host.loop.now))
        self.flush_soon()
        return begin

    def _promoted_in_vain(self) -> None:
        """It died before its timeline was durable: the log behind the point in time is there as before."""
        storage = self.storage
        if self._given_up is None or (storage.wal and storage.wal[-1].timeline > self._given_up[1][-1][0]):
            return
        given_up, storage.history = self._given_up
        storage.wal += given_up
        storage.flushed = len(storage.wal)
        storage.was_primary = False

    # -- commits -------------------------------------------------------------------------------------------------

    def _write(self, kind: str, value: object) -> Record:
        storage = self.storage
        record = Record(storage.end + SIZE, storage.end, storage.timeline, kind, value, self.host.loop.now)
        storage.append(record)
        return record

    def commit(
        self, kind: str, value: object, callback: Callable[[Exception | None], None], *, local: bool = False
    ) -> Backend:
        """Write, flush, wait for the set, show. Raises Unavailable where nothing can be written."""
        if self.standby or self.closing or not self.accepting:
            raise Unavailable("it is not a primary")
        self._backends += 1
        backend = Backend(str(self._backends), self._write(kind, value), local, callback)
        self.committing.append(backend)
        self.flush_soon()
        return backend

    def flush_soon(self) -> None:
        """One flush at a time, of all that is written when it begins."""
        if not self._flushing:
            self._flushing = True
            self.process.call_later(self.host.flush_delay(), self._flushed, len(self.storage.wal))

    def _flushed(self, count: int) -> None:
        self._flushing = False
        storage = self.storage
        if self.host.disk_stuck():
            self.flush_soon()
            return
        if count > storage.flushed:
            storage.flushed = min(count, len(storage.wal))
            if self.receiver is not None:
                self.receiver.report()
            self._went_on()
        if storage.flushed < len(storage.wal):
            self.flush_soon()

    def _went_on(self) -> None:
        lsn = self.storage.flushed_lsn
        while self.committing and self.committing[0].record.lsn <= lsn:
            backend = self.committing.pop(0)
            if backend.local or not self.waiting_defined or backend.record.lsn <= self.released:
                self._finish(backend)
            else:
                self.waiters.append(backend)
        for stream in self.streams:
            stream.send()

    def _finish(self, backend: Backend) -> None:
        if backend.record.kind == "op":
            self.visible[backend.record.value] = None
        backend.end(None)

    # -- names ---------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """SIGHUP: the postmaster reads at once, checkpointer and walsenders when they come to it."""
        storage = self.storage
        self.names, self.admitted = storage.names, storage.admitted
        self.process.call_later(self.host.checkpointer_delay(), self._checkpointer_reads)
        for stream in self.streams:
            self.process.call_later(self.host.chance.random() * 0.01, self._sender_reads, stream)
        if self.standby:
            receiver = self.receiver
            if receiver is not None and receiver.upstream != storage.upstream:
                receiver.close(by=self)
            self._connect()

    def _checkpointer_reads(self) -> None:
        if self.host.checkpointer_stuck():
            self.process.call_later(0.1, self._checkpointer_reads)
            return
        self.waiting_defined = bool(self.storage.names)
        if not self.waiting_defined:
            waiters, self.waiters = self.waiters, []
            for backend in waiters:
                self._finish(backend)
        self.host.world.monitor.names_changed(self)

    def _sender_reads(self, stream: Stream) -> None:
        stream.names = self.storage.names
        self.host.world.monitor.names_changed(self)
        self.release(stream)

    def release(self, stream: Stream) -> None:
        """What a walsender does after a reply or new names: the first n named standbys, n names wide."""
        names = stream.names
        if stream.name not in names or not stream.streaming or self.closing:
            return
        rows = [one for one in self.streams if one.streaming and one.name in names]
        if len(rows) < len(names):
            return
        rows.sort(key=lambda one: names.index(one.name))
        position = min(one.flush_lsn for one in rows[: len(names)])
        if position <= self.released:
            return
        self.released = position
        waiters, self.waiters = self.waiters, []
        for backend in waiters:
            if backend.record.lsn <= position:
                self._finish(backend)
            else:
                self.waiters.append(backend)

    # -- a standby's receiver ------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """One connection attempt at a time; a changed upstream makes an older one void."""
        self._connecting += 1
        if self.stands():
            return  # with a backlog it asks for no stream
        if self.standby and self.accepting and self.receiver is None and self.storage.upstream is not None:
            self._try(self._connecting, self.storage.upstream)

    def _try(self, attempt: int, upstream: Upstream) -> None:
        if attempt != self._connecting or self.receiver is not None or not self.standby:
            return
        self.process.call_later(RETRY, self._try, attempt, upstream)
        network, me, there = self.host.network, self.host.name, upstream.server
        target = self.host.world.instance(there, self.database)
        if target is not None and network.passes(me, there) and network.passes(there, me):
            target.process.call_later(network.delay(me, there), target.accept, self, attempt, upstream)

    def accept(self, standby: Instance, attempt: int, upstream: Upstream) -> None:
        """A receiver asks for the log from where it is; refused if its history is not a part of ours."""
        storage, end, timeline = self.storage, standby.storage.end, standby.storage.timeline
        later = [begin for number, begin in storage.history if number > timeline]
        known = any(number == timeline for number, _ in storage.history)
        if not self.accepting or self.closing or not known or end > (later[0] if later else storage.flushed_lsn):
            return
        incarnation = standby.storage.incarnation
        name = standby_name(self.database, standby.host.name, incarnation, upstream.token)
        stream = Stream(self, standby, name, upstream)
        stream.sent = place(end)
        back = self.host.network.delay(self.host.name, standby.host.name)
        standby.process.call_later(back, standby.accepted, stream, attempt)

    def accepted(self, stream: Stream, attempt: int) -> None:
        """The log will come."""
        if attempt != self._connecting or self.receiver is not None or not self.standby:
            return
        if not stream.sender.process.alive or stream.sender.closing:
            return
        self.receiver = stream
        stream.begin()

    def take(self, records: Sequence[Record]) -> None:
        """Log from upstream."""
        for record in records:
            self.storage.append(record)
        self.flush_soon()


class Stream:
    """Walsender and receiver of one connection."""

    def __init__(self, sender: Instance, receiver: Instance, name: str, upstream: Upstream) -> None:
        self.sender = sender
        self.receiver = receiver
        self.name = name
        self.upstream = upstream
        self.names = sender.names
        self.sent = 0
        self.flush_lsn = 0
        self.streaming = False
        self.closed = False
        self._goal = sender.storage.flushed_lsn
        self._busy = False
        self._heard = self._told = sender.host.loop.now

    def begin(self) -> None:
        """Both ends agree."""
        self.sender.streams.append(self)
        self.sender.process.call_later(KEEPALIVE, self._keep_alive)
        self.receiver.process.call_later(TIMEOUT, self._watch)
        self.report()
        self.send()

    def _delay(self) -> float:
        return self.sender.host.network.delay(self.sender.host.name, self.receiver.host.name)

    def _down(self) -> bool:
        return self.sender.host.network.passes(self.sender.host.name, self.receiver.host.name)

    def _up(self) -> bool:
        return self.sender.host.network.passes(self.receiver.host.name, self.sender.host.name)

    def send(self) -> None:
        """Only what is flushed is sent, one packet at a time."""
        storage = self.sender.storage
        if self.closed or self._busy or self.sent >= storage.flushed:
            return
        self._busy = True
        records = storage.wal[self.sent : storage.flushed]
        self.sent = storage.flushed
        self.receiver.process.call_later(self._delay(), self._arrive, records)

    def _arrive(self, records: list[Record]) -> None:
        if self.closed or self.receiver.receiver is not self:
            return
        if not self._down():
            self.receiver.process.call_later(RETRY, self._arrive, records)  # TCP sends it again
            return
        self._told = self.receiver.host.loop.now
        self.receiver.take(records)
        self.sender.process.call_later(0.0, self._next)

    def _next(self) -> None:
        self._busy = False
        self.send()

    def report(self) -> None:
        """The receiver says how far it has flushed."""
        self.sender.process.call_later(self._delay(), self._hear, self.receiver.storage.flushed_lsn)

    def _hear(self, lsn: int) -> None:
        if self.closed:
            return
        if not self._up():
            self.sender.process.call_later(RETRY, self._hear, lsn)
            return
        self._heard = self.sender.host.loop.now
        self.flush_lsn = max(self.flush_lsn, lsn)
        self.streaming = self.streaming or self.flush_lsn >= self._goal
        self.sender.release(self)

    def _keep_alive(self) -> None:
        if self.closed:
            return
        if self.sender.host.loop.now - self._heard > TIMEOUT:
            self.close(by=self.sender)
            return
        if not self.receiver.process.alive and self.receiver.host.up and self._down() and self._up():
            self._end_sender()  # nobody listens there any more: reset
            return
        self.sender.process.call_later(KEEPALIVE, self._keep_alive)
        if self._down():
            self.receiver.process.call_later(self._delay(), self._ping)

    def _ping(self) -> None:
        if self.receiver.receiver is self:
            self._told = self.receiver.host.loop.now
            self.report()
        elif self._up():
            self.close(by=self.receiver)  # nobody listens there any more: reset

    def _watch(self) -> None:
        if self.receiver.receiver is not self:
            return
        quiet = self.receiver.host.loop.now - self._told
        if quiet > TIMEOUT:
            self.close(by=self.receiver)
            self.receiver._connect()
        else:
            self.receiver.process.call_later(TIMEOUT - quiet + 0.01, self._watch)

    def close(self, *, by: Instance) -> None:
        """One end closes; the other learns at once where the link and its host allow, else by its own timeout."""
        sender, receiver = self.sender, self.receiver
        if by is sender:
            self.closed = True
            if self in sender.streams:
                sender.streams.remove(self)
            if self._down() and sender.host.up:
                receiver.process.call_later(self._delay(), self._end_receiver)
        else:
            if receiver.receiver is self:
                receiver.receiver = None
            if self._up() and receiver.host.up:
                sender.process.call_later(self._delay(), self._end_sender)

    def _end_receiver(self) -> None:
        if self.receiver.receiver is self:
            self.receiver.receiver = None
            self.receiver._connect()

    def _end_sender(self) -> None:
        self.closed = True
        if self in self.sender.streams:
            self.sender.streams.remove(self)
