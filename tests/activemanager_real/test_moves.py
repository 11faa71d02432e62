"""Moves, mounts and what a stop does, on two real servers."""

from __future__ import annotations

import pytest

from everpost.lab.organisation import CommandFailed

from .conftest import World

pytestmark = [pytest.mark.netns, pytest.mark.timeout(300)]


def test_a_switchover_says_what_it_did_and_a_second_one_that_it_was_not_needed(world: World) -> None:
    world.home()
    [row] = world.first.rows("Move-ActiveMailboxDatabase MB01 EX02 -MoveComment 'patch day' -Confirm:$false")
    assert row["Status"] == "Succeeded"
    assert (row["ActiveServerAtStart"], row["ActiveServerAtEnd"], row["NumberOfLogsLost"]) == ("EX01", "EX02", 0)
    [again] = world.first.rows("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX02")
    assert again["Status"] == "NotNeeded"


def test_a_what_if_shows_the_ranking_and_changes_nothing(world: World) -> None:
    world.home()
    before = world.o.status()
    rows = world.first.rows("Move-ActiveMailboxDatabase MB01 -WhatIf")
    assert {row["Server"]: row["Place"] for row in rows} == {"EX02": 1, "EX01": None}
    assert {row["Server"]: row["Reason"] for row in rows}["EX01"] == "is the active now"
    after = world.o.status()
    assert {name: row["Epoch"] for name, row in before.items()} == {name: row["Epoch"] for name, row in after.items()}


def test_a_server_switchover_has_a_row_for_each_database(world: World) -> None:
    world.home()
    world.first.rows("Move-ActiveMailboxDatabase MB02 -ActivateOnServer EX01")
    world.whole()
    rows = world.first.rows("Move-ActiveMailboxDatabase -Server EX01")
    assert {row["Identity"]: row["Status"] for row in rows} == {"MB01": "Succeeded", "MB02": "Succeeded"}
    assert {row["ActiveServerAtEnd"] for row in rows} == {"EX02"}
    world.whole()
    rows = world.first.rows("Move-ActiveMailboxDatabase -ActivatePreferredOnServer EX01")
    assert [(row["Identity"], row["ActiveServerAtEnd"]) for row in rows] == [("MB01", "EX01")]
    world.whole()


def test_refusals_say_what_why_and_what_to_type(world: World) -> None:
    world.home()
    with pytest.raises(CommandFailed, match="Which databases"):
        world.first.rows("Move-ActiveMailboxDatabase -ActivateOnServer EX02")
    with pytest.raises(CommandFailed, match="is no mount dial"):
        world.first.rows("Move-ActiveMailboxDatabase MB01 -MountDialOverride Sometimes")


def test_T_AM_6_a_dismounted_database_stays_so_when_manager_and_servers_change(world: World) -> None:
    world.home()
    world.first.rows("Dismount-Database MB01")
    world.o.wait(lambda: world.location("MB01") == ("EX01", "Dismounted"), 5, "shown as dismounted")
    with pytest.raises(CommandFailed, match="is dismounted"):
        world.first.rows("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX02")
    [dag] = world.second.rows("Get-DatabaseAvailabilityGroup -Status")
    manager = world.o.server(dag["PrimaryActiveManager"])
    other = world.second if manager is world.first else world.first
    manager.host.cut()
    try:
        world.o.wait(
            lambda: other.rows("Get-DatabaseAvailabilityGroup -Status", 5.0)[0]["PrimaryActiveManager"] == other.name,
            20,
            "another manager",
        )
        world.mounted_on("MB02", other.name, other)
        assert world.location("MB01", other) == ("EX01", "ServiceDown" if manager is world.first else "Dismounted")
    finally:
        manager.host.mend()
    world.o.wait(lambda: world.location("MB01", other) == ("EX01", "Dismounted"), 30, "still dismounted")
    world.first.rows("Mount-Database MB01")
    world.mounted_on("MB01", "EX01")


def test_T_AM_7_a_server_that_stops_hands_over_first(world: World) -> None:
    world.home()
    log = world.second.data / "log" / "agent.log"
    said = log.stat().st_size
    world.first.stop()
    assert world.location("MB01", world.second) == ("EX02", "Mounted"), "it is mounted elsewhere when the stop ends"
    assert "tenure taken" not in log.read_text()[said:], "it was a failover, not a handover"
    world.first.start()
    world.o.wait_agent(world.first)
    world.whole()
