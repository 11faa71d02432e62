"""Processes of PostgreSQL instances, found through /proc and ended only when they are surely ours."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def boot_id() -> str:
    """This boot of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def children(pid: int) -> list[int]:
    """Direct children of all its threads."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
        except OSError:
            continue
        found.extend(int(word) for word in text.split())
    return found


def tree(pid: int) -> list[int]:
    """The process first, then its descendants. A postmaster must die before its children are listed for the kill, or
    it would start new ones; so callers signal in this order and list again."""
    found = [pid]
    for one in found:
        found.extend(child for child in children(one) if child not in found)
    return found


def state(pid: int) -> str | None:
    """The kernel's one-letter state, or None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()[0]


def alive(pid: int) -> bool:
    """Whether it exists and is no zombie."""
    return state(pid) not in (None, "Z", "X")


def any_alive(pids: list[int]) -> bool:
    """Whether one of them lives."""
    return any(alive(pid) for pid in pids)


def is_postgres(pid: int) -> bool:
    """Whether its program is a PostgreSQL server."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")) in (
            "postgres",
            "postmaster",
        )
    except OSError:
        return False


def accepts(pgdata: Path) -> bool:
    """Whether the postmaster of these files says that it takes connections."""
    try:
        lines = (pgdata / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[7].strip() in ("ready", "standby")


def kill_if_same(pid: int) -> None:
    """SIGKILL a process that is (still) a PostgreSQL server."""
    if is_postgres(pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def wait_gone(pids: list[int], seconds: float) -> bool:
    """Wait until none lives; whether that came true."""
    end = time.monotonic() + seconds
    while any_alive(pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


EXEC_LIMIT = 1.0
"""Seconds to wait for the arguments of a program that is being executed; a stalled disk may hold it."""


def command_line(pid: int) -> list[bytes]:
    """Its words, none if it is gone. In the middle of execve(2) a process has its program already, and arguments a
    moment later: one looked at just then would seem to be nobody's. A kernel thread and a zombie have neither."""
    end = time.monotonic() + EXEC_LIMIT
    try:
        while not (text := Path(f"/proc/{pid}/cmdline").read_bytes()):
            os.readlink(f"/proc/{pid}/exe")
            if time.monotonic() > end:
                return []
            time.sleep(0.001)
    except OSError:
        return []
    return text.split(b"\0")


def leftovers(data_dir: Path) -> list[int]:
    """Postmasters whose data directory lies below `data_dir`, whoever their parent is now."""
    prefix = os.fsencode(data_dir) + b"/"
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and is_postgres(int(entry)):
            words = command_line(int(entry))
            if b"-D" in words and words[words.index(b"-D") + 1].startswith(prefix):
                found.append(int(entry))
    return found


def kill_leftovers(data_dir: Path) -> None:
    """End what a former life left, at once, and wait until it is gone."""
    for pid in leftovers(data_dir):
        pids = tree(pid)
        for one in pids:
            kill_if_same(one)
        wait_gone(pids, 5.0)


_TOOLS = (b"pg_basebackup", b"pg_rewind", b"initdb")


def is_tool_on(pid: int, folder: Path) -> bool:
    """Whether it works for the copy in `folder`, by a word of its command line, and is no instance: an agent that was
    killed leaves such behind. pg_rewind recovers a crashed target through a PostgreSQL in single-user mode, initdb
    fills the new files through one."""
    prefix = os.fsencode(folder) + b"/"
    words = command_line(pid)
    if not any(word.startswith(prefix) for word in words[1:]):
        return False
    program = os.path.basename(words[0])
    return program in _TOOLS or (program == b"postgres" and (b"--single" in words or b"--boot" in words))


def tools_on(folder: Path) -> list[int]:
    """All of them that run now."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and is_tool_on(int(entry), folder)]


def kill_tools(folder: Path) -> bool:
    """End them, and say whether none is left. A process is looked at again just before it is killed, so that none that
    got its number meanwhile is hit; the program goes before the children that it would start anew."""
    end = time.monotonic() + 5.0
    while found := tools_on(folder):
        for pid in found:
            if is_tool_on(pid, folder):
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    continue
        wait_gone(found, 1.0)
        if time.monotonic() > end:
            return False
    return True
