"""One zone on its servers: reads what there is, makes it what it should be, and says how that went."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from everpost.array.dns import key as keyfile
from everpost.array.dns.client import Client, DnsTrouble, Outdated, Taken
from everpost.array.dns.plan import (
    Change,
    Conflict,
    Replaced,
    Seen,
    Token,
    by_name,
    family,
    mark_name,
    plan,
    taken,
)
from everpost.array.dns.records import RecordSet
from everpost.clock import Clock
from everpost.errors import EverpostError, Refused
from everpost.log import fact
from everpost.model.dns import DnsZone, ZoneStatus

log = logging.getLogger(__name__)

VERIFY_EVERY = 30.0
"""Seconds between looks at each of our names, which somebody may have changed by hand."""
AVOID = 30.0
"""Seconds for which a server that did not answer is asked last."""
SILENT_AGAIN = 1.0
"""Seconds until a server that was silent is asked again: soon after it is back it shall hold what changed meanwhile."""
BACKOFF, BACKOFF_AT_MOST = 0.5, 15.0
"""Of what only an administrator can mend."""
EVERY_KIND = ("A", "AAAA", "CNAME", "SRV", "MX")
LONG = 0.5
"""Seconds after which the wishes are asked for anew, between two names."""
TRIES = 3
"""Of one change, each with a new look: the mark may have changed in between."""
T = TypeVar("T")


class UpdaterReplaced(EverpostError):
    """The zone bears a later token than ours."""

    def __init__(self, found: Replaced) -> None:
        super().__init__(f"{found.name} was claimed at {found.token[0]}.{found.token[1]} by another updater.")
        self.token = found.token


class ZoneKeeper:
    """`remember(zone, names)` returns once the directory holds which names may bear our mark; it comes before the first
    update of each, so that none is forgotten."""

    def __init__(
        self,
        before: ZoneStatus,
        *,
        clock: Clock,
        data_dir: Path,
        remember: Callable[[str, Sequence[str]], Awaitable[None]],
        client: Callable[[str, str, keyfile.Key], Client] = Client,
    ) -> None:
        # What a former updater said is not true any more, but for the names and since when they are stale.
        self.status = msgspec.structs.replace(before, server="", key="")
        self._left: dict[str, float] = {}
        """Names left alone, and until when."""
        self._clock = clock
        self._data_dir = data_dir
        self._remember = remember
        self._client = client
        self._known: dict[str, Seen] = {}
        self._verify: dict[str, float] = {}
        """When each name is to be looked at again."""
        self._avoid: dict[str, float] = {}
        self._settings: DnsZone | None = None
        self._again_at = 0.0
        self._failures = 0

    async def keep(
        self,
        settings: DnsZone,
        wanted: Iterable[RecordSet],
        untouched: Iterable[str],
        *,
        organization: str,
        token: Token,
    ) -> bool:
        """Make the zone hold `wanted` of our names, and of what we made nothing else but `untouched`, if there is
        anything to do and it is not yet to be waited for; False: not all is looked at yet. Raises UpdaterReplaced."""
        now = self._clock.boottime()
        if settings != self._settings:
            self._settings, self._again_at = settings, 0.0
            self._known.clear()
            self._left.clear()
        if now < self._again_at:
            return True
        self._left = {name: until for name, until in self._left.items() if now < until}
        due = min(self._known, key=self._verify.__getitem__, default=None)
        if due is not None and now >= self._verify[due]:
            del self._known[due]  # one at a time: a server that dies meanwhile must leave the round robin at once
        try:
            done = await self._keep(settings, list(wanted), set(untouched), organization, token)
        except (DnsTrouble, Refused) as error:
            self._failures += 1
            pause = min(BACKOFF * 2 ** min(self._failures, 10), BACKOFF_AT_MOST)
            silent = isinstance(error, DnsTrouble) and error.retry
            self._again_at = self._clock.boottime() + (SILENT_AGAIN if silent else pause)
            self._stale(error)
            return True
        if not done:
            return False
        if self._failures:
            fact(log, "the zone is kept again", zone=settings.zone)
        self._failures = 0
        self.status = msgspec.structs.replace(self.status, stale_since="", error="")
        return True

    def _stale(self, error: EverpostError) -> None:
        if str(error) != self.status.error:
            fact(log, "the zone cannot be kept", level=logging.WARNING, zone=self.status.zone, why=str(error))
        since = self.status.stale_since or self._wall()
        self.status = msgspec.structs.replace(self.status, stale_since=since, error=str(error))

    def _wall(self) -> str:
        now: datetime = self._clock.wall()
        return now.isoformat(timespec="seconds")

    async def _keep(
        self, settings: DnsZone, wanted: list[RecordSet], untouched: set[str], organization: str, token: Token
    ) -> bool:
        """Whether it came to the end: when it takes long, what is wanted may have changed meanwhile."""
        end = self._clock.boottime() + LONG
        key = keyfile.read(self._data_dir / settings.key_file)
        self.status = msgspec.structs.replace(self.status, key=str(key))
        grouped = by_name(wanted)
        left = [name for name in self.status.names if name not in grouped and name not in untouched]
        for name in [one for one in self.status.conflicts if one not in grouped and one not in left]:
            self._settled(name)
        for name in (*grouped, *left):
            if name in self._left:
                continue
            if self._clock.boottime() >= end:
                return False
            await self._one(settings, key, name, grouped.get(name, []), organization, token)
        return True

    async def _one(
        self, settings: DnsZone, key: keyfile.Key, name: str, records: list[RecordSet], organization: str, token: Token
    ) -> None:
        refused: EverpostError | None = None
        for _ in range(TRIES):
            seen = self._known.get(name) or await self._see(settings, key, name, records)
            self._learn(name, seen)
            done = plan(name, records, seen, organization=organization, token=token, adopt=name in settings.adopt)
            if isinstance(done, Replaced):
                if done.token[0] > token[0]:
                    raise DnsTrouble(
                        f"{name} was claimed under generation {done.token[0]} of the directory, which has {token[0]}.",
                        remedy=f"If no server works with that directory any more, delete the TXT of {mark_name(name)}.",
                    )
                raise UpdaterReplaced(done)
            if isinstance(done, Conflict):
                self._leave(done)
                return
            if done is not None:
                if name not in self.status.names:
                    await self._keep_in_mind((*self.status.names, name))
                del self._known[name]  # until the answer is here, nobody knows
                try:
                    await self._change(settings, key, done)
                except (Outdated, Taken) as error:
                    refused = error
                    continue
                self._changed(done)
            self._settled(name)
            if not records and name in self.status.names:
                await self._keep_in_mind([one for one in self.status.names if one != name])
            return
        if isinstance(refused, Outdated):
            raise DnsTrouble(f"{name} changes all the time.", remedy="See who else updates it.", retry=True)
        found = await self._see(settings, key, name, ())
        self._leave(taken(name, found.records))

    async def _see(self, settings: DnsZone, key: keyfile.Key, name: str, records: Iterable[RecordSet]) -> Seen:
        kinds = tuple(dict.fromkeys(kind for one in records for kind in family(one.kind))) or EVERY_KIND
        return await self._anywhere(settings, key, lambda server: server.see(name, kinds))

    async def _change(self, settings: DnsZone, key: keyfile.Key, change: Change) -> None:
        await self._anywhere(settings, key, lambda server: server.update(change))

    async def _keep_in_mind(self, names: Sequence[str]) -> None:
        await self._remember(self.status.zone, names)
        self.status = msgspec.structs.replace(self.status, names=tuple(names))

    def _learn(self, name: str, seen: Seen) -> None:
        if name not in self._known:
            self._verify[name] = self._clock.boottime() + VERIFY_EVERY
        self._known[name] = seen

    def _changed(self, change: Change) -> None:
        self._learn(change.name, Seen(change.new_mark, frozenset(change.records)))
        self.status = msgspec.structs.replace(self.status, updated=self._wall())
        data = "; ".join(f"{one.kind} {', '.join(one.data)}" for one in change.records)
        fact(log, "records updated", name=change.name, data=data or "none", server=self.status.server)

    def _leave(self, conflict: Conflict) -> None:
        if conflict.name not in self.status.conflicts:
            fact(log, "a name is left alone", level=logging.WARNING, name=conflict.name, why=conflict.why)
        conflicts = {**self.status.conflicts, conflict.name: f"{conflict.why} {conflict.remedy}"}
        self.status = msgspec.structs.replace(self.status, conflicts=conflicts)
        self._left[conflict.name] = self._clock.boottime() + VERIFY_EVERY
        self._known.pop(conflict.name, None)

    def _settled(self, name: str) -> None:
        if name in self.status.conflicts:
            conflicts = {one: why for one, why in self.status.conflicts.items() if one != name}
            self.status = msgspec.structs.replace(self.status, conflicts=conflicts)

    async def _anywhere(self, settings: DnsZone, key: keyfile.Key, ask: Callable[[Client], Awaitable[T]]) -> T:
        """By the first server that does it. One that did not is asked last for a while. If none does, a refusal that
        somebody must do something about says more than one that does not answer."""
        now = self._clock.boottime()
        trouble: DnsTrouble | None = None
        for server in sorted(settings.servers, key=lambda one: self._avoid.get(one, 0.0) > now):
            try:
                result = await ask(self._client(server, settings.zone, key))
            except DnsTrouble as error:
                self._avoid[server] = self._clock.boottime() + AVOID
                if trouble is None or (trouble.retry and not error.retry):
                    trouble = error
                continue
            self.status = msgspec.structs.replace(self.status, server=server)
            return result
        raise trouble or DnsTrouble(f"{settings.zone} has no server.", remedy="Name one: Set-DnsUpdate -Server.")
