"""Tries a delivery at a steady rate, whatever became of those before it: how long a database takes no mail.

    python -m everpost.lab.load.probe --ledger F --name N --hubs H:P --to A --rate 20

A try that waits for its answer does not hold the next one back; each takes an idle connection or makes a new one.
"""

from __future__ import annotations

import argparse
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from everpost.lab.load.ledger import Ledger
from everpost.lab.load.smtp import Sender, hubs

MOST = 400
"""Tries that wait at a time: 20 seconds without an answer."""


class Probe:
    """One stream of tries."""

    def __init__(self, ledger: Ledger, name: str, hub: str, to: str) -> None:
        self._ledger = ledger
        self._name = name
        self._hub = hub
        self._to = to
        self._own = threading.local()

    def once(self, number: int) -> None:
        """One try on this thread's own connection."""
        if not hasattr(self._own, "sender"):
            self._own.sender = Sender(self._ledger, hubs(self._hub))
        identity = f"{self._name}-{number}"
        raw = f"X-Ledger-Id: {identity}\r\nFrom: <probe@example.org>\r\nSubject: probe {number}\r\n\r\n.\r\n"
        self._own.sender.send(identity, self._to, raw.encode())

    def run(self, rate: float) -> None:
        """Until the lab asks to stop."""
        begin = time.monotonic()
        with ThreadPoolExecutor(MOST) as threads:
            for number in itertools.count(1):
                if self._ledger.stopping():
                    return
                threads.submit(self.once, number)
                time.sleep(max(0.0, begin + number / rate - time.monotonic()))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("ledger", "name", "hubs", "to"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rate", type=float, default=20.0)
    arguments = parser.parse_args()
    threading.stack_size(256 * 1024)
    Probe(Ledger(arguments.ledger), arguments.name, arguments.hubs, arguments.to).run(arguments.rate)


if __name__ == "__main__":
    main()
