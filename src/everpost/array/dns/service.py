"""Keeps the DNS records of all arrays, on one server at a time.

Who does it is a record of the directory that the updater rewrites every half second by compare-and-swap on its own
revision; another server takes it after TAKE seconds without a new one. That alone would let an updater that stood still
for longer send one more update. It does no harm: its epoch stands in the mark of each name, and a later updater's first
deed is to claim the marks (`plan`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from everpost.array.dns import key as keyfile
from everpost.array.dns.client import Client
from everpost.array.dns.probe import Probe
from everpost.array.dns.records import desired, members, zone_of
from everpost.array.dns.rotation import Look, Rotation
from everpost.array.dns.zone import UpdaterReplaced, ZoneKeeper
from everpost.array.surroundings import Surroundings
from everpost.clock import Clock
from everpost.directory import keys
from everpost.directory.interface import Entry
from everpost.directory.schema import decode, encode
from everpost.directory.timers import Timers
from everpost.errors import EverpostError, OutcomeUnknown, Refused, Unavailable
from everpost.log import fact
from everpost.model.array import ClientAccessArray
from everpost.model.dns import DnsMode, DnsUpdater, ZoneStatus
from everpost.model.server import Server
from everpost.model.tenure import FencingRecord, TenureState

log = logging.getLogger(__name__)

RENEW = 0.5
LOOK_EVERY = 0.2
GIVE_UP = 15.0
"""Seconds without any success in any zone after which another server shall try."""
REST = 2.0
"""Seconds for which this one leaves it to the others then; if none of them can, it goes on."""


class Updater:
    """The updater of one server: stands by, or keeps the records. The TSIG keys lie in `data_dir`."""

    def __init__(
        self,
        around: Surroundings,
        data_dir: Path,
        *,
        probe: Callable[[Server, Clock], Probe] = Probe,
        client: Callable[[str, str, keyfile.Key], Client] = Client,
    ) -> None:
        self._a = around
        self._data_dir, self._probe_of, self._client = data_dir, probe, client
        self._timers = Timers(around.timing)
        self._writing = asyncio.Lock()
        self._record: DnsUpdater | None = None
        self._revision = 0
        self._until = 0.0
        self._renew_at = 0.0
        self._floor = 0
        self._keepers: dict[str, ZoneKeeper] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        self._rotations: dict[str, Rotation] = {}
        self._reasons: dict[str, dict[str, str]] = {}
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._probes: dict[str, tuple[Probe, asyncio.Task[None]]] = {}
        self._not_before = 0.0
        self._well_at = 0.0

    # -- the role ------------------------------------------------------------------------------------------------

    def changed(self, key: str, entry: Entry | None) -> None:
        """A document of the directory changed."""
        if key == keys.DNS_UPDATER and entry is not None:
            self._timers.saw(key, entry.revision, self._a.clock.boottime())

    @property
    def working(self) -> bool:
        """Whether this server keeps the records now."""
        return self._record is not None and self._a.clock.boottime() < min(self._until, self._a.page()[0])

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    await self._look_around()
                except Exception:  # the array's address is kept by the same process: no fault here may end it
                    log.exception("DNS updater")
                await self._a.clock.sleep(LOOK_EVERY)
        finally:
            await self._rest()

    async def _look_around(self) -> None:
        now = self._a.clock.boottime()
        try:
            if self._record is not None and now >= self._renew_at:
                self._renew_at = now + RENEW
                await self._renew()
            elif self._record is None and self._may_acquire():
                await self._acquire()
        except (OutcomeUnknown, Unavailable) as error:
            log.debug("the updater's record was not confirmed: %s", error)
        if self.working:
            self._work()
        else:
            await self._rest()

    async def stop(self) -> None:
        """Let another server do it at once. To be called when `run` has ended."""
        if self._record is not None:
            try:
                await self._write(held=False, reason=f"{self._a.me} stops")
            except EverpostError as error:
                log.debug("not given back: %s", error)
            self._record = None

    def _may_acquire(self) -> bool:
        now = self._a.clock.boottime()
        if not self._a.organization.dns_zones or now < self._not_before or now >= self._a.page()[0]:
            return False
        if self._a.me in self._a.organization.maintenance or not self._key_here():
            return False
        entry = self._a.entry(keys.DNS_UPDATER)
        if entry is None or not decode(DnsUpdater, entry.value).held:
            return True
        return self._timers.waited_for(keys.DNS_UPDATER, now) == entry.revision

    def _key_here(self) -> bool:
        """Whether there is a key for any zone; a server without one leaves it to the others."""
        for zone in self._a.organization.dns_zones.values():
            try:
                keyfile.read(self._data_dir / zone.key_file)
            except Refused:
                continue
            return True
        return False

    async def _acquire(self) -> None:
        entry = self._a.entry(keys.DNS_UPDATER)
        before = decode(DnsUpdater, entry.value) if entry is not None else None
        record = DnsUpdater(
            server=self._a.me,
            instance=self._a.instance,
            epoch=(before.epoch if before is not None else 0) + 1,
            zones=before.zones if before is not None else (),
            rotation=before.rotation if before is not None else {},
        )
        sent = self._a.clock.boottime()
        key, value = keys.DNS_UPDATER, encode(record)
        result = await self._a.directory.txn(
            {key: entry.revision if entry is not None else 0}, {key: value}, attempt=1.0, read_on_failure=(key,)
        )
        if not result.succeeded:
            self._see(result.current.get(key))
            return
        self._a.learn(Entry(key, value, result.revision))
        self._record, self._revision = record, result.revision
        self._until = sent + self._a.timing.hold
        self._well_at = sent
        self._keepers = {}
        self._rotations = {}
        self._addresses = {}
        self._reasons = dict(record.rotation)
        fact(log, "keeps the DNS records", server=self._a.me, epoch=record.epoch)

    def _see(self, entry: Entry | None) -> None:
        if entry is not None:
            self._a.learn(entry)

    async def _renew(self) -> None:
        now = self._a.clock.boottime()
        for name in [name for name in self._keepers if name not in self._a.organization.dns_zones]:
            del self._keepers[name]
        if any(not one.status.stale_since for one in self._keepers.values()) or not self._keepers:
            self._well_at = now
        if not self._a.organization.dns_zones:
            await self._give_up("no zone is configured")
        elif self._a.me in self._a.organization.maintenance:
            await self._give_up(f"{self._a.me} is in maintenance")
        elif now - self._well_at >= GIVE_UP:
            await self._give_up(f"{self._a.me} could not keep any zone")
        else:
            await self._write()

    async def _give_up(self, why: str) -> None:
        await self._write(held=False, reason=why)
        self._record = None
        self._not_before = self._a.clock.boottime() + REST
        fact(log, "no longer keeps the DNS records", server=self._a.me, why=why)

    async def _write(
        self, *, held: bool = True, reason: str = "", names: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """The record as it is now. Raises OutcomeUnknown, and Unavailable if it was not written."""
        async with self._writing:
            if self._record is None:
                raise Unavailable("Another server keeps the DNS records.")
            zones = {one.zone: one for one in self._record.zones}
            zones |= {name: one.status for name, one in self._keepers.items()}
            for zone, given in (names or {}).items():
                zones[zone] = msgspec.structs.replace(zones[zone], names=tuple(given))
            record = msgspec.structs.replace(
                self._record,
                epoch=max(self._record.epoch, self._floor),
                counter=self._record.counter + 1,
                held=held,
                reason=reason,
                zones=tuple(one for name, one in sorted(zones.items()) if name in self._a.organization.dns_zones),
                rotation=self._reasons,
            )
            key, value = keys.DNS_UPDATER, encode(record)
            sent = self._a.clock.boottime()
            try:
                result = await self._a.directory.txn(
                    {key: self._revision}, {key: value}, attempt=1.0, read_on_failure=(key,)
                )
            except OutcomeUnknown:
                await self._settle()
                raise
            if not result.succeeded:
                self._see(result.current.get(key))
                self._lose(result.current.get(key))
                raise Unavailable("The record was changed meanwhile.")
            self._a.learn(Entry(key, value, result.revision))
            self._record, self._revision = record, result.revision
            self._until = max(self._until, sent + self._a.timing.hold)

    async def _settle(self) -> None:
        """A write's answer was lost: if the record is ours still, its revision is known again."""
        entry = await self._a.directory.get(keys.DNS_UPDATER)
        self._see(entry)
        found = decode(DnsUpdater, entry.value) if entry is not None else None
        if entry is None or found is None or found.instance != self._a.instance or not found.held:
            self._lose(entry)
        else:
            self._record, self._revision = found, entry.revision

    def _lose(self, entry: Entry | None) -> None:
        found = decode(DnsUpdater, entry.value) if entry is not None else None
        if found is not None and found.instance == self._a.instance and found.held and entry is not None:
            self._record, self._revision = found, entry.revision  # a write whose answer was late
            return
        self._record = None
        fact(log, "another server keeps the DNS records", server=found.server if found is not None else "")

    # -- the work ------------------------------------------------------------------------------------------------

    async def _rest(self) -> None:
        for task in (*self._working.values(), *(task for _, task in self._probes.values())):
            task.cancel()
        ended = [*self._working.values(), *(task for _, task in self._probes.values())]
        self._working, self._probes = {}, {}
        if ended:
            await asyncio.wait(ended, timeout=1.0)

    def _work(self) -> None:
        self._probe()
        for array in self._a.organization.arrays.values():
            self._rotate(array)
        for name in self._a.organization.dns_zones:
            task = self._working.get(name)
            if task is not None and task.done() and not task.cancelled() and task.exception() is not None:
                log.error("the keeper of %s failed", name, exc_info=task.exception())
            if task is None or task.done():
                self._working[name] = asyncio.create_task(self._keep(name))

    def _probe(self) -> None:
        wanted = {
            one.name: one
            for array in self._a.organization.arrays.values()
            if array.dns_mode is DnsMode.ROUND_ROBIN
            for one in members(self._a.organization, array)
        }
        for name, (probe, task) in list(self._probes.items()):
            if wanted.get(name) != probe.server:
                task.cancel()
                del self._probes[name]
        for name in sorted(wanted.keys() - self._probes.keys()):
            probe = self._probe_of(wanted[name], self._a.clock)
            self._probes[name] = (probe, asyncio.create_task(probe.run()))

    def _rotate(self, array: ClientAccessArray) -> None:
        """What its round robin holds now, once every server was looked at."""
        if array.dns_mode is not DnsMode.ROUND_ROBIN:
            self._rotations.pop(array.name, None)
            self._addresses.pop(array.name, None)
            self._reasons.pop(array.name, None)
            return
        looks = [self._look(array, one) for one in members(self._a.organization, array)]
        known = [one for one in looks if one is not None]
        if not known or len(known) < len(looks):
            return
        rotation = self._rotations.setdefault(array.name, Rotation(self._reasons.get(array.name)))
        addresses, reasons = rotation.look(self._a.clock.boottime(), known)
        if addresses != self._addresses.get(array.name):
            fact(log, "round robin", array=array.name, addresses=", ".join(addresses), reasons=reasons)
        self._addresses[array.name], self._reasons[array.name] = addresses, reasons

    def _look(self, array: ClientAccessArray, server: Server) -> Look | None:
        probe = self._probes[server.name][0]
        fence = self._a.entry(keys.fence(server.name))
        gone = fence is not None and decode(FencingRecord, fence.value).state is not TenureState.UP
        if probe.dead is None and not gone:
            return None
        planned = ""
        if server.name in self._a.organization.maintenance:
            planned = "is in maintenance"
        elif server.name in array.drained:
            planned = "is drained"
        return Look(server.name, server.address, "holds no tenure" if gone else probe.dead or "", planned)

    async def _keep(self, name: str) -> None:
        settings = self._a.organization.dns_zones[name]
        record, generation = self._record, self._a.organization.generation
        if record is None or generation is None:
            return
        if name not in self._keepers:
            before = next((one for one in record.zones if one.zone == name), ZoneStatus(zone=name))
            self._keepers[name] = ZoneKeeper(
                before,
                clock=self._a.clock,
                data_dir=self._data_dir,
                remember=self._remember,
                client=self._client,
            )
        zones = list(self._a.organization.dns_zones.values())
        everything = desired(self._a.organization, self._addresses, zones)
        wanted = [one for one in everything if zone_of(one.name, zones) == settings]
        try:
            await self._keepers[name].keep(
                settings,
                wanted,
                self._untouched({one.name for one in everything}),
                organization=generation.identity,
                token=(generation.generation, record.epoch),
            )
        except UpdaterReplaced as error:
            # Only who holds the record by compare-and-swap gets a later epoch out of it: another updater is none then.
            self._floor = error.token[1] + 1
            log.warning("%s", error)
        except EverpostError as error:
            log.debug("%s: %s", name, error)

    def _untouched(self, said: set[str]) -> set[str]:
        """Names about which nothing is said for now, as nobody has looked at the servers yet."""
        names = {
            name.lower()
            for array in self._a.organization.arrays.values()
            for name in (array.fqdn, *array.aliases)
            if array.dns_mode is DnsMode.ROUND_ROBIN or array.ip
        }
        document = self._a.organization.organization
        if document is not None and self._a.organization.arrays:
            names.add(f"autodiscover.{document.domain.lower()}")
        return names - said

    async def _remember(self, zone: str, names: Sequence[str]) -> None:
        await self._write(names={zone: names})
