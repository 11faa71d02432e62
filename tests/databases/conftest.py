"""Real PostgreSQL under a real warden. PostgreSQL refuses root, so as root these tests act as user `everpost`."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from everpost.databases import binaries
from everpost.databases.engine import PostgresEngine
from everpost.databases.warden_client import WardenClient
from everpost.net import tls


@pytest.fixture(autouse=True)
def not_root() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    user = pwd.getpwnam("everpost")
    os.setresgid(user.pw_gid, user.pw_gid, 0)
    os.setresuid(user.pw_uid, user.pw_uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


@pytest.fixture
def tmp_path(not_root: None) -> Iterator[Path]:
    """pytest's own belongs to whoever started it."""
    folder = Path(tempfile.mkdtemp(prefix="everpost-test-", dir="/var/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Host:
    """One server's warden and folders."""

    def __init__(self, root: Path, name: str, authority: tls.Authority) -> None:
        self.name = name
        self.data = root / name
        self.run = root / f"{name}-run"
        self.tls = self.data / "tls"
        self.data.mkdir()
        self.run.mkdir()
        key = tls.new_key()
        tls.save_host(self.tls, key, authority.sign(key.public_key(), name, ["127.0.0.1"]), authority.pem)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.client = WardenClient(self.run / "warden.sock")

    def start_warden(self) -> None:
        argv = [sys.executable, "-m", "everpost.databases.warden", "--socket", str(self.run / "warden.sock")]
        self.process = subprocess.Popen([*argv, "--data-dir", str(self.data)], cwd="/")
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(self.run / "warden.sock"))
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("the warden did not start")

    def engine(self, database: str = "MB01") -> PostgresEngine:
        return PostgresEngine(
            database=database,
            server=self.name,
            data_dir=self.data,
            run_dir=self.run,
            tls_dir=self.tls,
            addresses=["127.0.0.1"],
            port=self.port,
            binaries=binaries.find(),
            warden=self.client,
        )

    def stop(self) -> None:
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)


@pytest.fixture
async def hosts(not_root: None) -> AsyncIterator[list[Host]]:
    root = Path(tempfile.mkdtemp(prefix="everpost-test-", dir="/var/tmp"))
    authority = tls.create_authority("Test")
    made = [Host(root, name, authority) for name in ("EX01", "EX02")]
    try:
        for host in made:
            host.start_warden()
        yield made
    finally:
        for host in made:
            host.stop()
        await asyncio.sleep(0)
        shutil.rmtree(root, ignore_errors=True)
