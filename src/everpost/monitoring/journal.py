"""The journal: events as documents of the directory, so that they outlive the server that wrote them (spec 3.12).

Each server has a ring of slots of its own, so that the journal is bounded and no write waits for another server.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from everpost.clock import Clock
from everpost.directory import keys
from everpost.directory.interface import Directory, Entry
from everpost.directory.schema import decode, encode
from everpost.errors import EverpostError
from everpost.log import fact
from everpost.monitoring.catalogue import Event, Kind, Level

log = logging.getLogger(__name__)

SLOTS = 500
"""Events kept of each server: some 150 KB."""
WAITING = 1000
"""Events kept in memory while the directory does not answer; then the oldest go."""
AGAIN = 0.5
_LEVELS = {Level.INFORMATION: logging.INFO, Level.WARNING: logging.WARNING, Level.ERROR: logging.ERROR}


def read(entries: Iterable[Entry]) -> list[tuple[Event, Entry]]:
    """The events in documents of the journal, oldest first. What cannot be read is passed over."""
    found = []
    for entry in entries:
        try:
            found.append((decode(Event, entry.value), entry))
        except msgspec.MsgspecError as error:
            log.error("the event at %s cannot be read: %s", entry.key, error)
    return sorted(found, key=lambda one: (one[0].time, one[0].server, one[0].sequence))


class Journal:
    """One server's pen. `known` lists the documents of the journal as last seen."""

    def __init__(self, directory: Directory, me: str, clock: Clock, known: Callable[[], Iterable[Entry]]) -> None:
        self._directory = directory
        self._me = me
        self._clock = clock
        self._known = known
        self._waiting: deque[Event] = deque(maxlen=WAITING)
        self._more = asyncio.Event()

    def record(self, kind: Kind, text: str, *, mail_to: str = "", mail_from: str = "", **facts: object) -> None:
        """Note an event; it is logged at once and written as soon as the directory takes it. Never blocks. `mail_to`
        and `mail_from`: for events with a mail, if not those of the organisation."""
        fact(log, text, level=_LEVELS[kind.level], event=kind.id, **facts)
        event = Event(
            id=kind.id,
            name=kind.name,
            level=kind.level,
            time=self._clock.wall(),
            server=self._me,
            sequence=0,
            text=text,
            facts={name: str(value) for name, value in facts.items()},
            mail=kind.mail,
            mail_to=mail_to,
            mail_from=mail_from,
        )
        self._waiting.append(event)
        self._more.set()

    def recent(self) -> list[Event]:
        """As last seen, oldest first."""
        return [event for event, _ in read(self._known())]

    async def run(self) -> None:
        """Write what waits, in order, until cancelled. A lost answer is settled by writing the same slot again."""
        sequence = 1 + max((event.sequence for event in self.recent() if event.server == self._me), default=0)
        while True:
            self._more.clear()
            while self._waiting:
                event = msgspec.structs.replace(self._waiting[0], sequence=sequence)
                try:
                    await self._directory.txn({}, {keys.event(self._me, sequence % SLOTS): encode(event)}, attempt=1.0)
                except EverpostError as error:
                    log.debug("event not written yet: %s", error)
                    await self._clock.sleep(AGAIN)
                    continue
                sequence += 1
                self._waiting.popleft()
            await self._more.wait()
