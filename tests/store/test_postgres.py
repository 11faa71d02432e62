"""The store on PostgreSQL when something goes wrong: what is acknowledged is there once, and UIDs never come again."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from everpost.errors import Refused
from everpost.model.database import LocationState
from everpost.model.recipient import MailboxRef
from everpost.net import tls
from everpost.store import migrate, sessions
from everpost.store.interface import Append, Delivery, FlagMode, NoSuchFolder, Part, StoreUnavailable
from everpost.store.postgres import PostgresStore

from .conftest import OneServer, ask, empty, until
from .proxy import Proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

RAW = b"From: a@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
DELETED = frozenset({"\\Deleted"})


def op() -> str:
    return str(uuid.uuid4())


async def keep_store(connection: Any) -> None:
    await migrate.upkeep(connection)


def within(seconds: float) -> float:
    """A deadline."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) + seconds


async def count(server: OneServer) -> int:
    found: int = await ask(server, "select count(*) from everpost_mail.message")
    return found


async def waiting(server: OneServer) -> int:
    """How many commits wait for the set."""
    found: int = await ask(
        server, "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and usename = 'everpost_store'"
    )
    return found


@pytest_asyncio.fixture(loop_scope="module")
async def server(module_server: OneServer) -> AsyncIterator[OneServer]:
    """An open server without mail, shared by these tests, each of which may crash and open it."""
    await module_server.engine._mail.ask(empty)
    yield module_server
    await module_server.engine.set_names([])
    assert module_server.state is LocationState.OPEN


@pytest_asyncio.fixture(loop_scope="module")
async def store(server: OneServer) -> AsyncIterator[PostgresStore]:
    made = PostgresStore(server, tls.client_context(server.host.tls))
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(server: OneServer) -> AsyncIterator[Proxy]:
    made = Proxy(server.port)
    await made.start()
    server.port = made.port
    yield made
    server.port = made.target
    await made.stop()


# -- answers that are lost ----------------------------------------------------------------------------------------

Write = Callable[[PostgresStore, MailboxRef, int, int, str], Awaitable[Any]]
WRITES: dict[str, Write] = {
    "append": lambda store, box, inbox, n, op: store.append(box, "INBOX", [Append(raw=RAW)], op=op),
    "deliver": lambda store, box, inbox, n, op: store.deliver([Delivery(mailbox=box, operation_id=op, raw=RAW)]),
    "copy": lambda store, box, inbox, n, op: store.copy(box, inbox, [n], "INBOX", op=op),
    "move": lambda store, box, inbox, n, op: store.copy(box, inbox, [n], "INBOX", op=op, move=True),
    "flags": lambda store, box, inbox, n, op: store.store_flags(box, inbox, [n], FlagMode.ADD, DELETED, op=op),
    "create": lambda store, box, inbox, n, op: store.create_folder(box, f"C{n}", op=op),
    "rename": lambda store, box, inbox, n, op: store.rename_folder(box, f"A{n}", f"B{n}", op=op),
    "delete": lambda store, box, inbox, n, op: store.delete_folder(box, f"D{n}", op=op),
    "subscribe": lambda store, box, inbox, n, op: store.subscribe(box, f"S{n}", True, op=op),
}


@pytest.mark.parametrize("kill", ["cut", "terminate"])
async def test_a_lost_answer_is_asked_for_again(
    server: OneServer, proxy: Proxy, store: PostgresStore, box: MailboxRef, kill: str
) -> None:
    """The connection ends between COMMIT and its answer, by the network and by the server, for every kind of write."""
    await store.append(box, "INBOX", [Append(raw=RAW)] * 2, op=op())
    for name in ("A1", "A2", "D1", "D2"):
        await store.create_folder(box, name, op=op())
    inbox = await store.get_folder(box, "INBOX")
    for name, write in WRITES.items():
        await write(store, box, inbox.id, 1, op())  # so that the connection knows the statement
        operation = op()
        proxy.deaf = True
        task = asyncio.ensure_future(write(store, box, inbox.id, 2, operation))
        await until(partial(ask, server, f"select true from everpost_mail.operation where id = '{operation}'"))
        assert not task.done()
        before = await count(server)
        proxy.deaf = False
        if kill == "cut":
            proxy.cut()
        else:
            who = "from pg_stat_activity where usename = 'everpost_store'"
            await ask(server, f"select count(pg_terminate_backend(pid)) {who}")
            await until(partial(_equals, 0, partial(ask, server, f"select count(*) {who}")))
        async with asyncio.timeout(20):
            await task
        assert await count(server) == before, f"{name} happened twice"
        assert await ask(server, f"select repeated > 0 from everpost_mail.operation where id = '{operation}'") or (
            name == "deliver"
        )


async def test_without_the_operation_id_a_repetition_doubles(
    server: OneServer, store: PostgresStore, box: MailboxRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage of 3.10: ids are forgotten before each try. The tests above would notice."""
    operate = sessions.Databases._operate

    async def forgetful(pool: Any, session: Any, work: Any) -> Any:
        await server.engine._mail.ask(lambda connection: connection.execute("truncate everpost_mail.operation"))
        return await operate(pool, session, work)

    monkeypatch.setattr(sessions.Databases, "_operate", staticmethod(forgetful))
    server.unconfirmed = 1
    await store.deliver([Delivery(mailbox=box, operation_id=op(), raw=RAW)])
    server.unconfirmed = 1
    await store.append(box, "INBOX", [Append(raw=RAW)], op=op())
    assert await count(server) == 4


async def test_a_commit_that_was_not_confirmed_is_repeated_not_doubled(
    server: OneServer, store: PostgresStore, box: MailboxRef
) -> None:
    await store.list_folders(box)
    confirmed, server.unconfirmed = server.confirmed, 2
    await store.deliver([Delivery(mailbox=box, operation_id=op(), raw=RAW)])
    assert server.confirmed == confirmed + 1
    assert await count(server) == 1


# -- the wait for the set -----------------------------------------------------------------------------------------


CANCEL = "select count(pg_cancel_backend(pid)) from pg_stat_activity where wait_event = 'SyncRep'"


async def test_a_cancelled_wait_is_no_acknowledgement(server: OneServer, store: PostgresStore, box: MailboxRef) -> None:
    """The commit is visible here and perhaps nowhere else: the store repeats, and the repetition waits too (3.9)."""
    await store.list_folders(box)
    confirmed = server.confirmed
    await server.engine.set_names(["nobody"])
    tasks = [
        asyncio.ensure_future(store.append(box, "Sent", [Append(raw=RAW)], op=op())),
        asyncio.ensure_future(store.deliver([Delivery(mailbox=box, operation_id=op(), raw=RAW)])),
    ]
    for _ in range(3):
        await until(partial(_equals, 2, partial(waiting, server)))
        await ask(server, CANCEL)
        await until(partial(_equals, 2, partial(count, server)))
    await until(partial(_equals, 2, partial(waiting, server)))
    assert not any(task.done() for task in tasks)
    assert server.confirmed == confirmed
    await server.engine.set_names([])
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)
    assert await count(server) == 2


async def test_if_a_repetition_only_read_it_would_acknowledge_too_early(
    server: OneServer, store: PostgresStore, box: MailboxRef
) -> None:
    """Sabotage of 3.9: a repeated operation finds its answer without writing. The test above would notice."""
    await store.list_folders(box)
    sabotage = (
        "create or replace function everpost_mail.answered(op text) returns jsonb language sql as"
        " $$ select answer from everpost_mail.operation where id = op $$"
    )
    await server.engine._mail.ask(lambda connection: connection.execute(sabotage))
    await server.engine.set_names(["nobody"])
    task = asyncio.ensure_future(store.append(box, "INBOX", [Append(raw=RAW)], op=op()))
    await until(partial(waiting, server))
    await ask(server, CANCEL)
    async with asyncio.timeout(20):
        await task  # acknowledged, and the set has nothing
    await server.engine.set_names([])


async def test_a_caller_that_leaves_cancels_nothing(server: OneServer, store: PostgresStore, box: MailboxRef) -> None:
    await store.list_folders(box)
    await server.engine.set_names(["nobody"])
    left = asyncio.ensure_future(store.append(box, "INBOX", [Append(raw=RAW)], op=op()))
    late = asyncio.ensure_future(store.append(box, "INBOX", [Append(raw=RAW)], op=op(), deadline=within(1.5)))
    await until(partial(_equals, 1, partial(waiting, server)))  # the other one waits for the folder
    left.cancel()
    with pytest.raises(StoreUnavailable):
        await late
    assert await waiting(server) == 1
    assert await count(server) == 0, "the wait was cancelled: the commit can be seen before the set has it"
    await server.engine.set_names([])
    await until(partial(count, server))


async def _equals(wanted: int, find: Callable[[], Awaitable[int]]) -> bool:
    return await find() == wanted


# -- locations that move ------------------------------------------------------------------------------------------


async def test_operations_outlive_a_crash_and_a_new_activation(
    server: OneServer, store: PostgresStore, box: MailboxRef
) -> None:
    await store.append(box, "INBOX", [Append(raw=RAW)], op=op())
    inbox = await store.get_folder(box, "INBOX")
    stop = asyncio.Event()
    done: list[int] = []

    async def writer(number: int) -> None:
        while not stop.is_set():
            added = await store.append(box, "INBOX", [Append(raw=b"%d" % number)], op=op())
            done.extend(added.uids)

    async def written(enough: int) -> bool:
        return len(done) >= enough

    writers = [asyncio.create_task(writer(number)) for number in range(6)]
    await until(lambda: written(20))
    await server.crash()
    await server.open()
    seen = len(done)
    await until(lambda: written(seen + 20))
    stop.set()
    await asyncio.gather(*writers)
    assert len(done) == len(set(done)), "a UID was given twice"
    after = await store.get_folder(box, "INBOX")
    snapshot = await store.snapshot(box, inbox.id)
    assert {state.uid for state in snapshot.messages} == {1, *done}
    assert after.highest_modseq > server.epoch << 40
    assert after.highest_modseq == max(state.modseq for state in snapshot.messages)


async def test_expunged_uids_do_not_come_again_at_a_higher_epoch(
    server: OneServer, store: PostgresStore, box: MailboxRef
) -> None:
    await store.append(box, "INBOX", [Append(raw=RAW)] * 3, op=op())
    inbox = await store.get_folder(box, "INBOX")
    await store.store_flags(box, inbox.id, [2, 3], FlagMode.ADD, DELETED, op=op())
    stamp = (await store.expunge(box, inbox.id, None, op=op())).folder.highest_modseq
    for uid in (4, 5):
        await server.crash()
        await server.open()
        added = await store.append(box, "INBOX", [Append(raw=RAW)], op=op())
        assert list(added.uids) == [uid]
        after = await store.get_folder(box, "INBOX")
        assert after.uid_validity == inbox.uid_validity
        assert after.highest_modseq > max(stamp, server.epoch << 40)
        stamp = after.highest_modseq
    changes = await store.changes(box, inbox.id, inbox.highest_modseq)
    assert list(changes.vanished) == [2, 3]
    assert [state.uid for state in changes.messages] == [4, 5]


async def test_a_host_that_went_silent_is_left_as_soon_as_the_location_moves(
    server: OneServer, proxy: Proxy, store: PostgresStore, box: MailboxRef
) -> None:
    await store.append(box, "INBOX", [Append(raw=RAW)], op=op())
    proxy.silent = True
    tasks = [asyncio.ensure_future(store.append(box, "INBOX", [Append(raw=RAW)], op=op())) for _ in range(12)]
    tasks += [asyncio.ensure_future(store.list_folders(box)) for _ in range(3)]  # type: ignore[arg-type]
    await asyncio.sleep(0.3)
    assert not any(task.done() for task in tasks)
    await server.crash()
    server.port = proxy.target
    await server.open()
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)
    assert await count(server) == 13


async def test_another_activation_is_not_talked_to(server: OneServer, store: PostgresStore, box: MailboxRef) -> None:
    """The record says another epoch or generation than the server that answers."""
    await store.list_folders(box)
    right = server.generation, server.epoch
    for wrong in ((1, server.epoch + 1), (2, server.epoch), (1, server.epoch - 1)):
        server.generation, server.epoch = wrong
        with pytest.raises(StoreUnavailable):
            await store.append(box, "INBOX", [Append(raw=RAW)], op=op(), deadline=within(0.5))
    server.generation, server.epoch = right
    await store.append(box, "INBOX", [Append(raw=RAW)], op=op())
    assert await count(server) == 1


async def test_sessions_that_do_not_commit_synchronously_are_not_used(
    server: OneServer, store: PostgresStore, box: MailboxRef
) -> None:
    alter = "alter role everpost_store set synchronous_commit = local"
    await server.engine._mail.ask(lambda connection: connection.execute(alter))
    with pytest.raises(StoreUnavailable):
        await store.append(box, "INBOX", [Append(raw=RAW)], op=op(), deadline=within(0.5))


async def test_each_caller_waits_until_its_own_deadline(
    server: OneServer, store: PostgresStore, box: MailboxRef
) -> None:
    server.say(LocationState.MOVING)
    patient = asyncio.ensure_future(
        store.deliver([Delivery(mailbox=box, operation_id=op(), raw=RAW)], deadline=within(60))
    )
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.deliver([Delivery(mailbox=box, operation_id=op(), raw=RAW)], deadline=within(0.2))
    with pytest.raises(StoreUnavailable):
        await store.list_folders(box, deadline=within(0.2))
    server.say(LocationState.OPEN)
    async with asyncio.timeout(20):
        await patient
    await store.deliver([Delivery(mailbox=box, operation_id=op(), raw=RAW)])
    assert await count(server) == 2, "a message was delivered although its caller had been told to send it again"


# -- lossy activations --------------------------------------------------------------------------------------------


async def test_a_lossy_opening_jumps_uids(server: OneServer, store: PostgresStore, box: MailboxRef) -> None:
    await store.append(box, "INBOX", [Append(raw=RAW)], op=op())
    before = await store.create_folder(box, "Work", op=op())
    await server.crash()
    await server.open(lossy=True)
    added = await store.append(box, "INBOX", [Append(raw=RAW)], op=op())
    assert list(added.uids) == [1_000_002]
    after = await store.get_folder(box, "Work")
    assert (after.id, after.uid_validity, after.uid_next) == (before.id, before.uid_validity, 1_000_001)
    assert after.highest_modseq > server.epoch << 40
    made = await store.create_folder(box, "Later", op=op())
    assert made.id > before.id + 1_000_000
    assert made.uid_validity > before.uid_validity + 100


async def test_an_opening_at_a_point_in_time_has_other_uidvalidities(
    server: OneServer, store: PostgresStore, box: MailboxRef
) -> None:
    """What was removed since then is there again under its UID, so no client may count on what it knows (LAG-6)."""
    await store.append(box, "INBOX", [Append(raw=RAW)], op=op())
    before = {folder.name: folder for folder in await store.list_folders(box)}
    await server.crash()
    await server.open(lossy=True, until=1.0)
    after = {folder.name: folder for folder in await store.list_folders(box)}
    for name, folder in after.items():
        assert folder.uid_validity > before[name].uid_validity, name
        assert folder.highest_modseq > server.epoch << 40
    assert len({folder.uid_validity for folder in after.values()}) == len(after)
    added = await store.append(box, "INBOX", [Append(raw=RAW)], op=op())
    assert (added.uid_validity, list(added.uids)) == (after["INBOX"].uid_validity, [1_000_002])


async def test_a_lossy_opening_without_room_begins_anew(
    server: OneServer, store: PostgresStore, box: MailboxRef
) -> None:
    await store.append(box, "INBOX", [Append(raw=b"%d" % number) for number in range(4)], op=op())
    inbox = await store.get_folder(box, "INBOX")
    await store.store_flags(box, inbox.id, [2], FlagMode.ADD, DELETED, op=op())
    await store.expunge(box, inbox.id, None, op=op())
    full = "update everpost_mail.folder set uid_next = 4294967290, single_in = null where name = 'INBOX'"
    await server.engine._mail.ask(lambda connection: connection.execute(full))
    await store.append(box, "INBOX", [Append(raw=b"last")] * 5, op=op())
    with pytest.raises(Refused):
        await store.append(box, "INBOX", [Append(raw=b"none left")], op=op())
    with pytest.raises(Refused):
        await store.copy(box, inbox.id, [1], "INBOX", op=op())
    await server.crash()
    await server.open(lossy=True)
    after = await store.get_folder(box, "INBOX")
    assert after.uid_validity > inbox.uid_validity
    with pytest.raises(NoSuchFolder):  # a session that has the old UIDs in mind ends
        await store.changes(box, inbox.id, 0)
    snapshot = await store.snapshot(box, after.id)
    assert [state.uid for state in snapshot.messages] == list(range(1, 9))
    added = await store.append(box, "INBOX", [Append(raw=RAW)], op=op())
    assert list(added.uids) == [1_000_009]
    assert list((await store.changes(box, after.id, 0)).vanished) == []


# -- groups, contents, housekeeping -------------------------------------------------------------------------------


async def test_one_refused_delivery_does_not_take_its_group_along(
    server: OneServer, store: PostgresStore, box: MailboxRef
) -> None:
    await store.list_folders(box)
    server.say(LocationState.MOVING)
    ids = [op(), "no\0id", op(), op()]
    tasks = [asyncio.ensure_future(store.deliver([Delivery(mailbox=box, operation_id=one, raw=RAW)])) for one in ids]
    await asyncio.sleep(0.05)
    server.say(LocationState.OPEN)
    async with asyncio.timeout(20):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, Refused) for result in results] == [False, True, False, False]
    assert await count(server) == 3


async def test_deliveries_are_grouped_and_share_their_content(server: OneServer, store: PostgresStore) -> None:
    boxes = [MailboxRef("MB01", str(uuid.uuid4())) for _ in range(10)]
    await store.deliver([Delivery(mailbox=box, operation_id=op(), raw=RAW) for box in boxes])
    assert await ask(server, "select count(*) from everpost_mail.content") == 1
    before = await ask(server, "select xact_commit from pg_stat_database where datname = 'mail'")
    await asyncio.gather(
        *(store.deliver([Delivery(mailbox=boxes[n % 10], operation_id=op(), raw=b"%d" % n)]) for n in range(500))
    )
    await asyncio.sleep(1.1)  # statistics are written by then
    commits = await ask(server, "select xact_commit from pg_stat_database where datname = 'mail'") - before
    assert commits < 100
    for box in boxes:
        inbox = await store.get_folder(box, "INBOX")
        assert (inbox.exists, inbox.uid_next) == (51, 52)


async def test_a_fetch_that_nobody_reads_to_its_end_holds_nothing(
    server: OneServer, store: PostgresStore, box: MailboxRef
) -> None:
    await store.append(box, "INBOX", [Append(raw=bytes(3 * 1024 * 1024))] * 4, op=op())
    inbox = await store.get_folder(box, "INBOX")
    for _ in range(20):  # more than there are connections
        fetching = store.fetch(box, inbox.id, [1, 2, 3, 4], Part.RAW)
        assert [data.uid for data in await anext(fetching)] == [1, 2]
        await fetching.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(20):
        assert (await store.get_folder(box, "INBOX")).exists == 4


async def test_content_goes_with_its_last_copy(server: OneServer, store: PostgresStore, box: MailboxRef) -> None:
    await store.append(box, "INBOX", [Append(raw=b"a: b\r\n\r\n" + bytes(700_000))] * 20, op=op())
    inbox = await store.get_folder(box, "INBOX")
    await store.copy(box, inbox.id, list(range(1, 21)), "Archive", op=op())
    archive = await store.get_folder(box, "Archive")
    for folder in (inbox, archive):
        await store.store_flags(box, folder.id, list(range(1, 21)), FlagMode.ADD, DELETED, op=op())
    await asyncio.gather(
        *(store.expunge(box, folder.id, [uid], op=op()) for uid in range(1, 21) for folder in (inbox, archive))
    )
    assert await ask(server, "select count(*) from everpost_mail.content") == 0
    assert await ask(server, "select count(*) from everpost_mail.chunk") == 0
    await store.append(box, "Junk", [Append(raw=RAW)], op=op())
    await store.delete_folder(box, "Junk", op=op())
    assert await ask(server, "select count(*) from everpost_mail.content") == 0


async def test_operation_ids_are_forgotten_after_a_week_a_day_at_a_time(
    server: OneServer, store: PostgresStore, box: MailboxRef
) -> None:
    await store.append(box, "INBOX", [Append(raw=RAW)], op=op())
    fill = (
        "insert into everpost_mail.operation (id, answer, at)"
        " select 'old' || n, '{}', now() - n * interval '6 hours' from generate_series(1, 120) n"
    )
    await server.engine._mail.ask(lambda connection: connection.execute(fill))
    left = "select count(*) from everpost_mail.operation"
    for day in range(1, 30):
        await server.engine.upkeep(keep_store)
        await server.engine.upkeep(keep_store)  # again within the day: nothing
        assert await ask(server, left) == max(121 - 4 * day, 28)
        await ask(server, "update everpost_mail.upkept set at = at - interval '25 hours' returning 1")


async def test_watchers_in_other_processes_are_woken(server: OneServer, store: PostgresStore, box: MailboxRef) -> None:
    inbox = await store.get_folder(box, "INBOX")
    other = PostgresStore(server, tls.client_context(server.host.tls))
    wakes = store.wake(box, inbox.id)
    try:
        async with asyncio.timeout(20):
            for expected in range(1, 4):
                await other.deliver([Delivery(mailbox=box, operation_id=op(), raw=RAW)])
                while (await store.get_folder(box, "INBOX")).exists < expected:
                    await anext(wakes)
                await anext(wakes)
            await server.crash()
            await server.open()
            await other.deliver([Delivery(mailbox=box, operation_id=op(), raw=RAW)])
            await anext(wakes)
    finally:
        await wakes.aclose()  # type: ignore[attr-defined]
        await other.close()
