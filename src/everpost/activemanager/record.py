"""Writing the location record: compare-and-swap, with unknown outcomes settled by a further confirmed one (3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from everpost.clock import Clock
from everpost.directory import keys
from everpost.directory.interface import Directory, Entry
from everpost.directory.schema import decode, encode
from everpost.errors import EverpostError, OutcomeUnknown, Unavailable
from everpost.model.database import Location


class Held(NamedTuple):
    """A location and the revision at which it was read or written."""

    location: Location
    revision: int


class Superseded(EverpostError):
    """The record, or a fence that guards the change, is not what the change was computed from."""


class LocationWriter:
    """Changes location records on behalf of this server.

    `guards` gives the revisions that every change relies on besides the record's own: the server's fence, so that a
    server whose tenure was taken can write nothing, however late its request arrives.
    """

    def __init__(
        self,
        directory: Directory,
        clock: Clock,
        guards: Callable[[], Mapping[str, int]],
        learn: Callable[[Entry], None] = lambda _: None,
    ) -> None:
        self._directory = directory
        self._learn = learn
        self._clock = clock
        self._guards = guards

    async def read(self, database: str) -> Held | None:
        """The record now, linearizable."""
        entry = await self._directory.get(keys.location(database))
        return None if entry is None else Held(decode(Location, entry.value), entry.revision)

    async def change(
        self,
        seen: Held,
        move: Callable[[Location], Location],
        *,
        fences: Mapping[str, int] | None = None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> Held:
        """Apply `move` to the record as seen, or raise Superseded.

        An unknown outcome is never settled by reading that the change is absent, as the lost request may still
        arrive: the same compare-and-swap is sent again until one is confirmed, or the record is seen to have moved
        on, after which the lost one can never succeed. Raises OutcomeUnknown only when `give_up` says so.
        """
        after = move(seen.location)
        value = encode(after)
        key = keys.location(seen.location.database)
        guards = {key: seen.revision, **self._guards(), **(fences or {})}
        unknown = False
        while True:
            try:
                result = await self._directory.txn(guards, {key: value}, read_on_failure=(key,))
            except OutcomeUnknown:
                unknown = True
                if give_up():
                    raise
            except Unavailable:
                if give_up():
                    raise
                await self._clock.sleep(0.05)
            else:
                if result.succeeded:
                    self._learn(Entry(key, value, result.revision))
                    return Held(after, result.revision)
                current = result.current.get(key)
                if unknown and current is not None and current.value == value and current.revision > seen.revision:
                    return Held(after, current.revision)
                raise Superseded(
                    f"The location of {seen.location.database} changed meanwhile, or this server lost its tenure.",
                    remedy="It is looked at again.",
                )


def same(one: Location, other: Location) -> bool:
    """Whether two records are equal in every field."""
    return msgspec.json.encode(one) == msgspec.json.encode(other)
