"""What every test may use: free ports, folders that user `everpost` can read, its spawn helper, a real etcd.

Also the order (quick tests first) and the account of what was skipped: with CI=true a skip is a failure.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hypothesis
import pytest

assert hypothesis  # imported late, deep in the stack, it may fail on Debian's Python 3.11.2

CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
USER = "everpost" if os.geteuid() == 0 else None
"""Who runs PostgreSQL: as root a user of its own, else oneself."""

_SKIPS = pytest.StashKey[Counter[str]]()
_REAL_PARTS = {"hosts", "server", "etcd", "members", "single", "as_everpost", "organisation"}


def _rank(item: pytest.Item) -> int:
    """0: a pure test, 1: with real processes, 2: faults, 3: whole organisations in network namespaces."""
    if item.get_closest_marker("netns"):
        return 3
    if item.get_closest_marker("fault"):
        return 2
    return int(bool(_REAL_PARTS & set(getattr(item, "fixturenames", ()))))


def _part(item: pytest.Item) -> str:
    """Which part of a run in parts it belongs to: each test to exactly one."""
    if item.path.name == "test_demo.py":
        return "alone"
    return "labs" if _rank(item) == 3 else "rest"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", choices=("all", "labs", "rest", "alone"), default="all", help="see tests/halves.py")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SKIPS] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=_rank)
    wanted = config.getoption("--part")
    if wanted != "all":
        config.hook.pytest_deselected(items=[item for item in items if _part(item) != wanted])
        items[:] = [item for item in items if _part(item) == wanted]


class _Account:
    """Counts skips by reason, those at collection too."""

    def __init__(self, skips: Counter[str]) -> None:
        self.skips = skips

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            where = report.longrepr
            reason = where[2] if isinstance(where, tuple) else str(where)
            self.skips[reason.removeprefix("Skipped: ")] += 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(_Account(session.config.stash[_SKIPS]))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if CI and exitstatus == pytest.ExitCode.OK and session.config.stash[_SKIPS]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    skips = config.stash[_SKIPS]
    if not skips:
        terminalreporter.write_line("skipped: nothing")
        return
    terminalreporter.section("skipped on this machine")
    for reason, count in skips.most_common():
        terminalreporter.write_line(f"{count} test(s): {reason}")
    if CI:
        terminalreporter.write_line("CI is set: a skipped test is a failure.", red=True)


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    """`free_ports(3)`: TCP ports nobody listens on at 127.0.0.1, all different."""

    def find(count: int) -> list[int]:
        probes = [socket.socket() for _ in range(count)]
        try:
            for probe in probes:
                probe.bind(("127.0.0.1", 0))
            return [int(probe.getsockname()[1]) for probe in probes]
        finally:
            for probe in probes:
                probe.close()

    return find


@pytest.fixture
def shared_dir() -> Iterator[Path]:
    """A folder of this test alone, 0700, owned by whoever runs PostgreSQL."""
    folder = Path(tempfile.mkdtemp(prefix="everpost-test-", dir="/var/tmp"))
    if USER:
        user = pwd.getpwnam(USER)
        os.chown(folder, user.pw_uid, user.pw_gid)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


Spawn = Callable[[Sequence[str | Path]], subprocess.Popen[bytes]]


def stop(process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    """End a process that a test started: politely, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def as_everpost() -> Iterator[Spawn]:
    """`as_everpost([program, ...])` starts it as user `everpost` (as oneself if not root), ended with the test.

    It runs in `/` on purpose: that user may not be able to read the checkout, only the installed package.
    """
    started: list[subprocess.Popen[bytes]] = []

    def spawn(argv: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([str(word) for word in argv], cwd="/", user=USER, group=USER)
        started.append(process)
        return process

    yield spawn
    for process in reversed(started):
        stop(process)


@pytest.fixture
def etcd(shared_dir: Path, free_ports: Callable[[int], list[int]], as_everpost: Spawn) -> str:
    """A real etcd of one member on loopback, without TLS; its client address."""
    program = shutil.which("etcd", path=os.environ.get("PATH", "") + ":/usr/local/bin:/usr/bin")
    assert program, "etcd is not installed; `make setup` installs it"
    client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    options = {
        "--name": "single",
        "--data-dir": shared_dir / "etcd",
        "--listen-client-urls": client,
        "--advertise-client-urls": client,
        "--listen-peer-urls": peer,
        "--initial-advertise-peer-urls": peer,
        "--initial-cluster": f"single={peer}",
        "--logger": "zap",
        "--log-level": "error",
    }
    process = as_everpost([program, *(word for pair in options.items() for word in pair)])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, f"etcd ended with status {process.returncode}"
        try:
            with urllib.request.urlopen(f"{client}/health", timeout=1) as answer:
                if b'"true"' in answer.read():
                    return client
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError("etcd was not healthy within 30 s")


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter of this environment, in which `everpost` is installed."""
    return sys.executable
