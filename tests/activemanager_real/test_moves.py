"""Moves, mounts and what a stop does, on two real servers."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest

from everpost.lab.organisation import CommandFailed, Server

from .conftest import World, kill_everything

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


def test_T_AM_6_a_dismount_ordered_in_the_middle_of_a_failover_ends_closed(world: World) -> None:
    """The failover is held up by a postmaster that stands still; the order comes while EX02 activates its copy."""
    world.home()
    log = world.second.data / "log" / "agent.log"
    said = log.stat().st_size
    world.first.host.cut()
    try:
        postmaster = world.second.postmaster("MB01")
        assert postmaster is not None
        os.kill(postmaster, signal.SIGSTOP)
        world.o.wait(lambda: _decided(log.read_text()[said:]), 20, "the failover has begun")
        ordering = threading.Thread(target=_ask, args=(world.second, "Dismount-Database MB01"))
        ordering.start()
        time.sleep(0.3)
        with contextlib.suppress(ProcessLookupError):
            os.kill(postmaster, signal.SIGCONT)
        ordering.join(90)
        world.o.wait(lambda: world.location("MB01", world.second)[1] == "Dismounted", 60, "it ends closed")
    finally:
        world.first.host.mend()
    world.o.wait(lambda: _tenure(world, "EX01"), 30, "EX01 back")
    assert world.location("MB01", world.second) == ("EX02", "Dismounted"), "nobody opens it without a word"
    world.o.retry(lambda: world.second.rows("Mount-Database MB01"))  # EX01 has come back at this moment
    world.whole()


def _decided(text: str) -> bool:
    return any("activation decided" in line and "MB01" in line for line in text.splitlines())


def _tenure(world: World, name: str) -> bool:
    return bool(world.second.rows(f"Get-ExchangeServer {name}", 5.0)[0]["Tenure"])


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


def test_a_passive_server_that_stops_leaves_the_sets_first(world: World) -> None:
    """No commit waits a second for it: it is taken out by its own word, not because somebody waited."""
    world.home()
    log = world.first.data / "log" / "agent.log"
    said = log.stat().st_size
    world.second.stop()
    world.o.wait(lambda: not world.first.rows("Get-ExchangeServer EX02", 5.0)[0]["Tenure"], 20, "EX02 gone")
    assert "a commit waited" not in log.read_text()[said:]
    world.second.start()
    world.o.wait_agent(world.second)
    world.whole()


def test_T_AM_4_a_blocked_server_is_skipped_by_a_failover_and_taken_when_named(world: World) -> None:
    world.home()
    world.first.rows("Set-MailboxServer EX02 -DatabaseCopyAutoActivationPolicy Blocked")
    log = world.second.data / "log" / "agent.log"
    said = log.stat().st_size
    world.first.host.cut()
    try:
        world.o.wait(lambda: "no copy can be activated" in log.read_text()[said:], 30, "the failover finds no copy")
        assert "the DatabaseCopyAutoActivationPolicy of EX02 is Blocked" in log.read_text()[said:]
        assert world.location("MB01", world.second) == ("EX01", "ServiceDown")
        with pytest.raises(CommandFailed, match="has every acknowledged change of MB01, but"):
            world.second.rows("Mount-Database MB01 -MountDialOverride BestEffort -AcceptDataLoss")
        [row] = world.second.rows("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX02")
        assert (row["Status"], row["ActiveServerAtEnd"], row["NumberOfLogsLost"]) == ("Succeeded", "EX02", 0)
    finally:
        world.first.host.mend()
        world.second.rows("Set-MailboxServer EX02 -DatabaseCopyAutoActivationPolicy Unrestricted")
    world.whole()


def test_T_AM_5_a_manager_that_dies_in_a_move_leaves_it_to_the_next(world: World) -> None:
    world.home()
    world.first.rows("Move-PrimaryActiveManager -ActivateOnServer EX01")
    [dag] = world.second.rows("Get-DatabaseAvailabilityGroup -Status")
    assert dag["PrimaryActiveManager"] == "EX01"
    log = world.first.data / "log" / "agent.log"
    said = log.stat().st_size
    asking = threading.Thread(target=_ask, args=(world.first, "Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX02"))
    asking.start()
    world.o.wait(lambda: "switchover ordered" in log.read_text()[said:], 20, "the move has begun")
    kill_everything(world.first)
    asking.join(30)
    world.mounted_on("MB01", "EX02", world.second)
    # The move may have been complete but for its answer: then the role follows when its holder's tenure has run out.
    world.o.wait(
        lambda: world.second.rows("Get-DatabaseAvailabilityGroup -Status")[0]["PrimaryActiveManager"] == "EX02",
        20,
        "EX02 is the Primary Active Manager",
    )
    world.first.start()
    world.o.wait_agent(world.first)
    world.whole()


def _ask(server: Server, line: str) -> None:
    with contextlib.suppress(CommandFailed):
        server.rows(line)
