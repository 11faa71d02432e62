"""Who votes in the directory: this host's own member, the list of members, and the voters a DAG should have."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from everpost.activemanager.peers import Agents
from everpost.cli import wiring
from everpost.databases.files import write_durably
from everpost.directory import etcdserver, keys
from everpost.directory.etcd import EtcdDirectory
from everpost.directory.etcdserver import EtcdMemberSpec
from everpost.directory.membership import JoinCluster, Membership
from everpost.directory.schema import GenerationDocument, OrganizationDocument, OrganizationView, encode
from everpost.errors import EverpostError, NotFound
from everpost.log import fact
from everpost.model.server import DatabaseAvailabilityGroup, Server
from everpost.settings import ServerSettings

log = logging.getLogger(__name__)

MOST_VOTERS = 7


class InitDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What `everpost server init` leaves for the agent."""

    organization: OrganizationDocument
    generation: GenerationDocument
    server: Server


def wanted_voters(dag: DatabaseAvailabilityGroup) -> list[str]:
    """Members up to six, and the witness when their number is even (decisions: Engines; spec 1.4)."""
    voters = list(dag.members[: MOST_VOTERS - 1 if len(dag.members) > MOST_VOTERS else MOST_VOTERS])
    if len(dag.members) % 2 == 0 and dag.witness_server is not None and dag.members:
        voters = [*voters[: MOST_VOTERS - 1], dag.witness_server]
    return voters


class VoterKeeper:
    """The agent's part in the membership of the directory."""

    def __init__(
        self, settings: ServerSettings, directory: EtcdDirectory, organization: OrganizationView, agents: Agents
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._organization = organization
        self._agents = agents

    def _membership(self) -> Membership:
        generation = self._organization.generation
        if generation is None:
            raise NotFound("The directory has no generation yet.", remedy="Wait for the first server's agent.")
        return Membership(self._directory, generation.identity)

    async def write_first_documents(self) -> None:
        """The first server's agent puts the organisation into the empty directory."""
        path = wiring.init_file(self._settings)
        if not path.exists():
            return
        init = msgspec.json.decode(path.read_bytes(), type=InitDocument)
        while True:
            try:
                await self._directory.txn(
                    {keys.ORGANIZATION: 0},
                    {
                        keys.ORGANIZATION: encode(init.organization),
                        keys.GENERATION: encode(init.generation),
                        keys.server(init.server.name): encode(init.server),
                    },
                    attempt=2.0,
                )
                if await self._directory.get(keys.ORGANIZATION) is not None:
                    break
            except EverpostError as error:
                fact(log, "waiting for the directory", why=str(error))
            await asyncio.sleep(0.2)
        path.unlink()

    async def run(self) -> None:
        """Keep voters.json current, for this host's other processes and its next start."""
        while True:
            try:
                own = etcdserver.load(wiring.etcd_file(self._settings))
                urls = list(await self._membership().endpoints(own.client_url if own is not None else ""))
                path = wiring.voters_file(self._settings)
                text = json.dumps(urls)
                if urls and (not path.exists() or path.read_text() != text):
                    write_durably(path, text, 0o644)
                    self._directory.set_endpoints(urls)
            except EverpostError as error:
                log.debug("voters: %s", error)
            await asyncio.sleep(2.0)

    def start_member(self, join: JoinCluster) -> None:
        """Another agent tells this host to start its member; what an earlier membership left is wiped."""
        path = wiring.etcd_file(self._settings)
        known = etcdserver.load(path)
        if known is not None and known.member == join.member:
            return  # asked a second time: it is starting
        # A folder for each membership: what an earlier one left can neither be mistaken for it nor stop its start.
        root = self._member_directory(join.directory)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in root.glob("member*"):
            shutil.rmtree(old, ignore_errors=True)
        place = root / f"member-{join.member}"
        place.mkdir(mode=0o700)
        spec = EtcdMemberSpec(
            name=self._settings.name,
            address=self._settings.address,
            client_port=self._settings.ports.etcd_client,
            peer_port=self._settings.ports.etcd_peer,
            data_dir=str(place),
            tls_dir=str(self._settings.tls_dir),
            initial_cluster=join.initial_cluster,
            existing=True,
            token=join.token,
            member=join.member,
        )
        etcdserver.save(spec, path)
        fact(log, "directory member starts", directory=str(place))

    def _member_directory(self, asked: str | None) -> Path:
        """The host's own folder, or a witness directory, below the lab's root if there is one."""
        if asked is None:
            return self._settings.data_dir / "etcd"
        plain = asked.replace("\\", "/")
        if len(plain) > 1 and plain[1] == ":":
            plain = "/" + plain[0].lower() + plain[2:]
        if self._settings.path_root:
            return Path(self._settings.path_root + "/" + plain.lstrip("/"))
        return Path(plain)

    async def names(self) -> list[str]:
        """Hosts that vote now."""
        return sorted(member.name for member in await self._membership().members() if not member.learner)

    async def reconcile(self, dag: DatabaseAvailabilityGroup, said: Callable[[str], None]) -> None:
        """Add the voters that are missing, servers first and the witness back to back, then remove those too many."""
        membership = self._membership()
        wanted = wanted_voters(dag)
        for name in wanted:
            host = self._organization.servers.get(name)
            if host is None:
                raise NotFound(f"There is no server {name}.")
            peer_url = f"https://{host.address}:{host.ports.etcd_peer}"
            client_url = f"https://{host.address}:{host.ports.etcd_client}"
            place = dag.witness_directory if name == dag.witness_server else None
            before = await self.names()
            await membership.add(name, peer_url, client_url, self._start, place)
            if name not in before:
                said(f"{name} votes now.")
        others = {
            name
            for other in self._organization.dags.values()
            if other.name != dag.name
            for name in wanted_voters(other)
        }
        members = await membership.members()
        for member in members:
            surplus = member.name and member.name not in wanted and member.name not in others
            if surplus and len(members) > 1 and wanted:
                await membership.remove(member.peer_url)
                said(f"{member.name} votes no more.")

    async def _start(self, server: str, join: JoinCluster) -> None:
        if server == self._settings.name:
            self.start_member(join)
            return
        await self._agents.call(server, "POST", "/v1/etcd/start", msgspec.to_builtins(join), timeout=5.0)
