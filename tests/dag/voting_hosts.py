"""Hosts in network namespaces that vote and hold tenures, without a whole server: etcd as a process of each, and beside
it, in a thread that is in the same namespace, this project's directory client, tenure, and change of voters."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from everpost.activemanager.peers import Agents
from everpost.cli.reconcile import Reconciliation
from everpost.cli.voters import VoterKeeper
from everpost.clock import SystemClock
from everpost.directory import etcdserver, keys
from everpost.directory.etcd import EtcdDirectory
from everpost.directory.etcdserver import EtcdMemberSpec
from everpost.directory.membership import JoinCluster
from everpost.directory.schema import GenerationDocument, OrganizationView, encode
from everpost.directory.tenure import Tenure
from everpost.errors import EverpostError, Unavailable
from everpost.lab.hosts import NamespaceHost, NamespaceLab, Process, open_lab
from everpost.model import quorum
from everpost.model.server import DatabaseAvailabilityGroup, Role, Server
from everpost.model.tenure import Timing
from everpost.net import tls
from everpost.settings import ServerSettings

T = TypeVar("T")
TIMING = Timing()
WITNESS = "WIT"
NAMES = ("MBX1", "MBX2", "MBX3", "MBX4", "MBX5", "MBX6", WITNESS)
CLONE_NEWNET = 0x40000000
TOKEN = "generation-1"


class VotingHost:
    """One host: its member of etcd when it votes, and its tenure when it is a mailbox server."""

    def __init__(self, lab: NamespaceLab, name: str, authority: tls.Authority, binary: str) -> None:
        self.name = name
        self.host: NamespaceHost = lab.host(name, 11 + NAMES.index(name))
        self.tls_dir = self.host.root / "tls"
        key = tls.new_key()
        tls.save_host(self.tls_dir, key, authority.sign(key.public_key(), name, [self.host.address]), authority.pem)
        for path in (self.tls_dir, *self.tls_dir.iterdir()):
            shutil.chown(path, "everpost", "everpost")
        self.spec = EtcdMemberSpec(
            name=name,
            address=self.host.address,
            client_port=2379,
            peer_port=2380,
            data_dir="",
            tls_dir=str(self.tls_dir),
            initial_cluster=(),
            existing=False,
            token=TOKEN,
            fsync=False,
        )
        self._binary = binary
        self.process: Process | None = None
        self.confirmed = 0.0
        """CLOCK_BOOTTIME at which the newest confirmed renewal was sent."""
        self.lapses = 0
        self.tenure: Tenure | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    def _live(self) -> None:
        """Every socket of this thread is one of the host's namespace."""
        with open(f"/run/netns/{self.host.space}", "rb") as space:
            if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        self._loop.run_forever()

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 60.0) -> T:
        """Do it on this host."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    # -- its vote ----------------------------------------------------------------------------------------------

    def vote(self, together: Iterable[tuple[str, str]], *, existing: bool, member: str = "") -> None:
        """Start its member of etcd; again with the same `member`: it goes on."""
        if self.process is not None and self.process.running():
            return
        folder = self.host.root / f"member-{member}"
        folder.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(folder, "everpost", "everpost")
        self.spec = msgspec.structs.replace(
            self.spec, initial_cluster=tuple(together), existing=existing, data_dir=str(folder), member=member
        )
        self.start()

    def start(self) -> None:
        self.process = self.host.spawn(etcdserver.argv(self.spec, self._binary), self.host.root / "etcd.log")

    def signal(self, signum: signal.Signals) -> None:
        assert self.process is not None
        for pid in self.host.pids():
            os.kill(pid, signum)

    def knows_a_leader(self) -> bool:
        """By its own word."""

        async def ask() -> bool:
            directory = EtcdDirectory([self.spec.client_url], tls.client_context(self.tls_dir))
            try:
                found = await directory.ask(self.spec.client_url, "/v3/maintenance/status", {})
            except EverpostError:
                return False
            finally:
                await directory.close()
            return str(found.get("leader", "0")) != "0"

        return self.run(ask())

    # -- its tenure --------------------------------------------------------------------------------------------

    def hold(self, urls: list[str]) -> None:
        """Acquire its tenure and renew it from now on, as an agent does; `urls` are the voters, its own one first."""
        self.run(self._hold(sorted(urls, key=lambda url: url != self.spec.client_url)))

    async def _hold(self, urls: list[str]) -> None:
        self._directory = EtcdDirectory(urls, tls.client_context(self.tls_dir))
        self.tenure = Tenure(self._directory, SystemClock(), self.name, f"warden of {self.name}", TIMING)
        self._renewing = asyncio.create_task(self._renew(self.tenure))

    async def _renew(self, tenure: Tenure) -> None:
        async def ready() -> bool:
            return True

        async def confirmed(until: float, _: int) -> None:
            self.lapses += self.confirmed > 0 and not tenure.valid()
            self.confirmed = until - TIMING.hold

        while not tenure.fence_revision:
            try:
                await tenure.acquire()
            except EverpostError:
                await asyncio.sleep(0.05)
        await tenure.renew_forever(ready, confirmed)

    def follow(self, urls: list[str]) -> None:
        """The voters changed."""

        async def tell() -> None:
            self._directory.set_endpoints(sorted(urls, key=lambda url: url != self.spec.client_url))

        self.run(tell())

    def valid(self) -> bool:
        """Whether what it serves stays mounted now: at the end of its tenure the warden ends every database."""
        return self.tenure is not None and self.tenure.valid()

    def end(self) -> None:
        async def finish() -> None:
            if self.tenure is not None:
                self._renewing.cancel()
                await asyncio.gather(self._renewing, return_exceptions=True)
                await self._directory.close()

        self.run(finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


class _Pings:
    """The agents of all hosts: each answers, and a witness votes from the directory that is asked for."""

    async def call(self, server: str, method: str, path: str, json: Any = None, *, timeout: float = 2.0) -> Any:
        return {"server": server, "member_here": True}


class VotingHosts:
    """A DAG whose voters are brought to what its members ask for by `cli.reconcile`."""

    def __init__(self, members: int) -> None:
        lab = open_lab("quorum2", "netns")
        assert isinstance(lab, NamespaceLab)
        self.lab = lab
        authority = tls.create_authority("Contoso")
        binary = etcdserver.find()
        self.hosts: dict[str, VotingHost] = {}
        try:
            self.hosts = {name: VotingHost(lab, name, authority, binary) for name in NAMES}
            self.dag = self._dag(members)
            together = [(name, self.hosts[name].spec.peer_url) for name in quorum.wanted_voters(self.dag)]
            for name, _ in together:
                self.hosts[name].vote(together, existing=False)
            self.members_hold()
            for bridge in ("mapi2", "repl2"):
                self._cable("link", "add", bridge, "type", "bridge")
                self._cable("link", "set", bridge, "up")
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _dag(members: int) -> DatabaseAvailabilityGroup:
        return DatabaseAvailabilityGroup(name="DAG1", members=NAMES[:members], witness_server=WITNESS)

    @property
    def members(self) -> list[VotingHost]:
        return [self.hosts[name] for name in self.dag.members]

    def urls(self) -> list[str]:
        return [self.hosts[name].spec.client_url for name in quorum.wanted_voters(self.dag)]

    def members_hold(self) -> None:
        """Every member holds its tenure, with the voters of now."""
        for host in self.members:
            if host.tenure is None:
                host.hold(self.urls())
            else:
                host.follow(self.urls())
        self.wait(lambda: all(host.valid() for host in self.members), 30, "every member's tenure")

    def resize(self, members: int) -> None:
        """As Add-DatabaseAvailabilityGroupServer and Remove-... do: the document, then the voters."""
        self.dag = self._dag(members)
        self.hosts["MBX1"].run(self._reconcile(), 120.0)
        self.members_hold()

    async def _reconcile(self) -> None:
        first = self.hosts["MBX1"]
        context = tls.client_context(first.tls_dir)
        organization = OrganizationView()
        organization.generation = GenerationDocument(generation=1, identity=TOKEN)
        for name, host in self.hosts.items():
            address, role = host.host.address, Role.WITNESS if name == WITNESS else Role.MAILBOX
            organization.servers[name] = Server(name=name, address=address, replication_address=address, roles=(role,))
        # All hosts, those that do not vote too: whoever voted before the change must be asked as well.
        directory = EtcdDirectory([host.spec.client_url for host in self.hosts.values()], context)
        try:
            documents = {keys.server(name): encode(one) for name, one in organization.servers.items()}
            assert (await directory.txn({}, {keys.dag("DAG1"): encode(self.dag), **documents}, attempt=5.0)).succeeded
            settings = ServerSettings(name="MBX1", address=first.host.address, replication_address=first.host.address)
            agents = cast(Agents, _Pings())
            keeper = VoterKeeper(settings, directory, organization, agents)
            await Reconciliation(keeper, directory, agents, self._start).run(lambda _: None, self._no_warning)
            assert sorted(await keeper.names()) == sorted(quorum.wanted_voters(self.dag))
        finally:
            await directory.close()

    async def _start(self, server: str, join: JoinCluster) -> None:
        host = self.hosts[server]
        if host.spec.member != join.member:
            host.vote(join.initial_cluster, existing=True, member=join.member)

    @staticmethod
    def _no_warning(text: str) -> None:
        raise Unavailable(text)

    # -- faults ------------------------------------------------------------------------------------------------

    def _cable(self, *words: str) -> None:
        subprocess.run(["ip", "-n", self.lab.cable, *words], check=True, capture_output=True, timeout=20)

    def split(self, names: Iterable[str]) -> None:
        """Those hosts are beyond a line that is cut: among each other they are connected still."""
        self._plug(names, "2")

    def join(self, names: Iterable[str]) -> None:
        """The line is back."""
        self._plug(names, "")

    def _plug(self, names: Iterable[str], bridge: str) -> None:
        for name in names:
            number = 11 + NAMES.index(name)
            self._cable("link", "set", f"m{number}", "master", f"mapi{bridge}")
            self._cable("link", "set", f"r{number}", "master", f"repl{bridge}")

    @staticmethod
    def wait(condition: Callable[[], bool], seconds: float, what: str) -> float:
        """Until it holds; seconds it took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < seconds, f"{what} did not come true within {seconds:.1f} s"
            time.sleep(0.02)
        return time.monotonic() - began

    def close(self) -> None:
        for host in self.hosts.values():
            host.end()
        self.lab.close()
        shutil.rmtree(Path(self.lab.root), ignore_errors=True)
