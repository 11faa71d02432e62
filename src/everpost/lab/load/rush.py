"""Opens connections one after the other, many at a time, and waits for the greeting of each.

    python -m everpost.lab.load.rush --host H --port 143 --seconds 5 [--at-once 50] [--rate N]

Prints JSON: greetings a second, the longest wait for one, and what failed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections import Counter

PATIENCE = 5.0


async def rush(host: str, port: int, seconds: float, at_once: int, rate: float) -> dict[str, object]:
    """`rate` a second at most, 0: as many as it can."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    numbers = itertools.count()
    greeted = 0
    longest = 0.0
    failures: Counter[str] = Counter()

    async def one_after_the_other() -> None:
        nonlocal greeted, longest
        while (began := loop.time()) < begin + seconds:
            due = begin + next(numbers) / rate if rate else began
            if due > began:
                await asyncio.sleep(due - began)
            began = loop.time()
            try:
                async with asyncio.timeout(PATIENCE):
                    reader, writer = await asyncio.open_connection(host, port)
                    line = await reader.readline()
            except (OSError, TimeoutError) as error:
                failures[type(error).__name__] += 1
                continue
            writer.transport.abort()
            if line.startswith((b"* OK", b"220")):
                greeted += 1
                longest = max(longest, loop.time() - began)
            else:
                failures[line.decode("ascii", "replace") or "closed"] += 1

    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    took = loop.time() - begin
    return {
        "per_second": round(greeted / took),
        "longest_s": round(longest, 3),
        "failures": dict(failures),
        "client_cpu_s": round(time.process_time(), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=143)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--rate", type=float, default=0.0)
    arguments = parser.parse_args()
    found = rush(arguments.host, arguments.port, arguments.seconds, arguments.at_once, arguments.rate)
    print(json.dumps(asyncio.run(found)))


if __name__ == "__main__":
    main()
