"""Limits of a database availability group that no test has real servers enough for (T-DAG-6)."""

from __future__ import annotations

import pytest

from everpost.directory import keys
from everpost.directory.schema import encode
from everpost.errors import Refused
from everpost.model.server import Role, Server

from .organisation import DAG, Organisation

SIXTEEN = tuple(f"EX{number}" for number in range(1, 17))


async def test_T_DAG_6_the_seventeenth_server_is_refused() -> None:
    found = await Organisation(SIXTEEN, {}).start()
    one = Server(name="EX17", address="EX17", replication_address="EX17", roles=(Role.MAILBOX,))
    await found._write({}, {keys.server("EX17"): encode(one)})
    before = found.writes
    with pytest.raises(Refused, match=r"D has 16 members, which is the most\."):
        await found.run(f"Add-DatabaseAvailabilityGroupServer {DAG} EX17")
    assert found.view.dags[DAG].members == SIXTEEN
    assert found.writes == before
