"""Sabotage on real PostgreSQL: each rule is kept once and broken once, and breaking it must show.

A safety test that would pass with its rule broken proves nothing; here stands for each rule the proof that it can fail.
The names: architecture 3.1 (names), 3.9 (COMMIT is never cancelled), 3.3 (clients shut out), 3.8 (warden).
"""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest

from everpost.databases import processes
from everpost.databases.config import MAIL, STORE, names_file
from everpost.databases.engine import PostgresEngine
from everpost.databases.files import write_durably
from everpost.errors import EverpostError
from everpost.model.database import Token
from everpost.net import tls
from tests.databases.conftest import Host, hosts, not_root
from tests.databases.test_engine import activate, first_active, seed, streaming, until, upstream

__all__ = ["hosts", "not_root"]


async def pair(hosts: list[Host]) -> tuple[PostgresEngine, PostgresEngine, str]:
    """An active, its streaming standby, and the standby's name."""
    active = await first_active(hosts[0])
    passive = hosts[1].engine()
    await seed(passive, upstream(hosts[0], 1))
    await passive.start(upstream(hosts[0], 1))
    await until(lambda: streaming(passive))
    return active, passive, active.standby_name("EX02", passive.incarnation, Token(1, 1))


async def client(host: Host) -> asyncpg.Connection:
    context = tls.client_context(host.tls)
    return await asyncpg.connect(host="127.0.0.1", port=host.port, user=STORE, database=MAIL, ssl=context, timeout=3)


async def commit_returns(active: PostgresEngine, seconds: float) -> bool:
    """Whether a commit begun now returns within that time."""
    probe = await active.probe()
    end = time.monotonic() + seconds
    while not probe.done and time.monotonic() < end:
        await asyncio.sleep(0.01)
    done = probe.done
    probe.abandon()
    return done


async def taken_up(active: PostgresEngine) -> None:
    """Until the wait is on: a commit under a name that nobody carries does not return."""

    async def waits() -> bool:
        return not await commit_returns(active, 0.3)

    await until(waits)


@pytest.mark.parametrize("sabotage", [False, True], ids=["every name", "ANY 1"])
async def test_a_commit_waits_for_every_name(hosts: list[Host], sabotage: bool) -> None:
    active, _, name = await pair(hosts)
    await active.set_names((name, "absent"))
    await taken_up(active)
    if sabotage:
        text = names_file((name, "absent")).replace("2 (", "ANY 1 (")
        write_durably(active.layout.conf / "names.conf", text)
        await active.admit(True)  # signals; the names are read again

        async def returned() -> bool:
            return await commit_returns(active, 0.5)

        await until(returned)
    assert await commit_returns(active, 0.7) == sabotage


@pytest.mark.parametrize("sabotage", [False, True], ids=["shut out", "let in early"])
async def test_nobody_reads_a_copy_before_it_is_open(hosts: list[Host], sabotage: bool) -> None:
    active, passive, _ = await pair(hosts)
    await active.kill()
    if sabotage:
        await passive.admit(True)
        await asyncio.sleep(0.3)
    seen = False
    try:
        connection = await client(hosts[1])
        seen = bool(await connection.fetchval("select count(*) from everpost.opening"))
        await connection.close()
    except (asyncpg.PostgresError, OSError):
        pass
    assert seen == sabotage


@pytest.mark.parametrize("sabotage", [False, True], ids=["aborted", "cancelled"])
async def test_a_commit_that_waits_is_never_cancelled(hosts: list[Host], sabotage: bool) -> None:
    """The client's timeout makes a waiting commit visible without any replica; an aborted connection does not."""
    active, passive, name = await pair(hosts)
    await active.admit(True)

    async def connected() -> bool:
        try:
            await (await client(hosts[0])).close()
        except asyncpg.PostgresError:
            return False
        return True

    await until(connected)
    writer = await client(hosts[0])
    reader = await client(hosts[0])
    await writer.execute("create table public.seen (n int)")
    await active.set_names((name,))
    await passive.kill()
    await taken_up(active)
    if sabotage:
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            await writer.execute("insert into public.seen values (1)", timeout=0.5)
    else:
        insert = asyncio.ensure_future(writer.execute("insert into public.seen values (1)"))
        await asyncio.wait({insert}, timeout=0.5)
        writer.terminate()
        await asyncio.wait({insert}, timeout=2)
        insert.exception()
    await asyncio.sleep(0.5)
    assert await reader.fetchval("select count(*) from public.seen") == (1 if sabotage else 0)
    # The agent finds it in the log and activates the copy anew before anybody is answered (3.9).
    assert await active.waits_were_cancelled() == sabotage
    reader.terminate()


@pytest.mark.parametrize("sabotage", [False, True], ids=["guarded", "no warden"])
async def test_at_the_deadline_nothing_of_an_active_is_left(hosts: list[Host], sabotage: bool) -> None:
    host = hosts[0]
    engine = host.engine()
    await host.client.deadline(time.clock_gettime(time.CLOCK_BOOTTIME) + 6.0)
    await engine.create()
    await engine.start(None)
    await activate(engine, 1)
    child = (await host.client.children())["MB01"]
    tree = processes.tree(child.pid)
    if sabotage:
        await host.client.guard("MB01", None)
    end = time.monotonic() + 9.0
    while processes.any_alive(tree) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    assert processes.any_alive(tree) == sabotage


@pytest.mark.parametrize("sabotage", [False, True], ids=["reseeded", "rewound"])
async def test_a_fork_of_the_same_number_is_not_noticed_by_rewinding(hosts: list[Host], sabotage: bool) -> None:
    """F4: two copies promoted at one point both begin timeline 3; pg_rewind sees nothing to do."""
    active, passive, _ = await pair(hosts)
    await active.kill()
    await hosts[1].client.deadline(time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
    await hosts[0].client.deadline(time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
    await activate(passive, 2)
    await active.start(None)
    await activate(active, 3)
    ours = (await active.files()).timeline
    await passive.kill()
    files = await passive.files()
    assert files.mark_nonce == "n2"
    if sabotage:
        await passive.rewind(upstream(hosts[0], 3))
    else:
        await seed(passive, upstream(hosts[0], 3))
    await passive.start(upstream(hosts[0], 3))
    await asyncio.sleep(1.0)
    try:
        same = await passive.openings() == await active.openings()
    except EverpostError:
        same = False
    assert same != sabotage
    assert ours
