"""Hosts of a lab: network namespaces with real links when root, addresses 127.0.77.x otherwise.

Namespaces: one per host and one for the cable between them, with a bridge for the MAPI network (10.77.0.0/24) and one
for the replication network (10.78.0.0/24). Cutting a host takes all its cards' links down. On loopback, where there are
no cards, cutting ends all its processes at once (decisions: Words in reports).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from everpost.databases import processes

USER = "everpost"
PREFIX = "evp"
CAPABILITIES = "+net_bind_service,+net_admin,+net_raw"


class Process:
    """A process of a host, in a session of its own."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen

    @property
    def pid(self) -> int:
        return self.popen.pid

    def running(self) -> bool:
        """Whether it lives."""
        return self.popen.poll() is None

    def terminate(self, seconds: float = 40.0) -> None:
        """SIGTERM, then SIGKILL."""
        if self.running():
            self.popen.terminate()
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


class Host(Protocol):
    """One host: where it is, and how to run, cut and mend."""

    name: str
    address: str
    replication_address: str
    root: Path
    ports: Mapping[str, int]

    def spawn(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Process:
        """Start a program on the host, as the lab's user."""

    def pids(self) -> list[int]:
        """All processes of the host."""

    def cut(self) -> None:
        """All network cards lose their link (loopback: all processes are killed)."""

    def mend(self) -> None:
        """The links come back."""


def _lab_user() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam(USER)
    return entry.pw_uid, entry.pw_gid


def _make_root(path: Path) -> Path:
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    owner = _lab_user()
    if owner is not None:
        os.chown(path, *owner)
    return path


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=20)


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    keep = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "TZ")
    return {**{name: os.environ[name] for name in keep if name in os.environ}, **(extra or {})}


def kill_all(pids: Sequence[int]) -> None:
    """SIGKILL processes of a lab, parents and children alike."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


_numbers = itertools.count(1)
"""Of the labs of this process: one that is not closed yet is in nobody's way."""


class NamespaceHost:
    """A network namespace with two cards."""

    def __init__(self, lab: NamespaceLab, name: str, number: int) -> None:
        self.name = name
        self.address = f"10.77.0.{number}"
        self.replication_address = f"10.78.0.{number}"
        self.root = _make_root(lab.root / name)
        self.ports: Mapping[str, int] = {}
        self.space = f"{lab.id}-{name}"
        self._links = [f"m{number}", f"r{number}"]
        self._cable = lab.cable
        _run("ip", "netns", "add", self.space)
        _run("ip", "-n", self.space, "link", "set", "lo", "up")
        for link, bridge, address in zip(
            self._links, ("mapi", "repl"), (self.address, self.replication_address), strict=True
        ):
            _run(
                "ip",
                "link",
                "add",
                link,
                "netns",
                self._cable,
                "type",
                "veth",
                "peer",
                "name",
                bridge,
                "netns",
                self.space,
            )
            _run("ip", "-n", self._cable, "link", "set", link, "master", bridge, "up")
            _run("ip", "-n", self.space, "addr", "add", f"{address}/24", "dev", bridge)
            _run("ip", "-n", self.space, "link", "set", bridge, "up")

    def spawn(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Process:
        """Inside the namespace, as user `everpost`, who may use the ports below 1024 and move addresses there."""
        line = [
            "ip", "netns", "exec", self.space,
            "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups",
            f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}",
            *argv,
        ]  # fmt: skip
        return _spawn(line, log, env)

    def pids(self) -> list[int]:
        """By the namespace, so that nothing that left its session is missed."""
        found = subprocess.run(["ip", "netns", "pids", self.space], capture_output=True, text=True, timeout=20)
        return [int(word) for word in found.stdout.split()]

    def cut(self) -> None:
        """All cards at once."""
        for link in self._links:
            _run("ip", "-n", self._cable, "link", "set", link, "down")

    def mend(self) -> None:
        """All cards at once."""
        for link in self._links:
            _run("ip", "-n", self._cable, "link", "set", link, "up")


def _spawn(line: Sequence[str], log: Path, env: Mapping[str, str] | None) -> Process:
    with log.open("ab") as output:
        return Process(
            subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=_environment(env),
                cwd="/",
            )
        )


class NamespaceLab:
    """Hosts in namespaces of this lab's own; everything is removed by `close`, and what dead labs left at the start."""

    mode = "netns"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.id = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self.cable = f"{self.id}-cable"
        self.hosts: list[NamespaceHost] = []
        self._sweep()
        try:
            _run("ip", "netns", "add", self.cable)
            for bridge in ("mapi", "repl"):
                _run("ip", "-n", self.cable, "link", "add", bridge, "type", "bridge")
                _run("ip", "-n", self.cable, "link", "set", bridge, "up")
        except BaseException:
            self.close()
            raise

    def host(self, name: str, number: int) -> NamespaceHost:
        """A new host."""
        host = NamespaceHost(self, name, number)
        self.hosts.append(host)
        return host

    @staticmethod
    def _sweep() -> None:
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=20).stdout
        for line in listed.splitlines():
            space = line.split()[0]
            owner = space.removeprefix(PREFIX).partition("-")[0]
            if space.startswith(PREFIX) and owner.isdigit() and not Path(f"/proc/{owner}").exists():
                _remove_space(space)

    def close(self) -> None:
        """End what runs in the hosts and remove them."""
        for host in self.hosts:
            _remove_space(host.space)
        _remove_space(self.cable)


def _remove_space(space: str) -> None:
    for _ in range(50):
        found = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, timeout=20)
        pids = [int(word) for word in found.stdout.split()]
        if not pids:
            break
        kill_all(pids)
        time.sleep(0.05)
    subprocess.run(["ip", "netns", "del", space], capture_output=True, timeout=20)


LOOPBACK_PORTS = {"smtp": 2525, "submission": 2587, "imap": 1143, "imaps": 1993, "https": 8443}


class LoopbackHost:
    """An address of 127.0.77.0/24; the host's processes carry its name in their environment."""

    def __init__(self, lab: LoopbackLab, name: str, number: int) -> None:
        self.name = name
        self.address = self.replication_address = f"127.0.77.{number}"
        self.root = _make_root(lab.root / name)
        self.ports: Mapping[str, int] = LOOPBACK_PORTS
        self._mark = f"{lab.id}-{name}"

    def spawn(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Process:
        """As user `everpost` when root, else as oneself."""
        line = list(argv)
        if os.geteuid() == 0:
            line = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *line]
        return _spawn(line, log, {**(env or {}), "EVERPOST_LAB_HOST": self._mark})

    def pids(self) -> list[int]:
        """By the mark in their environment."""
        mark = f"EVERPOST_LAB_HOST={self._mark}".encode()
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and mark in _environment_of(int(entry))]

    def cut(self) -> None:
        """All processes at once."""
        while pids := [pid for pid in self.pids() if _alive(pid)]:
            kill_all(pids)
            time.sleep(0.01)

    def mend(self) -> None:
        """Nothing: the lab starts its processes again."""


def _environment_of(pid: int) -> list[bytes]:
    """None if it is gone, or another user's. One that is just being executed has its environment a moment later."""
    path = Path(f"/proc/{pid}/environ")
    try:
        text = path.read_bytes()
        if not text and processes.command_line(pid):
            text = path.read_bytes()
    except OSError:
        return []
    return text.split(b"\0")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


class LoopbackLab:
    """Hosts on loopback addresses."""

    mode = "loopback"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.id = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self.hosts: list[LoopbackHost] = []

    def host(self, name: str, number: int) -> LoopbackHost:
        """A new host."""
        host = LoopbackHost(self, name, number)
        self.hosts.append(host)
        return host

    def close(self) -> None:
        """End what runs."""
        for host in self.hosts:
            host.cut()


Lab = NamespaceLab | LoopbackLab


def open_lab(name: str, mode: str | None = None) -> Lab:
    """A lab in a folder of its own under /var/tmp; `mode` netns, loopback, or None: netns when root."""
    root = Path(f"/var/tmp/everpost-{name}-{os.getpid()}")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(mode=0o755, parents=True)
    owner = _lab_user()
    if owner is not None:
        os.chown(root, *owner)
    chosen = mode or ("netns" if os.geteuid() == 0 else "loopback")
    return NamespaceLab(root) if chosen == "netns" else LoopbackLab(root)
