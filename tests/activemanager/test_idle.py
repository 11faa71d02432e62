"""What an idle server leaves undone: nobody is woken, asked or written to for what changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from everpost.activemanager.decide import Activate, TakeServer
from everpost.activemanager.gather import Live
from everpost.activemanager.perform import Performer
from everpost.activemanager.publishing import Publisher
from everpost.activemanager.service import ActiveManager
from everpost.directory import keys
from everpost.directory.interface import Entry
from everpost.directory.memory import MemoryDirectory
from everpost.directory.schema import decode, encode
from everpost.model.database import CopyState, CopyStatus, Progress, Token

from .fakes import StepClock

HEALTHY = CopyStatus(database="MB01", server="EX01", state=CopyState.HEALTHY, incarnation="a1", received_lsn=1000)


def reached(lsn: int) -> Progress:
    return Progress(token=Token(1, 2), timeline=2, acknowledged_lsn=lsn, generated_lsn=lsn)


class Enough(Exception):
    """The clock came to its end."""


class ShortClock(StepClock):
    """Ends the loop that sleeps on it after some seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.end = self.now + seconds

    async def sleep(self, seconds: float) -> None:
        if self.now >= self.end:
            raise Enough
        await super().sleep(seconds)


class Directory(MemoryDirectory):
    """Notes the keys of each transaction."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[set[str]] = []

    async def txn(self, guards: Mapping[str, int], puts: Mapping[str, bytes | None], **how: Any) -> Any:
        self.written.append(set(puts))
        return await super().txn(guards, puts, **how)


class SmallCopy:
    """`publishing.Copy`."""

    database = "MB01"

    def __init__(self) -> None:
        self.row = HEALTHY
        self.token: Token | None = None

    def facts(self) -> tuple[object, ...]:
        return self.row.state, self.row.incarnation

    def status(self) -> CopyStatus:
        return self.row

    def open_at(self) -> Token | None:
        return self.token


class Published:
    """A publisher for some seconds; `each` is called at each of its looks."""

    def __init__(self, seconds: float) -> None:
        self.clock = ShortClock(seconds)
        self.directory = Directory()
        self.copy = SmallCopy()
        self.publisher = Publisher(
            "EX01",
            self.directory,
            self.clock,
            copies=lambda: [self.copy],
            shown=self.shown,
            own_guard=dict,
        )

    def shown(self) -> list[CopyStatus]:
        entry = self.directory._entries.get(keys.status("EX01"))
        return [] if entry is None else decode(list[CopyStatus], entry.value)

    async def run(self) -> list[set[str]]:
        with pytest.raises(Enough):
            await self.publisher.run()
        return self.directory.written


async def test_status_and_progress_are_one_transaction_a_second() -> None:
    world = Published(5.0)
    world.copy.token = Token(1, 2)

    def moves_on() -> None:
        world.copy.row = replace(world.copy.row, received_lsn=(world.copy.row.received_lsn or 0) + 1)
        world.publisher.note_progress("MB01", reached(world.copy.row.received_lsn or 0))

    moves_on()
    world.clock.hook = moves_on
    written = await world.run()
    assert written == [{keys.status("EX01"), keys.progress("MB01")}] * len(written)
    assert 5 <= len(written) <= 6


async def test_what_does_not_change_is_not_written_again() -> None:
    assert await Published(5.0).run() == [{keys.status("EX01")}]


async def test_a_new_state_is_told_at_the_next_look() -> None:
    world = Published(0.3)
    world.clock.hook = lambda: setattr(world.copy, "row", replace(HEALTHY, state=CopyState.SEEDING))
    assert len(await world.run()) == 2


async def test_the_progress_of_an_activation_that_ended_is_not_told() -> None:
    world = Published(3.0)
    world.copy.token = Token(1, 3)
    world.publisher.note_progress("MB01", reached(5000))
    assert keys.progress("MB01") not in set().union(*await world.run())


async def test_what_was_refused_is_written_again_with_the_newest_progress() -> None:
    world = Published(0.5)
    world.copy.token = Token(1, 2)
    world.directory.available = False
    lsn = 1000

    def later() -> None:
        nonlocal lsn
        lsn += 1
        world.publisher.note_progress("MB01", reached(lsn))
        world.directory.available = world.clock.now > 1000.25

    later()
    world.directory.available = False
    world.clock.hook = later
    await world.run()
    entry = world.directory._entries[keys.progress("MB01")]
    assert decode(Progress, entry.value).acknowledged_lsn == 1004


class Manager:
    """A manager with two copies that note when they are woken."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.woken: list[str] = []
        nothing: Any = None
        self.manager = ActiveManager(
            "EX01",
            clock=StepClock(),
            directory=MemoryDirectory(),
            organization=nothing,
            live=Live(self.entries.get),
            tenure=nothing,
            taker=nothing,
            expired=lambda _: False,
            page=nothing,
            agents=nothing,
            engines=nothing,
            prepare=nothing,
            upkeep=nothing,
        )
        for name in ("MB01", "MB02"):
            copy = SimpleNamespace(wake=lambda name=name: self.woken.append(name))
            self.manager._copies[name] = (cast(Any, copy), nothing)

    def sees(self, key: str, value: bytes = b"{}") -> list[str]:
        """Which copies are woken by a change."""
        self.woken.clear()
        self.entries[key] = Entry(key, value, len(self.entries) + 1 + self.revision())
        self.manager._changed.clear()
        self.manager.saw(key)
        assert self.manager._changed.is_set() == bool(self.woken)
        return self.woken

    def revision(self) -> int:
        return max((entry.revision for entry in self.entries.values()), default=0)


@pytest.mark.parametrize(
    "key", [keys.tenure("EX02"), keys.progress("MB01"), keys.JOURNAL + "EX01/0001", keys.array_beat("CAS")]
)
def test_nobody_is_woken_by_what_changes_all_the_time(key: str) -> None:
    assert Manager().sees(key) == []


@pytest.mark.parametrize("key", [keys.fence("EX02"), keys.pam("DAG"), keys.server("EX02"), keys.database("MB01")])
def test_all_are_woken_by_fences_and_documents(key: str) -> None:
    assert Manager().sees(key) == ["MB01", "MB02"]


def test_a_copy_is_woken_by_its_own_location() -> None:
    assert Manager().sees(keys.location("MB02")) == ["MB02"]


def test_a_status_wakes_for_a_new_state_and_not_for_new_positions() -> None:
    manager = Manager()
    key, other = keys.status("EX02"), replace(HEALTHY, database="MB02")
    assert sorted(manager.sees(key, encode([HEALTHY, other]))) == ["MB01", "MB02"]
    assert manager.sees(key, encode([replace(HEALTHY, received_lsn=2000), other])) == []
    assert manager.sees(key, encode([replace(HEALTHY, incarnation="b2"), other])) == ["MB01"]
    assert manager.sees(key, encode([other])) == ["MB01"]


async def test_databases_of_one_round_are_activated_together_and_after_the_tenure() -> None:
    diary: list[str] = []

    class Noting(Performer):
        async def perform(self, action: Any, view: Any) -> bool:
            name = getattr(action, "database", None) or action.server
            diary.append(f"{name} begins")
            await asyncio.sleep(0)
            diary.append(f"{name} ends")
            return True

    performer = Noting.__new__(Noting)
    nothing: Any = None
    both = [Activate(database=name, revision=1, after=nothing, fences={}, reason="") for name in ("MB01", "MB02")]
    await performer.perform_all([*both, TakeServer(server="EX02", with_pam=False, reason="")], nothing)
    assert diary == ["EX02 begins", "EX02 ends", "MB01 begins", "MB02 begins", "MB01 ends", "MB02 ends"]
