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
from everpost.directory.membership import ClusterMember, JoinCluster, Membership
from everpost.directory.schema import GenerationDocument, OrganizationDocument, OrganizationView, encode
from everpost.errors import EverpostError, NotFound, Refused
from everpost.log import fact
from everpost.model.server import Server, https
from everpost.settings import ServerSettings

log = logging.getLogger(__name__)

LOOK_EVERY = 2.0
ABSENT_LOOKS = 3
"""Looks in a row at which the cluster does not list this host's member, before it is taken for removed: a member that
lags behind may list an older cluster."""


class InitDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What `everpost server init` leaves for the agent."""

    organization: OrganizationDocument
    generation: GenerationDocument
    server: Server


class WitnessReport(msgspec.Struct, frozen=True, kw_only=True):
    """A witness host's word: its boot, and its directory, which took a durable write just now. `member_here`: the
    member that votes there has its files in that directory."""

    server: str
    boot_id: str
    directory: str
    member_here: bool
    votes: bool


class VoterKeeper:
    """The agent's part in the membership of the directory."""

    def __init__(
        self, settings: ServerSettings, directory: EtcdDirectory, organization: OrganizationView, agents: Agents
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._organization = organization
        self._agents = agents

    def membership(self) -> Membership:
        """Changes of the cluster's members. Raises NotFound before there is an organisation."""
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
        """Keep voters.json current, for this host's other processes and its next start; let go of a removed member."""
        absent = 0
        while True:
            try:
                own = etcdserver.load(wiring.etcd_file(self._settings))
                members = await self.membership().members()
                path = wiring.voters_file(self._settings)
                mine = own.client_url if own is not None else ""
                urls = sorted(
                    (m.client_url for m in members if m.client_url and not m.learner), key=lambda url: url != mine
                )
                text = json.dumps(urls)
                if urls and (not path.exists() or path.read_text() != text):
                    write_durably(path, text, 0o644)
                    self._directory.set_endpoints(urls)
                listed = own is None or any(member.peer_url == own.peer_url for member in members)
                absent = 0 if listed else absent + 1
                if own is not None and absent >= ABSENT_LOOKS and not await self._answers(own.client_url):
                    etcdserver.remove(wiring.etcd_file(self._settings))
                    fact(log, "this host votes no more; its member was removed", directory=own.data_dir)
            except EverpostError as error:
                log.debug("voters: %s", error)
            await asyncio.sleep(LOOK_EVERY)

    async def _answers(self, client_url: str) -> bool:
        """Whether a member answers and knows a leader."""
        try:
            found = await self._directory.ask(client_url, "/v3/maintenance/status", {})
        except EverpostError:
            return False
        return str(found.get("leader", "0")) != "0"

    def start_member(self, join: JoinCluster) -> None:
        """Another agent tells this host to start its member; what an earlier membership left is wiped."""
        path = wiring.etcd_file(self._settings)
        known = etcdserver.load(path)
        if known is not None and known.member == join.member:
            return  # asked a second time: it is starting
        # A folder for each membership: what an earlier one left can neither be mistaken for it nor stop its start.
        root = self._member_directory(join.directory)
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(
                f"{root} on {self._settings.name} cannot be made: {error.strerror or error}.",
                remedy="Name another witness directory: Set-DatabaseAvailabilityGroup -WitnessDirectory.",
            ) from error
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

    def witness_report(self, directory: str | None) -> WitnessReport:
        """Make the witness directory if it is missing, and see whether it takes a durable write (P9). Raises Refused
        with the reason when it does not."""
        place = self._member_directory(directory)
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(place / "witness.test", self._settings.name)
        except OSError as error:
            raise Refused(
                f"The witness directory {place} on {self._settings.name} cannot be written: {error.strerror or error}.",
                remedy="Name one that its user may write: Set-DatabaseAvailabilityGroup -WitnessDirectory.",
            ) from error
        own = etcdserver.load(wiring.etcd_file(self._settings))
        return WitnessReport(
            server=self._settings.name,
            boot_id=wiring.boot_id(self._settings),
            directory=str(place),
            member_here=own is not None and Path(own.data_dir).parent == place,
            votes=own is not None,
        )

    async def names(self) -> list[str]:
        """Hosts that vote now."""
        return sorted(await self.health())

    async def health(self) -> dict[str, bool]:
        """Who votes, and whether it answers and knows a leader. Raises Unavailable without quorum."""
        members = [member for member in await self.membership().members() if not member.learner]
        answers = await asyncio.gather(*(self._answers(member.client_url) for member in members))
        return {self.host_of(member): answer for member, answer in zip(members, answers, strict=True)}

    def host_of(self, member: ClusterMember) -> str:
        """The host's name; a member that never started tells none, then its address does."""
        for host in self._organization.servers.values():
            if member.peer_url == peer_url(host):
                return host.name
        return member.name or member.peer_url

    async def reconcile(self, said: Callable[[str], None], warn: Callable[[str], None]) -> None:
        """See `cli.reconcile`."""
        from everpost.cli.reconcile import Reconciliation

        await Reconciliation(self, self._directory, self._agents, self.start).run(said, warn)

    async def expel(self, server: Server) -> None:
        """The host's member is removed if there still is one."""
        await self.membership().remove(peer_url(server))

    async def start(self, server: str, join: JoinCluster) -> None:
        """Tell a host to start its member."""
        if server == self._settings.name:
            self.start_member(join)
            return
        await self._agents.call(server, "POST", "/v1/etcd/start", msgspec.to_builtins(join), timeout=5.0)


def peer_url(host: Server) -> str:
    """Where a host's member is reached by the others."""
    return https(host.address, host.ports.etcd_peer)
