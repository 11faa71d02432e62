"""The duty of a passive copy, with a small engine: what is stopped, wiped or seeded, and what must come before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from everpost.activemanager.passive import PassiveDuty
from everpost.activemanager.record import Held
from everpost.activemanager.relation import QUARANTINED
from everpost.activemanager.seeding import MOST_FAILURES
from everpost.databases.interface import Failure, Files, Interrupted, NoStream, StandbyPositions, Upstream
from everpost.errors import EverpostError
from everpost.model.database import (
    CopySettings,
    CopyState,
    Location,
    LocationState,
    Member,
    Opening,
    SeedOrder,
    Token,
)

ME = "EX02"
SPOILT_BY_LOSS = Files(present=True, was_primary=True, timeline=1, end_lsn=900)


class SmallEngine:
    """Files, one instance, and a diary of what was done to them."""

    incarnation = "i1"

    def __init__(self, diary: list[str]) -> None:
        self.diary = diary
        self.runs = False
        self.now_files = Files(present=True, timeline=2)
        self.noted: Failure | None = None
        self.seed_errors: list[Exception] = []
        self.order = ""
        self.cannot_rewind = False
        self.free = 100 << 30
        self.kept: float | None = None
        self.following: Upstream | None = None
        self.apart = False
        self.until: float | None = None
        self.beyond = False
        self.rows = [(Token(1, 1), "a"), (Token(1, 2), "b")]

    async def running(self) -> bool | None:
        return None if self.runs else False

    async def alive(self) -> bool:
        return self.runs

    async def files(self) -> Files:
        return self.now_files

    async def start(self, upstream: Upstream, until: float | None = None) -> None:
        self.diary.append("start" if until is None else f"start until {until:.0f}")
        if until is not None and self.beyond:
            raise EverpostError("PostgreSQL did not start: it has replayed more than that")
        self.runs, self.following, self.until = True, upstream, until

    async def follow(self, upstream: Upstream) -> None:
        self.following = upstream

    async def kill(self) -> None:
        self.diary.append("kill")
        self.runs = False

    async def standby_positions(self) -> StandbyPositions:
        return StandbyPositions(1000, 1000, 2, self.runs and not self.apart, 1000, self.until if self.runs else None)

    async def openings(self) -> list[tuple[Token, str]]:
        return self.rows

    async def fetch_seed(self, upstream: Upstream, percent: Callable[[int], None]) -> None:
        self.diary.append(f"fetch {upstream.server}")
        await asyncio.sleep(0)
        if self.seed_errors:
            raise self.seed_errors.pop(0)

    async def adopt_seed(self, order: str) -> None:
        self.diary.append("adopt running" if self.runs else "adopt")
        self.order, self.noted, self.now_files = order, None, Files(present=True, timeline=2)

    async def set_aside(self, left_by: Token, fork_lsn: int | None) -> str:
        self.diary.append("set aside running" if self.runs else "set aside")
        return "diverged-1.2"

    async def rewind(self, upstream: Upstream) -> None:
        self.diary.append("rewind running" if self.runs else "rewind")
        if self.cannot_rewind:
            self.now_files = Files(present=True, spoilt=True)
            raise EverpostError("pg_rewind failed")
        self.now_files = Files(present=True, timeline=2)
        self.apart = False

    def diverged(self) -> tuple[str, ...]:
        return ()

    def free_space(self) -> int:
        return self.free

    async def keep_log(self, seconds: float | None) -> None:
        self.kept = seconds

    async def drop_files(self) -> None:
        self.diary.append("drop running" if self.runs else "drop")
        self.now_files = Files(present=False)

    def seeded(self) -> str:
        return self.order

    def failure(self) -> Failure | None:
        return self.noted

    def fail(self, failure: Failure | None) -> None:
        self.noted = failure

    def no_stream(self) -> NoStream | None:
        return NoStream.FORKED if self.runs and self.apart else None

    def scrubbed_at(self) -> float:
        return 1e12

    async def scrub(self, now: float) -> str:
        return ""


@dataclass
class World:
    """The host as the duty sees it; the record changes as its writer is told."""

    location: Location
    settings: CopySettings = field(default_factory=CopySettings)
    diary: list[str] = field(default_factory=list)
    now: float = 100.0
    me: str = ME
    scrub_every: float = 1e9
    lag_low_space: int = 10 << 30
    good: tuple[int, int] = (2, 2)
    shown: CopyState | None = None
    events: list[tuple[bool, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine = SmallEngine(self.diary)
        self.duty = PassiveDuty("MB01", self.engine, self)  # type: ignore[arg-type]
        self.writer = self.peers = self.clock = self

    def boottime(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)

    def lost(self) -> frozenset[str]:
        return frozenset()

    def copy_settings(self, database: str, server: str) -> CopySettings:
        return self.settings

    async def change_copy(self, database: str, change: Callable[[CopySettings], CopySettings]) -> None:
        self.settings = change(self.settings)

    def good_copies(self, database: str) -> tuple[int, int]:
        return self.good

    def copy_event(self, database: str, failed: bool, why: str) -> None:
        self.events.append((failed, why))

    def seeding_from_me(self, database: str) -> bool:
        return False

    def shown_state(self, database: str) -> CopyState | None:
        return self.shown

    def upstream(self, server: str, database: str, token: Token) -> Upstream:
        return Upstream(server, "h", 1, token)

    async def change(self, held: Held, move: Callable[[Location], Location], **_: Any) -> Held:
        self.diary.append("confirmed out")
        self.location = move(held.location)
        return Held(self.location, 2)

    async def step(self, times: int = 1) -> CopyState:
        for _ in range(times):
            state, self.error = await self.duty.step(Held(self.location, 1))
            self.shown = state
            self.now += 2.0
            await asyncio.sleep(0.001)
        return state


def record(*, member: bool = True, lossy: bool = False) -> Location:
    set_ = (Member(ME, "i1"),) if member else ()
    openings = (Opening(Token(1, 1), ME, 1, 100, "a"), Opening(Token(1, 2), "EX01", 2, 500, "b", lossy))
    return Location(
        database="MB01",
        active="EX01",
        token=Token(1, 2),
        state=LocationState.OPEN,
        set=set_,
        eligible=(*set_, Member("EX01", "x")),
        openings=openings,
    )


async def test_a_member_that_is_suspended_goes_on_until_the_active_took_it_out() -> None:
    world = World(record())
    assert await world.step(2) is CopyState.HEALTHY
    world.settings = CopySettings(suspended=True)
    assert await world.step(3) is CopyState.HEALTHY and world.diary == ["kill", "start"]
    world.location = record(member=False)
    assert await world.step() is CopyState.SUSPENDED and world.diary[-1] == "kill"


@pytest.mark.parametrize("broken", [False, True])
async def test_files_give_way_only_when_nothing_runs_on_them_and_the_record_says_so(
    broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its sabotage: a duty that does not ask for the confirmed change is noticed."""
    if broken:

        async def nothing(self: object, held: Held, why: str) -> None:
            return None

        monkeypatch.setattr(PassiveDuty, "_leave", nothing)
    world = World(record(member=False))
    await world.step(2)
    world.diary.clear()
    world.settings = CopySettings(suspended=True, seed=SeedOrder(id="o1", delete_existing=True))
    await world.step(6)
    deeds = [deed for deed in world.diary if deed.startswith(("kill", "confirmed", "drop", "adopt"))]
    in_order = deeds[:6] == ["kill", "confirmed out", "drop", "kill", "confirmed out", "adopt"]
    assert in_order is not broken
    if not broken:
        assert world.settings == CopySettings()
        assert await world.step(2) is CopyState.HEALTHY


async def test_a_quarantined_copy_fails_again_and_is_given_up_by_a_word_only() -> None:
    world = World(record(member=False, lossy=True))
    world.engine.now_files = SPOILT_BY_LOSS
    assert await world.step(3) is CopyState.FAILED_AND_SUSPENDED and world.error == QUARANTINED
    assert world.events == [(True, f"it suspended itself: {QUARANTINED}")], "told once, in each step that it stands"
    again = PassiveDuty("MB01", world.engine, world)  # type: ignore[arg-type]
    assert (await again.step(Held(world.location, 1)))[0] is CopyState.FAILED_AND_SUSPENDED
    assert len(world.events) == 1, "nor told again by an agent that was restarted"
    world.settings = CopySettings(resumes=1)
    assert await world.step(2) is CopyState.FAILED_AND_SUSPENDED and world.engine.noted is not None
    assert world.engine.noted.resumes == 1 and len(world.events) == 2
    world.settings = CopySettings(suspended=True, seed=SeedOrder(id="o1"), resumes=2)
    assert await world.step(2) is CopyState.FAILED_AND_SUSPENDED
    assert world.settings.seed is None and not any(deed.startswith(("fetch", "drop")) for deed in world.diary)
    world.settings = CopySettings(suspended=True, seed=SeedOrder(id="o2", delete_existing=True), resumes=3)
    assert await world.step(8) is CopyState.HEALTHY
    assert "drop" in world.diary and "fetch EX01" in world.diary


@pytest.mark.parametrize(
    ("files", "cannot_rewind", "deeds"),
    [
        (SPOILT_BY_LOSS, False, ["set aside", "confirmed out", "rewind"]),
        (SPOILT_BY_LOSS, True, ["set aside", "confirmed out", "rewind", "fetch EX01", "confirmed out", "adopt"]),
        # Another timeline of the same number: a rewind would see no difference.
        (
            Files(present=True, timeline=2, end_lsn=900, begin_lsn=400),
            False,
            ["set aside", "fetch EX01", "confirmed out", "adopt"],
        ),
    ],
)
async def test_T_CPY_7_by_a_word_the_diverged_log_is_set_aside_and_the_copy_follows_again(
    files: Files, cannot_rewind: bool, deeds: list[str]
) -> None:
    world = World(record(member=False, lossy=True))
    world.engine.now_files, world.engine.cannot_rewind = files, cannot_rewind
    world.settings = CopySettings(set_aside=Token(1, 1))  # a word about an earlier loss is none about this one
    assert await world.step(3) is CopyState.FAILED_AND_SUSPENDED and QUARANTINED in world.error
    world.diary.clear()
    world.settings = CopySettings(resumes=1, set_aside=Token(1, 2))
    for _ in range(12):
        try:
            state = await world.step()
        except EverpostError:
            continue
    assert state is CopyState.HEALTHY
    assert [deed for deed in world.diary if deed not in ("kill", "start")] == deeds
    assert world.settings == CopySettings(resumes=1)


@pytest.mark.parametrize("lossy", [False, True])
async def test_a_copy_that_postgresql_says_is_apart_is_rewound_unless_something_was_lost(lossy: bool) -> None:
    """Its files did not tell; such a copy connects again and again, and looks as if it streamed each time."""
    world = World(record(lossy=lossy))
    await world.step()
    world.engine.apart = True
    state = await world.step(4)
    if lossy:
        assert (state, world.engine.noted) == (CopyState.FAILED_AND_SUSPENDED, Failure(reason=QUARANTINED))
        assert "rewind" not in world.diary
        world.settings = CopySettings(resumes=1, set_aside=Token(1, 2))
        await world.step(6)
        assert world.diary.index("set aside") < world.diary.index("adopt"), "the word ends it, and keeps its files"
    else:
        assert state is CopyState.HEALTHY
        assert world.diary == ["kill", "start", "kill", "confirmed out", "rewind", "start"]


async def test_damage_is_shown_then_healed() -> None:
    world = World(record())
    world.engine.noted = Failure(reason="damaged pages: file x", heal=True)
    assert await world.step() is CopyState.FAILED_AND_SUSPENDED and "damaged" in world.error
    assert await world.step() is CopyState.SEEDING
    assert await world.step(3) is CopyState.HEALTHY and world.engine.noted is None


async def test_an_interrupted_seed_begins_again_for_ever_a_failing_one_does_not() -> None:
    world = World(record(member=False))
    world.engine.now_files = Files(present=False)
    world.engine.seed_errors = [Interrupted("cut") for _ in range(MOST_FAILURES + 2)]
    assert await world.step(40) is CopyState.HEALTHY
    world = World(record(member=False))
    world.engine.now_files = Files(present=False)
    world.engine.seed_errors = [EverpostError("No space left") for _ in range(MOST_FAILURES)]
    assert await world.step(40) is CopyState.FAILED_AND_SUSPENDED and "No space left" in world.error
    world.settings = CopySettings(resumes=1)
    assert await world.step(6) is CopyState.HEALTHY


async def test_a_seed_of_an_ended_epoch_is_thrown_away() -> None:
    world = World(record(member=False))
    world.engine.now_files = Files(present=False)
    await world.step()
    world.location = Location(
        **{name: getattr(world.location, name) for name in world.location.__struct_fields__ if name != "token"},
        token=Token(1, 3),
    )
    await world.step()
    assert "adopt" not in world.diary
    await world.step(3)
    assert world.diary.count("fetch EX01") == 2 and world.diary.count("adopt") == 1


async def test_with_little_room_a_lagged_copy_replays_and_keeps_no_log_for_time() -> None:
    world = World(record(member=False))
    world.settings = CopySettings(replay_lag=3600.0, truncation_lag=600.0)
    await world.step(10)
    assert world.engine.following is not None and world.engine.following.delay == 3600.0
    assert world.engine.kept == 4200.0, "counted from the replay"
    world.engine.free = 9 << 30
    await world.step(10)
    assert "free on its disk" in world.settings.lag_disabled
    assert world.settings.kept_out == "", "played down it is a copy like any other"
    assert world.engine.following.delay == 0.0 and world.engine.kept is None
    world.engine.free = 14 << 30
    await world.step(10)
    assert world.settings.lag_disabled, "not before there is half as much again"
    world.engine.free = 16 << 30
    await world.step(10)
    assert world.settings == CopySettings(replay_lag=3600.0, truncation_lag=600.0)
    assert world.engine.following.delay == 3600.0
    world.settings = CopySettings(replay_lag=3600.0, lag_disabled="an administrator says so")
    await world.step(10)
    assert world.settings.lag_disabled == "an administrator says so"


@pytest.mark.parametrize("lossy", [False, True])
async def test_a_copy_whose_history_lacks_a_recorded_opening_is_seeded_anew(lossy: bool) -> None:
    """It followed an activation that died before it was recorded, and the next one began at the same place. What an
    opening with loss left behind is kept for a person."""
    world = World(record(lossy=lossy))
    assert await world.step(40) is CopyState.HEALTHY and "leave" not in " ".join(world.diary)
    world.engine.rows = [(Token(1, 1), "a"), (Token(1, 2), "never recorded")]
    assert await world.step(16) is CopyState.HEALTHY, "what is replayed later would not be missing"
    states = [await world.step() for _ in range(30)]
    assert CopyState.FAILED_AND_SUSPENDED in states
    assert any("fetch" in line for line in world.diary) is not lossy
    assert world.events[0][0] and "the opening at 1.2 is not in its history" in world.events[0][1]


async def test_a_copy_stands_at_a_point_in_time_until_it_is_resumed() -> None:
    world = World(record())
    world.settings = CopySettings(replay_lag=3600.0, suspended=True, replay_to=50.0)
    await world.step(3)
    assert "start until 50" not in world.diary, "the record counts on it: its active takes it out first"
    world.location = record(member=False)
    assert await world.step(3) is CopyState.SUSPENDED
    assert world.diary[-2:] == ["kill", "start until 50"], "once"
    world.settings = CopySettings(replay_lag=3600.0)
    await world.step(2)
    assert world.engine.following is not None and world.engine.following.delay == 3600.0


async def test_a_copy_of_another_history_does_not_say_that_it_stands() -> None:
    """It was promoted, and that was never recorded: whoever activated it would not get what he was told."""
    for mark, stands in ((None, 50.0), (Token(1, 3), None)):
        world = World(record(member=False))
        world.engine.now_files = Files(present=True, timeline=2, mark_token=mark, mark_nonce="x" if mark else "")
        world.settings = CopySettings(replay_lag=3600.0, suspended=True, replay_to=50.0)
        state = await world.step(2)
        assert state is CopyState.SUSPENDED
        assert world.duty.status(state, "").stands_at == stands


async def test_a_copy_that_cannot_stand_again_does_not_say_that_it_stands() -> None:
    """It stood, was the active copy meanwhile, and has replayed more by now: what it said then must not be said now, or
    an activation would be ordered that no copy can carry out."""
    world = World(record(member=False))
    world.settings = CopySettings(replay_lag=3600.0, suspended=True, replay_to=50.0)
    await world.step(2)
    world.engine.beyond, world.engine.runs = True, False
    for _ in range(3):
        with pytest.raises(EverpostError, match="did not start"):
            await world.duty.step(Held(world.location, 1))
        assert world.duty.status(CopyState.FAILED, "").stands_at is None


async def test_a_member_does_not_lag_before_it_is_out_of_the_set() -> None:
    world = World(record())
    world.settings = CopySettings(replay_lag=60.0)
    await world.step(2)
    assert world.engine.following is not None and world.engine.following.delay == 0.0
    world.location = record(member=False)
    await world.step(2)
    assert world.engine.following.delay == 60.0
