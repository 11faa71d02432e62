"""Rules broken on purpose, and bugs that the simulation found brought back: each must be found within some seeds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock

import msgspec

from everpost.activemanager import bestcopy, decide, setpolicy, transitions
from everpost.activemanager.activation import Activation
from everpost.activemanager.copy import CopyController
from everpost.activemanager.decide import Activate
from everpost.activemanager.publishing import Publisher
from everpost.activemanager.record import Held, LocationWriter, Superseded
from everpost.activemanager.service import ActiveManager
from everpost.activemanager.synchronous import SetKeeper
from everpost.activemanager.view import DatabaseView, View
from everpost.databases.interface import Received
from everpost.directory import keys
from everpost.directory.schema import encode
from everpost.errors import OutcomeUnknown, Unavailable
from everpost.model.database import Location, Member, Progress
from everpost.model.tenure import Timing
from tests.simulation.world import Setting, Shape


async def _names_first(self: SetKeeper, step: setpolicy.Shrink) -> None:
    left = [member for member in self.location.set if member.server != step.server]
    await self._engine.set_names([self.name(member) for member in left])
    self.held = await self._writer.change(
        self.held, lambda location: transitions.shrunk(location, step.server, reason=step.reason)
    )
    self._publish(self.location.single)


async def _believe(self: SetKeeper, wanted: tuple[str, ...], deadline: float) -> bool:
    await self._engine.set_names(wanted)
    return True


async def _true(*_: object) -> bool:
    return True


async def _confirm_at_once(self: ActiveManager, database: str, epoch: int) -> bool:
    number = self._organization.databases[database].number
    return self._page.database(number)[0] == epoch and self._tenure.valid()


def _anybody(view: View, database: DatabaseView, server: str, *, honest: Any = bestcopy.refusal) -> str | None:
    why: str | None = honest(view, database, server)
    return None if why is not None and "not known to have" in why else why


async def _change_by_reading(
    self: LocationWriter,
    seen: Held,
    move: Callable[[Location], Location],
    *,
    fences: Mapping[str, int] | None = None,
    give_up: Callable[[], bool] = lambda: False,
) -> Held:
    after = move(seen.location)
    key, value = keys.location(seen.location.database), encode(after)
    guards = {key: seen.revision, **self._guards(), **(fences or {})}
    try:
        result = await self._directory.txn(guards, {key: value})
    except OutcomeUnknown:
        entry = await self._directory.get(key)
        if entry is not None and entry.value == value:
            return Held(after, entry.revision)
        raise Superseded("It was read that nothing happened.") from None
    if not result.succeeded:
        raise Superseded("It changed meanwhile.")
    return Held(after, result.revision)


async def _grow_by_reading(self: SetKeeper, member: Member, *, honest: Any = SetKeeper._grow) -> None:
    try:
        await honest(self, member)
    except Superseded:
        await self._engine.set_names(self.names())  # "it did not happen"
        self._quiet_until[member.server] = self._clock.boottime() + 2.0


async def _publish_unseen(self: Publisher) -> None:
    last, at = b"", 0.0
    shown: list[tuple[object, ...]] = []
    while True:
        rows = self.statuses()
        facts: list[tuple[object, ...]] = [(row.database, row.state, row.incarnation, row.token) for row in rows]
        value = encode(rows)
        if (facts != shown or self._clock.boottime() - at >= 1.0) and value != last:
            try:
                await self._directory.txn(self._own_guard(), {**self._take_progress(), keys.status(self._me): value})
                last, shown, at = value, facts, self._clock.boottime()
            except (OutcomeUnknown, Unavailable):
                last = b""
        await self._clock.sleep(0.1)


async def _close_blindly(self: CopyController, held: Held, *, honest: Any = CopyController._close) -> None:
    with mock.patch.object(self.engine, "alive", _true):
        await honest(self, held)


def _forgotten_round(view: View, database: DatabaseView) -> Activate | None:
    cleared = msgspec.structs.replace(database.location, refused=())
    return decide._activate(
        view, msgspec.structs.replace(database, location=cleared), reason="every copy refused; trying all of them again"
    )


def _opened_with_former_set(location: Location, *arguments: Any, honest: Any = transitions.opened) -> Location:
    after: Location = honest(location, *arguments)
    kept: tuple[Member, ...] = tuple(one for one in location.eligible if one.server != location.active)
    return msgspec.structs.replace(after, eligible=(*after.eligible, *kept))


async def _replay_all(self: Activation, location: Location, until: float) -> Received:
    return await self._received(location)


def _floor_as_recorded(location: Location, progress: Progress | None) -> int:
    return progress.acknowledged_lsn if progress is not None else 0


class Sabotage(NamedTuple):
    """`patches`: (owner, name, replacement). `setting`: in what world it is found soon."""

    patches: tuple[tuple[object, str, object], ...]
    setting: Setting


PAIR = Shape(2, 1, 2)
TRIO = Shape(3, 1, 3)
MANY = Shape(2, 6, 2)
PAST = Setting(TRIO, favour=("past", "administrator"))
SABOTAGES: dict[str, Sabotage] = {
    "names before the record": Sabotage(((SetKeeper, "_shrink", _names_first),), Setting(PAIR)),
    "grow without a wait that was seen": Sabotage(((SetKeeper, "_prove", _believe),), Setting(PAIR)),
    "grow confirmed before all was flushed": Sabotage(
        ((SetKeeper, "_flushed", _true), (SetKeeper, "_see_a_wait", _true)), Setting(PAIR)
    ),
    "empty set acknowledged without a renewal": Sabotage(
        ((ActiveManager, "confirm", _confirm_at_once),), Setting(PAIR, favour=("pause machine", "kill postmaster"))
    ),
    "a copy that is not eligible": Sabotage(
        ((bestcopy, "refusal", _anybody), (Activation, "_must_be_eligible", lambda self, location: None)),
        Setting(PAIR, favour=("slow disk", "slow network", "power")),
    ),
    "unknown outcome settled by reading": Sabotage(
        ((LocationWriter, "change", _change_by_reading), (SetKeeper, "_grow", _grow_by_reading)),
        Setting(MANY, favour=("bad line", "kill postmaster")),
    ),
    "hold above take": Sabotage((), Setting(PAIR, Timing(hold=6.0, take=2.3), ("cut from directory", "isolate"))),
    "the former set stays eligible after an opening": Sabotage(
        ((transitions, "opened", _opened_with_former_set),), Setting(TRIO)
    ),
    "an activation at a point in time replays all": Sabotage(((Activation, "_standing", _replay_all),), PAST),
}
"""Rules of architecture 3."""

FOUND: dict[str, Sabotage] = {
    "a round in which every copy refused": Sabotage(
        ((decide, "_new_round", _forgotten_round),), Setting(PAIR, favour=("stuck disk",))
    ),
    "a status that an older one replaced": Sabotage(
        ((Publisher, "run", _publish_unseen),),
        Setting(PAIR, favour=("administrator", "bad line")),
    ),
    "a close of an instance that died": Sabotage(
        ((CopyController, "_close", _close_blindly),), Setting(PAIR, favour=("administrator", "kill postmaster"))
    ),
    "a floor from before an opening with loss": Sabotage(
        ((Activation, "_must_have", staticmethod(_floor_as_recorded)),), PAST
    ),
}
"""Bugs found by the simulation (docs/track-record.md), as they were."""


@contextlib.contextmanager
def broken(name: str) -> Iterator[Setting]:
    """The rule `name` is broken meanwhile; the setting in which it is found."""
    sabotage = {**SABOTAGES, **FOUND}[name]
    with contextlib.ExitStack() as stack:
        for owner, attribute, replacement in sabotage.patches:
            stack.enter_context(mock.patch.object(owner, attribute, replacement))
        yield sabotage.setting
