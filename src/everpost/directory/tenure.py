"""Tenure of a server by compare-and-swap renewals (architecture 3.8). No etcd lease, no clock but each host's own.

`fence/<S>` changes only when tenure is acquired, given back or taken. A renewal is: if the fence is as I know it, write
the next counter to `tenure/<S>`. It may be sent any number of times, so an unknown outcome needs no settling; only a
confirmed one extends the validity, to its own send time + HOLD. A taker writes both keys if `tenure/<S>` is still at
the revision that it saw TAKE seconds ago.

Why both never hold: the take commits only if no renewal was committed after revision r, and none can be afterwards,
since the fence changed. So every validity ends at most HOLD + STOP after the send time of the renewal that wrote r; the
taker's wait began when it received r, which is later than that; and TAKE (1 - drift) >= (HOLD + STOP)(1 + drift).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from everpost.clock import Clock
from everpost.directory import keys
from everpost.directory.interface import Directory, Entry
from everpost.directory.schema import decode, encode
from everpost.errors import EverpostError, OutcomeUnknown, Unavailable
from everpost.log import fact
from everpost.model.tenure import FencingRecord, TenureRecord, TenureState, Timing

log = logging.getLogger(__name__)


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
        self._counter = 0
        self.epoch = 0
        self.fence_revision = 0
        self.valid_until = 0.0
        self._confirmed_sent = 0.0
        self._confirmed = asyncio.Condition()
        self._hurry = asyncio.Event()
        self.longest_gap = 0.0

    def valid(self) -> bool:
        """Whether this server may act now."""
        return self._clock.boottime() < self.valid_until

    async def acquire(self) -> None:
        """Acquire or adopt. Raises OutcomeUnknown or Unavailable; then it is simply called again."""
        fence = await self._directory.get(keys.fence(self._server))
        known = decode(FencingRecord, fence.value) if fence is not None else None
        if (
            fence is not None
            and known is not None
            and known.instance == self.instance
            and known.state is TenureState.UP
        ):
            self.epoch, self.fence_revision = known.epoch, fence.revision
            tenure = await self._directory.get(keys.tenure(self._server))
            self._counter = decode(TenureRecord, tenure.value).counter if tenure is not None else 0
            return
        epoch = (known.epoch if known is not None else 0) + 1
        sent = self._clock.boottime()
        result = await self._directory.txn(
            {keys.fence(self._server): fence.revision if fence is not None else 0},
            {
                keys.fence(self._server): encode(
                    FencingRecord(server=self._server, instance=self.instance, epoch=epoch, state=TenureState.UP)
                ),
                keys.tenure(self._server): self._record(epoch, 0),
            },
        )
        if not result.succeeded:
            raise Unavailable(f"Somebody else changed the fence of {self._server}.", remedy="It is tried again.")
        self.epoch, self.fence_revision, self._counter = epoch, result.revision, 0
        fact(log, "tenure acquired", server=self._server, epoch=epoch, at=sent)

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
        only then does it count here."""
        last = self._clock.boottime()
        while True:
            self._hurry.clear()
            sent = self._clock.boottime()
            if await before_renew():
                sent = self._clock.boottime()
                if await self._renew():
                    until = sent + self._timing.hold
                    await on_confirmed(until, self.epoch)
                    self.longest_gap = max(self.longest_gap, sent - last)
                    last = sent
                    self.valid_until = max(self.valid_until, until)
                    async with self._confirmed:
                        self._confirmed_sent = sent
                        self._confirmed.notify_all()
            pause = max(0.0, sent + self._timing.renew - self._clock.boottime())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()

    async def _renew(self) -> bool:
        """Whether it was confirmed. One try per member is sent in turn by the directory's own preference."""
        self._counter += 1
        try:
            result = await self._directory.txn(
                {keys.fence(self._server): self.fence_revision},
                {keys.tenure(self._server): self._record(self.epoch, self._counter)},
                attempt=self._timing.attempt,
            )
        except (OutcomeUnknown, Unavailable):
            self._hurry.set()  # try again at once, at the next member
            await self._clock.sleep(0.005)
            return False
        if not result.succeeded:
            self.valid_until = 0.0
            raise TenureLost(f"The tenure of {self._server} was taken.", remedy="It is acquired anew.")
        return True

    async def confirmed_after(self, boottime: float) -> None:
        """Until a renewal that was sent after `boottime` is confirmed; asks for one at once, shared by all waiters."""
        self._hurry.set()
        async with self._confirmed:
            while self._confirmed_sent <= boottime:
                self._hurry.set()
                await self._confirmed.wait()

    async def release(self) -> None:
        """Give it back at a clean stop: what was active here is closed, so nobody needs to wait for TAKE."""
        self.valid_until = 0.0
        record = FencingRecord(
            server=self._server, instance=self.instance, epoch=self.epoch, state=TenureState.RELEASED
        )
        try:
            await self._directory.txn(
                {keys.fence(self._server): self.fence_revision}, {keys.fence(self._server): encode(record)}
            )
        except (OutcomeUnknown, Unavailable):
            log.warning("the tenure could not be given back; it runs out by itself")


class Timers:
    """For how long each server's newest tenure revision has been seen, by this host's clock. Pure.

    The wait for a revision begins when it was first received; a reconnect that shows the same revision changes
    nothing, as whoever wrote it sent it before that. A failed take begins a full wait anew.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._seen: dict[str, tuple[int, float]] = {}

    def saw(self, server: str, revision: int, now: float) -> None:
        """A revision of the server's tenure was received."""
        known = self._seen.get(server)
        if known is None or revision > known[0]:
            self._seen[server] = (revision, now)

    def restart(self, server: str, now: float) -> None:
        """A take failed."""
        known = self._seen.get(server)
        if known is not None:
            self._seen[server] = (known[0], now)

    def expired(self, server: str, now: float) -> bool:
        """Whether nothing new came for TAKE seconds."""
        known = self._seen.get(server)
        return known is not None and now - known[1] >= self._timing.take

    def revision(self, server: str) -> int:
        """The revision that the wait is about."""
        known = self._seen.get(server)
        return known[0] if known is not None else 0


class Challengers:
    """The takeover timers of all other servers, and the take itself."""

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
        if key.startswith(keys.TENURES) and entry is not None:
            self.timers.saw(key.removeprefix(keys.TENURES), entry.revision, self._clock.boottime())

    def expired(self, server: str) -> bool:
        """Whether that server was silent for TAKE seconds."""
        return self.timers.expired(server, self._clock.boottime())

    async def take(self, server: str, extra_guards: Mapping[str, int], extra_puts: Mapping[str, bytes | None]) -> bool:
        """One transaction; whether this server won. Raises OutcomeUnknown, Unavailable."""
        fence = self._fence(server)
        if fence is None:
            return False
        before = decode(FencingRecord, fence.value)
        taken = FencingRecord(server=server, instance=before.instance, epoch=before.epoch + 1, state=TenureState.TAKEN)
        guards = {
            keys.tenure(server): self.timers.revision(server),
            keys.fence(server): fence.revision,
            **self._own_guard(),
            **extra_guards,
        }
        puts = {keys.fence(server): encode(taken), **extra_puts}
        result = await self._directory.txn(guards, puts)
        if not result.succeeded:
            self.timers.restart(server, self._clock.boottime())
            return False
        for key, value in puts.items():
            if value is not None:
                self._learn(Entry(key, value, result.revision))
        return True
