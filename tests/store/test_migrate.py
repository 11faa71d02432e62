"""The schema is made once, may be made again, and a version nobody can update is refused."""

from __future__ import annotations

from typing import Any

import pytest

from everpost.errors import Refused
from everpost.store import migrate

from .conftest import OneServer


async def test_the_schema_is_made_once_and_may_be_made_again(server: OneServer) -> None:
    async def again(connection: Any) -> None:
        async with connection.transaction():
            await connection.execute(f"comment on schema everpost_mail is 'version {migrate.OLDEST}'")
            await migrate.migrate(connection, lossy=False)
            comment = await connection.fetchval("select obj_description('everpost_mail'::regnamespace)")
            assert comment == f"version {migrate.VERSION}"
            for text in migrate.scripts():
                await connection.execute(text)

    async def refused(connection: Any) -> None:
        async with connection.transaction():
            await connection.execute("comment on schema everpost_mail is 'version 1'")
            await migrate.migrate(connection, lossy=False)

    await server.engine._mail.ask(again)
    with pytest.raises(Refused):
        await server.engine._mail.ask(refused)
