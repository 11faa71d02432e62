"""The order in which the set shrinks and grows, with what each step must have proven (architecture 3.2).

The sabotages at the end break one rule each and must lose an acknowledged commit in the model; if one of them did
not, the test above it would prove nothing.
"""

from __future__ import annotations

import pytest

from everpost.activemanager.record import Held, LocationWriter
from everpost.activemanager.synchronous import UNMEETABLE, SetKeeper
from everpost.directory import keys
from everpost.directory.memory import MemoryDirectory
from everpost.directory.schema import decode, encode
from everpost.model.database import Location, LocationState, Member, Opening, Token

from .fakes import FakeActive, FakePeers, StepClock

A, B = Member("EX01", "a1"), Member("EX02", "b1")
TOKEN = Token(1, 2)
OPENINGS = [(TOKEN, "n2")]


class World:
    """One active with EX02 as member or candidate, and a directory with its record."""

    def __init__(self, members: tuple[Member, ...]) -> None:
        self.clock = StepClock()
        self.engine = FakeActive({"EX02": "b1"})
        self.clock.hook = self.engine.stream
        self.peers = FakePeers({"EX02": "b1"}, list(OPENINGS))
        self.directory = MemoryDirectory()
        self.events: list[str] = []
        self.location = Location(
            database="MB01",
            active="EX01",
            token=TOKEN,
            state=LocationState.OPEN,
            set=members,
            eligible=(*members, A),
            openings=(Opening(TOKEN, "EX01", 2, 0, "n2"),),
        )

    async def keeper(self) -> SetKeeper:
        result = await self.directory.txn({}, {keys.location("MB01"): encode(self.location)})
        writer = LocationWriter(self.directory, self.clock, dict)
        keeper = SetKeeper(
            self.engine,  # type: ignore[arg-type]
            writer,
            self.clock,
            self.peers,
            Held(self.location, result.revision),
            copies=lambda: ("EX01", "EX02"),
            publish=lambda single: self.events.append(f"page single={single} names={len(self.engine.names_file)}"),
            move=self._move,
        )
        await self.engine.set_names(keeper.names())
        self.engine.names_history.clear()
        return keeper

    async def _move(self, target: str) -> None:
        self.events.append(f"move {target}")

    async def recorded(self) -> Location:
        entry = await self.directory.get(keys.location("MB01"))
        assert entry is not None
        return decode(Location, entry.value)


async def test_grow_proves_the_wait_and_records_last() -> None:
    world = World(())
    keeper = await world.keeper()
    await keeper.tick()
    name = keeper.name(B)
    assert world.engine.names_history == [(name, UNMEETABLE), (name,)]
    assert (await world.recorded()).set == (B,)
    assert world.events == ["page single=False names=1"]


async def test_grow_is_not_confirmed_while_the_checkpointer_stands_still() -> None:
    """F1: SHOW has the names and pg_stat_replication says sync, but commits return at once."""
    world = World(())
    world.engine.checkpointer_runs = False
    keeper = await world.keeper()
    await keeper.tick()
    assert (await world.recorded()).set == ()
    assert world.engine.names_history[-1] == ()
    assert world.events == []


async def test_grow_is_refused_when_the_member_shows_other_openings() -> None:
    """F4: two promotions at one point give one timeline number; the openings tell them apart."""
    world = World(())
    world.peers.shown["EX02"] = [(TOKEN, "another")]
    keeper = await world.keeper()
    await keeper.tick()
    assert (await world.recorded()).set == ()


async def test_grow_of_unknown_outcome_never_takes_the_name_away() -> None:
    """F2: the answer is lost, then the request is repeated until a confirmed outcome; the names keep the member."""
    world = World(())
    keeper = await world.keeper()
    world.directory.lose_answers(2, effect=True)
    await keeper.tick()
    assert (await world.recorded()).set == (B,)
    assert world.engine.names_file == (keeper.name(B),)


async def test_shrink_is_recorded_before_the_page_and_the_page_before_the_names() -> None:
    world = World((B,))
    keeper = await world.keeper()
    world.clock.hook = lambda: None
    await world.engine.probe()
    await keeper.tick()
    world.clock.now += 1.5
    world.peers.gone = frozenset({"EX02"})
    await keeper.tick()
    assert (await world.recorded()).set == ()
    assert world.events == ["page single=True names=1"]
    assert world.engine.names_history == [()]


async def test_shrink_loses_against_a_promotion_and_the_names_stay() -> None:
    """The race of 3.2: PAM's activation was written first, so this shrink must not release a single commit."""
    world = World((B,))
    keeper = await world.keeper()
    world.clock.hook = lambda: None
    probe = await world.engine.probe()
    await keeper.tick()
    world.clock.now += 1.5
    world.peers.gone = frozenset({"EX02"})
    await world.directory.txn({}, {keys.location("MB01"): b"activated elsewhere"})
    with pytest.raises(Exception, match="changed meanwhile"):
        await keeper.tick()
    assert not probe.done
    assert world.engine.names_file == (keeper.name(B),)


async def test_a_living_member_is_shrunk_only_after_pam_was_asked_and_moved_to_if_pam_says_so() -> None:
    world = World((B,))
    keeper = await world.keeper()
    world.clock.hook = lambda: None
    await world.engine.probe()
    await keeper.tick()
    world.clock.now += 1.5
    world.peers.verdict = "move"
    await keeper.tick()
    assert world.peers.asked == ["EX02"]
    assert world.events == ["move EX02"]
    assert (await world.recorded()).set == (B,)


async def test_a_member_that_took_itself_out_leaves_the_names_after_the_page() -> None:
    world = World((B,))
    keeper = await world.keeper()
    from everpost.activemanager import transitions

    held = keeper.held
    after = transitions.shrunk(held.location, "EX02", reason="reseed")
    result = await world.directory.txn({}, {keys.location("MB01"): encode(after)})
    await keeper.adopt(Held(after, result.revision))
    assert world.events == ["page single=True names=1"]
    assert world.engine.names_file == ()


@pytest.mark.parametrize("restarted", [True, False])
async def test_a_member_that_was_restarted_is_not_blamed_for_slowness(restarted: bool) -> None:
    world = World((B,))
    world.clock.hook = lambda: None
    keeper = await world.keeper()
    await keeper.tick()
    flushed, world.engine.flushed = world.engine.flushed, {}
    probe = await world.engine.probe()
    await keeper.tick()
    world.clock.now += 1.5
    world.peers.tenures += restarted  # back in a new tenure before the wait was long enough to shrink it
    await keeper.tick()
    assert keeper.location.set == ()
    probe.abandon()
    world.engine.flushed = flushed
    world.engine.stream()
    world.clock.hook = world.engine.stream
    await keeper.tick()
    await keeper.tick()
    assert (keeper.location.set == (B,)) is restarted
