"""A client access process is frozen in the middle of its work and resumed after its host's tenure was replaced: it
says nothing more to the clients it had, not even what waited for a slow one (architecture 3.8). Without the look
before each write it does."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from everpost.directory.page import SharedPage

ROOT = Path(__file__).parents[2]
LOGIN = b'l LOGIN anna "pass word \\\\ \\"quoted\\""\r\ns SELECT INBOX\r\n'


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_all(client: socket.socket, seconds: float) -> tuple[bytes, bool]:
    """What comes until it is quiet for that long, and whether the server closed."""
    client.settimeout(seconds)
    found = b""
    while True:
        try:
            data = client.recv(1 << 20)
        except TimeoutError:
            return found, False
        except ConnectionResetError:
            return found, True
        if not data:
            return found, True
        found += data


def connect(port: int, process: subprocess.Popen[bytes]) -> socket.socket:
    deadline = now() + 20
    while True:
        try:
            client = socket.create_connection(("127.0.0.1", port), 20)
            break
        except ConnectionRefusedError:
            assert process.poll() is None
            assert now() < deadline
            time.sleep(0.05)
    client.sendall(LOGIN)
    answer = b""
    while b"s OK" not in answer:
        answer += client.recv(65536)
    return client


@pytest.mark.parametrize("full", [False, True], ids=["reading", "buffers full"])
@pytest.mark.parametrize("careless", [False, True], ids=["as it is", "sabotaged"])
def test_a_frozen_process_is_silent_after_its_tenure(
    careless: bool, full: bool, tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    dice = random.Random(7)
    page = SharedPage(tmp_path / "tenure", writable=True)
    page.set_deadline(now() + 600, 1)
    [port] = free_ports(1)
    argv = [sys.executable, "-m", "tests.clientaccess.frozen", str(port), str(tmp_path / "tenure")]
    process = subprocess.Popen([*argv, "careless"] if careless else argv, cwd=ROOT)
    spoke = 0
    try:
        for epoch in range(2, 6):
            client = connect(port, process)
            for n in range(200):
                client.sendall(b"f%d FETCH 1:* (FLAGS UID RFC822.SIZE ENVELOPE)\r\n" % n)
            time.sleep(0.6 if full else dice.uniform(0.0, 0.05))
            os.kill(process.pid, signal.SIGSTOP)
            before, closed = read_all(client, 0.2)
            assert not closed
            assert b"f199 OK" not in before  # it was frozen in the middle
            page.set_deadline(now() + 600, epoch)
            os.kill(process.pid, signal.SIGCONT)
            after, closed = read_all(client, 0.5)
            # The piece of work that was cut by the freeze is not told; the next one begins under the new tenure.
            spoke += bool(after)
            assert careless or closed
            client.close()
            if careless and spoke:
                break
        assert careless or connect(port, process)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
    assert bool(spoke) is careless
