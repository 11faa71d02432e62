"""The holder and the challenger on a directory in memory, in simulated time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from everpost.directory import keys
from everpost.directory.interface import Entry, TxnResult
from everpost.directory.memory import MemoryDirectory
from everpost.directory.schema import decode, encode
from everpost.directory.tenure import Challengers, Tenure, TenureLost
from everpost.errors import OutcomeUnknown, Unavailable
from everpost.model.tenure import FencingRecord, TenureRecord, TenureState, Timing
from tests.directory.world import DriftingClock, simulate

TIMING = Timing()


class Host:
    """Server A's tenure with a warden that answers as told; what it confirmed is kept."""

    def __init__(self, directory: MemoryDirectory, instance: str = "warden1", server: str = "A") -> None:
        self.clock = DriftingClock(100.0, 1.0)
        self.tenure = Tenure(directory, self.clock, server, instance, TIMING)
        self.warden = True
        self.deadlines: list[float] = []
        self.renewing: asyncio.Task[None] | None = None

    async def ready(self) -> bool:
        return self.warden

    async def deadline(self, until: float, epoch: int) -> None:
        assert self.tenure.valid_until < until, "it counts before the warden has it"
        self.deadlines.append(until)

    async def begin(self) -> None:
        await self.tenure.acquire()
        self.renewing = asyncio.create_task(self.tenure.renew_forever(self.ready, self.deadline))
        await asyncio.sleep(0.01)


class Counting(MemoryDirectory):
    """Counts transactions; each takes `delay` seconds to arrive and as long to be answered."""

    def __init__(self, delay: float = 0.0) -> None:
        super().__init__()
        self.sent: list[float] = []
        self.delay = delay

    async def txn(self, *args: Any, **options: Any) -> TxnResult:
        self.sent.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.delay)
        result = await super().txn(*args, **options)
        await asyncio.sleep(self.delay)
        return result


class Slow(MemoryDirectory):
    """Each change happens at once, and its answer comes after `delay` seconds, whether it is waited for or not."""

    def __init__(self, delay: float) -> None:
        super().__init__()
        self.delay = delay

    async def txn(
        self,
        *args: Any,
        attempt: float | None = None,
        late: Callable[[TxnResult], object] | None = None,
        **options: Any,
    ) -> TxnResult:
        result = await super().txn(*args, **options)
        if attempt is None or attempt >= self.delay:
            await asyncio.sleep(self.delay)
            return result
        if late is not None:
            asyncio.get_running_loop().call_later(self.delay, late, result)
        await asyncio.sleep(attempt)
        raise OutcomeUnknown("no answer")


def simulated(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run the test in simulated time."""

    def run() -> None:
        async def body() -> None:
            await test()

        simulate(body())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def fence(directory: MemoryDirectory, server: str = "A") -> FencingRecord:
    entry = await directory.get(keys.fence(server))
    assert entry is not None
    return decode(FencingRecord, entry.value)


@simulated
async def test_nothing_is_valid_before_a_renewal_was_confirmed() -> None:
    directory = MemoryDirectory()
    host = Host(directory)
    await host.tenure.acquire()
    assert not host.tenure.valid() and host.tenure.epoch == 1
    await host.begin()
    assert host.tenure.valid() and host.tenure.epoch == 1
    assert host.deadlines[0] == pytest.approx(100.0 + TIMING.hold)


@simulated
async def test_it_is_renewed_as_often_as_the_timing_says() -> None:
    directory = Counting()
    host = Host(directory)
    await host.begin()
    await asyncio.sleep(3.0)
    assert 10 <= len(directory.sent) <= 12
    assert host.tenure.longest_gap == pytest.approx(TIMING.renew, abs=0.02)


@simulated
async def test_an_unknown_outcome_extends_nothing_and_is_sent_again_at_once() -> None:
    directory = Counting()
    host = Host(directory)
    await host.begin()
    until = host.tenure.valid_until
    directory.lose_answers(1000, effect=True)
    await asyncio.sleep(TIMING.hold + 0.1)
    assert host.tenure.valid_until == until and not host.tenure.valid()
    assert 8 < len(directory.sent) < 80
    directory._lose.clear()
    await asyncio.sleep(0.1)
    assert host.tenure.valid() and host.tenure.epoch == 1


@simulated
async def test_answers_that_always_come_late_keep_it_from_the_time_they_were_asked_for() -> None:
    directory = Slow(delay=0.9)
    host = Host(directory)
    await host.begin()
    assert not host.tenure.valid()
    await asyncio.sleep(1.2)
    for _ in range(100):
        assert host.tenure.valid()
        left = host.tenure.valid_until - host.clock.boottime()
        assert TIMING.hold - 0.9 - 2 * TIMING.attempt - 0.01 < left <= TIMING.hold - 0.9
        await asyncio.sleep(0.05)
    directory.delay = TIMING.hold + 0.1
    await asyncio.sleep(TIMING.hold)
    assert not host.tenure.valid(), "what was asked for more than HOLD ago is worth nothing"


@simulated
async def test_a_late_answer_means_nothing_to_a_later_tenure_or_once_it_was_given_back() -> None:
    directory = Slow(delay=0.9)
    host = Host(directory)
    await host.begin()
    await asyncio.sleep(0.85)  # the first answers come at 0.9 s
    taken = FencingRecord(server="A", instance="warden1", epoch=2, state=TenureState.TAKEN)
    await directory.txn({}, {keys.fence("A"): encode(taken)})
    assert host.renewing is not None
    with pytest.raises(TenureLost):
        await asyncio.wait_for(host.renewing, 5.0)
    await host.tenure.acquire()
    renewing = asyncio.create_task(host.tenure.renew_forever(host.ready, host.deadline))
    began = len(host.deadlines)
    await asyncio.sleep(0.8)  # answers to the first tenure still come
    assert len(host.deadlines) == began and not host.tenure.valid()
    await asyncio.sleep(0.4)
    assert host.tenure.valid()
    await host.tenure.release()
    assert not host.tenure.valid()
    counted = len(host.deadlines)
    await asyncio.sleep(3.0)
    assert len(host.deadlines) == counted and not host.tenure.valid()
    renewing.cancel()


@simulated
async def test_it_renews_only_while_the_warden_answers() -> None:
    host = Host(Counting())
    await host.begin()
    host.warden = False
    await asyncio.sleep(TIMING.hold + TIMING.renew)
    assert not host.tenure.valid()
    host.warden = True
    await asyncio.sleep(TIMING.renew + 0.01)
    assert host.tenure.valid()


@simulated
async def test_a_restarted_agent_adopts_while_the_warden_is_the_same() -> None:
    directory = MemoryDirectory()
    host = Host(directory)
    await host.begin()
    assert host.renewing is not None
    host.renewing.cancel()
    again = Host(directory)
    await again.tenure.acquire()
    assert (again.tenure.epoch, again.tenure.fence_revision) == (1, host.tenure.fence_revision)
    other = Host(directory, instance="warden2")
    await other.tenure.acquire()
    assert other.tenure.epoch == 2


@simulated
async def test_a_lost_answer_to_acquiring_is_settled_by_acquiring_again() -> None:
    for effect in (True, False):
        directory = MemoryDirectory()
        directory.lose_answers(1, effect=effect)
        host = Host(directory)
        with pytest.raises(OutcomeUnknown):
            await host.tenure.acquire()
        await host.begin()
        assert host.tenure.valid() and host.tenure.epoch == 1


@simulated
async def test_a_late_acquiring_changes_nothing_after_the_next_one() -> None:
    directory = MemoryDirectory()
    directory.delay_effects(1)
    host = Host(directory)
    with pytest.raises(OutcomeUnknown):
        await host.tenure.acquire()
    await host.begin()
    assert [result.succeeded for result in directory.deliver_late()] == [False]
    await asyncio.sleep(1.0)
    assert host.tenure.valid()


@simulated
async def test_who_was_taken_stops_and_comes_back_with_a_new_epoch() -> None:
    directory = MemoryDirectory()
    host = Host(directory)
    await host.begin()
    taken = FencingRecord(server="A", instance="warden1", epoch=2, state=TenureState.TAKEN)
    waiting = asyncio.create_task(host.tenure.confirmed_after(host.clock.boottime() + 0.2))
    await directory.txn({}, {keys.fence("A"): encode(taken)})
    assert host.renewing is not None
    with pytest.raises(TenureLost):
        await host.renewing
    assert not host.tenure.valid()
    with pytest.raises(TenureLost):
        await waiting
    await host.begin()
    assert host.tenure.epoch == 3 and host.tenure.valid()


@simulated
async def test_a_confirmation_is_of_a_renewal_sent_after_it_was_asked_for() -> None:
    directory = Counting(delay=0.05)
    host = Host(directory)
    await host.begin()
    await asyncio.sleep(0.5)
    for _ in range(20):
        await asyncio.sleep(0.033)
        asked = asyncio.get_running_loop().time()
        await host.tenure.confirmed_after(host.clock.boottime())
        answered = asyncio.get_running_loop().time()
        assert any(asked < sent and sent + 0.1 <= answered + 1e-9 for sent in directory.sent)
        assert answered - asked < 0.21  # the rest of one in flight, and one round trip


@simulated
async def test_many_who_wait_share_one_renewal() -> None:
    directory = Counting(delay=0.02)
    host = Host(directory)
    await host.begin()
    await asyncio.sleep(0.1)
    before = len(directory.sent)
    await asyncio.gather(*(host.tenure.confirmed_after(host.clock.boottime()) for _ in range(100)))
    assert len(directory.sent) - before <= 2


@simulated
async def test_a_confirmation_ends_with_the_tenure() -> None:
    directory = MemoryDirectory()
    host = Host(directory)
    await host.begin()
    directory.available = False
    with pytest.raises(Unavailable):
        await host.tenure.confirmed_after(host.clock.boottime())
    assert not host.tenure.valid()


@simulated
async def test_no_renewal_is_counted_once_it_was_given_back() -> None:
    directory = Counting(delay=0.1)
    host = Host(directory)
    await host.begin()
    await asyncio.sleep(0.35)  # a renewal is in flight
    await host.tenure.release()
    assert (await fence(directory)).state is TenureState.RELEASED
    deadlines = len(host.deadlines)
    await asyncio.sleep(5.0)
    assert not host.tenure.valid() and len(host.deadlines) == deadlines
    await host.tenure.acquire()
    assert (await fence(directory)).state is TenureState.RELEASED


class Rival:
    """Server B, which may take A. `learned`: what it was told ahead of the watch."""

    def __init__(self, directory: MemoryDirectory) -> None:
        self.directory = directory
        self.clock = DriftingClock(5000.0, 1.0)
        self.learned: dict[str, Entry] = {}
        self.host = Host(directory, "warden of B", "B")
        self.fences: dict[str, Entry | None] = {}
        self.challengers = Challengers(
            directory,
            self.clock,
            "B",
            TIMING,
            fence=self.fences.get,
            own_guard=lambda: {keys.fence("B"): self.host.tenure.fence_revision},
            learn=lambda entry: self.learned.update({entry.key: entry}),
        )

    async def look(self) -> None:
        """As the watch would tell."""
        self.fences["A"] = await self.directory.get(keys.fence("A"))
        self.challengers.on_change(keys.tenure("A"), await self.directory.get(keys.tenure("A")))


@simulated
async def test_a_silent_server_is_taken_with_all_that_belongs_to_it() -> None:
    directory = MemoryDirectory()
    host, rival = Host(directory), Rival(directory)
    await rival.host.tenure.acquire()
    await host.begin()
    assert host.renewing is not None
    host.renewing.cancel()
    await rival.look()
    assert not await rival.challengers.take("A", {}, {"/pam": b"B"})
    await asyncio.sleep(TIMING.take + 0.01)
    assert rival.challengers.expired("A")
    assert await rival.challengers.take("A", {"/pam": 0}, {"/pam": b"B"})
    assert await fence(directory) == FencingRecord(server="A", instance="warden1", epoch=2, state=TenureState.TAKEN)
    entry = await directory.get(keys.tenure("A"))
    assert entry is not None and decode(TenureRecord, entry.value).taker == "B"
    assert set(rival.learned) == {keys.fence("A"), keys.tenure("A"), "/pam"}


@simulated
async def test_a_renewal_that_came_since_the_decision_saves_it() -> None:
    directory = MemoryDirectory()
    host, rival = Host(directory), Rival(directory)
    await host.begin()
    await rival.look()
    assert host.renewing is not None
    host.renewing.cancel()
    await asyncio.sleep(TIMING.take + 0.1)
    assert rival.challengers.expired("A")  # decided
    await host.begin()  # it was only slow
    await rival.look()  # and that is seen before the take is sent
    assert not await rival.challengers.take("A", {}, {})
    assert host.tenure.valid() and (await fence(directory)).state is TenureState.UP


@simulated
async def test_a_renewal_that_was_not_seen_saves_it_too_and_is_waited_for_anew() -> None:
    directory = MemoryDirectory()
    host, rival = Host(directory), Rival(directory)
    await host.begin()
    await rival.look()
    await asyncio.sleep(TIMING.take + 0.1)  # the watch is silent, A is not
    assert not await rival.challengers.take("A", {}, {})
    assert not rival.challengers.expired("A")
    await asyncio.sleep(TIMING.take - 0.1)
    assert not rival.challengers.expired("A")


@simulated
async def test_a_failed_take_for_another_reason_begins_no_new_wait() -> None:
    directory = MemoryDirectory()
    host, rival = Host(directory), Rival(directory)
    await host.tenure.acquire()
    await rival.look()
    await asyncio.sleep(TIMING.take)
    assert not await rival.challengers.take("A", {"/pam": 77}, {})
    assert rival.challengers.expired("A")
    assert await rival.challengers.take("A", {"/pam": 0}, {})


@simulated
async def test_who_was_taken_takes_nobody() -> None:
    directory = MemoryDirectory()
    host, rival = Host(directory), Rival(directory)
    await host.tenure.acquire()
    await rival.host.tenure.acquire()
    await rival.look()
    await asyncio.sleep(TIMING.take)
    await directory.txn({}, {keys.fence("B"): b'{"server":"B","instance":"x","epoch":9,"state":"taken"}'})
    assert not await rival.challengers.take("A", {}, {})
    assert (await fence(directory)).state is TenureState.UP


@simulated
async def test_a_taken_server_is_not_taken_again() -> None:
    directory = MemoryDirectory()
    host, rival = Host(directory), Rival(directory)
    await host.tenure.acquire()
    await rival.look()
    await asyncio.sleep(TIMING.take)
    assert await rival.challengers.take("A", {}, {})
    rival.fences["A"] = rival.learned[keys.fence("A")]
    await asyncio.sleep(TIMING.take)
    assert not await rival.challengers.take("A", {}, {})
