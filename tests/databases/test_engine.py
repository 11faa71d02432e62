"""One copy and its standby on real PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import asyncpg
import pytest

from everpost.databases import processes
from everpost.databases.config import MAIL, STORE
from everpost.databases.engine import PostgresEngine
from everpost.databases.interface import NoStream, Promoted, Received, Upstream
from everpost.databases.layout import TokenWentBack
from everpost.errors import EverpostError
from everpost.model.database import Opening, Token
from everpost.net import tls

from .conftest import Host


async def nothing(connection: object, opening: Opening) -> None:
    return None


async def activate(engine: PostgresEngine, epoch: int) -> tuple[Received, Promoted]:
    """The steps of an activation, without a directory."""
    token = Token(1, epoch)
    await engine.follow(None)
    received = await engine.received()
    await engine.mark(token, f"n{epoch}")
    promoted = await engine.promote(token, received)
    await engine.set_names(())
    opening = Opening(token, "x", promoted.timeline, promoted.begin_lsn, f"n{epoch}")
    await engine.record_opening(opening, nothing)
    return received, promoted


async def first_active(host: Host) -> PostgresEngine:
    engine = host.engine()
    await host.client.deadline(time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
    await engine.create()
    await engine.start(None)
    await activate(engine, 1)
    return engine


async def client(host: Host) -> asyncpg.Connection:
    context = tls.client_context(host.tls)
    return await asyncpg.connect(host="127.0.0.1", port=host.port, user=STORE, database=MAIL, ssl=context, timeout=3)


def upstream(host: Host, epoch: int) -> Upstream:
    return Upstream(host.name, "127.0.0.1", host.port, Token(1, epoch))


async def seed(engine: PostgresEngine, source: Upstream) -> None:
    """The steps of a seed, without a directory."""
    await engine.fetch_seed(source, lambda percent: None)
    await engine.kill()
    await engine.adopt_seed("")


async def until(condition: object, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not await condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.02)


async def streaming(engine: PostgresEngine) -> bool:
    try:
        return (await engine.standby_positions()).streaming
    except EverpostError:
        return False


async def test_a_seed_that_is_compressed_on_its_way_is_whole(hosts: list[Host]) -> None:
    active = await first_active(hosts[0])
    passive = hosts[1].engine()
    said: list[str] = []
    run = passive._tools._watched

    async def watched(argv: Sequence[str], line: Callable[[str], None]) -> None:
        said.extend(argv)
        await run(argv, line)

    passive._tools._watched = watched  # type: ignore[method-assign]
    await seed(passive, upstream(hosts[0], 1)._replace(compress=True))
    assert any(word.startswith("--compress=server-") for word in said)
    await passive.start(upstream(hosts[0], 1))
    await until(lambda: streaming(passive))
    assert await passive.openings() == await active.openings()


async def test_nobody_gets_in_before_the_copy_is_admitted(hosts: list[Host]) -> None:
    engine = await first_active(hosts[0])
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await client(hosts[0])
    await engine.admit(True)

    async def admitted() -> bool:
        try:
            connection = await client(hosts[0])
        except asyncpg.PostgresError:
            return False
        assert await connection.fetchval("show synchronous_commit") == "on"
        await connection.close()
        return True

    await until(admitted)


async def test_names_hold_a_commit_back_until_the_standby_flushed_it(hosts: list[Host]) -> None:
    active = await first_active(hosts[0])
    passive = hosts[1].engine()
    await seed(passive, upstream(hosts[0], 1))
    await passive.start(upstream(hosts[0], 1))
    await until(lambda: streaming(passive))
    assert await passive.openings() == [(Token(1, 1), "n1")]
    name = active.standby_name("EX02", passive.incarnation, Token(1, 1))
    assert [row.name for row in (await active.positions()).senders] == [name]

    await active.set_names((name, "nobody"))

    async def waits() -> bool:
        probe = await active.probe()
        for _ in range(50):
            if probe.waiter in [w.partition(":")[0] for w in (await active.positions()).waiters]:
                assert not probe.done
                probe.abandon()
                return True
            await asyncio.sleep(0.01)
        return False

    await until(waits)
    await active.set_names((name,))
    probe = await active.probe()

    async def returned() -> bool:
        return probe.done

    await until(returned)
    # Without its standby the commit waits; without the name it returns.
    await passive.kill()
    late = await active.probe()

    async def held() -> bool:
        return bool((await active.positions()).waiters)

    await until(held)
    assert not late.done
    await active.set_names(())

    async def released() -> bool:
        return late.done

    await until(released)


async def test_promotion_then_the_old_active_is_rewound_and_follows(hosts: list[Host]) -> None:
    old = await first_active(hosts[0])
    new = hosts[1].engine()
    await seed(new, upstream(hosts[0], 1))
    await new.start(upstream(hosts[0], 1))
    await until(lambda: streaming(new))
    await old.commit_locally()
    await hosts[1].client.deadline(time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
    received, promoted = await activate(new, 2)
    assert promoted.complete
    assert promoted.timeline > 2
    # The old one goes on alone for a moment, then crashes: it has diverged.
    for _ in range(20):
        await old.commit_locally()
    await old.kill()
    files = await old.files()
    assert files.was_primary
    assert files.end_lsn is None
    before = old.incarnation
    await old.rewind(upstream(hosts[1], 2))
    assert old.incarnation != before
    await old.start(upstream(hosts[1], 2))
    await until(lambda: streaming(old))
    assert await old.openings() == [(Token(1, 1), "n1"), (Token(1, 2), "n2")]
    assert received.lsn <= promoted.begin_lsn


async def test_an_active_started_again_as_a_standby_too_late_is_known_to_have_diverged(hosts: list[Host]) -> None:
    """A restart in place that another activation overtook: the control file says no more that it was the active."""
    old = await first_active(hosts[0])
    new = hosts[1].engine()
    await seed(new, upstream(hosts[0], 1))
    await new.start(upstream(hosts[0], 1))
    await until(lambda: streaming(new))
    await hosts[1].client.deadline(time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
    _, promoted = await activate(new, 2)
    for _ in range(20):
        await old.commit_locally()
    await old.kill()
    await old.start(None)
    await old.kill()
    files = await old.files()
    assert not files.was_primary
    assert files.end_lsn is not None and files.end_lsn > promoted.begin_lsn
    # Were it asked to follow all the same, PostgreSQL would say so, and the agent hears it.
    await old.start(upstream(hosts[1], 2))

    async def apart() -> bool:
        return old.no_stream() is NoStream.FORKED

    await until(apart)
    await old.kill()
    await old.rewind(upstream(hosts[1], 2))
    await old.start(upstream(hosts[1], 2))
    await until(lambda: streaming(old))
    assert old.no_stream() is None


async def test_clean_close_needs_no_rewind(hosts: list[Host]) -> None:
    old = await first_active(hosts[0])
    new = hosts[1].engine()
    await seed(new, upstream(hosts[0], 1))
    await new.start(upstream(hosts[0], 1))
    await until(lambda: streaming(new))
    await old.checkpoint()
    end = await old.close()

    async def arrived() -> bool:
        return (await new.standby_positions()).received_lsn > end.lsn

    await until(arrived)
    await hosts[1].client.deadline(time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
    _, promoted = await activate(new, 2)
    files = await old.files()
    assert files.was_primary
    assert files.end_lsn == end.lsn
    assert end.lsn < promoted.begin_lsn
    await old.start(upstream(hosts[1], 2))
    await until(lambda: streaming(old))


async def test_a_follower_that_does_not_run_says_where_its_log_ends(hosts: list[Host]) -> None:
    """Else nobody would notice that it followed a history that was given up (3.4)."""
    active, follower = await first_active(hosts[0]), hosts[1].engine()
    await seed(follower, upstream(hosts[0], 1))
    await follower.start(upstream(hosts[0], 1))
    await until(lambda: streaming(follower))
    begin = (await active.positions()).insert_lsn
    for _ in range(5):
        await active.commit_locally()
    wanted = (await active.positions()).flush_lsn

    async def arrived() -> bool:
        return (await follower.standby_positions()).received_lsn >= wanted

    await until(arrived)
    running = await follower.files()
    await follower.kill()
    files = await follower.files()
    assert not files.was_primary
    assert files.end_lsn is not None and begin < wanted <= files.end_lsn
    assert (files.timeline, files.begin_lsn) == (running.timeline, running.begin_lsn) == (2, files.begin_lsn)
    assert files.begin_lsn is not None and 0 < files.begin_lsn < begin


async def test_every_start_is_a_standby_and_auto_conf_is_emptied(hosts: list[Host]) -> None:
    engine = await first_active(hosts[0])
    await engine.kill()
    poison = engine.layout.pgdata / "postgresql.auto.conf"
    poison.write_text("synchronous_standby_names = 'poison'\nport = 1\n")
    orphan = subprocess.Popen(
        ["pg_rewind", "-c", "import time; time.sleep(1000)", "-D", str(engine.layout.pgdata)],
        executable=sys.executable,
    )
    await engine.start(None)
    assert orphan.wait(5) == -signal.SIGKILL, "a program of a killed agent would write beside it"
    assert await engine.alive()
    assert await engine.running() is None
    assert (await engine.files()).mark_nonce == "n1"
    assert poison.read_text() == ""
    with pytest.raises(EverpostError, match="recovery"):
        await engine.positions()


async def test_a_token_never_goes_back(hosts: list[Host]) -> None:
    engine = await first_active(hosts[0])
    await engine.mark(Token(1, 5), "n5")
    with pytest.raises(TokenWentBack):
        await engine.mark(Token(1, 4), "n4")


async def test_the_warden_fences_a_guarded_instance_at_the_deadline_without_the_agent(hosts: list[Host]) -> None:
    host = hosts[0]
    engine = await first_active(host)
    pid = (await host.client.children())["MB01"].pid
    tree = processes.tree(pid)
    os.kill(pid, signal.SIGSTOP)  # a frozen postmaster ignores SIGQUIT; only SIGKILL ends it
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    # The deadline only ever moves forward, so a second warden life is not needed: ours was set 60 s ahead.
    host.client.close()
    del engine
    restarted = Host.__new__(Host)
    restarted.__dict__.update(host.__dict__)
    host.process.kill()  # type: ignore[union-attr]
    host.process.wait()  # type: ignore[union-attr]
    os.kill(pid, signal.SIGCONT) if processes.alive(pid) else None
    assert processes.wait_gone(tree, 5.0), "postmasters must die with their warden"
    host.start_warden()
    again = host.engine()
    await host.client.deadline(now + 4.0)
    await again.start(None)
    await again.follow(None)
    received = await again.received()
    await again.mark(Token(1, 2), "n2")
    await again.promote(Token(1, 2), received)
    pid = (await host.client.children())["MB01"].pid
    tree = processes.tree(pid)
    os.kill(pid, signal.SIGSTOP)
    host.client.close()
    end = time.monotonic() + 8
    while processes.any_alive(tree) and time.monotonic() < end:
        await asyncio.sleep(0.02)
    gone_at = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert not processes.any_alive(tree)
    assert gone_at >= now + 4.0, "it was killed before its deadline"


async def test_a_new_warden_kills_what_a_killed_one_left(hosts: list[Host]) -> None:
    host = hosts[0]
    engine = await first_active(host)
    assert await engine.alive()
    lost = asyncio.Event()
    engine.on_lost(lost.set)
    pid = (await host.client.children())["MB01"].pid
    os.kill(pid, signal.SIGSTOP)  # it cannot act on the kernel's SIGQUIT when its parent dies
    tree = processes.tree(pid)
    host.process.kill()  # type: ignore[union-attr]
    host.process.wait()  # type: ignore[union-attr]
    assert processes.alive(pid)
    assert not lost.is_set()
    host.start_warden()
    assert not processes.any_alive(tree)
    await asyncio.wait_for(lost.wait(), 5.0)  # whoever looks at it needs no look to know
