"""Brings the store's schema up to date, in the transaction that opens a database."""

from __future__ import annotations

from importlib import resources
from typing import Any, Protocol

from everpost.errors import Refused


class Connection(Protocol):
    """What is needed of an asyncpg connection."""

    async def execute(self, query: str, *args: Any) -> str: ...
    async def fetchval(self, query: str, *args: Any) -> Any: ...


VERSION = 5
"""Raised with every change of the scripts."""
OLDEST = 2
"""The scripts may be run again on any version from this one on."""
_SCRIPTS = ("schema.sql", "folders.sql", "messages.sql", "grants.sql")


def scripts() -> list[str]:
    """What makes the schema, in order."""
    return [resources.files("everpost.store").joinpath(name).read_text() for name in _SCRIPTS]


async def upkeep(connection: Connection) -> None:
    """Forget operation ids of more than 7 days, at most a day of them and once a day, so that a clock that jumped
    cannot make the store forget what hubs may still repeat (3.10). May be called as often as one likes."""
    await connection.fetchval("select everpost_mail.upkeep()")


async def covered(connection: Connection) -> None:
    """Count UIDs given while single anew (3.4): no copy lacks any, as the set has a member, or no other copy is."""
    await connection.execute("select everpost_mail.covered()")


async def migrate(connection: Connection, *, lossy: bool, anew: bool = False) -> None:
    """Create or update the schema if it is older than this release, then jump the UIDs if the activation is lossy.

    `anew`: every folder has another UIDVALIDITY, as what was removed from it comes back by this opening (LAG-6).
    Runs after the row of `everpost.opening` was written, in its transaction: MODSEQs begin at the new epoch. A schema
    of a newer release is left alone: what a later release adds, this one passes over. Raises Refused for one that is
    older than OLDEST.
    """
    comment = await connection.fetchval("select obj_description(to_regnamespace('everpost_mail'))")
    known = int(comment.removeprefix("version ")) if comment else None
    if known is not None and known < OLDEST:
        raise Refused(
            f"The mail schema has version {known}; this release updates from {OLDEST} on.",
            remedy="Open the database with the release between them first.",
        )
    if known is None or known < VERSION:
        for script in scripts():
            await connection.execute(script)
        await connection.execute(f"comment on schema everpost_mail is 'version {VERSION}'")
    if lossy:
        await connection.execute("select everpost_mail.lossy_jump()")
    if anew:
        await connection.execute(
            "update everpost_mail.folder set uid_validity = everpost_mail.new_uid_validity(mailbox)"
        )
