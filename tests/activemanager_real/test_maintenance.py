"""Maintenance of one of two servers, and the settings that guard activation, on real servers."""

from __future__ import annotations

import pytest

from everpost.lab.organisation import CommandFailed

from .conftest import World

pytestmark = [pytest.mark.netns, pytest.mark.timeout(300)]


def settings(world: World, name: str) -> dict[str, object]:
    [row] = world.second.rows(f"Get-MailboxServer {name}")
    return row


def test_T_MNT_1_on_two_members_it_warns_works_with_the_override_and_is_never_half_done(world: World) -> None:
    before = settings(world, "EX01")
    shown = world.second.rows("Start-DagServerMaintenance EX01 -WhatIf")
    assert {row["Status"] for row in shown} == {"NeedsOverride", "Planned"}
    with pytest.raises(CommandFailed, match="MB01 would have one copy left") as refused:
        world.second.rows("Start-DagServerMaintenance EX01")
    assert "-OverrideMinimumTwoCopies" in refused.value.remedy
    assert settings(world, "EX01") == before
    assert world.location("MB01") == ("EX01", "Mounted")

    rows = world.second.rows("StartDagServerMaintenance.ps1 -serverName EX01 -overrideMinimumTwoCopies")
    assert [row["Target"] for row in rows if row["Step"] == "Move"] == ["EX02"]
    assert settings(world, "EX01")["DatabaseCopyAutoActivationPolicy"] == "Blocked"
    assert settings(world, "EX01")["Maintenance"] == "active"
    [dag] = world.second.rows("Get-DatabaseAvailabilityGroup -Status")
    assert dag["PrimaryActiveManager"] == "EX02"
    [again] = world.second.rows("Start-DagServerMaintenance EX01 -OverrideMinimumTwoCopies")
    assert again["Status"] == "NotNeeded"


def test_T_MNT_3_the_second_of_two_servers_is_refused_with_a_list(world: World) -> None:
    world.whole()
    with pytest.raises(CommandFailed) as refused:
        world.first.rows("Start-DagServerMaintenance EX02 -OverrideMinimumTwoCopies")
    text = str(refused.value)
    assert "MB01 would have no copy left (EX01 is in maintenance)" in text
    assert "MB02 would have no copy left (EX01 is in maintenance)" in text
    assert "the directory would lose its quorum" in text
    assert settings(world, "EX02")["Maintenance"] is None


def test_a_server_in_maintenance_survives_its_restart_and_gets_nothing_by_itself(world: World) -> None:
    world.first.stop()
    world.first.start()
    world.o.wait_agent(world.first)
    world.whole()
    assert settings(world, "EX01")["Maintenance"] == "active"
    rows = world.second.rows("Move-ActiveMailboxDatabase MB01 -WhatIf")
    assert {row["Server"]: row["Reason"] for row in rows}["EX01"] == "EX01 is in maintenance"
    with pytest.raises(CommandFailed, match="EX01 is in maintenance"):
        world.second.rows("Move-ActiveMailboxDatabase MB01")
    [row] = world.second.rows("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX01")
    assert row["Status"] == "Succeeded", row["ErrorMessage"]
    world.whole()
    [row] = world.second.rows("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX02")
    assert row["Status"] == "Succeeded"
    world.whole()


def test_T_MNT_2_the_end_restores_exactly_what_was_changed(world: World) -> None:
    world.second.rows("Stop-DagServerMaintenance EX01")
    after = settings(world, "EX01")
    assert (after["Maintenance"], after["DatabaseCopyAutoActivationPolicy"]) == (None, "Unrestricted")
    world.second.rows("Set-MailboxServer EX01 -DatabaseCopyAutoActivationPolicy IntrasiteOnly")
    world.second.rows("Start-DagServerMaintenance EX01 -OverrideMinimumTwoCopies")
    world.second.rows("StopDagServerMaintenance.ps1 -serverName EX01")
    assert settings(world, "EX01")["DatabaseCopyAutoActivationPolicy"] == "IntrasiteOnly"
    [again] = world.second.rows("Stop-DagServerMaintenance EX01")
    assert again["Status"] == "NotNeeded"
    world.second.rows("Set-MailboxServer EX01 -DatabaseCopyAutoActivationPolicy Unrestricted")
    world.home()


def test_limits_refuse_a_move_and_null_takes_them_away(world: World) -> None:
    world.second.rows("Set-MailboxServer EX02 -MaximumActiveDatabases 1")
    with pytest.raises(CommandFailed, match="MaximumActiveDatabases is 1"):
        world.second.rows("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX02")
    [row] = world.second.rows("Move-ActiveMailboxDatabase MB01 EX02 -SkipMaximumActiveDatabasesChecks")
    assert row["Status"] == "Succeeded"
    [row] = world.second.rows("Set-MailboxServer EX02 -MaximumActiveDatabases $null")
    assert row["MaximumActiveDatabases"] is None
    with pytest.raises(CommandFailed, match="BestEffort is no setting"):
        world.second.rows("Set-MailboxServer EX02 -AutoDatabaseMountDial BestEffort")


def test_redistribution_shows_and_moves(world: World) -> None:
    world.whole()
    rows = world.second.rows(
        "Redistribute-ActiveDatabases -BalanceDbsByActivationPreference -LogEvents -Confirm:$false"
    )
    assert [(row["Identity"], row["Target"], row["Status"]) for row in rows] == [("MB01", "EX01", "Succeeded")]
    world.whole()
    rows = world.second.rows("RedistributeActiveDatabases.ps1 -ShowFinalDatabaseDistribution")
    assert [(row["ServerName"], row["TotalDbs"], row["ActiveDbs"]) for row in rows] == [("EX01", 2, 1), ("EX02", 2, 1)]
    assert rows[0]["PreferenceCountList"] == [1, 1]
    world.o.wait(lambda: len(world.first.rows("Get-EverpostEvent -Id 4115")) == 1, 10, "the event of the journal")
