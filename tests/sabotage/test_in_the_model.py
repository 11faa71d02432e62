"""Sabotage of the order of steps, in the model of one active: the tests of `synchronous` would notice."""

from __future__ import annotations

import pytest

from everpost.activemanager import setpolicy, transitions
from everpost.activemanager.relation import Remedy, relate
from everpost.activemanager.synchronous import SetKeeper
from everpost.databases.interface import Files
from everpost.directory import keys
from everpost.errors import EverpostError
from everpost.model.database import Token
from tests.activemanager.test_synchronous import B, World
from tests.activemanager.test_transitions import HISTORY


class NamesFirst(SetKeeper):
    """PostgreSQL is shrunk before etcd."""

    async def _shrink(self, step: setpolicy.Shrink) -> None:
        await self._engine.set_names(())
        self.held = await self._writer.change(
            self.held, lambda location: transitions.shrunk(location, step.server, reason=step.reason)
        )


class BelievesStatistics(SetKeeper):
    """A grow is confirmed by pg_stat_replication."""

    async def _see_a_wait(self, wanted: tuple[str, ...], deadline: float) -> bool:
        return self._all_flushed(await self._engine.positions(), wanted, 0)


@pytest.mark.parametrize("kind", [SetKeeper, NamesFirst], ids=["record first", "names first"])
async def test_a_shrink_that_loses_the_race_releases_no_commit(kind: type[SetKeeper]) -> None:
    world = World((B,))
    keeper = await world.keeper()
    keeper.__class__ = kind
    world.clock.hook = lambda: None
    probe = await world.engine.probe()
    await keeper.tick()
    world.clock.now += 1.5
    world.peers.gone = frozenset({"EX02"})
    await world.directory.txn({}, {keys.location("MB01"): b"activated elsewhere"})
    with pytest.raises(EverpostError):
        await keeper.tick()
    assert probe.done == (kind is NamesFirst)


@pytest.mark.parametrize("kind", [SetKeeper, BelievesStatistics], ids=["seen waiting", "pg_stat_replication"])
async def test_a_recorded_set_holds_commits_back(kind: type[SetKeeper]) -> None:
    world = World(())
    world.engine.checkpointer_runs = False
    keeper = await world.keeper()
    keeper.__class__ = kind
    await keeper.tick()
    world.clock.hook = lambda: None
    world.engine.lsn += 100
    recorded = (await world.recorded()).set
    acknowledged_alone = not world.engine.holds_back(world.engine.lsn)
    assert (bool(recorded) and acknowledged_alone) == (kind is BelievesStatistics)


def test_without_the_mark_a_fork_of_the_same_number_would_be_attached() -> None:
    forked = Files(present=True, timeline=6, mark_token=Token(1, 5), mark_nonce="other")
    assert relate(forked, HISTORY).remedy is Remedy.RESEED
    forgetful = Files(present=True, timeline=6)
    assert relate(forgetful, HISTORY).remedy is Remedy.ATTACH
