"""What every new database needs once, made by its first activation and found there by all later ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg

from everpost.databases import config
from everpost.databases.connection import connect
from everpost.errors import Unavailable
from everpost.model.database import Token

_REWIND_FUNCTIONS = (
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)

_CONTROL = f"""
create schema if not exists everpost;
create table if not exists everpost.opening (
    generation bigint not null,
    epoch bigint not null,
    server text not null,
    timeline bigint not null,
    begin_lsn bigint not null,
    nonce text not null,
    opened_at timestamptz not null default clock_timestamp(),
    primary key (generation, epoch)
);
grant usage on schema everpost to {config.STORE};
grant select on everpost.opening to {config.STORE};
grant create on database {config.MAIL} to {config.STORE};
grant create on schema public to {config.STORE};
"""


async def bootstrap(sockets: Path, port: int) -> None:
    """Roles, the database `mail` and the control table; changes nothing that is there."""
    try:
        server = await connect(sockets, port, "postgres")
        try:
            await _roles(server)
            if not await server.fetchval("select true from pg_database where datname = $1", config.MAIL):
                await server.execute(f"create database {config.MAIL}")
        finally:
            server.terminate()
        mail = await connect(sockets, port, config.MAIL)
        try:
            if await mail.fetchval("select to_regclass('everpost.opening')") is None:
                async with mail.transaction():
                    await mail.execute(_CONTROL)
        finally:
            mail.terminate()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(f"The database on port {port} could not be set up: {error}.") from error


async def _roles(server: asyncpg.Connection[asyncpg.Record]) -> None:
    if await server.fetchval("select count(*) from pg_roles where rolname like 'everpost\\_%'") == 2:
        return
    async with server.transaction():
        for role, attributes in ((config.REPLICATION, "login replication"), (config.STORE, "login")):
            if not await server.fetchval("select true from pg_roles where rolname = $1", role):
                await server.execute(f"create role {role} {attributes}")
        # What pg_rewind reads of its source, and the checkpoint that it needs first (PostgreSQL manual, pg_rewind).
        for function in _REWIND_FUNCTIONS:
            await server.execute(f"grant execute on function {function} to {config.REPLICATION}")
        await server.execute(f"grant pg_checkpoint to {config.REPLICATION}")


async def forget_openings(connection: Any, tokens: Sequence[Token]) -> None:
    """Rows of openings that nobody recorded."""
    for token in tokens:
        await connection.execute(
            "delete from everpost.opening where generation = $1 and epoch = $2", token.generation, token.epoch
        )
