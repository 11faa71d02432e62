"""Patroni 4 as a contestant: two servers and a witness, etcd on all three, synchronous replication.

It is installed from the Python package index into an environment of its own (versions and hashes: patroni.txt). Its
licence is MIT; nothing of it becomes a part of Everpost.

Settings: the fastest that Patroni accepts. It refuses a ttl below 20 s, a loop_wait below 1 s and a retry_timeout
below 3 s. PostgreSQL gets the same fast settings as Everpost's (wal_retrieve_retry_interval 20 ms), and
wal_sender_timeout is 2 s, since Patroni learns from PostgreSQL that a standby is gone. synchronous_mode_strict is off:
with it on, the loss of the passive server stops all writes until it is back.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from everpost.databases import binaries
from everpost.lab.hosts import NamespaceHost, NamespaceLab, Process
from everpost.lab.organisation import CommandFailed

from .contest import Contestant, SqlWriter, wait
from .pair import Say

HERE = Path(__file__).resolve().parent
LOCK = HERE / "patroni.txt"
PASSWORD = "benchmark"
BUILD = 90.0
DCS: dict[str, Any] = {
    "ttl": 20,
    "loop_wait": 1,
    "retry_timeout": 3,
    "primary_start_timeout": 0,
    "synchronous_mode": True,
    "synchronous_mode_strict": False,
    "postgresql": {
        "use_pg_rewind": True,
        "use_slots": True,
        "parameters": {
            "wal_retrieve_retry_interval": "20ms",
            "wal_sender_timeout": "2s",
            "wal_receiver_timeout": "2s",
            "wal_receiver_status_interval": "1s",
            "wal_keep_size": "1GB",
            "max_wal_size": "1GB",
            "shared_buffers": "64MB",
            "wal_log_hints": "on",
        },
    },
}


def install(place: Path, say: Say) -> Path:
    """The environment with Patroni, made on first use; its folder of programs."""
    folder = place / "peers" / "patroni"
    mark = folder / "installed"
    wanted = LOCK.read_text()
    if not mark.exists() or mark.read_text() != wanted:
        version = next(line.split()[0] for line in wanted.splitlines() if line.startswith("patroni=="))
        say(f"installing {version} (MIT licence) and what it needs into {folder}, from the Python package index")
        shutil.rmtree(folder, ignore_errors=True)
        previous = os.umask(0o022)  # the lab's user must be able to read it
        try:
            subprocess.run(["/usr/bin/python3", "-m", "venv", str(folder)], check=True)
            argv = [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "--no-input"]
            subprocess.run([*argv, "--require-hashes", "-r", str(LOCK)], check=True, stdout=sys.stderr)
        finally:
            os.umask(previous)
        mark.write_text(wanted)
    return folder / "bin"


class Node:
    """One host with etcd, and with Patroni unless it is the witness."""

    def __init__(self, host: NamespaceHost, hosts: list[NamespaceHost], programs: Path) -> None:
        self.host = host
        self._hosts = hosts
        self._programs = programs
        self._etcd: Process | None = None
        self._patroni: Process | None = None
        self.sockets = host.root / "run"
        self._config = host.root / "patroni.json"

    def start(self) -> None:
        """Its programs."""
        self.start_etcd()
        self.start_patroni()

    def start_etcd(self) -> None:
        """The same program with the same timing as Everpost's, without TLS."""
        at = self.host.address
        cluster = ",".join(f"{one.name}=http://{one.address}:2380" for one in self._hosts)
        self._etcd = self.host.spawn(
            [
                "etcd", "--name", self.host.name, "--data-dir", str(self.host.root / "etcd"),
                "--heartbeat-interval", "50", "--election-timeout", "500", "--pre-vote",
                "--listen-client-urls", f"http://{at}:2379", "--advertise-client-urls", f"http://{at}:2379",
                "--listen-peer-urls", f"http://{at}:2380", "--initial-advertise-peer-urls", f"http://{at}:2380",
                "--initial-cluster", cluster, "--initial-cluster-state", "new",
                "--logger", "zap", "--log-level", "warn",
            ],
            self.host.root / "etcd.log",
        )  # fmt: skip

    def start_patroni(self) -> None:
        """With the settings written on first use."""
        if not self._config.exists():
            self.sockets.mkdir(exist_ok=True)
            owner = self.host.root.stat()
            os.chown(self.sockets, owner.st_uid, owner.st_gid)
            self._config.write_text(json.dumps(self._settings(), indent=2))
        self._patroni = self.host.spawn(
            [str(self._programs / "patroni"), str(self._config)], self.host.root / "patroni.log"
        )

    def _settings(self) -> dict[str, Any]:
        at, root = self.host.address, self.host.root
        users = {"username": "postgres", "password": PASSWORD}
        return {
            "scope": "bench",
            "name": self.host.name,
            "restapi": {"listen": f"{at}:8008", "connect_address": f"{at}:8008"},
            "etcd3": {"hosts": [f"{one.address}:2379" for one in self._hosts], "protocol": "http"},
            "bootstrap": {"dcs": DCS, "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}]},
            "postgresql": {
                "listen": f"{at}:5432",
                "connect_address": f"{at}:5432",
                "data_dir": str(root / "pgdata"),
                "bin_dir": str(binaries.find().folder),
                "pgpass": str(root / "pgpass"),
                "authentication": {
                    "superuser": users,
                    "rewind": users,
                    "replication": {"username": "replicator", "password": PASSWORD},
                },
                "parameters": {"unix_socket_directories": str(self.sockets)},
                "pg_hba": [
                    "local all all scram-sha-256",
                    "host replication replicator all scram-sha-256",
                    "host all all all scram-sha-256",
                ],
                "remove_data_directory_on_rewind_failure": True,
                "remove_data_directory_on_diverged_timelines": True,
            },
        }

    def stop(self) -> None:
        """SIGTERM, Patroni first: it stops PostgreSQL cleanly and leaves the cluster."""
        for process in (self._patroni, self._etcd):
            if process is not None:
                process.terminate()

    def ask(self, path: str, body: dict[str, Any] | None = None, *, port: int = 8008) -> Any:
        """The answer of a program on this host. Raises CommandFailed."""
        argv = ["ip", "netns", "exec", self.host.space, sys.executable, str(HERE / "ask.py")]
        argv.append(f"http://{self.host.address}:{port}{path}")
        argv += [json.dumps(body)] if body is not None else []
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise CommandFailed(f"{self.host.name}{path}: {done.stderr.strip()}")
        try:
            return json.loads(done.stdout)
        except ValueError:
            return done.stdout


class Patroni(Contestant):
    """PA01, PA02 and a witness with nothing but etcd."""

    name = "Patroni"

    def __init__(self, lab: NamespaceLab, say: Say, place: Path) -> None:
        super().__init__(lab, say)
        programs = install(place, say)
        hosts = [lab.host(name, number) for name, number in (("PA01", 11), ("PA02", 12), ("PA10", 13))]
        self._nodes = [Node(host, hosts, programs) for host in hosts]
        self._version = subprocess.run(
            [str(programs / "patroni"), "--version"], capture_output=True, text=True, check=True
        ).stdout.split()[-1]

    @property
    def hosts(self) -> tuple[NamespaceHost, NamespaceHost]:
        """The two servers."""
        return self._nodes[0].host, self._nodes[1].host

    def build(self) -> SqlWriter:
        """The first server bootstraps, the second is cloned from it."""
        first, second, witness = self._nodes
        self.say(f"Patroni {self._version}: PA01 and PA02, etcd there and on PA10")
        for node in (first, second, witness):
            node.start_etcd()
        first.start_patroni()
        wait(lambda: self._members(first).get("PA01") == ("leader", "running"), BUILD, "PA01 leads")
        second.start_patroni()
        wait(self.whole, BUILD, "PA02 is a synchronous standby")
        at = [f"{host.address}:5432" for host in self.hosts]
        return SqlWriter(
            self.lab.host("CLIENT", 100), "--user", "postgres", "--database", "postgres", "--password", PASSWORD, *at
        )

    def _members(self, node: Node) -> dict[str, tuple[str, str]]:
        """Role and state by name, as this node sees it; nothing when it does not answer."""
        try:
            rows = node.ask("/cluster")["members"]
            return {row["name"]: (row["role"], row["state"]) for row in rows}
        except (CommandFailed, TypeError, KeyError):
            return {}

    def whole(self) -> bool:
        """One leads and the other is its synchronous standby, and both say so: a server that was cut off still shows
        itself as leader for a moment after it is back."""
        first, second = (self._members(node) for node in self._nodes[:2])
        return first == second and sorted(first.values()) == [("leader", "running"), ("sync_standby", "streaming")]

    def lead(self) -> None:
        """By etcd's own call to the member that leads."""
        status = {node: node.ask("/v3/maintenance/status", {}, port=2379) for node in self._nodes}
        ids = {found["header"]["member_id"]: node for node, found in status.items()}
        wanted = status[self._nodes[0]]
        if wanted["leader"] != wanted["header"]["member_id"]:
            target = {"targetID": wanted["header"]["member_id"]}
            ids[wanted["leader"]].ask("/v3/maintenance/transfer-leadership", target, port=2379)

    def home(self) -> None:
        """By Patroni's own call; it refuses while the standby is not yet good enough."""
        end = time.monotonic() + BUILD
        while True:
            try:
                self._nodes[1].ask("/switchover", {"leader": "PA02", "candidate": "PA01"})
                return
            except CommandFailed:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def stop_passive(self) -> None:
        """SIGTERM to Patroni and to etcd, until they have ended."""
        self._nodes[1].stop()

    def start_passive(self) -> None:
        """Both again."""
        self._nodes[1].start()

    def rows(self) -> set[tuple[str, int]]:
        """By SQL on the leader's socket."""
        leads = next(name for name, (role, _) in self._members(self._nodes[0]).items() if role == "leader")
        node = next(node for node in self._nodes if node.host.name == leads)
        argv = ["psql", "-h", str(node.sockets), "-U", "postgres", "postgres", "-XAtc"]
        done = subprocess.run(
            [*argv, "select writer, n from public.numbered"], capture_output=True, text=True, timeout=60, check=True,
            env={**os.environ, "PGPASSWORD": PASSWORD}, cwd="/",
        )  # fmt: skip
        return {(writer, int(n)) for writer, n in (line.split("|") for line in done.stdout.splitlines())}

    def settings(self) -> dict[str, Any]:
        """What was set, and the version."""
        return {
            "version": self._version,
            "licence": "MIT",
            "settings": DCS,
            "transport": "password, no TLS",
            "acknowledged": "after COMMIT returned",
        }

    def close(self) -> None:
        """End and remove everything."""
        self.lab.close()
        if not os.environ.get("EVERPOST_KEEP_FILES"):
            shutil.rmtree(self.lab.root, ignore_errors=True)
