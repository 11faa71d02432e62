"""Maintenance (T-MNT-1..3, P1 to P8): planned first, recorded, resumed after a death at any write, undone exactly."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from everpost.directory import keys
from everpost.directory.schema import encode
from everpost.errors import Refused
from everpost.model.database import CopySettings
from everpost.model.server import ActivationPolicy, Role

from .organisation import Died, Organisation

THREE = ("EX1", "EX2", "EX3")


async def three() -> Organisation:
    databases = {
        "A": ("EX1", "EX2", "EX3"),
        "B": ("EX1", "EX3", "EX2"),
        "C": ("EX2", "EX1", "EX3"),
    }
    return await Organisation(THREE, databases).start()


async def test_everything_leaves_and_nothing_comes_back_by_itself() -> None:
    found = await three()
    rows = await found.run("Start-DagServerMaintenance EX1")
    assert found.active() == {"A": "EX2", "B": "EX3", "C": "EX2"}
    assert found.server("EX1").activation_policy is ActivationPolicy.BLOCKED
    assert all(one.copy("EX1").activation_suspended for one in found.view.databases.values())
    assert found.pam("D") == "EX2"
    assert rows[-1]["Detail"] == "the server may be stopped"


async def test_what_if_shows_all_of_it_and_changes_nothing() -> None:
    found = await three()
    before, writes = found.settings(), found.writes
    rows = await found.run("Start-DagServerMaintenance EX1 -WhatIf")
    assert [(row["Object"], row["Target"]) for row in rows if row["Step"] == "Move"] == [("A", "EX2"), ("B", "EX3")]
    assert (found.settings(), found.writes) == (before, writes)


async def count_of_writes(line: str, prepare: str = "") -> int:
    found = await three()
    if prepare:
        await found.run(prepare)
    before = found.writes
    await found.run(line)
    return found.writes - before


@pytest.mark.parametrize("again", ["start", "stop"])
async def test_a_start_that_died_behind_any_write_is_finished_or_undone(again: str) -> None:
    line = "Start-DagServerMaintenance EX1"
    whole = await three()
    untouched = whole.settings()
    await whole.run(line)
    writes = await count_of_writes(line)
    assert writes >= 7
    for number in range(writes):
        found = await three()
        found.die_after = number
        with pytest.raises(Died):
            await found.run(line)
        found.die_after = None
        await found.settle()
        assert found.view.maintenance, "from the first write on it is recorded"
        if again == "start":
            await found.run(line)
            assert found.settings() == whole.settings()
            assert "EX1" not in found.active().values()
            assert found.pam("D") != "EX1"
        await found.run("Stop-DagServerMaintenance EX1")
        assert found.settings() == untouched
        assert not found.view.maintenance


async def test_a_stop_that_died_behind_any_write_is_finished_by_another() -> None:
    untouched = (await three()).settings()
    start, stop = "Start-DagServerMaintenance EX1", "Stop-DagServerMaintenance EX1"
    for number in range(await count_of_writes(stop, start)):
        found = await three()
        await found.run(start)
        found.die_after = number
        with pytest.raises(Died):
            await found.run(stop)
        found.die_after = None
        await found.run(stop)
        assert found.settings() == untouched


async def test_T_MNT_2_what_was_suspended_before_stays_so() -> None:
    from msgspec.structs import replace

    from everpost.directory import keys
    from everpost.directory.schema import encode

    found = await three()
    before = replace(found.view.databases["A"], copies={"EX1": CopySettings(activation_suspended=True)})
    await found.directory.txn({}, {keys.database("A"): encode(before)})
    await found.run("Start-DagServerMaintenance EX1")
    await found.run("Stop-DagServerMaintenance EX1")
    assert found.view.databases["A"].copy("EX1").activation_suspended
    assert not found.view.databases["B"].copy("EX1").activation_suspended


async def test_what_an_administrator_changed_meanwhile_is_left_alone() -> None:
    found = await three()
    await found.run("Start-DagServerMaintenance EX1")
    await found.run("Set-MailboxServer EX1 -DatabaseCopyAutoActivationPolicy IntrasiteOnly -MaximumActiveDatabases 7")
    await found.run("Stop-DagServerMaintenance EX1")
    assert found.server("EX1").activation_policy is ActivationPolicy.INTRASITE_ONLY
    assert found.server("EX1").maximum_active_databases == 7


async def test_a_database_without_another_copy_refuses_before_anything_is_done() -> None:
    found = await Organisation(("EX1", "EX2"), {"A": ("EX1", "EX2"), "B": ("EX1",)}).start()
    with pytest.raises(Refused, match="B has no other copy"):
        await found.run("Start-DagServerMaintenance EX1 -OverrideMinimumTwoCopies")
    assert found.writes == 0


async def test_a_database_that_comes_home_again_undoes_the_start() -> None:
    found = await Organisation(THREE, {"A": THREE, "B": ("EX1", "EX3", "EX2")}).start()
    untouched = found.settings()
    found.refusing = {"EX2", "EX3"}
    with pytest.raises(Refused, match="EX1 is not in maintenance: A: It is mounted on EX1") as refused:
        await found.run("Start-DagServerMaintenance EX1")
    assert "B: It is mounted on EX1" in refused.value.what
    assert found.settings() == untouched
    assert not found.view.maintenance


async def test_T_MNT_1_two_members_need_the_override_and_are_warned() -> None:
    found = await Organisation(("EX1", "EX2"), {"A": ("EX1", "EX2")}).start()
    with pytest.raises(Refused, match="A would have one copy left, on EX2") as refused:
        await found.run("Start-DagServerMaintenance EX1")
    assert "-OverrideMinimumTwoCopies" in refused.value.remedy
    assert found.writes == 0
    await found.run("Start-DagServerMaintenance EX1 -OverrideMinimumTwoCopies")
    assert found.active() == {"A": "EX2"}
    assert found.warnings == ["A would have one copy left, on EX2"]


async def test_T_MNT_3_the_second_server_is_refused() -> None:
    found = await Organisation(("EX1", "EX2"), {"A": ("EX1", "EX2"), "B": ("EX2", "EX1")}).start()
    await found.run("Start-DagServerMaintenance EX1 -OverrideMinimumTwoCopies")
    with pytest.raises(Refused) as refused:
        await found.run("Start-DagServerMaintenance EX2 -OverrideMinimumTwoCopies")
    assert "A would have no copy left (EX1 is in maintenance)" in refused.value.what
    assert "lose its quorum (1 of 3 voters left: W; 2 are needed)" in refused.value.what


async def test_a_dead_witness_is_a_lost_quorum_but_not_a_dead_bystander() -> None:
    found = await Organisation(("EX1", "EX2"), {"A": ("EX1", "EX2")}).start()
    found.answering.clear()
    with pytest.raises(Refused, match="lose its quorum"):
        await found.run("Start-DagServerMaintenance EX1 -OverrideMinimumTwoCopies")


async def test_limits_count_what_the_plan_itself_brings() -> None:
    found = await Organisation(THREE, {"A": THREE, "B": THREE, "C": THREE}).start()
    await found.run("Set-MailboxServer EX2 -MaximumActiveDatabases 1")
    await found.run("Set-MailboxServer EX3 -MaximumActiveDatabases 1")
    with pytest.raises(Refused, match="C cannot be moved away"):
        await found.run("Start-DagServerMaintenance EX1")
    await found.run("Set-MailboxServer EX3 -MaximumActiveDatabases 2")
    await found.run("Start-DagServerMaintenance EX1")
    assert sorted(found.active().values()) == ["EX2", "EX3", "EX3"]


async def test_moves_report_a_database_that_went_home_and_each_refusal() -> None:
    found = await three()
    found.refusing = {"EX2"}
    [row] = await found.run("Move-ActiveMailboxDatabase A -ActivateOnServer EX2")
    assert (row["Status"], row["ActiveServerAtEnd"], row["MountStatusAtMoveEnd"]) == ("Failed", "EX1", "Mounted")
    with pytest.raises(Refused, match="is Blocked"):
        await found.run("Set-MailboxServer EX3 -DatabaseCopyAutoActivationPolicy Blocked")
        await found.run("Move-ActiveMailboxDatabase B -ActivateOnServer EX3 -TerminateOnWarning")
    found.alive.discard("EX3")
    rows = await found.run("Move-ActiveMailboxDatabase -Server EX1 -ActivateOnServer EX3")
    assert {row["Status"] for row in rows} == {"Failed"}
    assert all("does not hold its tenure" in row["ErrorMessage"] for row in rows)


async def test_clients_are_sent_elsewhere_while_there_is_somewhere_else() -> None:
    """The start says what becomes of the server's clients; the end takes it back with the record."""
    found = await Organisation(("EX01", "EX02", "EX03"), {"MB01": ("EX01", "EX02", "EX03")}).start()

    async def serves_clients(name: str) -> None:
        document = replace(found.server(name), roles=(Role.MAILBOX, Role.CLIENT_ACCESS))
        await found._write({}, {keys.server(name): encode(document)})

    await serves_clients("EX01")
    rows = await found.run("Start-DagServerMaintenance EX01")
    assert "Send clients elsewhere" not in [row["Step"] for row in rows]
    assert any("No other server has the role clientaccess" in text for text in found.warnings)
    await found.run("Stop-DagServerMaintenance EX01")
    await serves_clients("EX02")
    rows = await found.run("Start-DagServerMaintenance EX01")
    planned = await found.run("Start-DagServerMaintenance EX01 -WhatIf")
    for shown in (rows, planned):
        told = [(row["Object"], row["Target"]) for row in shown if row["Step"] == "Send clients elsewhere"]
        assert told == [("clientaccess", "EX02")]
    assert found.view.drained("EX01", Role.CLIENT_ACCESS)
    await found.run("Stop-DagServerMaintenance EX01")
    assert not found.view.drained("EX01", Role.CLIENT_ACCESS)
