"""The warden: parent of the postmasters and of nothing else. It kills guarded ones when the agent misses its deadline.

No asyncio, no etcd, one thread: a process so small that nothing in it can hang (architecture 3.8). It is asked by
JSON lines on a Unix socket:

    {"do": "hello"}                                   -> instance, pid, boot_id
    {"do": "start", "name", "argv", "log"}            -> pid
    {"do": "signal", "name", "signal"}                -> {}
    {"do": "kill", "name"}                            -> {} once no process of it is left
    {"do": "guard", "name", "label"}                  -> {}   label null: not guarded
    {"do": "deadline", "boottime_ns"}                 -> {}   only ever forward
    {"do": "status"}                                  -> instances, deadline_ns

At the deadline every guarded instance gets SIGQUIT, 200 ms later SIGKILL with all its children. The end of a client's
connection changes nothing, so that an agent may be restarted while its databases go on. Each postmaster gets SIGQUIT
from the kernel if the warden itself dies; what a former warden left is killed before anything is started.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everpost.databases import processes

GRACE = 0.2
"""Seconds between SIGQUIT and SIGKILL; together within STOP (0.4 s)."""
LINE_LIMIT = 256 * 1024
STOP_LIMIT = 10.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def boottime_ns() -> int:
    """CLOCK_BOOTTIME, which counts suspend."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)


@dataclass
class Instance:
    """One postmaster. `label` is what the agent wrote when it guarded it (None: not guarded)."""

    name: str
    process: subprocess.Popen[bytes]
    label: str | None = None
    quit_at: int | None = None

    @property
    def running(self) -> bool:
        return self.process.poll() is None


@dataclass
class Client:
    """One connection and what it has sent of its next line."""

    connection: socket.socket
    buffer: bytearray = field(default_factory=bytearray)


class Warden:
    """The loop. `data_dir` is where former lives may have left postmasters."""

    def __init__(self, socket_path: Path, data_dir: Path) -> None:
        self.identity = uuid.uuid4().hex
        self._socket_path = socket_path
        self._data_dir = data_dir
        self._instances: dict[str, Instance] = {}
        self._deadline_ns = 0
        self._selector = selectors.DefaultSelector()
        self._stopping = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then stop every instance, fast first, and end."""
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _harden()
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._stop)
        processes.kill_leftovers(self._data_dir)
        self._listen()
        while not self._stopping:
            for key, _ in self._selector.select(self._patience()):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            self._fence_if_due()
            self._reap()
        self._stop_all()

    def _stop(self, signum: int, frame: object) -> None:
        self._stopping = True

    def _listen(self) -> None:
        self._socket_path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o177)
        try:
            listener.bind(str(self._socket_path))
        finally:
            os.umask(old)
        listener.listen(8)
        listener.setblocking(False)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ, None)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, Client(connection))

    def _read(self, client: Client) -> None:
        try:
            data = client.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.buffer += data
        if not data or len(client.buffer) > LINE_LIMIT:
            self._selector.unregister(client.connection)
            client.connection.close()
            return
        while (end := client.buffer.find(b"\n")) >= 0:
            line = bytes(client.buffer[:end])
            del client.buffer[: end + 1]
            answer = json.dumps(self._answer(line)).encode() + b"\n"
            try:
                client.connection.sendall(answer)
            except OSError:
                return  # its next read shows that it is gone

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            return self._do(request)
        except (KeyError, ValueError, TypeError, OSError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "hello":
                return {"instance": self.identity, "pid": os.getpid(), "boot_id": processes.boot_id()}
            case "start":
                return {"pid": self._start(request["name"], request["argv"], request["log"])}
            case "signal":
                instance = self._instances.get(request["name"])
                if instance is not None and instance.running:
                    instance.process.send_signal(request["signal"])
                return {}
            case "kill":
                instance = self._instances.get(request["name"])
                if instance is not None:
                    self._kill([instance])
                return {}
            case "guard":
                instance = self._instances[request["name"]]
                if not instance.running:
                    raise ValueError(f"{instance.name} does not run")
                instance.label = request["label"]
                return {}
            case "deadline":
                self._deadline_ns = max(self._deadline_ns, int(request["boottime_ns"]))
                return {}
            case "status":
                return self._status()
            case other:
                raise ValueError(f"unknown request {other!r}")

    def _status(self) -> dict[str, Any]:
        rows = {
            name: {"pid": one.process.pid, "running": one.running, "label": one.label, "exit": one.process.poll()}
            for name, one in self._instances.items()
        }
        return {"instance": self.identity, "instances": rows, "deadline_ns": self._deadline_ns}

    def _start(self, name: str, argv: list[str], log: str) -> int:
        known = self._instances.get(name)
        if known is not None and known.running:
            raise ValueError(f"{name} runs already")
        with open(log, "ab") as output:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
                preexec_fn=_die_with_parent,  # one thread only: nothing can hold a lock here
            )
        self._instances[name] = Instance(name, process)
        return process.pid

    def _patience(self) -> float:
        """Seconds until something is due; short enough that an exit is noticed soon."""
        if not any(one.label is not None and one.running for one in self._instances.values()):
            return 0.5
        return min(max((self._deadline_ns - boottime_ns()) / 1e9, 0.0), 0.5)

    def _fence_if_due(self) -> None:
        if boottime_ns() < self._deadline_ns:
            return
        due = [one for one in self._instances.values() if one.label is not None and one.running]
        if due:
            sys.stderr.write(f"warden: deadline missed, killing {', '.join(one.name for one in due)}\n")
            self._kill(due)

    def _kill(self, instances: list[Instance]) -> None:
        """SIGQUIT all, SIGKILL with children what is left after GRACE."""
        trees = {one.name: processes.tree(one.process.pid) for one in instances if one.running}
        for one in instances:
            if one.running:
                one.process.send_signal(signal.SIGQUIT)
        end = time.monotonic() + GRACE
        while time.monotonic() < end and any(processes.any_alive(tree) for tree in trees.values()):
            for one in instances:
                one.process.poll()
            time.sleep(0.002)
        for one in instances:
            for pid in dict.fromkeys([*processes.tree(one.process.pid), *trees.get(one.name, [])]):
                processes.kill_if_same(pid)
        for one in instances:
            one.process.wait()
            one.label = None
            processes.wait_gone(trees.get(one.name, []), 1.0)
        self._reap()

    def _reap(self) -> None:
        """Collect exits, also of orphaned backends that the kernel gave to us."""
        for one in self._instances.values():
            one.process.poll()
        own = {one.process.pid for one in self._instances.values()}
        for pid in processes.children(os.getpid()):
            if pid not in own:
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    pass

    def _stop_all(self) -> None:
        running = [one for one in self._instances.values() if one.running]
        for one in running:
            one.process.send_signal(signal.SIGINT)
        end = time.monotonic() + STOP_LIMIT
        while time.monotonic() < end and any(one.running for one in running):
            self._fence_if_due()
            time.sleep(0.01)
        self._kill([one for one in running if one.running])


def _harden() -> None:
    """Stay in memory and be scheduled first, where that is allowed."""
    _libc.mlockall(1)  # what is there now; locking the future too would turn a limit into failing allocations
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except (OSError, AttributeError):
        try:
            os.nice(-10)
        except OSError:
            pass


def main() -> None:
    """`python -m everpost.databases.warden --socket PATH --data-dir DIR`."""
    parser = argparse.ArgumentParser(prog="everpost-warden", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    arguments = parser.parse_args()
    Warden(arguments.socket, arguments.data_dir).run()


if __name__ == "__main__":
    main()
