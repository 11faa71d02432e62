"""The store on PostgreSQL: each operation one SQL function, run wherever the database is active."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg

from everpost.model.authority import Authority
from everpost.model.recipient import MailboxRef
from everpost.store import rows as sql
from everpost.store.delivery import Batcher, pack_aside
from everpost.store.interface import (
    Added,
    Append,
    Delivery,
    FlagMode,
    FlagsChanged,
    Folder,
    FolderChanges,
    FolderSnapshot,
    MessageData,
    MessageState,
    NoSuchFolder,
    Part,
)
from everpost.store.sessions import Connection, Databases
from everpost.store.watch import Wakers

BATCH_BYTES = 4 * 1024 * 1024
"""About how much of raw messages one batch of a fetch holds in memory; two are held at a time."""
BATCH_MESSAGES = 2000


class PostgresStore:
    """`store.interface.Store` for one role process. `context` shows the host's certificate to the active copy."""

    def __init__(self, authority: Authority, context: ssl.SSLContext) -> None:
        self._databases = Databases(authority, context)
        self._batchers: dict[str, Batcher] = {}
        self._wakers = Wakers(self._databases)

    async def close(self) -> None:
        """Abort all connections."""
        await self._wakers.close()
        await self._databases.close()

    async def _read(
        self, mailbox: MailboxRef, query: str, *arguments: Any, deadline: float | None
    ) -> list[asyncpg.Record]:
        async def work(connection: Connection) -> list[asyncpg.Record]:
            return await connection.fetch(query, *arguments)

        return await self._databases.run(mailbox.database, work, write=False, deadline=deadline)

    async def _write(self, database: str, function: str, *arguments: Any, deadline: float | None) -> Any:
        """Call a function of the schema: one statement, one transaction, acknowledged when this returns."""
        places = ", ".join(f"${number + 1}" for number in range(len(arguments)))
        query = f"select everpost_mail.{function}({places})"

        async def work(connection: Connection) -> Any:
            return await connection.fetchval(query, *arguments)

        return await self._databases.run(database, work, write=True, deadline=deadline)

    async def _change(
        self, mailbox: MailboxRef, function: str, op: str, *arguments: Any, deadline: float | None
    ) -> dict[str, Any]:
        """An operation that is known by its id, and its answer."""
        answer = await self._write(mailbox.database, function, op, mailbox.guid, *arguments, deadline=deadline)
        found: dict[str, Any] = json.loads(answer)
        return found

    # -- folders ------------------------------------------------------------------------------------------------

    async def list_folders(self, mailbox: MailboxRef, *, deadline: float | None = None) -> list[Folder]:
        rows = await self._read_or_make(mailbox, sql.FOLDERS, mailbox.guid, deadline=deadline)
        return [sql.folder(row) for row in rows]

    async def _read_or_make(
        self, mailbox: MailboxRef, query: str, *arguments: Any, deadline: float | None
    ) -> list[asyncpg.Record]:
        """Nothing there: the mailbox may be new. Make its folders and look again."""
        rows = await self._read(mailbox, query, *arguments, deadline=deadline)
        if not rows:
            await self._write(mailbox.database, "ensure_mailbox", mailbox.guid, deadline=deadline)
            rows = await self._read(mailbox, query, *arguments, deadline=deadline)
        return rows

    async def get_folder(self, mailbox: MailboxRef, name: str, *, deadline: float | None = None) -> Folder:
        rows = await self._read_or_make(mailbox, sql.FOLDER, mailbox.guid, name, deadline=deadline)
        if not rows:
            raise NoSuchFolder(f"There is no folder {name}.")
        return sql.folder(rows[0])

    async def create_folder(
        self, mailbox: MailboxRef, name: str, *, op: str, special_use: str = "", deadline: float | None = None
    ) -> Folder:
        await self._change(mailbox, "create_folder", op, name, special_use, deadline=deadline)
        return await self.get_folder(mailbox, name, deadline=deadline)

    async def delete_folder(self, mailbox: MailboxRef, name: str, *, op: str, deadline: float | None = None) -> None:
        await self._change(mailbox, "delete_folder", op, name, deadline=deadline)

    async def rename_folder(
        self, mailbox: MailboxRef, name: str, new_name: str, *, op: str, deadline: float | None = None
    ) -> None:
        await self._change(mailbox, "rename_folder", op, name, new_name, deadline=deadline)

    async def subscribe(
        self, mailbox: MailboxRef, name: str, subscribed: bool, *, op: str, deadline: float | None = None
    ) -> None:
        await self._change(mailbox, "subscribe", op, name, subscribed, deadline=deadline)

    async def list_subscriptions(self, mailbox: MailboxRef, *, deadline: float | None = None) -> list[str]:
        rows = await self._read_or_make(mailbox, sql.SUBSCRIPTIONS, mailbox.guid, deadline=deadline)
        return [row["name"] for row in rows]

    # -- reading ------------------------------------------------------------------------------------------------

    async def snapshot(self, mailbox: MailboxRef, folder_id: int, *, deadline: float | None = None) -> FolderSnapshot:
        row = await self._changes(mailbox, folder_id, 0, deadline)
        return FolderSnapshot(folder=sql.folder(row), messages=sql.states(row))

    async def changes(
        self, mailbox: MailboxRef, folder_id: int, since_modseq: int, *, deadline: float | None = None
    ) -> FolderChanges:
        row = await self._changes(mailbox, folder_id, since_modseq, deadline)
        return FolderChanges(folder=sql.folder(row), messages=sql.states(row), vanished=row["vanished"] or [])

    async def _changes(
        self, mailbox: MailboxRef, folder_id: int, since_modseq: int, deadline: float | None
    ) -> asyncpg.Record:
        rows = await self._read(mailbox, sql.CHANGES, mailbox.guid, folder_id, since_modseq, deadline=deadline)
        if not rows:
            raise NoSuchFolder("There is no such folder.")
        return rows[0]

    async def fetch(
        self,
        mailbox: MailboxRef,
        folder_id: int,
        uids: Sequence[int],
        parts: Part,
        *,
        deadline: float | None = None,
    ) -> AsyncIterator[Sequence[MessageData]]:
        query = sql.fetch_sql(parts)
        following: asyncio.Task[list[asyncpg.Record]] | None = None
        try:
            for batch in [*await self._batches(mailbox, folder_id, uids, parts, deadline), []]:
                current = following
                if batch:
                    # The next batch is loaded while the caller sends this one.
                    following = asyncio.create_task(
                        self._read(mailbox, query, mailbox.guid, folder_id, batch, deadline=deadline)
                    )
                    following.add_done_callback(lambda done: done.cancelled() or done.exception())
                if current is not None:
                    found = sql.messages(await current, parts)
                    if found:
                        yield found
        finally:
            if following is not None:
                following.cancel()

    async def _batches(
        self, mailbox: MailboxRef, folder_id: int, uids: Sequence[int], parts: Part, deadline: float | None
    ) -> list[list[int]]:
        """UIDs by what is bearable at a time."""
        wanted = sorted(set(uids))
        if Part.RAW not in parts or not wanted:
            return [wanted[begin : begin + BATCH_MESSAGES] for begin in range(0, len(wanted), BATCH_MESSAGES)]
        batches: list[list[int]] = []
        room = 0
        for row in await self._read(mailbox, sql.SIZES, folder_id, wanted, deadline=deadline):
            if room <= 0 or len(batches[-1]) == BATCH_MESSAGES:
                batches.append([])
                room = BATCH_BYTES
            batches[-1].append(row["uid"])
            room -= row["size"]
        return batches

    # -- changing -----------------------------------------------------------------------------------------------

    async def append(
        self,
        mailbox: MailboxRef,
        folder_name: str,
        messages: Sequence[Append],
        *,
        op: str,
        deadline: float | None = None,
    ) -> Added:
        packed = await pack_aside([message.raw for message in messages])
        now = datetime.now(UTC)
        answer = await self._change(
            mailbox,
            "append",
            op,
            folder_name,
            [message.internal_date or now for message in messages],
            [" ".join(sorted(message.flags)) for message in messages],
            *packed.columns(),
            deadline=deadline,
        )
        self._wakers.touch(mailbox.database, answer["folder"])
        return Added(uid_validity=answer["uid_validity"], uids=answer["uids"])

    async def store_flags(
        self,
        mailbox: MailboxRef,
        folder_id: int,
        uids: Sequence[int],
        mode: FlagMode,
        flags: frozenset[str],
        *,
        op: str,
        unchanged_since: int | None = None,
        deadline: float | None = None,
    ) -> FlagsChanged:
        wanted = [list(uids), str(mode), sorted(flags), unchanged_since]
        answer = await self._change(mailbox, "store_flags", op, folder_id, *wanted, deadline=deadline)
        self._wakers.touch(mailbox.database, folder_id)
        states = [MessageState(uid, modseq, frozenset(found)) for uid, modseq, found in answer["messages"]]
        return FlagsChanged(messages=states, modified=answer["modified"], highest_modseq=answer["highest_modseq"])

    async def expunge(
        self, mailbox: MailboxRef, folder_id: int, uids: Sequence[int] | None, *, op: str, deadline: float | None = None
    ) -> FolderChanges:
        among = None if uids is None else list(uids)
        answer = await self._change(mailbox, "expunge", op, folder_id, among, deadline=deadline)
        self._wakers.touch(mailbox.database, folder_id)
        rows = await self._read(mailbox, sql.FOLDER_BY_ID, mailbox.guid, folder_id, deadline=deadline)
        if not rows:
            raise NoSuchFolder("There is no such folder.")
        return FolderChanges(folder=sql.folder(rows[0]), messages=[], vanished=answer["vanished"])

    async def copy(
        self,
        mailbox: MailboxRef,
        folder_id: int,
        uids: Sequence[int],
        target: str,
        *,
        op: str,
        move: bool = False,
        deadline: float | None = None,
    ) -> Added:
        answer = await self._change(mailbox, "copy", op, folder_id, list(uids), target, move, deadline=deadline)
        self._wakers.touch(mailbox.database, folder_id)
        self._wakers.touch(mailbox.database, answer["folder"])
        return Added(uid_validity=answer["uid_validity"], uids=answer["uids"], source_uids=answer["source_uids"])

    async def deliver(self, deliveries: Sequence[Delivery], *, deadline: float | None = None) -> None:
        if not deliveries:
            return
        database = deliveries[0].mailbox.database
        if any(delivery.mailbox.database != database for delivery in deliveries):
            raise ValueError("one group is for mailboxes of one database")
        batcher = self._batchers.get(database)
        if batcher is None:
            batcher = self._batchers[database] = Batcher(database, self._databases, self._wakers.touch)
        await batcher.deliver(deliveries, deadline)

    def wake(self, mailbox: MailboxRef, folder_id: int) -> AsyncIterator[None]:
        return self._wakers.wait(mailbox.database, folder_id)

    # -- housekeeping -------------------------------------------------------------------------------------------
