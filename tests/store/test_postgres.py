"""The store on a real PostgreSQL: what is acknowledged is there once, exactly, and UIDs never come again."""

from __future__ import annotations

import asyncio
import os
import time
import uuid

import pytest

from everpost.model.recipient import MailboxRef
from everpost.store import sessions
from everpost.store.interface import (
    Append,
    Delivery,
    FlagMode,
    FolderExists,
    NoSuchFolder,
    Part,
    StoreUnavailable,
)
from everpost.store.postgres import PostgresStore

from .conftest import OneServer

BOX = MailboxRef("MB01", str(uuid.uuid4()))
RAW = b"From: a@b.c\r\nSubject: hi\r\n\r\nbody \xff\x00 bytes\r\n"


def op() -> str:
    return str(uuid.uuid4())


async def raws(store: PostgresStore, folder_id: int, uids: list[int]) -> list[bytes]:
    found = []
    async for batch in store.fetch(BOX, folder_id, uids, Part.RAW):
        found += [data.raw or b"" for data in batch]
    return found


async def test_a_new_mailbox_has_its_folders(store: PostgresStore) -> None:
    folders = {folder.name: folder for folder in await store.list_folders(BOX)}
    assert set(folders) == {"INBOX", "Drafts", "Sent", "Trash", "Junk", "Archive"}
    assert folders["Sent"].special_use == "\\Sent"
    assert folders["INBOX"].subscribed
    assert folders["INBOX"].highest_modseq > 1 << 40


async def test_append_flags_copy_move_expunge(store: PostgresStore) -> None:
    added = await store.append(BOX, "INBOX", [Append(raw=RAW), Append(raw=RAW, flags=frozenset({"\\Seen"}))], op=op())
    assert list(added.uids) == [1, 2]
    inbox = await store.get_folder(BOX, "INBOX")
    assert (inbox.exists, inbox.unseen, inbox.uid_next, inbox.size) == (2, 1, 3, 2 * len(RAW))
    changed = await store.store_flags(BOX, inbox.id, [1, 2], FlagMode.ADD, frozenset({"\\Deleted", "$Junk"}), op=op())
    assert [state.flags for state in changed.messages] == [{"\\Deleted", "$Junk"}, {"\\Deleted", "$Junk", "\\Seen"}]
    copied = await store.copy(BOX, inbox.id, [2], "Archive", op=op())
    assert list(copied.uids) == [1]
    moved = await store.copy(BOX, inbox.id, [1], "Trash", op=op(), move=True)
    assert list(moved.source_uids) == [1]
    gone = await store.expunge(BOX, inbox.id, None, op=op())
    assert list(gone.vanished) == [2]
    assert gone.folder.exists == 0
    archive = await store.get_folder(BOX, "Archive")
    assert await raws(store, archive.id, [1]) == [RAW]
    changes = await store.changes(BOX, inbox.id, inbox.highest_modseq)
    assert list(changes.vanished) == [1, 2]


async def test_unchanged_since_and_equal_flags(store: PostgresStore) -> None:
    await store.append(BOX, "INBOX", [Append(raw=RAW), Append(raw=RAW)], op=op())
    inbox = await store.get_folder(BOX, "INBOX")
    first = await store.store_flags(BOX, inbox.id, [1], FlagMode.ADD, frozenset({"\\Seen"}), op=op())
    second = await store.store_flags(
        BOX, inbox.id, [1, 2], FlagMode.ADD, frozenset({"\\Flagged"}), op=op(), unchanged_since=inbox.highest_modseq
    )
    assert list(second.modified) == [1]
    assert [state.uid for state in second.messages] == [2]
    again = await store.store_flags(BOX, inbox.id, [1], FlagMode.ADD, frozenset({"\\Seen"}), op=op())
    assert again.messages[0].modseq == first.messages[0].modseq


async def test_folders_are_created_renamed_deleted(store: PostgresStore) -> None:
    await store.create_folder(BOX, "Work/2026/May", op=op())
    assert (await store.get_folder(BOX, "Work/2026")).selectable
    with pytest.raises(FolderExists):
        await store.create_folder(BOX, "Work/2026/May", op=op())
    before = await store.get_folder(BOX, "Work/2026/May")
    await store.rename_folder(BOX, "Work", "Job", op=op())
    after = await store.get_folder(BOX, "Job/2026/May")
    assert (after.id, after.uid_validity) == (before.id, before.uid_validity)
    await store.delete_folder(BOX, "Job/2026", op=op())
    assert not (await store.get_folder(BOX, "Job/2026")).selectable
    with pytest.raises(NoSuchFolder):
        await store.delete_folder(BOX, "Nothing", op=op())
    await store.append(BOX, "INBOX", [Append(raw=RAW)], op=op())
    await store.rename_folder(BOX, "INBOX", "Old", op=op())
    assert (await store.get_folder(BOX, "Old")).exists == 1
    assert (await store.get_folder(BOX, "INBOX")).exists == 0
    await store.delete_folder(BOX, "Job/2026/May", op=op())
    one = await store.create_folder(BOX, "Job/2026/May", op=op())
    assert one.uid_validity > before.uid_validity


async def test_an_operation_repeated_by_its_id_happens_once(store: PostgresStore) -> None:
    same = op()
    first = await store.append(BOX, "INBOX", [Append(raw=RAW)], op=same)
    second = await store.append(BOX, "INBOX", [Append(raw=RAW)], op=same)
    assert first == second
    delivery = Delivery(mailbox=BOX, operation_id=op(), raw=RAW)
    await store.deliver([delivery])
    await store.deliver([delivery, Delivery(mailbox=BOX, operation_id=op(), raw=RAW)])
    assert (await store.get_folder(BOX, "INBOX")).exists == 3


async def test_a_commit_that_was_not_confirmed_is_repeated_not_doubled(server: OneServer, store: PostgresStore) -> None:
    server.unconfirmed = 2
    await store.deliver([Delivery(mailbox=BOX, operation_id=op(), raw=RAW)])
    assert server.confirmed == 1
    assert (await store.get_folder(BOX, "INBOX")).exists == 1


async def test_operations_outlive_a_crash_and_a_new_activation(server: OneServer, store: PostgresStore) -> None:
    await store.append(BOX, "INBOX", [Append(raw=RAW)], op=op())
    inbox = await store.get_folder(BOX, "INBOX")
    stop = asyncio.Event()
    done: list[int] = []

    async def writer(number: int) -> None:
        while not stop.is_set():
            added = await store.append(BOX, "INBOX", [Append(raw=b"%d" % number)], op=op())
            done.extend(added.uids)

    writers = [asyncio.create_task(writer(number)) for number in range(6)]
    await asyncio.sleep(0.5)
    await server.crash()
    await server.open()
    seen = len(done)
    end = time.monotonic() + 20
    while len(done) < seen + 20 and time.monotonic() < end:
        await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(*writers)
    assert len(done) >= seen + 20
    assert len(done) == len(set(done)), "a UID was given twice"
    after = await store.get_folder(BOX, "INBOX")
    snapshot = await store.snapshot(BOX, inbox.id)
    assert {state.uid for state in snapshot.messages} == {1, *done}
    assert after.highest_modseq > 2 << 40
    assert after.highest_modseq == max(state.modseq for state in snapshot.messages)


async def test_without_the_operation_id_a_repetition_doubles(
    server: OneServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage of 3.10: the tests above would notice."""
    run = sessions.Databases.run

    async def forgetful(self: sessions.Databases, database: str, work: object, **rest: object) -> object:
        async def cleaned(connection: sessions.Connection) -> object:
            await server_connection.ask(lambda c: c.execute("truncate everpost_mail.operation"))
            return await work(connection)  # type: ignore[operator]

        return await run(self, database, cleaned, **rest)  # type: ignore[arg-type]

    server_connection = server.engine._mail
    monkeypatch.setattr(sessions.Databases, "run", forgetful)
    server.unconfirmed = 1
    delivery = Delivery(mailbox=BOX, operation_id=op(), raw=RAW)
    await store.deliver([delivery])
    await store.deliver([delivery])
    assert (await store.get_folder(BOX, "INBOX")).exists > 1


async def test_a_lossy_opening_jumps_uids(server: OneServer, store: PostgresStore) -> None:
    await store.append(BOX, "INBOX", [Append(raw=RAW)], op=op())
    await server.crash()
    await server.open(lossy=True)
    added = await store.append(BOX, "INBOX", [Append(raw=RAW)], op=op())
    assert list(added.uids) == [1_000_002]


async def test_a_deadline_ends_the_wait_while_the_database_is_away(server: OneServer, store: PostgresStore) -> None:
    await server.crash()
    with pytest.raises(StoreUnavailable):
        await store.deliver(
            [Delivery(mailbox=BOX, operation_id=op(), raw=RAW)],
            deadline=time.clock_gettime(time.CLOCK_BOOTTIME) + 0.5,
        )


async def test_large_and_empty_messages_come_back_byte_for_byte(store: PostgresStore) -> None:
    large = os.urandom(20 * 1024 * 1024)
    added = await store.append(BOX, "INBOX", [Append(raw=large), Append(raw=b"")], op=op())
    inbox = await store.get_folder(BOX, "INBOX")
    assert await raws(store, inbox.id, list(added.uids)) == [large, b""]


async def test_idle_sessions_are_woken(store: PostgresStore) -> None:
    inbox = await store.get_folder(BOX, "INBOX")
    waker = store.wake(BOX, inbox.id)
    waiting = asyncio.ensure_future(waker.__anext__())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await store.deliver([Delivery(mailbox=BOX, operation_id=op(), raw=RAW)])
    async with asyncio.timeout(10):
        await waiting
    await waker.aclose()  # type: ignore[attr-defined]


async def test_deliveries_in_parallel_get_one_uid_each(store: PostgresStore) -> None:
    began = time.monotonic()
    await asyncio.gather(*(store.deliver([Delivery(mailbox=BOX, operation_id=op(), raw=RAW)]) for _ in range(500)))
    print(f"{500 / (time.monotonic() - began):.0f} deliveries/s")
    inbox = await store.get_folder(BOX, "INBOX")
    snapshot = await store.snapshot(BOX, inbox.id)
    assert [state.uid for state in snapshot.messages] == list(range(1, 501))
    assert inbox.exists == 500
