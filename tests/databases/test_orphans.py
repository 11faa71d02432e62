"""Programs that an agent left behind when it was killed: the next one ends them before anything else is done there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from everpost.databases import processes
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


def test_what_a_killed_agent_left_writing_is_ended_here_and_nowhere_else(root: Path) -> None:
    mine, other = root / "MB01", root / "MB02"
    for folder in (mine, other):
        assert _grows(folder, "pg_rewind") and _grows(folder, "postgres"), "they outlive their parent"
    Tools.end_orphans(mine)
    assert processes.tools_on(mine) == []
    assert not _grows(mine, "pg_rewind", 0.3) and not _grows(mine, "postgres", 0.1)
    assert _grows(other, "pg_rewind") and _grows(other, "postgres"), "another copy's are not touched"
    assert _grows(mine, "pg_controldata"), "nor a program that only reads"
