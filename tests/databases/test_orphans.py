"""Programs that an agent left behind when it was killed: the next one ends them before anything else is done there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from everpost.databases import processes
from everpost.databases.binaries import Binaries
from everpost.databases.tools import Tools

WRITES = "import sys, time\nwhile True: open(sys.argv[1], 'a').write('x'); time.sleep(0.01)"
AGENT = """
import subprocess, sys, time
for program, *words in (("pg_rewind",), ("postgres", "--single"), ("pg_controldata",)):
    argv = [program, "-c", sys.argv[2], sys.argv[1] + "/inc-1/" + program, *words]
    last = subprocess.Popen(argv, executable=sys.executable)
print(last.pid, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Two copies' folders in which the children of a killed agent go on writing."""
    readers: list[int] = []
    for name in ("MB01", "MB02"):
        (tmp_path / name / "inc-1").mkdir(parents=True)
        command = [sys.executable, "-c", AGENT, str(tmp_path / name), WRITES]
        agent = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert agent.stdout is not None
        readers.append(int(agent.stdout.readline()))
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        agent.stdout.close()
    try:
        yield tmp_path
    finally:
        processes.kill_tools(tmp_path)
        for pid in readers:
            os.kill(pid, signal.SIGKILL)


def _written(root: Path, program: str) -> int:
    try:
        return (root / "inc-1" / program).stat().st_size
    except FileNotFoundError:
        return 0


def _grows(root: Path, program: str, seconds: float = 10.0) -> bool:
    before, end = _written(root, program), time.monotonic() + seconds
    while time.monotonic() < end:
        if _written(root, program) > before:
            return True
        time.sleep(0.02)
    return False


READS = """#!/bin/bash
exec -a "$0" {python} -c "import time; time.sleep(1000)" "$@"
"""
SCRUB = """
import asyncio, sys
from pathlib import Path
from everpost.databases.binaries import Binaries
from everpost.databases.tools import Tools
root = Path(sys.argv[1])
tools = Tools(Binaries(root.parent / "bin"), root / "log")
asyncio.run(tools.read_pages(root, root, 5432, "8M"))
"""


async def test_a_new_scrub_ends_the_one_of_a_killed_agent(tmp_path: Path) -> None:
    root, program = tmp_path / "MB01", tmp_path / "bin" / "pg_basebackup"
    root.mkdir()
    program.parent.mkdir()
    program.write_text(READS.format(python=sys.executable))
    program.chmod(0o755)
    try:
        agent = subprocess.Popen([sys.executable, "-c", SCRUB, str(root)])
        (left,) = await _tools(root)
        agent.kill()
        agent.wait()
        assert processes.tools_on(root) == [left], "it outlives its agent"
        tools = Tools(Binaries(program.parent), root / "log")
        scrub = asyncio.create_task(tools.read_pages(root, root, 5432, "8M"))
        assert len(await _tools(root, but=left)) == 1
        scrub.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await scrub
        assert processes.tools_on(root) == []
    finally:
        processes.kill_tools(root)


async def _tools(root: Path, but: int = 0) -> list[int]:
    """The programs on that folder, once there are any besides `but`, which must be gone then."""
    end = time.monotonic() + 20.0
    while not (found := [pid for pid in processes.tools_on(root) if pid != but]):
        assert time.monotonic() < end, "nothing was started"
        await asyncio.sleep(0.02)
    assert but == 0 or not processes.alive(but)
    return found


def test_what_a_killed_agent_left_writing_is_ended_here_and_nowhere_else(root: Path) -> None:
    mine, other = root / "MB01", root / "MB02"
    for folder in (mine, other):
        assert _grows(folder, "pg_rewind") and _grows(folder, "postgres"), "they outlive their parent"
    Tools.end_orphans(mine)
    assert processes.tools_on(mine) == []
    assert not _grows(mine, "pg_rewind", 0.3) and not _grows(mine, "postgres", 0.1)
    assert _grows(other, "pg_rewind") and _grows(other, "postgres"), "another copy's are not touched"
    assert _grows(mine, "pg_controldata"), "nor a program that only reads"


def test_a_program_that_is_just_being_executed_is_seen(tmp_path: Path) -> None:
    """Its command line is empty for a moment: a third to a half of these were missed before they were waited for."""
    argv = ["pg_rewind", "-c", "import time; time.sleep(1000)", "-D", str(tmp_path / "inc-1")]
    for _ in range(50):
        with subprocess.Popen(argv, executable=sys.executable) as process:
            try:
                assert processes.is_tool_on(process.pid, tmp_path)
            finally:
                process.kill()


def test_what_has_no_command_line_is_not_waited_for() -> None:
    with subprocess.Popen(["true"]) as zombie:
        while processes.state(zombie.pid) != "Z":
            time.sleep(0.002)
        began = time.monotonic()
        for _ in range(100):
            assert not processes.is_tool_on(zombie.pid, Path("/nowhere"))
            assert not processes.is_tool_on(2, Path("/nowhere")), "a kernel thread, if they are seen here"
        assert time.monotonic() - began < processes.EXEC_LIMIT
