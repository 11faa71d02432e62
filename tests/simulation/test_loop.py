"""Processes that are frozen and killed between any two of their callbacks."""

from __future__ import annotations

import asyncio

from tests.simulation.loop import Process, SimulatedLoop


def _loop() -> SimulatedLoop:
    loop = SimulatedLoop()
    asyncio.set_event_loop(None)
    return loop


async def _count(seen: list[float], loop: SimulatedLoop) -> None:
    try:
        while True:
            await asyncio.sleep(1.0)
            seen.append(loop.now)
    finally:
        seen.append(-1.0)


def test_time_leaps() -> None:
    loop = _loop()
    loop.run_until_complete(asyncio.sleep(1e6))
    assert loop.now == 1e6
    loop.end()


def test_a_killed_process_runs_nothing_more_not_even_its_finally() -> None:
    loop, seen = _loop(), list[float]()
    process = Process(loop, "one")
    process.create_task(_count(seen, loop))
    loop.run_until_complete(asyncio.sleep(2.5))
    process.kill()
    loop.run_until_complete(asyncio.sleep(5.0))
    assert seen == [1.0, 2.0]
    loop.end()
    assert seen == [1.0, 2.0, -1.0]


def test_a_frozen_process_goes_on_where_it_stood() -> None:
    loop, seen = _loop(), list[float]()
    process = Process(loop, "one")
    process.create_task(_count(seen, loop))
    loop.run_until_complete(asyncio.sleep(1.5))
    process.freeze()
    loop.run_until_complete(asyncio.sleep(8.0))
    assert seen == [1.0]
    process.resume()
    loop.run_until_complete(asyncio.sleep(1.25))
    assert seen == [1.0, 9.5, 10.5]
    loop.end()


def test_a_process_ends_at_a_chosen_callback() -> None:
    loop, seen, ended = _loop(), list[float](), list[float]()
    process = Process(loop, "one")
    process.create_task(_count(seen, loop))

    def end() -> None:
        process.kill()
        ended.append(loop.now)

    process.on_end, process.fuse = end, 5
    loop.run_until_complete(asyncio.sleep(20.0))
    assert ended and seen == [1.0]
    loop.end()
