"""A folder is given a million UIDs at most while its database is single: a lossy activation jumps over them (3.4)."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from everpost.errors import Refused
from everpost.model.recipient import MailboxRef
from everpost.store import migrate
from everpost.store.interface import Append, Delivery, FlagMode
from everpost.store.memory import JUMP, MemoryStore
from everpost.store.postgres import PostgresStore

from .conftest import OneServer, ask, until

RAW = b"From: a@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
DELETED = frozenset({"\\Deleted"})


def op() -> str:
    return str(uuid.uuid4())


async def cover(connection: Any) -> None:
    await migrate.covered(connection)


async def test_a_folder_takes_a_million_while_single(server: OneServer, store: PostgresStore, box: MailboxRef) -> None:
    """What a lossy activation jumps over is all that can have been given (3.4)."""

    async def given_so_far(folder: str, uid_next: int) -> None:
        await ask(server, f"update everpost_mail.folder set uid_next = {uid_next} where name = '{folder}' returning 1")

    async def two(folder: str) -> list[int]:
        return list((await store.append(box, folder, [Append(raw=RAW)] * 2, op=op())).uids)

    assert await two("INBOX") == [1, 2]
    await given_so_far("INBOX", 999_999)
    assert await two("INBOX") == [999_999, 1_000_000]
    for refused in (two("INBOX"), store.deliver([Delivery(mailbox=box, operation_id=op(), raw=RAW)])):
        with pytest.raises(Refused, match="no second copy"):
            await refused
    inbox = await store.get_folder(box, "INBOX")
    await two("Sent")  # another folder counts for itself
    await given_so_far("Sent", 1_000_001)
    with pytest.raises(Refused, match="no second copy"):
        await store.copy(box, inbox.id, [1], "Sent", op=op())
    await store.store_flags(box, inbox.id, [1], FlagMode.ADD, DELETED, op=op())  # only new UIDs are refused
    assert (await store.expunge(box, inbox.id, None, op=op())).vanished == [1]

    await server.engine.upkeep(cover)  # a second copy was whole; now it is lost again
    assert await two("INBOX") == [1_000_001, 1_000_002]
    await given_so_far("INBOX", 2_000_001)
    with pytest.raises(Refused):
        await two("INBOX")
    await server.crash()
    await server.open(lossy=True)
    assert await two("INBOX") == [3_000_001, 3_000_002]

    # With a member in the set nothing is counted.
    await server.engine.set_names(["everpost_other"])
    await until(lambda: ask(server, "select current_setting('synchronous_standby_names') <> ''"))
    local = "set synchronous_commit = local; update everpost_mail.folder set uid_next = 5000000"
    await server.engine._mail.ask(lambda connection: connection.execute(local))
    put = (
        "select everpost_mail.put_messages(array[id], array[now()], array[''], array[1], array[1::bigint],"
        " array[''::bytea], array[''::bytea], array[''::bytea], array[''::bytea], array[''::bytea],"
        " array[]::int[], array[]::int[], array[]::bytea[]) from everpost_mail.folder where name = 'INBOX'"
    )

    async def put_locally(connection: Any) -> Any:
        await connection.execute("set synchronous_commit = local")
        return await connection.fetchval(put)

    assert await server.engine._mail.ask(put_locally) == [5_000_000]


async def test_the_store_in_memory_keeps_the_same_bound() -> None:
    store, box = MemoryStore(), MailboxRef("MB01", "box")

    async def one() -> int:
        [uid] = (await store.append(box, "INBOX", [Append(raw=b"\r\n")], op=op())).uids
        return uid

    assert await one() == 1
    store.single = True
    assert await one() == 2
    store._named(box, "INBOX").uid_next = JUMP + 1
    assert await one() == JUMP + 1
    with pytest.raises(Refused, match="no second copy"):
        await one()
    store.reopen(lossy=True)
    assert await one() == 2 * JUMP + 2
    store.single = False
    store._named(box, "INBOX").uid_next = 5 * JUMP
    assert await one() == 5 * JUMP
