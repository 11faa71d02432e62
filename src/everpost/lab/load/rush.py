"""Opens connections, waits for the greeting of each, and resets it.

    python -m everpost.lab.load.rush --host H --port 143 --seconds 5 [--at-once 50 | --rate N]

With --rate in an open loop: each connection is begun when the schedule says so, however long the others take, and its
wait counts from then. Without, in a closed loop: as many as there can be, `--at-once` at a time. Prints JSON: `begun`,
`begun_per_second` and `behind_s` (by how much this program itself was late at worst: with more than some 0.1 s it is
this machine that was measured), `per_second` (greetings), `median_s`, `longest_s`, `late` (greetings after more than
LATE) and `failures` by kind.
"""

from __future__ import annotations

import argparse
import collections
import json
import resource
import selectors
import socket
import statistics
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass

PATIENCE = 5.0
"""Seconds for a greeting."""
LATE = 1.0
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing resets, so that no port of this host stays in TIME_WAIT."""
_BATCH = 100
"""Connections begun between two looks at the greetings."""
_GREETINGS = (b"* OK", b"220")


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    due: float
    said: bytes = b""
    ended: bool = False


class Rush:
    """All connections of one run, in one thread: asyncio's streams take several times as long for each."""

    def __init__(self, host: str, port: int, *, seconds: float, at_once: int = 50, rate: float = 0.0) -> None:
        self._address = (host, port)
        self._seconds, self._at_once, self._rate = seconds, at_once, rate
        self._selector = selectors.DefaultSelector()
        self._begin = 0.0
        self._begun = 0
        self._behind = 0.0
        self._open = 0
        self._waits: list[float] = []
        self._oldest: collections.deque[_Connection] = collections.deque()
        self._failures: Counter[str] = Counter()

    def run(self) -> dict[str, object]:
        """Until all that was begun has ended."""
        self._begin = time.monotonic()
        while (now := time.monotonic()) < self._begin + self._seconds or self._open or self._due(now) is not None:
            for _ in range(_BATCH):
                due = self._due(now)
                if due is None or due > now:
                    break
                self._connect(due)
            for key, _ in self._selector.select(self._pause(now)):
                self._read(key.data)
            self._give_up(time.monotonic())
        took = time.monotonic() - self._begin
        return {
            "begun": self._begun,
            "begun_per_second": round(self._begun / self._seconds),
            "behind_s": round(self._behind, 3),
            "per_second": round(len(self._waits) / max(took, self._seconds)),
            "median_s": round(statistics.median(self._waits), 4) if self._waits else None,
            "longest_s": round(max(self._waits, default=0.0), 3),
            "late": sum(wait > LATE for wait in self._waits),
            "failures": dict(self._failures),
            "client_cpu_s": round(time.process_time(), 2),
        }

    def _due(self, now: float) -> float | None:
        """When the next one is to be begun; None: not for now, or never again."""
        if self._rate:
            due = self._begin + self._begun / self._rate
            return due if due < self._begin + self._seconds else None
        return now if self._open < self._at_once and now < self._begin + self._seconds else None

    def _pause(self, now: float) -> float:
        due = self._due(time.monotonic())
        return max(0.0, min(due - now, 0.1)) if due is not None else 0.1

    def _connect(self, due: float) -> None:
        self._begun += 1
        self._behind = max(self._behind, time.monotonic() - due)
        try:
            connection = _Connection(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK), due)
        except OSError as error:
            self._failures[type(error).__name__] += 1
            return
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._open += 1
        try:
            connection.socket.connect(self._address)
        except BlockingIOError:
            pass
        except OSError as error:  # no port is free, no way there
            self._end(connection, type(error).__name__, registered=False)
            return
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._oldest.append(connection)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(512)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(connection, type(error).__name__)
            return
        connection.said += data
        if not data:
            self._end(connection, "closed")
        elif b"\n" in connection.said:
            greeted = connection.said.startswith(_GREETINGS)
            self._end(connection, "" if greeted else connection.said.decode("ascii", "replace").strip())

    def _give_up(self, now: float) -> None:
        while self._oldest and (self._oldest[0].ended or now - self._oldest[0].due > PATIENCE):
            connection = self._oldest.popleft()
            if not connection.ended:
                self._end(connection, "TimeoutError")

    def _end(self, connection: _Connection, failure: str, *, registered: bool = True) -> None:
        if failure:
            self._failures[failure] += 1
        else:
            self._waits.append(time.monotonic() - connection.due)
        if registered:
            self._selector.unregister(connection.socket)
        connection.socket.close()
        connection.ended = True
        self._open -= 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=143)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--rate", type=float, default=0.0)
    given = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # rate x PATIENCE may be open
    rush = Rush(given.host, given.port, seconds=given.seconds, at_once=given.at_once, rate=given.rate)
    json.dump(rush.run(), sys.stdout)
    print()


if __name__ == "__main__":
    main()
