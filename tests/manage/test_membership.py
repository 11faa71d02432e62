"""Limits of a database availability group that no test has real servers enough for (T-DAG-6)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from everpost.directory import keys
from everpost.directory.schema import encode
from everpost.errors import Refused
from everpost.model.database import Member
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


async def test_T_DAG_7_a_lost_server_with_copies_stays_and_the_refusal_says_what_to_type() -> None:
    databases = {"MB01": ("EX01", "EX02"), "MB02": ("EX02", "EX03"), "MB03": ("EX01", "EX03")}
    found = await Organisation(("EX01", "EX02", "EX03"), databases).start()
    found.alive.discard("EX02")
    before = found.writes
    with pytest.raises(Refused, match=r"copies of replicated databases: MB01\\EX02, MB02\\EX02\.") as refused:
        await found.run(f"Remove-DatabaseAvailabilityGroupServer {DAG} EX02 -ConfigurationOnly")
    lines = refused.value.remedy.removeprefix("Type first: ").split(". ")[0].split("; ")
    assert lines == [
        r"Remove-MailboxDatabaseCopy MB01\EX02",
        "Mount-Database MB02 -AcceptDataLoss",
        r"Remove-MailboxDatabaseCopy MB02\EX02",
    ]
    assert found.writes == before and "EX02" in found.view.dags[DAG].members


async def test_T_DAG_8_nobody_waits_for_a_copy_on_the_removed_server() -> None:
    databases = {"MB01": ("EX01", "EX02", "EX03"), "MB02": ("EX03", "EX01"), "MB03": ("EX02",)}
    found = await Organisation(("EX01", "EX02", "EX03"), databases).start()
    found.alive.discard("EX02")
    await found.run(r"Remove-MailboxDatabaseCopy MB01\EX02")
    # As a record is that was changed by something that did not know of the removal.
    location, revision = found.view.locations["MB02"]
    ghost = Member("EX02", "1")
    again = replace(location, set=(*location.set, ghost), eligible=(*location.eligible, ghost))
    await found._write({keys.location("MB02"): revision}, {keys.location("MB02"): encode(again)})
    await found.run(f"Remove-DatabaseAvailabilityGroupServer {DAG} EX02 -ConfigurationOnly")
    assert found.view.dags[DAG].members == ("EX01", "EX03")
    for name in ("MB01", "MB02"):
        location, _ = found.view.locations[name]
        assert not any(member.server == "EX02" for member in (*location.set, *location.eligible)), name
        assert "EX02" not in found.view.databases[name].servers
        assert location.set, "the others are waited for as before"
    assert any("MB03" in text and "Remove-MailboxDatabase" in text for text in found.warnings)
