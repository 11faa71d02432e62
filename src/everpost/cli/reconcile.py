"""Brings the voters of the directory to what the DAGs ask for, one change after the other.

Each step is decided anew from what the directory says then, so that two commands at the same moment, on two hosts, work
on one plan (T-DAG-11), and a command that was killed is simply run again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from everpost.activemanager.peers import Agents
from everpost.cli.voters import VoterKeeper, peer_url
from everpost.directory import keys, voting
from everpost.directory.etcd import EtcdDirectory
from everpost.directory.membership import StartMember
from everpost.directory.schema import decode
from everpost.errors import EverpostError, NotFound, Unavailable
from everpost.model.quorum import wanted_voters
from everpost.model.server import DatabaseAvailabilityGroup, Server, https

PATIENCE = 5.0
"""Seconds that a voter may be silent before nothing is added beside it: etcd refuses that in any case."""
LIMIT = 120.0
"""Seconds for all steps; a further voter takes about 5 s, as etcd lets no two changes follow closer."""

Say = Callable[[str], None]


class Reconciliation:
    """One run."""

    def __init__(self, keeper: VoterKeeper, directory: EtcdDirectory, agents: Agents, start: StartMember) -> None:
        self._keeper = keeper
        self._directory = directory
        self._agents = agents
        self._start = start

    async def run(self, said: Say, warn: Say) -> None:
        """Until the voters are as wanted, or as near as the hosts that answer allow; then what is missing is said as a
        warning. Raises Unavailable when the directory does not answer, or a host does not become a voter."""
        end = time.monotonic() + LIMIT
        warned: set[str] = set()
        silent_since: float | None = None

        def warn_once(text: str) -> None:
            if text not in warned:
                warned.add(text)
                warn(text)

        while True:
            dags, servers = await self._documents()
            wanted = self._wanted(dags, servers)
            missing = [name for name in wanted if name not in servers]
            if missing:
                raise NotFound(f"There is no server {missing[0]}.", remedy="Get-ExchangeServer lists the servers.")
            voters = await self._keeper.health()
            directories = {
                dag.witness_server: dag.witness_directory
                for dag in dags.values()
                if dag.witness_server is not None and dag.witness_server in wanted_voters(dag)
            }
            reachable = await self._reachable(wanted, voters, directories, warn_once)
            step = await self._displaced(voters, directories) or voting.next_step(
                voters, await self._learners(), wanted, reachable
            )
            if step is None:
                self._say_what_is_missing(wanted, voters, warn_once)
                return
            if time.monotonic() > end:
                raise Unavailable(
                    "The voters are not as they should be yet.", remedy="Set-DatabaseAvailabilityGroup goes on."
                )
            host = servers.get(step.name)
            silent = [name for name, answers in voters.items() if not answers]
            if isinstance(step, voting.AddVoter) and silent:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE:
                    raise _blocked(step.name, silent)
                await asyncio.sleep(0.5)
                continue
            silent_since = None
            if isinstance(step, voting.AddVoter):
                assert host is not None
                await self._add(host, directories.get(host.name), voters)
                said(f"{host.name} votes now.")
            else:
                await self._remove(step.name)
                said(f"{step.name} votes no more.")

    async def _documents(self) -> tuple[dict[str, DatabaseAvailabilityGroup], dict[str, Server]]:
        dags, _ = await self._directory.list(keys.DAGS)
        servers, _ = await self._directory.list(keys.SERVERS)
        return (
            {entry.key.removeprefix(keys.DAGS): decode(DatabaseAvailabilityGroup, entry.value) for entry in dags},
            {entry.key.removeprefix(keys.SERVERS): decode(Server, entry.value) for entry in servers},
        )

    @staticmethod
    def _wanted(dags: Mapping[str, DatabaseAvailabilityGroup], servers: Mapping[str, Server]) -> list[str]:
        """Of all DAGs; witnesses last."""

        def site(name: str) -> str:
            return servers[name].site if name in servers else ""

        found = [name for dag in dags.values() for name in wanted_voters(dag, site)]
        witnesses = {dag.witness_server for dag in dags.values()}
        return sorted(dict.fromkeys(found), key=lambda name: name in witnesses)

    async def _learners(self) -> list[str]:
        members = await self._keeper.membership().members()
        return [self._keeper.host_of(member) for member in members if member.learner]

    async def _reachable(
        self, wanted: list[str], voters: Mapping[str, bool], directories: Mapping[str, str | None], warn: Say
    ) -> set[str]:
        """Which of the wanted that do not vote yet could: their agent answers, and a witness can write."""

        async def ask(name: str) -> bool:
            try:
                if name in directories:
                    await self._agents.call(name, "POST", "/v1/witness", {"directory": directories[name]}, timeout=5.0)
                else:
                    await self._agents.call(name, "GET", "/v1/ping", timeout=2.0)
            except EverpostError as error:
                warn(f"{name} cannot vote now: {error}")
                return False
            return True

        newcomers = [name for name in wanted if name not in voters]
        answers = await asyncio.gather(*(ask(name) for name in newcomers))
        return {name for name, answer in zip(newcomers, answers, strict=True) if answer}

    async def _displaced(
        self, voters: Mapping[str, bool], directories: Mapping[str, str | None]
    ) -> voting.RemoveVoter | None:
        """A witness that votes from another directory than the DAG's is removed, and added again from there, if all
        other voters answer."""
        if not all(voters.values()):
            return None
        for name, directory in directories.items():
            if name in voters:
                try:
                    found = await self._agents.call(name, "POST", "/v1/witness", {"directory": directory}, timeout=5.0)
                except EverpostError:
                    continue
                if not found["member_here"]:
                    return voting.RemoveVoter(name=name, lost=False)
        return None

    async def _add(self, host: Server, directory: str | None, voters: Mapping[str, bool]) -> None:
        try:
            await self._keeper.membership().add(
                host.name,
                peer_url(host),
                https(host.address, host.ports.etcd_client),
                self._start,
                directory,
            )
        except Unavailable as error:
            silent = [name for name, answers in voters.items() if not answers]
            if not silent:
                raise
            raise _blocked(host.name, silent) from error

    async def _remove(self, name: str) -> None:
        members = await self._keeper.membership().members()
        found = next((member for member in members if self._keeper.host_of(member) == name), None)
        if found is not None:
            await self._keeper.membership().remove(found.peer_url)

    @staticmethod
    def _say_what_is_missing(wanted: list[str], voters: Mapping[str, bool], warn: Say) -> None:
        missing = [name for name in wanted if name not in voters]
        if missing:
            warn(
                f"{', '.join(missing)} does not vote yet, so the DAG bears fewer losses than it could;"
                " when it answers again, Set-DatabaseAvailabilityGroup with no other parameter repairs this."
            )
        elif wanted and len(wanted) % 2 == 0:
            warn("The number of voters is even, as there is no witness: name one with -WitnessServer.")
        silent = [name for name, answers in voters.items() if not answers and name in wanted]
        if silent:
            warn(f"{', '.join(silent)} votes and does not answer.")


def _blocked(name: str, silent: list[str]) -> Unavailable:
    return Unavailable(
        f"{name} cannot become a voter while {', '.join(silent)} votes and does not answer.",
        remedy=f"Start {silent[0]}, or remove it for good: Remove-DatabaseAvailabilityGroupServer -ConfigurationOnly"
        " for a member, Set-DatabaseAvailabilityGroup -WitnessServer for a witness.",
    )
