"""Real etcd members with certificates of an authority of their own, on loopback ports, for these tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

import msgspec

from everpost.directory import etcdserver
from everpost.directory.etcd import EtcdDirectory
from everpost.directory.etcdserver import EtcdMemberSpec
from everpost.directory.membership import JoinCluster, Membership, NewVoter
from everpost.errors import Unavailable
from everpost.net import tls
from tests.conftest import stop

TOKEN = "generation-1"


class Members:
    """A folder, an authority, and the members started in it. `freeze` stops a process without closing anything, as a
    cut cable does."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="everpost-etcd-", dir="/var/tmp"))
        self.binary = etcdserver.find()
        self.address = "127.0.0.1"
        self.authority = tls.create_authority("Contoso")
        self.tls_dir = self.certificate("EX01")
        self.specs: dict[str, EtcdMemberSpec] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def certificate(self, name: str) -> Path:
        """A host's folder of keys."""
        key = tls.new_key()
        folder = self.folder / f"tls-{name}"
        tls.save_host(folder, key, self.authority.sign(key.public_key(), name, [self.address]), self.authority.pem)
        return folder

    def context(self) -> ssl.SSLContext:
        """A client's."""
        return tls.client_context(self.tls_dir)

    def spec(self, name: str, ports: list[int]) -> EtcdMemberSpec:
        """A member's settings, before it is known with whom it starts."""
        spec = EtcdMemberSpec(
            name=name,
            address=self.address,
            client_port=ports[0],
            peer_port=ports[1],
            data_dir=str(self.folder / name),
            tls_dir=str(self.tls_dir),
            initial_cluster=(),
            existing=False,
            token=TOKEN,
            fsync=False,
        )
        self.specs[name] = spec
        return spec

    def found(self, *names: str) -> None:
        """Start members that form a new cluster."""
        together = tuple((name, self.specs[name].peer_url) for name in names)
        for name in names:
            self.specs[name] = msgspec.structs.replace(self.specs[name], initial_cluster=together)
            self.start(name)
        for name in names:
            self.wait_listening(name)

    async def start_joining(self, name: str, join: JoinCluster) -> None:
        """As a host's agent does; harmless when repeated."""
        if name not in self.processes:
            spec = msgspec.structs.replace(self.specs[name], initial_cluster=join.initial_cluster, existing=True)
            self.specs[name] = spec
            self.start(name)

    def start(self, name: str) -> None:
        Path(self.specs[name].data_dir).mkdir(mode=0o700, exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                etcdserver.argv(self.specs[name], self.binary), stdout=log, stderr=log
            )

    def wait_listening(self, name: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.processes[name].poll() is None, (self.folder / f"{name}.log").read_text()[-2000:]
            with socket.socket(socket.AF_INET6 if ":" in self.address else socket.AF_INET) as probe:
                if probe.connect_ex((self.address, self.specs[name].client_port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError(f"{name} did not listen within {seconds} s")

    def url(self, name: str) -> str:
        return self.specs[name].client_url

    def voter(self, name: str) -> NewVoter:
        return NewVoter(name=name, peer_url=self.specs[name].peer_url, client_url=self.specs[name].client_url)

    def directory(self, *names: str, context: ssl.SSLContext | None = None) -> EtcdDirectory:
        """A client whose own member is the first named."""
        return EtcdDirectory([self.url(name) for name in names], context or self.context())

    async def leader(self, directory: EtcdDirectory) -> str:
        """Who leads, by the members' own word."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            for name in self.specs:
                try:
                    status = await directory.ask(self.url(name), "/v3/maintenance/status", {})
                except Unavailable:
                    continue
                if status.get("leader") == status["header"]["member_id"]:
                    return name
        raise AssertionError("no leader was elected within 20 s")

    def membership(self, directory: EtcdDirectory) -> Membership:
        return Membership(directory, TOKEN)

    def signal(self, name: str, signum: signal.Signals) -> None:
        os.kill(self.processes[name].pid, signum)

    def freeze(self, name: str) -> None:
        self.signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.signal(name, signal.SIGCONT)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def close(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is None:
                self.resume(name)
                stop(process, 5)
        shutil.rmtree(self.folder, ignore_errors=True)
