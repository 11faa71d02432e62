"""Datacenter activation coordination at work: asks the other members, keeps the bit and its local file.

`dac.judge` is the rule. The bit stays 1 until the agent ends; it never goes back while the agent runs, as tenure guards
a running server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from everpost.activemanager.dac import Answer, Remembered, Situation, Verdict, judge
from everpost.clock import Clock
from everpost.databases.files import write_durably
from everpost.directory import keys
from everpost.directory.interface import Directory
from everpost.directory.schema import GenerationDocument, decode
from everpost.errors import EverpostError
from everpost.log import fact
from everpost.model.server import DatabaseAvailabilityGroup, Server

log = logging.getLogger(__name__)

ASK = 0.5
"""Seconds that another member has to answer."""
AGAIN = 0.1
REMEMBER_EVERY = 2.0
"""Seconds between looks at the witness' boot: a restart that follows the witness' own so closely waits for a member."""


class History(Directory, Protocol):
    """A directory that says to which cluster it belongs."""

    @property
    def cluster_id(self) -> str | None: ...


class Caller(Protocol):
    """Calls to other hosts' agents."""

    async def call(
        self, server: str, method: str, path: str, json: Any = None, *, timeout: float = 2.0
    ) -> dict[str, Any]: ...


class Coordination:
    """One server's bit. `servers` are the documents as last seen; `unbroken` says whether this host's tenure and the
    warden that holds its deadline outlived the agent."""

    def __init__(
        self,
        me: str,
        *,
        directory: History,
        servers: Callable[[], Mapping[str, Server]],
        agents: Caller,
        clock: Clock,
        path: Path,
        unbroken: Callable[[], Awaitable[bool]],
    ) -> None:
        self.me = me
        self.bit = False
        self.reason = "the agent has just started"
        self.outdated = False
        self._directory = directory
        self._servers = servers
        self._agents = agents
        self._clock = clock
        self._path = path
        self._unbroken = unbroken
        self._remembered = _read(path)

    def answer(self) -> Answer:
        """For another member that asks."""
        return Answer(
            server=self.me, bit=self.bit, generation=self._remembered.generation, cluster=self._remembered.cluster
        )

    async def wait_allowed(self) -> None:
        """Until this server may mount; why it waits is logged when it changes."""
        while not self.bit:
            try:
                verdict = await self._look()
            except EverpostError as error:
                verdict = Verdict(allowed=False, reason=str(error))
            if verdict.reason != self.reason and not verdict.allowed:
                fact(log, "this server may not mount yet", level=logging.WARNING, why=verdict.reason)
            self.reason, self.outdated = verdict.reason, verdict.outdated
            if verdict.allowed:
                self.bit = True
                fact(log, "this server may mount", why=verdict.reason)
            else:
                await self._clock.sleep(AGAIN)

    async def _look(self) -> Verdict:
        generation, dag = await self._documents()
        started = dag.members if dag is not None else ()
        witness = dag.witness_server if dag is not None and len(started) == 2 else None
        found = Situation(
            me=self.me,
            generation=generation,
            cluster=self._directory.cluster_id or "",
            remembered=self._remembered,
            started=started,
            unbroken=await self._unbroken(),
            one_site=self._one_site((*started, witness) if witness else started),
        )
        boot = asyncio.create_task(self._witness_boot(witness))
        try:
            verdict = judge(found)
            if not verdict.allowed and not verdict.outdated:
                found, verdict = await self._ask(found, boot)
            if verdict.allowed:
                # Written before the bit: what follows is done under this generation. A silent witness delays nobody.
                await asyncio.wait({boot}, timeout=AGAIN)
                self._remember(generation or 0, found.cluster, boot.result() if boot.done() else "")
        finally:
            boot.cancel()
        return verdict

    async def _documents(self) -> tuple[int | None, DatabaseAvailabilityGroup | None]:
        """Linearizable: a minority's old documents decide nothing."""
        entry = await self._directory.get(keys.GENERATION)
        entries, _ = await self._directory.list(keys.DAGS)
        dags = [decode(DatabaseAvailabilityGroup, one.value) for one in entries]
        generation = decode(GenerationDocument, entry.value).generation if entry is not None else None
        return generation, next((dag for dag in dags if self.me in dag.members), None)

    async def _ask(self, found: Situation, boot: asyncio.Task[str]) -> tuple[Situation, Verdict]:
        """Ask all others at once; one that may mount is enough, else all are waited for."""
        asked = [asyncio.create_task(self._one(name)) for name in found.started if name != self.me]
        try:
            for done in asyncio.as_completed(asked):
                answer = await done
                if answer is not None:
                    found = msgspec.structs.replace(found, answers=(*found.answers, answer))
                    verdict = judge(found)
                    if verdict.allowed or verdict.outdated:
                        return found, verdict
        finally:
            for task in asked:
                task.cancel()
        found = msgspec.structs.replace(found, witness_boot=await boot)
        return found, judge(found)

    async def _one(self, server: str) -> Answer | None:
        try:
            return msgspec.convert(await self._agents.call(server, "GET", "/v1/dac", timeout=ASK), Answer)
        except (EverpostError, msgspec.ValidationError):
            return None

    async def _witness_boot(self, witness: str | None) -> str:
        if witness is None:
            return ""
        try:
            return str((await self._agents.call(witness, "GET", "/v1/ping", timeout=ASK)).get("boot_id", ""))
        except EverpostError:
            return ""

    def _one_site(self, names: tuple[str, ...]) -> bool:
        servers = self._servers()
        return len({servers[name].site for name in names if name in servers}) <= 1

    def _remember(self, generation: int, cluster: str, witness_boot: str) -> None:
        """Durably; the generation never goes back, and a boot that is not known now is kept as it was."""
        before = self._remembered
        if generation < before.generation:
            return
        after = Remembered(generation=generation, cluster=cluster, witness_boot=witness_boot or before.witness_boot)
        if after != before:
            write_durably(self._path, msgspec.json.encode(after))
            self._remembered = after

    async def remember_forever(self) -> None:
        """While the bit is 1: the generation, and which boot of the witness runs beside us."""
        while True:
            await self._clock.sleep(REMEMBER_EVERY)
            if not self.bit:
                continue
            try:
                generation, dag = await self._documents()
                if generation is not None:
                    boot = await self._witness_boot(dag.witness_server if dag is not None else None)
                    self._remember(generation, self._directory.cluster_id or "", boot)
            except (EverpostError, OSError) as error:
                log.debug("coordination: %s", error)


def _read(path: Path) -> Remembered:
    """Nothing, when the file is missing or damaged: then others must answer."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Remembered)
    except (OSError, msgspec.MsgspecError):
        return Remembered()
