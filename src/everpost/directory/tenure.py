"""Tenure of a server by compare-and-swap renewals (architecture 3.8). No etcd lease, no clock but each host's own.

`fence/<S>` changes only when tenure is acquired, given back or taken. A renewal is: if the fence is as I know it, write
the next counter to `tenure/<S>`. It may be sent any number of times, so an unknown outcome needs no settling; only a
confirmed one extends the validity, to its own send time + HOLD. A taker changes the fence if `tenure/<S>` is still at
the revision that it saw TAKE seconds ago.

An attempt that was not answered in time goes on while the next one is made: on a line that loses packets TCP brings
its answer later, and then it counts as much as any other, from its own send time.

Why both never hold: the take commits only if no renewal was committed after revision r, and none can be afterwards,
since the fence changed. So each renewal that is ever confirmed was committed no later than r, in whatever order they
were sent, and was sent before that; its validity ends at most HOLD + STOP after it was sent. The taker's wait began
when it received r, which is later than all of these; and TAKE (1 - drift) >= (HOLD + STOP)(1 + drift).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from everpost.clock import Clock
from everpost.directory import keys
from everpost.directory.interface import Directory, Entry, TxnResult
from everpost.directory.schema import decode, encode
from everpost.directory.timers import Timers, Validity
from everpost.errors import EverpostError, OutcomeUnknown, Unavailable
from everpost.log import fact
from everpost.model.tenure import FencingRecord, TenureRecord, TenureState, Timing

log = logging.getLogger(__name__)

RETRY = (0.0, 0.0, 0.05)
"""Seconds before the next try after the first, second and further failures in a row: the next member is asked at once,
but a directory that refuses every connection is not asked hundreds of times a second."""


class TenureLost(EverpostError):
    """Another server took the tenure, or another instance of this server acquired it."""


class Tenure:
    """This server's tenure. `instance` is the warden's life: while it is the same a restarted agent adopts."""

    def __init__(self, directory: Directory, clock: Clock, server: str, instance: str, timing: Timing) -> None:
        self._directory = directory
        self._clock = clock
        self._server = server
        self.instance = instance
        self._timing = timing
        self._validity = Validity(timing)
        self._counter = 0
        self.epoch = 0
        self.fence_revision = 0
        self.longest_gap = 0.0
        self._late = 0.0  # when the newest renewal was sent whose answer came late
        self._gone = 0  # the fence revision at which a renewal was declined
        self._turn = asyncio.Lock()
        self._stopped = False
        self._hurry = asyncio.Event()
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []

    @property
    def valid_until(self) -> float:
        """CLOCK_BOOTTIME seconds of this host."""
        return self._validity.until

    def valid(self) -> bool:
        """Whether this server may act now."""
        return self._validity.valid(self._clock.boottime())

    async def acquire(self) -> None:
        """Acquire or adopt; nothing is valid until a renewal is confirmed. Raises OutcomeUnknown or Unavailable; then
        it is simply called again: had a lost request its effect, it is found and adopted; arrives it later, its guard
        is out of date."""
        async with self._turn:
            if not self._stopped:
                await self._acquire()

    async def _acquire(self) -> None:
        fence = await self._directory.get(keys.fence(self._server))
        known = decode(FencingRecord, fence.value) if fence is not None else None
        if fence is not None and known is not None and self._is_ours(known):
            tenure = await self._directory.get(keys.tenure(self._server))
            self._counter = decode(TenureRecord, tenure.value).counter if tenure is not None else 0
            self._hold(known.epoch, fence.revision)
            return
        epoch = (known.epoch if known is not None else 0) + 1
        result = await self._directory.txn(
            {keys.fence(self._server): fence.revision if fence is not None else 0},
            {
                keys.fence(self._server): self._fence(epoch, TenureState.UP),
                keys.tenure(self._server): self._record(epoch, 0),
            },
        )
        if not result.succeeded:
            raise Unavailable(f"Somebody else changed the fence of {self._server}.", remedy="It is tried again.")
        self._counter = 0
        self._hold(epoch, result.revision)
        fact(log, "tenure acquired", server=self._server, epoch=epoch)

    def _is_ours(self, known: FencingRecord) -> bool:
        return known.instance == self.instance and known.state is TenureState.UP

    def _hold(self, epoch: int, fence_revision: int) -> None:
        if (epoch, fence_revision) != (self.epoch, self.fence_revision):
            self._lose()  # whatever waits for the former tenure's renewals waits in vain
            self._late = 0.0
        self.epoch, self.fence_revision = epoch, fence_revision

    def _fence(self, epoch: int, state: TenureState) -> bytes:
        return encode(FencingRecord(server=self._server, instance=self.instance, epoch=epoch, state=state))

    def _record(self, epoch: int, counter: int) -> bytes:
        return encode(
            TenureRecord(
                server=self._server, instance=self.instance, epoch=epoch, counter=counter, state=TenureState.UP
            )
        )

    async def renew_forever(
        self, before_renew: Callable[[], Awaitable[bool]], on_confirmed: Callable[[float, int], Awaitable[None]]
    ) -> None:
        """Renew until the fence is not ours any more; then TenureLost. `before_renew` False (the warden does not
        answer): no renewal is sent. `on_confirmed(valid_until, epoch)` returns once the warden has the new deadline;
        only then does it count here. After `stop` it renews no more and does not return."""
        last = self._clock.boottime()
        failures = 0
        while True:
            self._hurry.clear()
            async with self._turn:
                if self._stopped:
                    break
                began = self._clock.boottime()
                ready = await before_renew()
                sent = self._clock.boottime()  # read before sending: what is confirmed is worth HOLD from here
                confirmed = ready and await self._renew(sent)
                if self._stopped:
                    break  # it is being given back: nobody is to hear of a new deadline
                if self._gone == self.fence_revision:
                    self._lose()
                    raise self._lost()
                known = sent if confirmed else self._late
                if ready and known > self._validity.sent:
                    await on_confirmed(self._validity.deadline(known), self.epoch)
                    self._confirm(known)
                    self.longest_gap = max(self.longest_gap, known - last)
                    last = known
            if confirmed:
                failures = 0
            elif ready:
                failures += 1
                await self._clock.sleep(RETRY[min(failures, len(RETRY)) - 1])
                continue
            await self._pause(began + self._timing.renew - self._clock.boottime())
        await asyncio.get_running_loop().create_future()

    async def _renew(self, sent: float) -> bool:
        """Whether it was confirmed. Sent once; the directory sends the next one to another member after a failure."""
        self._counter += 1
        try:
            result = await self._directory.txn(
                {keys.fence(self._server): self.fence_revision},
                {keys.tenure(self._server): self._record(self.epoch, self._counter)},
                attempt=self._timing.attempt,
                late=partial(self._came_late, sent, self.fence_revision),
            )
        except (OutcomeUnknown, Unavailable) as error:
            log.debug("renewal of %s not confirmed: %s", self._server, error)
            return False
        if not result.succeeded:
            self._gone = self.fence_revision
        return result.succeeded

    def _came_late(self, sent: float, fence_revision: int, result: TxnResult) -> None:
        if fence_revision != self.fence_revision:
            return
        if result.succeeded:
            self._late = max(self._late, sent)
        else:
            self._gone = fence_revision

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._hurry.wait()

    def _confirm(self, sent: float) -> None:
        self._validity.confirmed(sent)
        for after, waiter in self._waiting:
            if sent > after and not waiter.done():
                waiter.set_result(None)
            elif not waiter.done():
                self._hurry.set()

    def _lost(self) -> TenureLost:
        return TenureLost(f"The tenure of {self._server} was taken.", remedy="It is acquired anew.")

    def _lose(self) -> None:
        self._validity.drop()
        for _, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(self._lost())

    async def confirmed_after(self, boottime: float) -> None:
        """Until a renewal that was sent after `boottime` is confirmed; asks for one at once, shared by all waiters.
        Raises TenureLost, or Unavailable after HOLD: then the tenure has ended too."""
        if self._validity.sent > boottime:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (boottime, waiter)
        self._waiting.append(waiting)
        self._hurry.set()
        try:
            async with asyncio.timeout(self._timing.hold):
                await waiter
        except TimeoutError:
            raise Unavailable("No renewal was confirmed in time.", remedy="The outcome stays unknown.") from None
        finally:
            self._waiting.remove(waiting)

    async def stop(self) -> None:
        """No renewal is sent or counted once this returns; one in flight is waited for."""
        self._stopped = True
        self._hurry.set()
        async with self._turn:
            self._lose()

    async def release(self) -> None:
        """Give it back at a clean stop: what was active here is closed, so nobody needs to wait for TAKE. For good:
        this object acquires no more."""
        await self.stop()
        if not self.fence_revision:
            return
        try:
            await self._directory.txn(
                {keys.fence(self._server): self.fence_revision},
                {keys.fence(self._server): self._fence(self.epoch, TenureState.RELEASED)},
            )
        except (OutcomeUnknown, Unavailable):
            log.warning("the tenure could not be given back; it runs out by itself")


class Challengers:
    """The takeover timers of all other servers, and the take itself.

    `fence` reads the newest fence seen; `own_guard` gives this server's fence, so that one that was itself taken takes
    nothing; `learn` is told what the directory was seen to hold, ahead of the watch.
    """

    def __init__(
        self,
        directory: Directory,
        clock: Clock,
        me: str,
        timing: Timing,
        *,
        fence: Callable[[str], Entry | None],
        own_guard: Callable[[], Mapping[str, int]],
        learn: Callable[[Entry], None] = lambda _: None,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._me = me
        self._fence = fence
        self._own_guard = own_guard
        self._learn = learn
        self.timers = Timers(timing)

    def on_change(self, key: str, entry: Entry | None) -> None:
        """To be told of each change under `tenure/`."""
        if not key.startswith(keys.TENURES):
            return
        server = key.removeprefix(keys.TENURES)
        if entry is None:
            self.timers.forget(server)
        else:
            self.timers.saw(server, entry.revision, self._clock.boottime())

    def expired(self, server: str) -> bool:
        """Whether that server was silent for TAKE seconds."""
        return self.timers.expired(server, self._clock.boottime())

    async def take(self, server: str, extra_guards: Mapping[str, int], extra_puts: Mapping[str, bytes | None]) -> bool:
        """One transaction; whether this server won. Raises OutcomeUnknown, Unavailable.

        Whoever decided this did so on an older view: that the wait is over is looked at again here, at the same
        moment as the revision that is guarded.
        """
        fence = self._fence(server)
        revision = self.timers.waited_for(server, self._clock.boottime())
        if fence is None or revision is None:
            return False
        before = decode(FencingRecord, fence.value)
        if before.state is not TenureState.UP:
            return False
        guards = {
            keys.tenure(server): revision,
            keys.fence(server): fence.revision,
            **self._own_guard(),
            **extra_guards,
        }
        puts = {**self._taken(server, before), **extra_puts}
        result = await self._directory.txn(guards, puts, read_on_failure=(keys.tenure(server), keys.fence(server)))
        if not result.succeeded:
            for key, entry in result.current.items():
                if entry is not None:
                    self.on_change(key, entry)
                    self._learn(entry)
            return False
        for key, value in puts.items():
            if value is not None:
                self._learn(Entry(key, value, result.revision))
        return True

    def _taken(self, server: str, before: FencingRecord) -> dict[str, bytes]:
        epoch = before.epoch + 1
        fence = FencingRecord(server=server, instance=before.instance, epoch=epoch, state=TenureState.TAKEN)
        tenure = TenureRecord(
            server=server, instance=before.instance, epoch=epoch, counter=0, state=TenureState.TAKEN, taker=self._me
        )
        return {keys.fence(server): encode(fence), keys.tenure(server): encode(tenure)}
