"""One array on one server: gathers the view, decides, and performs (spec 6.9)."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from everpost.array import balancer, gateway
from everpost.array.announce import Announcer
from everpost.array.checks import LoginChecks
from everpost.array.decide import Acquire, Candidate, Hold, Release, View, Wait, decide
from everpost.array.haproxy import Haproxy
from everpost.array.hold import LIFE, is_ours
from everpost.array.hold import Hold as Tenure
from everpost.array.hold import read as read_holder
from everpost.array.link import Address, Links
from everpost.array.membership import members, owners
from everpost.array.surroundings import Surroundings
from everpost.directory import keys
from everpost.directory.interface import Entry
from everpost.directory.schema import decode, encode
from everpost.directory.timers import Timers
from everpost.errors import EverpostError
from everpost.log import fact
from everpost.model.array import ClientAccessArray, HolderRecord, HolderState, MoveOrder, Statement
from everpost.model.server import Server
from everpost.model.tenure import FencingRecord, TenureState

log = logging.getLogger(__name__)

TICK = 0.1
STATE_EVERY = 1.0
STALE = 3.5
"""Seconds without a new statement after which a server counts for nothing."""
EXTEND_EVERY = 0.25
ANNOUNCE = (0.0, 0.1, 0.3, 1.0, 3.0)
"""Seconds after which the address is announced (a neighbour may lose one); then each ANNOUNCE_EVERY."""
ANNOUNCE_EVERY = 15.0
DETECTION, DETECTION_AT_TAKEOVER = 1.5, 0.1
"""Seconds of duplicate address detection when an array gets its address, and when it moves."""
CONFLICT_PAUSE = 5.0
TELL_LIMIT = 0.6
TELL_PAUSE = 0.15
"""Seconds from a new holder's record until its address is up."""


@dataclass(frozen=True, kw_only=True)
class Equipment:
    """This host's network and balancer; `folder` is where the balancer's files lie."""

    folder: Path
    links: Callable[[], Links] = Links
    announcer: Callable[[int], Announcer] = Announcer
    balancer: Callable[[Path], Haproxy] = Haproxy
    checks: Callable[[Callable[[], Iterable[Server]]], LoginChecks] | None = None
    """Makes the log-in checks of an array's members; None: HAProxy looks at the greetings alone."""


def _folder_name(array: str) -> str:
    """Short, as a socket's path is limited, and without spaces."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", array)[:32]


class Keeper:
    """The array `name` on this server."""

    def __init__(self, name: str, around: Surroundings, equipment: Equipment) -> None:
        self.name = name
        self._a = around
        self._announcer = equipment.announcer
        self._links = equipment.links()
        self._haproxy = equipment.balancer(equipment.folder / _folder_name(name))
        self._checks = equipment.checks(self._members) if equipment.checks is not None else None
        self._tenure = Tenure(
            around.directory,
            around.clock,
            array=name,
            me=around.me,
            instance=around.instance,
            timing=around.timing,
            serving=around.page,
            own_guard=self._own_guard,
            learn=around.learn,
        )
        self._timers = Timers(around.timing)
        self._servers = Timers(around.timing)
        self._statements: dict[str, tuple[int, float]] = {}
        self._steady: dict[str, float] = {}
        self._idle_since: float | None = None
        self._gateway: gateway.Gateway | None = None
        self._probing: asyncio.Task[None] | None = None
        self._services: dict[str, tuple[str, int, int]] = {}
        self._up: tuple[Address, int] | None = None
        self._extended = 0.0
        self._announced = 0
        self._announce_at = 0.0
        self._no_conflict_before = 0.0
        self._said: object = None
        self._wake = asyncio.Event()
        self._tell = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        loops = (self._haproxy.run(), self._renew_forever(), self._guard_forever(), self._state_forever(), self._run())
        checks = (self._checks.run(),) if self._checks is not None else ()
        self._tasks = [asyncio.create_task(one) for one in (*loops, *checks)]

    async def stop(self) -> None:
        """Give back what is held, and end."""
        for task in self._tasks[4:]:
            task.cancel()
        if self._tenure.revision:
            await self._release("", f"{self._a.me} stops")
        for task in (*self._tasks, *([self._probing] if self._probing else [])):
            task.cancel()
        await asyncio.wait(self._tasks, timeout=1.0)
        self._links.close()

    def failed(self) -> BaseException | None:
        """What ended a loop that must not end."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                return task.exception()
        return None

    def changed(self, key: str, entry: Entry | None) -> None:
        """A document of the directory changed."""
        now = self._a.clock.boottime()
        if key == keys.array_beat(self.name):
            if entry is None:
                self._timers.forget(self.name)
            else:
                self._timers.saw(self.name, entry.revision, now)
        if entry is not None and key.startswith(keys.TENURES):
            self._servers.saw(key.removeprefix(keys.TENURES), entry.revision, now)
            return
        prefix = keys.array_statement(self.name, "")
        if entry is not None and key.startswith(prefix):
            self._statements[key.removeprefix(prefix)] = (entry.revision, now)
        self._wake.set()

    # -- the view ------------------------------------------------------------------------------------------------

    def _array(self) -> ClientAccessArray | None:
        return self._a.organization.arrays.get(self.name)

    def _members(self) -> list[Server]:
        array = self._array()
        return members(self._a.organization, array) if array is not None else []

    def _own_guard(self) -> Mapping[str, int]:
        entry = self._a.entry(keys.fence(self._a.me))
        return {keys.fence(self._a.me): entry.revision} if entry is not None else {}

    def _holder(self) -> tuple[HolderRecord | None, int]:
        entry = self._a.entry(keys.array_holder(self.name))
        return read_holder(entry), entry.revision if entry is not None else 0

    def _fence(self, server: str) -> tuple[FencingRecord, int] | None:
        entry = self._a.entry(keys.fence(server))
        return (decode(FencingRecord, entry.value), entry.revision) if entry is not None else None

    def _taken(self, server: str) -> int:
        """The revision of its fence if that server's own tenure was taken, which ended the address there as well."""
        fence = self._fence(server)
        return fence[1] if fence is not None and fence[0].state is TenureState.TAKEN else 0

    def _obstacle(self, array: ClientAccessArray) -> str:
        """Why this server cannot hold the address now."""
        if self._a.me in self._a.organization.maintenance:
            return "is in maintenance"
        if self._a.clock.boottime() >= self._a.page()[0]:
            return "holds no tenure"
        if self._a.clock.boottime() < self._no_conflict_before:
            return "saw the address on another host"
        address = gateway.parse(array.ip)
        if address is None or self._links.link_of(address) is None:
            return f"has no card in the network of {array.ip or 'the array'}"
        if not self._haproxy.running:
            return "has no running haproxy"
        if not any(status == "UP" for status, _, _ in self._services.values()):
            return "reaches no service"
        return ""

    def _candidate(self, name: str, place: int, array: ClientAccessArray, now: float) -> Candidate:
        databases = sum(held.active == name for held, _ in self._a.organization.locations.values())
        if name == self._a.me:
            obstacle, seen = self._obstacle(array), True
            visible = self._gateway.visible if self._gateway is not None else None
            if self._gateway is not None and visible is None:
                obstacle = obstacle or "has not heard the gateway yet"
        else:
            entry = self._a.entry(keys.array_statement(self.name, name))
            statement = decode(Statement, entry.value) if entry is not None else Statement(server=name, counter=0)
            obstacle, visible = statement.obstacle, statement.gateway
            known = self._statements.get(name)
            seen = entry is not None and known is not None and now - known[1] < STALE
        found = Candidate(name, place, seen, obstacle, visible, databases)
        since = self._steady.setdefault(name, now) if found.able else now
        if not found.able:
            self._steady.pop(name, None)
        return Candidate(name, place, seen, obstacle, visible, databases, now - since)

    def view(self) -> View:
        """As this server sees it now."""
        now = self._a.clock.boottime()
        array = self._array()
        record, _ = self._holder()
        order = self._a.entry(keys.array_order(self.name))
        silent = None
        stranded = 0
        if record is not None and record.state is HolderState.HELD and not self._tenure.revision:
            if self._taken(record.holder):
                silent = 0.0
            elif self._timers.expired(self.name, now):
                silent = now - self._beat_seen(now)
                if self._servers.expired(record.holder, now):
                    active = self._a.organization.locations.values()
                    stranded = sum(held.active == record.holder for held, _ in active)
        free = record is None or record.state is HolderState.FREE or silent is not None
        self._idle_since = (self._idle_since or now) if free else None
        names = owners(self._a.organization, array) if array is not None else []
        return View(
            me=self._a.me,
            candidates=tuple(self._candidate(one, place, array, now) for place, one in enumerate(names) if array),
            holder=record,
            mine=self._tenure.revision > 0,
            silent=silent,
            stranded=stranded,
            order=decode(MoveOrder, order.value) if order is not None else None,
            idle=now - self._idle_since if self._idle_since is not None else 0.0,
            failback=array.failback if array is not None else 0.0,
            configured=array is not None and bool(array.ip),
            blind=self._blind(array, now),
        )

    def _blind(self, array: ClientAccessArray | None, now: float) -> float:
        """Beyond the time that the others need to find out for themselves."""
        since = self._gateway.silent_since if self._gateway is not None else None
        return now - since - array.limit * array.probe_interval if since is not None and array is not None else 0.0

    def _beat_seen(self, now: float) -> float:
        """When the silence became long enough."""
        return self._idle_since if self._idle_since is not None else now

    # -- loops ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._look()
            except EverpostError as error:
                fact(log, "tried again", array=self.name, why=str(error))
                await self._a.clock.sleep(TICK)
            except OSError as error:
                fact(log, "the address cannot be changed", level=logging.ERROR, array=self.name, why=str(error))
                await self._a.clock.sleep(1.0)
            try:
                async with asyncio.timeout(TICK):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        self._follow_settings()
        record, revision = self._holder()
        if record is not None and is_ours(record, self._a.me, self._a.instance):
            self._tenure.adopt(record, revision)
        elif self._tenure.revision and revision > self._tenure.revision:
            self._tenure.lose()
        action = decide(self.view())
        if action != self._said:
            self._said = action
            why = getattr(action, "why", "")
            fact(log, "decided", array=self.name, action=type(action).__name__, why=why, at=self._a.clock.boottime())
        match action:
            case Acquire(why):
                await self._acquire(record, revision, why)
            case Release(target, why):
                await self._release(target, why)
            case Hold() if self._up is None and self._tenure.valid():
                await self._bring_up(checked=False)
            case Hold() | Wait():
                pass

    def _follow_settings(self) -> None:
        """The balancer and the probes are as the array says now."""
        array = self._array()
        text = ""
        if array is not None and array.ip:
            agent = self._checks.port if self._checks is not None else 0
            text = balancer.configuration(array, self._members(), self._haproxy.socket, agent)
        self._haproxy.configure(text)
        if self._up is not None and (array is None or str(self._up[0]) != array.ip):
            self._drop("the array has another address")
        wanted = gateway.parse(array.gateway) if array is not None else None
        if (self._gateway.address if self._gateway is not None else None) != wanted:
            if self._probing is not None:
                self._probing.cancel()
            self._gateway = self._probing = None
            if array is not None and wanted is not None:
                self._gateway = gateway.Gateway(wanted, array.probe_interval, array.limit)
                self._probing = asyncio.create_task(self._gateway.run())

    async def _renew_forever(self) -> None:
        while True:
            began = self._a.clock.boottime()
            if self._tenure.revision and not await self._tenure.renew():
                await self._a.clock.sleep(0.02)
                continue
            await self._a.clock.sleep(max(0.0, began + self._a.timing.renew - self._a.clock.boottime()))

    async def _guard_forever(self) -> None:
        """Keeps the address on this host while the tenure lasts, and takes it off when it ends."""
        while True:
            await self._a.clock.sleep(TICK / 2)
            if self._up is None:
                continue
            if not self._tenure.valid():
                self._drop("the tenure ended")
                continue
            now = self._a.clock.boottime()
            if now - self._extended >= EXTEND_EVERY and self._tenure.may_extend():
                self._put()
            if self._up is not None and now >= self._announce_at:
                self._announce(now)

    async def _state_forever(self) -> None:
        """Says once a second, and at once when it changes, how this server is."""
        counter, last, due = 0, None, 0.0
        while True:
            self._services = await self._haproxy.services() if self._haproxy.running else {}
            array = self._array()
            if array is not None and self._a.me in owners(self._a.organization, array):
                own = self._candidate(self._a.me, 0, array, self._a.clock.boottime())
                now = self._a.clock.boottime()
                if (own.obstacle, own.gateway) == last and now < due:
                    await self._a.clock.sleep(STATE_EVERY / 4)
                    continue
                counter, last, due = counter + 1, (own.obstacle, own.gateway), now + STATE_EVERY
                said = Statement(
                    server=self._a.me,
                    counter=counter,
                    obstacle=own.obstacle,
                    gateway=own.gateway,
                    services=self._services,
                )
                try:
                    await self._a.directory.txn({}, {keys.array_statement(self.name, self._a.me): encode(said)})
                except EverpostError as error:
                    log.debug("not said: %s", error)
            await self._a.clock.sleep(STATE_EVERY / 4)

    # -- doing ---------------------------------------------------------------------------------------------------

    async def _acquire(self, record: HolderRecord | None, revision: int, why: str) -> None:
        array = self._array()
        address = gateway.parse(array.ip) if array is not None else None
        index = self._links.link_of(address) if address is not None else None
        if address is None or index is None:
            return
        revisions = {keys.array_holder(self.name): revision}
        if record is not None and record.state is HolderState.HELD and record.holder != self._a.me:
            fence = self._taken(record.holder)
            beat = self._timers.waited_for(self.name, self._a.clock.boottime())
            if fence:
                revisions[keys.fence(record.holder)] = fence
            elif beat is not None:
                revisions[keys.array_beat(self.name)] = beat
            else:
                return  # a beat came since this was decided
        announcer = self._announcer(index)
        if record is None:
            owner = await announcer.conflict(address, DETECTION, 3)
            if owner is not None:
                self._conflict(address, owner)
                return
        # Asked while the directory decides: nothing is added before both have answered.
        asking = asyncio.create_task(announcer.conflict(address, DETECTION_AT_TAKEOVER))
        try:
            won = await self._tenure.acquire(record, revisions, why)
            owner = await asking
        finally:
            asking.cancel()
        if not won:
            return
        at = self._a.clock.boottime()
        fact(log, "acquired", array=self.name, address=str(address), epoch=self._tenure.epoch, why=why, at=at)
        if owner is not None:
            self._conflict(address, owner)
            await self._tenure.give_back("", f"{owner} has {address} too")
            return
        await self._bring_up(checked=True)

    def _conflict(self, address: Address, owner: str) -> None:
        fact(log, "duplicate address", level=logging.ERROR, array=self.name, address=str(address), owner=owner)
        self._no_conflict_before = self._a.clock.boottime() + CONFLICT_PAUSE

    async def _bring_up(self, *, checked: bool) -> None:
        array = self._array()
        address = gateway.parse(array.ip) if array is not None else None
        index = self._links.link_of(address) if address is not None else None
        if address is None or index is None:
            return
        if not checked:
            owner = await self._announcer(index).conflict(address, DETECTION_AT_TAKEOVER)
            if owner is not None:
                self._conflict(address, owner)
                await self._tenure.give_back("", f"{owner} has {address} too")
                return
        if not self._tenure.may_extend():
            return
        self._up = (address, index)
        self._put()
        if self._up is not None:
            self._announced = 0
            self._announce(self._a.clock.boottime())
            at = self._a.clock.boottime()
            fact(log, "address up", array=self.name, address=str(address), epoch=self._tenure.epoch, at=at)

    def _put(self) -> None:
        """Renew the address's life. Looked at right before it, and after it as well: had this process stood still
        between the look and the call, the address would be back where it may not be."""
        assert self._up is not None
        if not self._tenure.may_extend():
            return
        self._links.put(*self._up, LIFE)
        self._extended = self._a.clock.boottime()
        if not self._tenure.may_extend():
            self._drop("renewed too late")

    def _announce(self, now: float) -> None:
        assert self._up is not None
        address, index = self._up
        self._announcer(index).announce(address)
        self._announced += 1
        early = ANNOUNCE[self._announced] - ANNOUNCE[self._announced - 1] if self._announced < len(ANNOUNCE) else None
        self._announce_at = now + (early if early is not None else ANNOUNCE_EVERY)

    def _drop(self, why: str) -> None:
        """Off at once; old connections end with the balancer's process."""
        up, self._up = self._up, None
        self._tenure.lapse()
        if up is not None:
            self._haproxy.reset()
            self._links.remove(*up)
            fact(log, "address down", level=logging.WARNING, array=self.name, address=str(up[0]), why=why)

    async def _release(self, target: str, why: str) -> None:
        """In order: the address goes, then the record says so, then the clients of this host's balancer are told (their
        connections end): told earlier, they would call nobody's address, and try again only after a second. What they
        send meanwhile the new holder answers with a reset. The balancer's sockets may send from an address that is not
        here, as they are transparent."""
        up, self._up = self._up, None
        epoch = self._tenure.epoch
        self._tenure.lapse()
        if up is not None:
            self._links.remove(*up)
            fact(log, "address down", array=self.name, address=str(up[0]), why=why, target=target)
        try:
            await self._tenure.give_back(target, why)
            await self._wait_held(epoch)
        finally:
            if up is not None:
                await self._haproxy.reset_and_wait()

    async def _wait_held(self, epoch: int) -> None:
        """Until another server holds the address, at most TELL_LIMIT."""
        end = self._a.clock.boottime() + TELL_LIMIT
        while self._a.clock.boottime() < end:
            record, _ = self._holder()
            if record is not None and record.epoch > epoch:
                await self._a.clock.sleep(TELL_PAUSE)
                return
            await self._a.clock.sleep(0.01)
