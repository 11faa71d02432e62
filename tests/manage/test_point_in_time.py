"""A lagged copy made the active as it was at a point in time (LAG-6): refusals, the preview, and a command that dies
behind any of its writes."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from everpost.activemanager import transitions
from everpost.directory import keys
from everpost.directory.schema import encode
from everpost.errors import EverpostError, Refused, Unavailable
from everpost.manage.cmdlets.lagged import moment
from everpost.model.database import (
    CopySettings,
    CopyState,
    CopyStatus,
    Location,
    LocationState,
    MailboxDatabase,
    Member,
    Opening,
    Token,
)
from everpost.monitoring.catalogue import POINT_IN_TIME

from .organisation import Died, Organisation

TIME = "2025-12-31T23:00:00Z"
OTHER = "2025-12-31T23:30:00Z"
MOVE = f"Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX03 -ReplayToTime {TIME}"
ACCEPTED = f"{MOVE} -AcceptDataLoss"
MB = 1 << 20


class World(Organisation):
    """MB01 is open on EX01 with EX02 in its set; the copy on EX03 lags by two hours. `point`: where a copy that is told
    to stand at a time stands, in bytes; None: it has no log beyond."""

    point: int | None = 30 * MB
    end = 42 * MB

    def __init__(self, **changes: Any) -> None:
        super().__init__(("EX01", "EX02", "EX03"), {"MB01": ("EX01", "EX02", "EX03")})
        copies = {"EX03": CopySettings(replay_lag=7200.0)}
        self._document(
            keys.database("MB01"),
            MailboxDatabase(name="MB01", guid="MB01", number=0, servers=("EX01", "EX02", "EX03"), copies=copies),
        )
        members = (Member("EX02", "1"), Member("EX01", "1"))
        location = Location(
            database="MB01",
            active="EX01",
            token=Token(1, 1),
            state=LocationState.OPEN,
            set=members[:1],
            eligible=members,
            openings=(Opening(Token(1, 1), "EX01", 1, 10 * MB, "n"),),
        )
        self._document(keys.location("MB01"), replace(location, **changes))

    @property
    def location(self) -> Location:
        return self.view.locations["MB01"][0]

    @property
    def copy(self) -> CopySettings:
        return self.view.databases["MB01"].copy("EX03")

    async def put(self, location: Location) -> None:
        """Somebody changes the record."""
        await self._write({}, {keys.location("MB01"): encode(location)})

    async def _play(self) -> None:
        location = self.location
        if location.state is LocationState.MOVING:
            location = transitions.dismounted(transitions.closed(location, self.end, 1), reason="played")
        elif location.state is LocationState.ACTIVATING and location.until is not None:
            assert self.point is not None
            token = location.token
            opening = Opening(token, "EX03", 2, self.point, f"n{token.epoch}", True, location.reason, location.until)
            location = transitions.opened(location, Member("EX03", "1"), opening)
        if location != self.location:
            await self.put(location)

    def statuses(self, server: str) -> dict[str, CopyStatus]:
        found = super().statuses(server)
        for name, status in found.items():
            if server == self.location.active:
                found[name] = replace(status, generated_lsn=self.end, timeline=1)
            elif server == "EX03" and self.copy.replay_to is not None and self.point is not None:
                state, stands = CopyState.SUSPENDED, self.copy.replay_to
                found[name] = replace(status, state=state, stands_at=stands, replayed_lsn=self.point)
        return found


async def test_it_is_opened_as_it_was_and_what_is_given_up_is_recorded() -> None:
    world = World()
    await world.start()
    [row] = await world.run(f"{ACCEPTED} -MoveComment 'mass deletion'")
    assert (row["Status"], row["ActiveServerAtEnd"], row["NumberOfLogsLost"]) == ("Succeeded", "EX03", 12)
    assert row["RecoveryPointObjective"] == TIME
    opening = world.location.openings[-1]
    assert (opening.lossy, opening.until) == (True, moment(TIME))
    for words in ("anna", TIME, f"{12 * MB} bytes", "mass deletion"):
        assert words in opening.comment
    assert world.location.until is None and world.location.eligible == (Member("EX03", "1"),)
    assert world.copy == CopySettings(replay_lag=7200.0), "it is suspended no more"
    assert [number for number, _ in world.events] == [POINT_IN_TIME.id]

    before = world.writes
    [row] = await world.run(ACCEPTED)
    assert (row["Status"], world.writes) == ("NotNeeded", before), "repeated, it changes nothing"


async def test_whichever_write_it_dies_behind_the_same_command_ends_it_once() -> None:
    for writes in range(10):
        world = World()
        await world.start()
        world.die_after = writes
        try:
            await world.run(ACCEPTED)
        except Died:
            world.die_after = None
            await world.settle()
            [row] = await world.run(ACCEPTED)
            assert row["Status"] in ("Succeeded", "NotNeeded")
            assert [one.until for one in world.location.openings] == [None, moment(TIME)]
            assert world.copy == CopySettings(replay_lag=7200.0)
            continue
        assert writes >= 3, "it stands, it is dismounted, it is ordered"
        return
    pytest.fail("the command never came to its end")


@pytest.mark.parametrize("what_if", [True, False])
async def test_the_preview_says_what_is_given_up_and_changes_nothing(what_if: bool) -> None:
    world = World()
    await world.start()
    await world.run(f"Resume-MailboxDatabaseCopy MB01\\EX03 -ReplayToTime {TIME}")
    before = world.writes
    if what_if:
        [row] = await world.run(f"{ACCEPTED} -WhatIf")
        said = str(row["Reason"])
    else:
        with pytest.raises(Refused) as refused:
            await world.run(MOVE)
        said = str(refused.value)
    for words in (TIME, "1:00:00", "12 generations", f"{12 * MB} bytes", "EX01, EX02", "-AcceptDataLoss", "SetAside"):
        assert words in said, words
    assert world.writes == before


CLOSED = {"state": LocationState.DISMOUNTED, "closed_lsn": 42 * MB, "closed_timeline": 1}


@pytest.mark.parametrize(
    ("line", "changes", "words"),
    [
        (ACCEPTED.replace("EX03", "EX02"), {}, "does not lag"),
        (ACCEPTED.replace("EX03", "EX01"), {}, "is the active copy"),
        (ACCEPTED.replace("-ActivateOnServer EX03", ""), {}, "Which copy"),
        (ACCEPTED.replace(TIME, "2025-12-31T21:00:00Z"), {}, "has replayed up to 2025-12-31T22:00:00Z"),
        (ACCEPTED.replace(TIME, "2026-01-02T00:00:00Z"), {}, "Name a time between"),
        (ACCEPTED.replace(TIME, "yesterday"), {}, "no time with its zone"),
        (MOVE, {}, "-AcceptDataLoss"),
        (ACCEPTED, {"state": LocationState.ACTIVATING}, "is activating just now"),
        (ACCEPTED, {"state": LocationState.CLOSED, "closed_lsn": 1}, "is closed just now"),
        (ACCEPTED, {"state": LocationState.DISMOUNTED}, "without being closed cleanly"),
        (ACCEPTED, {"openings": (Opening(Token(1, 1), "EX01", 1, 31 * MB, "n"),)}, "was opened again after"),
    ],
)
async def test_refusals_change_no_record(line: str, changes: dict[str, Any], words: str) -> None:
    world = World(**changes)
    await world.start()
    before = world.location
    with pytest.raises(EverpostError) as refused:
        await world.run(line)
    assert words in str(refused.value)
    assert world.location == before


async def test_an_active_that_may_still_be_writing_is_not_left_behind() -> None:
    world = World()
    await world.start()
    world.alive.discard("EX01")
    with pytest.raises(Refused, match="may still be writing to MB01"):
        await world.run(ACCEPTED)
    world.alive = {"EX01", "EX02"}
    with pytest.raises(Refused, match="EX03 does not hold its tenure"):
        await world.run(ACCEPTED)
    assert world.writes == 0


async def test_a_copy_without_log_beyond_the_time_gives_nothing_up() -> None:
    world = World()
    world.point = None
    await world.start()
    with pytest.raises(Unavailable, match="nothing was given up"):
        await world.run(ACCEPTED)
    assert world.location.state is LocationState.OPEN


async def test_a_database_that_was_dismounted_before_is_opened_so_too() -> None:
    world = World(**CLOSED)
    await world.start()
    [row] = await world.run(ACCEPTED)
    assert (row["Status"], world.location.token) == ("Succeeded", Token(1, 2))


async def test_a_copy_that_stands_goes_on_to_a_later_time_and_not_back() -> None:
    world = World()
    await world.start()
    await world.run(f"Resume-MailboxDatabaseCopy MB01\\EX03 -ReplayToTime {OTHER}")
    with pytest.raises(Refused, match="cannot go back"):
        await world.run(ACCEPTED)
    [row] = await world.run(ACCEPTED.replace(TIME, "2025-12-31T23:40:00Z"))
    assert row["Status"] == "Succeeded"
