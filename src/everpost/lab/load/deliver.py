"""Delivers messages by SMTP, each again and again until it is acknowledged.

    python -m everpost.lab.load.deliver --ledger F --name N --hubs H:P[,H:P] --to A[,A] --rate 60 [--own PATH]

The first hub is the one of choice; others are for when it does not answer. A message whose answer was lost is sent
again: a second copy of it is the client's doing (`lab.history`).
"""

from __future__ import annotations

import argparse
import itertools
import random
import threading
import time

from everpost.lab.load.ledger import Ledger
from everpost.lab.load.own import own_messages
from everpost.lab.load.shapes import message
from everpost.lab.load.smtp import Sender, hubs

AGAIN = 0.03
"""Seconds before a message is sent again: more than 20 tries a second while they are refused at once."""
LARGE_AT = 10
"""Which message of the first worker is the one with the large attachment."""


class Worker:
    """One thread with one connection."""

    def __init__(self, arguments: argparse.Namespace, ledger: Ledger, number: int, own: list[bytes]) -> None:
        self._a = arguments
        self._ledger = ledger
        self._number = number
        self._own = own
        self._to = arguments.to.split(",")
        self._sender = Sender(ledger, hubs(arguments.hubs))

    def _message(self, count: int, identity: str) -> bytes:
        seed = self._number * 1_000_000 + count
        if self._a.large and self._number == 0 and count == LARGE_AT:
            return message(seed, identity, large=True)
        if self._own:
            return b"X-Ledger-Id: " + identity.encode() + b"\r\n" + self._own[seed % len(self._own)]
        return message(seed, identity)

    def run(self) -> None:
        """Until the lab asks to stop; the message under way is then given up, acknowledged or not."""
        pause = self._a.threads / self._a.rate
        time.sleep(pause * random.random())
        for count in itertools.count(1):
            began = time.monotonic()
            identity = f"{self._a.name}-{self._number}-{count}"
            raw = self._message(count, identity)
            to = self._to[count % len(self._to)]
            while not self._ledger.stopping() and not self._sender.send(identity, to, raw):
                time.sleep(AGAIN)
            if self._ledger.stopping():
                return
            time.sleep(max(0.0, pause - (time.monotonic() - began)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--hubs", required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--rate", type=float, default=60.0)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--own")
    arguments = parser.parse_args()
    ledger = Ledger(arguments.ledger)
    own = own_messages(arguments.own) if arguments.own else []
    workers = [Worker(arguments, ledger, number, own) for number in range(arguments.threads)]
    threads = [threading.Thread(target=worker.run, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
