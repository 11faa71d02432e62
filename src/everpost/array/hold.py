"""The holder's tenure of the address by compare-and-swap renewals (architecture 3.8), and how long it may stay.

`array/A/holder` changes only when the address is acquired, taken or given back. A beat is: if the holder record is as
I know it, write the next counter to `array/A/beat`. A challenger changes the holder record if the beat is still at the
revision that it saw TAKE seconds ago. The proof is that of `directory.tenure`, with one more clock: the kernel's. Each
renewal of the address gives it LIFE seconds, only if that ends, rounding included, before HOLD + STOP after the send
time of the newest confirmed beat. An answer that comes when its attempt is over counts too, from its own send time
(docs/decisions/002): a line that loses packets costs the holder nothing that the directory committed. So a holder
whose processes all stand still loses the address before any other host acquires it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from everpost.clock import Clock
from everpost.directory import keys
from everpost.directory.interface import Directory, Entry, TxnResult
from everpost.directory.schema import decode, encode
from everpost.directory.timers import Validity
from everpost.errors import OutcomeUnknown, Unavailable
from everpost.log import fact
from everpost.model.array import Beat, HolderRecord, HolderState
from everpost.model.tenure import Timing

log = logging.getLogger(__name__)

LIFE = 1
"""Whole seconds, as the kernel counts them, that an address lives without a renewal."""
ROUNDING = 0.6
"""Seconds by which the kernel may end a life late: net/ipv4/devinet.c rounds up by at most a quarter of one, and its
worker waits while network namespaces are made and taken apart (0.32 s late with that going on, 0.58 s once)."""


class _Sent(NamedTuple):
    """What was so when a beat was sent, at `at` in CLOCK_BOOTTIME seconds: this server's tenure, the revision of the
    holder record, and how often the address had been taken off."""

    at: float
    tenure: int
    revision: int
    lapses: int


class Hold:
    """One array, one process. `serving`: until when this server holds its own tenure, and which one it is (the shared
    page); a beat counts for that tenure alone, so that an address that went down with one never comes back by a beat
    from before. `own_guard`: the fence of that tenure, so that a server that was itself taken acquires nothing."""

    def __init__(
        self,
        directory: Directory,
        clock: Clock,
        *,
        array: str,
        me: str,
        instance: str,
        timing: Timing,
        serving: Callable[[], tuple[float, int]],
        own_guard: Callable[[], Mapping[str, int]],
        learn: Callable[[Entry], None] = lambda _: None,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self.array = array
        self._me = me
        self.instance = instance
        self._timing = timing
        self._serving = serving
        self._tenure = 0
        self._own_guard = own_guard
        self._learn = learn
        self._validity = Validity(timing)
        self._counter = 0
        self._lapses = 0
        self.revision = 0
        self.epoch = 0

    @property
    def until(self) -> float:
        """Until when the address may be served, in CLOCK_BOOTTIME seconds of this host."""
        deadline, tenure = self._serving()
        return min(self._validity.until, deadline) if tenure == self._tenure else 0.0

    def valid(self) -> bool:
        """Whether this process may act as the holder now."""
        return self.revision > 0 and self._clock.boottime() < self.until

    def may_extend(self) -> bool:
        """Whether the address may be given LIFE seconds more now."""
        return self.valid() and self._clock.boottime() + LIFE + ROUNDING <= self.until + self._timing.stop

    def adopt(self, record: HolderRecord, revision: int) -> None:
        """The record turned out to be this process's: an acquisition whose answer was lost. Nothing is valid until a
        beat is confirmed."""
        if revision != self.revision:
            self._validity.drop()
            self.revision, self.epoch = revision, record.epoch

    def lapse(self) -> None:
        """The address was taken off: only a beat sent from now on brings it back."""
        self._lapses += 1
        self._validity.drop()

    def lose(self) -> None:
        """The record is somebody else's."""
        self.revision = 0
        self._validity.drop()

    async def acquire(self, before: HolderRecord | None, revisions: Mapping[str, int], why: str) -> bool:
        """Make the record ours if the holder and the beat are at `revisions`; whether it happened for certain. Raises
        OutcomeUnknown (the record will show it) and Unavailable."""
        epoch = (before.epoch if before is not None else 0) + 1
        record = HolderRecord(
            array=self.array,
            holder=self._me,
            instance=self.instance,
            epoch=epoch,
            state=HolderState.HELD,
            before=before.holder if before is not None else "",
            reason=why,
        )
        puts = {keys.array_holder(self.array): encode(record), keys.array_beat(self.array): self._beat(epoch, 0)}
        _, tenure = self._serving()
        sent = self._clock.boottime()
        result = await self._directory.txn({**revisions, **self._own_guard()}, puts, attempt=1.0)
        if not result.succeeded:
            return False
        self.revision, self.epoch, self._counter = result.revision, epoch, 0
        self._validity.drop()
        self._validity.confirmed(sent)
        self._tenure = tenure
        for key, value in puts.items():
            self._learn(Entry(key, value, result.revision))
        return True

    def _beat(self, epoch: int, counter: int) -> bytes:
        return encode(Beat(holder=self._me, epoch=epoch, counter=counter))

    async def renew(self) -> bool:
        """One beat; whether it was confirmed. The record is lost here when it is not ours any more."""
        deadline, tenure = self._serving()
        sent = _Sent(self._clock.boottime(), tenure, self.revision, self._lapses)
        if not sent.revision or sent.at >= deadline:
            return False
        self._counter += 1
        try:
            result = await self._directory.txn(
                {keys.array_holder(self.array): sent.revision},
                {keys.array_beat(self.array): self._beat(self.epoch, self._counter)},
                attempt=self._timing.attempt,
                read_on_failure=(keys.array_holder(self.array),),
                late=partial(self._answered, sent),
            )
        except (OutcomeUnknown, Unavailable) as error:
            log.debug("beat of %s not confirmed: %s", self.array, error)
            return False
        return self._answered(sent, result)

    def _answered(self, sent: _Sent, result: TxnResult) -> bool:
        """What an answer is worth, in time or late: nothing if the record changed or the address was taken off since
        it was sent, or a newer beat is confirmed."""
        if (sent.revision, sent.lapses) != (self.revision, self._lapses):
            return False
        if not result.succeeded:
            self.lose()
            fact(log, "the address was taken", level=logging.WARNING, array=self.array, epoch=self.epoch)
            for entry in result.current.values():
                if entry is not None:
                    self._learn(entry)
            return False
        if sent.at >= self._validity.sent:
            self._validity.confirmed(sent.at)
            self._tenure = sent.tenure
        return True

    async def give_back(self, target: str, why: str) -> None:
        """Let others acquire at once. The address must be off this host before this is called. Raises OutcomeUnknown
        and Unavailable: then it runs out by itself."""
        revision, self.revision = self.revision, 0
        self._validity.drop()
        if not revision:
            return
        record = HolderRecord(
            array=self.array,
            holder=self._me,
            instance=self.instance,
            epoch=self.epoch,
            state=HolderState.FREE,
            target=target,
            before=self._me,
            reason=why,
        )
        key, value = keys.array_holder(self.array), encode(record)
        result = await self._directory.txn({key: revision}, {key: value}, attempt=1.0, read_on_failure=(key,))
        if result.succeeded:
            self._learn(Entry(key, value, result.revision))


def is_ours(record: HolderRecord, me: str, instance: str) -> bool:
    """Whether that life of that server's process holds the address."""
    return record.state is HolderState.HELD and record.holder == me and record.instance == instance


def read(entry: Entry | None) -> HolderRecord | None:
    """The holder record in an entry."""
    return decode(HolderRecord, entry.value) if entry is not None else None
