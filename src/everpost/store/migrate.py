"""Brings the store's schema up to date, in the transaction that opens a database."""

from __future__ import annotations

from importlib import resources
from typing import Any, Protocol


class Connection(Protocol):
    """What is needed of an asyncpg connection."""

    async def execute(self, query: str, *args: Any) -> str: ...
    async def fetchval(self, query: str, *args: Any) -> Any: ...


VERSION = 1


async def migrate(connection: Connection, *, lossy: bool) -> None:
    """Create or update the schema if it is older than this release, then jump the UIDs if the activation is lossy.

    Everything in schema.sql may be run again on any earlier version of it.
    """
    known = await connection.fetchval("select obj_description(to_regnamespace('everpost_mail'))")
    if known != f"version {VERSION}":
        await connection.execute(resources.files("everpost.store").joinpath("schema.sql").read_text())
        await connection.execute(f"comment on schema everpost_mail is 'version {VERSION}'")
    if lossy:
        await connection.execute("select everpost_mail.lossy_jump()")
