"""The store on PostgreSQL: each operation one function of schema.sql, run wherever the database is active."""

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
from everpost.store.delivery import Batcher, columns
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

_FOLDER = """
select f.id, f.name, f.uid_validity, f.uid_next, f.modseq as highest_modseq, f.messages as exists, f.unseen, f.deleted,
       f.size, f.special_use, f.selectable,
       exists (select 1 from everpost_mail.subscription s where s.mailbox = f.mailbox and s.name = f.name) as subscribed
  from everpost_mail.folder f
"""
BATCH_BYTES = 4 * 1024 * 1024
"""About how much of raw messages one batch of a fetch holds in memory."""
BATCH_MESSAGES = 2000


def _folder(row: asyncpg.Record) -> Folder:
    return Folder(**dict(row))


def _states(rows: Sequence[asyncpg.Record]) -> list[MessageState]:
    return [MessageState(row["uid"], row["modseq"], frozenset(row["flags"])) for row in rows]


class PostgresStore:
    """`store.interface.Store` for one role process."""

    def __init__(self, authority: Authority, context: ssl.SSLContext) -> None:
        self._databases = Databases(authority, context)
        self._batchers: dict[str, Batcher] = {}
        self._wakers = Wakers(self._databases)

    async def close(self) -> None:
        """Abort all connections."""
        await self._wakers.close()
        self._databases.close()

    async def _read(
        self, mailbox: MailboxRef, sql: str, *arguments: Any, deadline: float | None
    ) -> list[asyncpg.Record]:
        async def work(connection: Connection) -> list[asyncpg.Record]:
            return await connection.fetch(sql, *arguments)

        return await self._databases.run(mailbox.database, work, write=False, deadline=deadline)

    async def _write(self, mailbox: MailboxRef, sql: str, *arguments: Any, deadline: float | None) -> dict[str, Any]:
        async def work(connection: Connection) -> Any:
            return await connection.fetchval(sql, *arguments)

        answer = await self._databases.run(mailbox.database, work, write=True, deadline=deadline)
        found: dict[str, Any] = json.loads(answer)
        return found

    # -- folders ------------------------------------------------------------------------------------------------

    async def list_folders(self, mailbox: MailboxRef, *, deadline: float | None = None) -> list[Folder]:
        sql = _FOLDER + " where f.mailbox = $1 order by f.name"
        rows = await self._read(mailbox, sql, mailbox.guid, deadline=deadline)
        if not rows:
            await self._ensure(mailbox, deadline)
            rows = await self._read(mailbox, sql, mailbox.guid, deadline=deadline)
        return [_folder(row) for row in rows]

    async def _ensure(self, mailbox: MailboxRef, deadline: float | None) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute("select everpost_mail.ensure_mailbox($1)", mailbox.guid)

        await self._databases.run(mailbox.database, work, write=True, deadline=deadline)

    async def get_folder(self, mailbox: MailboxRef, name: str, *, deadline: float | None = None) -> Folder:
        sql = _FOLDER + " where f.mailbox = $1 and f.name = $2"
        rows = await self._read(mailbox, sql, mailbox.guid, name, deadline=deadline)
        if not rows and name == "INBOX":
            await self._ensure(mailbox, deadline)
            rows = await self._read(mailbox, sql, mailbox.guid, name, deadline=deadline)
        if not rows:
            raise NoSuchFolder(f"There is no folder {name}.")
        return _folder(rows[0])

    async def create_folder(
        self, mailbox: MailboxRef, name: str, *, op: str, special_use: str = "", deadline: float | None = None
    ) -> Folder:
        sql = "select everpost_mail.create_folder($1, $2, $3, $4)"
        await self._write(mailbox, sql, op, mailbox.guid, name, special_use, deadline=deadline)
        return await self.get_folder(mailbox, name, deadline=deadline)

    async def delete_folder(self, mailbox: MailboxRef, name: str, *, op: str, deadline: float | None = None) -> None:
        sql = "select everpost_mail.delete_folder($1, $2, $3)"
        await self._write(mailbox, sql, op, mailbox.guid, name, deadline=deadline)

    async def rename_folder(
        self, mailbox: MailboxRef, name: str, new_name: str, *, op: str, deadline: float | None = None
    ) -> None:
        sql = "select everpost_mail.rename_folder($1, $2, $3, $4)"
        await self._write(mailbox, sql, op, mailbox.guid, name, new_name, deadline=deadline)

    async def subscribe(
        self, mailbox: MailboxRef, name: str, subscribed: bool, *, op: str, deadline: float | None = None
    ) -> None:
        sql = "select everpost_mail.subscribe($1, $2, $3, $4)"
        await self._write(mailbox, sql, op, mailbox.guid, name, subscribed, deadline=deadline)

    async def list_subscriptions(self, mailbox: MailboxRef, *, deadline: float | None = None) -> list[str]:
        await self.list_folders(mailbox, deadline=deadline)
        sql = "select name from everpost_mail.subscription where mailbox = $1 order by name"
        return [row["name"] for row in await self._read(mailbox, sql, mailbox.guid, deadline=deadline)]

    # -- reading ------------------------------------------------------------------------------------------------

    async def snapshot(self, mailbox: MailboxRef, folder_id: int, *, deadline: float | None = None) -> FolderSnapshot:
        async def work(connection: Connection) -> tuple[asyncpg.Record | None, list[asyncpg.Record]]:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                folder = await connection.fetchrow(
                    _FOLDER + " where f.mailbox = $1 and f.id = $2 and f.selectable", mailbox.guid, folder_id
                )
                messages = await connection.fetch(
                    "select uid, modseq, flags from everpost_mail.message where folder_id = $1 order by uid", folder_id
                )
            return folder, messages

        folder, messages = await self._databases.run(mailbox.database, work, write=False, deadline=deadline)
        if folder is None:
            raise NoSuchFolder("There is no such folder.")
        return FolderSnapshot(folder=_folder(folder), messages=_states(messages))

    async def changes(
        self, mailbox: MailboxRef, folder_id: int, since_modseq: int, *, deadline: float | None = None
    ) -> FolderChanges:
        async def work(
            connection: Connection,
        ) -> tuple[asyncpg.Record | None, list[asyncpg.Record], list[asyncpg.Record]]:
            sql = _FOLDER + " where f.mailbox = $1 and f.id = $2 and f.selectable"
            folder = await connection.fetchrow(sql, mailbox.guid, folder_id)
            if folder is None or folder["highest_modseq"] <= since_modseq:
                return folder, [], []
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                folder = await connection.fetchrow(sql, mailbox.guid, folder_id)
                messages = await connection.fetch(
                    "select uid, modseq, flags from everpost_mail.message where folder_id = $1 and modseq > $2"
                    " order by uid",
                    folder_id,
                    since_modseq,
                )
                vanished = await connection.fetch(
                    "select uid from everpost_mail.vanished where folder_id = $1 and modseq > $2 order by uid",
                    folder_id,
                    since_modseq,
                )
            return folder, messages, vanished

        folder, messages, vanished = await self._databases.run(mailbox.database, work, write=False, deadline=deadline)
        if folder is None:
            raise NoSuchFolder("There is no such folder.")
        return FolderChanges(
            folder=_folder(folder), messages=_states(messages), vanished=[row["uid"] for row in vanished]
        )

    async def fetch(
        self,
        mailbox: MailboxRef,
        folder_id: int,
        uids: Sequence[int],
        parts: Part,
        *,
        deadline: float | None = None,
    ) -> AsyncIterator[Sequence[MessageData]]:
        heavy = Part.RAW in parts
        wanted = list(uids)
        sizes: dict[int, int] = {}
        if heavy and wanted:
            rows = await self._read(
                mailbox,
                "select m.uid, c.size from everpost_mail.message m join everpost_mail.content c on c.id = m.content_id"
                " where m.folder_id = $1 and m.uid = any($2)",
                folder_id,
                wanted,
                deadline=deadline,
            )
            sizes = {row["uid"]: row["size"] for row in rows}
        begin = 0
        while begin < len(wanted):
            end, total = begin, 0
            while end < len(wanted) and end - begin < BATCH_MESSAGES and (end == begin or total < BATCH_BYTES):
                total += sizes.get(wanted[end], 0)
                end += 1
            yield await self._batch(mailbox, folder_id, wanted[begin:end], parts, deadline)
            begin = end

    async def _batch(
        self, mailbox: MailboxRef, folder_id: int, uids: Sequence[int], parts: Part, deadline: float | None
    ) -> list[MessageData]:
        wanted = ["m.uid", "m.modseq", "m.flags", "m.internal_date", "c.size"]
        for part, column in (
            (Part.ENVELOPE, "c.envelope"),
            (Part.BODYSTRUCTURE, "c.bodystructure"),
            (Part.BODY, "c.body"),
            (Part.STRUCTURE, "c.structure"),
            (Part.HEADER, "c.header"),
        ):
            if part in parts:
                wanted.append(column)
        if Part.RAW in parts:
            wanted.append(
                "(select string_agg(data, ''::bytea order by n) from everpost_mail.chunk k"
                " where k.content_id = c.id) as raw"
            )
        sql = (
            f"select {', '.join(wanted)} from everpost_mail.message m"
            " join everpost_mail.content c on c.id = m.content_id"
            " where m.folder_id = $1 and m.uid = any($2) order by m.uid"
        )
        found = []
        for row in await self._read(mailbox, sql, folder_id, uids, deadline=deadline):
            fields = dict(row)
            fields["flags"] = frozenset(fields["flags"])
            if Part.RAW in parts:
                fields["raw"] = fields["raw"] or b""
            found.append(MessageData(**fields))
        return found

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
        packed = await asyncio.to_thread(columns, [message.raw for message in messages])
        dates = [message.internal_date or datetime.now(UTC) for message in messages]
        flags = json.dumps([sorted(message.flags) for message in messages])
        answer = await self._write(
            mailbox,
            "select everpost_mail.append($1, $2, $3, $4, $5::jsonb, $6, $7, $8, $9, $10, $11, $12, $13)",
            op,
            mailbox.guid,
            folder_name,
            dates,
            flags,
            *packed,
            deadline=deadline,
        )
        self._wakers.touch(mailbox.database, int(answer["folder"]))
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
        answer = await self._write(
            mailbox,
            "select everpost_mail.store_flags($1, $2, $3, $4, $5, $6, $7)",
            op,
            mailbox.guid,
            folder_id,
            list(uids),
            str(mode),
            sorted(flags),
            unchanged_since,
            deadline=deadline,
        )
        self._wakers.touch(mailbox.database, folder_id)
        states = [MessageState(uid, modseq, frozenset(found)) for uid, modseq, found in answer["messages"]]
        return FlagsChanged(messages=states, modified=answer["modified"], highest_modseq=answer["highest_modseq"])

    async def expunge(
        self, mailbox: MailboxRef, folder_id: int, uids: Sequence[int] | None, *, op: str, deadline: float | None = None
    ) -> FolderChanges:
        answer = await self._write(
            mailbox,
            "select everpost_mail.expunge($1, $2, $3, $4)",
            op,
            mailbox.guid,
            folder_id,
            None if uids is None else list(uids),
            deadline=deadline,
        )
        self._wakers.touch(mailbox.database, folder_id)
        rows = await self._read(
            mailbox, _FOLDER + " where f.mailbox = $1 and f.id = $2", mailbox.guid, folder_id, deadline=deadline
        )
        if not rows:
            raise NoSuchFolder("There is no such folder.")
        return FolderChanges(folder=_folder(rows[0]), messages=[], vanished=answer["vanished"])

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
        answer = await self._write(
            mailbox,
            "select everpost_mail.copy($1, $2, $3, $4, $5, $6)",
            op,
            mailbox.guid,
            folder_id,
            list(uids),
            target,
            move,
            deadline=deadline,
        )
        self._wakers.touch(mailbox.database, folder_id)
        self._wakers.touch(mailbox.database, int(answer["folder"]))
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
