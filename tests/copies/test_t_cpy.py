"""Copies on real PostgreSQL and etcd: T-CPY-1 to T-CPY-6 of the specification, as an administrator meets them."""

from __future__ import annotations

import pytest

from .conftest import World

pytestmark = [pytest.mark.netns, pytest.mark.timeout(240)]


def test_T_CPY_1_a_second_copy_on_one_server_is_refused(world: World) -> None:
    said = world.refused("Add-MailboxDatabaseCopy -Identity MB01 -MailboxServer EX01")
    assert "EX01 holds a copy of MB01 already" in said and "Name another member" in said


def test_T_CPY_2_circular_logging_bars_the_second_copy(world: World) -> None:
    world.shell("Set-MailboxDatabase MB01 -CircularLoggingEnabled $true")
    said = world.refused("Add-MailboxDatabaseCopy -Identity MB01 -MailboxServer EX02")
    assert "circular logging" in said and "-CircularLoggingEnabled $false" in said
    assert [row["Name"] for row in world.shell("Get-MailboxDatabaseCopyStatus MB01")] == ["MB01\\EX01"]
    world.shell("Set-MailboxDatabase MB01 -CircularLoggingEnabled $false")
    world.shell("Add-MailboxDatabaseCopy -Identity MB01 -MailboxServer EX02")
    world.shell("Set-MailboxDatabase MB01 -CircularLoggingEnabled $true")
    world.shell("Add-MailboxDatabaseCopy -Identity MB01 -MailboxServer EX03 -SeedingPostponed")
    postponed = world.copy("MB01\\EX03")
    assert postponed["Status"] == "Suspended" and "postponed" in postponed["SuspendComment"]
    world.shell("Update-MailboxDatabaseCopy MB01\\EX03")
    world.wait("MB01\\EX03", Status="Healthy", Synchronous=True)


def test_T_CPY_3_an_activation_preference_beyond_the_copies_is_refused(world: World) -> None:
    said = world.refused("Set-MailboxDatabaseCopy MB01\\EX02 -ActivationPreference 4")
    assert "With 3 copies it is 1 to 3" in said
    world.shell("Set-MailboxDatabaseCopy MB01\\EX03 -ActivationPreference 1")
    order = {row["ActivationPreference"]: row["MailboxServer"] for row in world.shell("Get-MailboxDatabaseCopyStatus")}
    assert order == {1: "EX03", 2: "EX01", 3: "EX02"}
    world.shell("Set-MailboxDatabaseCopy MB01\\EX03 -ActivationPreference 3")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Suspend-MailboxDatabaseCopy MB01\\EX01", "is the active copy"),
        ("Suspend-MailboxDatabaseCopy MB01", "which one"),
        (f"Suspend-MailboxDatabaseCopy MB01\\EX02 -SuspendComment {'x' * 513}", "512 at the most"),
        ("Set-MailboxDatabaseCopy MB01\\EX02 -ReplayLagTime 15.00:00:00", "longer than 14 days"),
        ("Set-MailboxDatabaseCopy MB01\\EX02 -ReplayLagTime tomorrow", "hh:mm:ss"),
        ("Update-MailboxDatabaseCopy MB01\\EX02", "Suspend-MailboxDatabaseCopy MB01\\EX02 first"),
        ("Update-MailboxDatabaseCopy MB01\\EX01", "is the active copy"),
        ("Update-MailboxDatabaseCopy MB01\\EX02 -CancelSeed", "is not being seeded"),
        ("Update-MailboxDatabaseCopy MB01\\EX02 -Force -SourceServer EX02", "from itself"),
        ("Remove-MailboxDatabaseCopy MB01\\EX01", "is the active copy"),
    ],
)
def test_refusals_say_what_to_type(world: World, line: str, words: str) -> None:
    assert words in world.refused(line)


def test_a_suspended_copy_leaves_the_set_and_rejoins_after_resume(world: World) -> None:
    world.shell('Suspend-MailboxDatabaseCopy MB01\\EX02 -SuspendComment "new disk"')
    row = world.copy("MB01\\EX02")
    assert (row["Status"], row["Synchronous"], row["SuspendComment"]) == ("Suspended", False, "new disk")
    assert row["ActivationSuspended"] is True
    assert world.o.server("EX02").postmaster("MB01") is None or not _alive(world, "EX02")
    world.write("EX01", "MB01", 1)
    assert world.copy("MB01\\EX01")["Resilience"] == "EX03"
    world.shell("Resume-MailboxDatabaseCopy MB01\\EX02")
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=True, SuspendComment="", ActivationSuspended=False)
    world.row_there("EX02", "MB01", 1)


def _alive(world: World, server: str) -> bool:
    try:
        world.sql(server, "MB01", "select 1")
    except Exception:
        return False
    return True


def test_activation_only_stays_over_a_replication_only_resume(world: World) -> None:
    world.shell("Suspend-MailboxDatabaseCopy MB01\\EX01 -ActivationOnly")
    assert world.copy("MB01\\EX01")["Status"] == "Mounted"
    world.shell("Suspend-MailboxDatabaseCopy MB01\\EX02 -ActivationOnly")
    world.shell("Suspend-MailboxDatabaseCopy MB01\\EX02")
    world.shell("Resume-MailboxDatabaseCopy MB01\\EX02 -ReplicationOnly")
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=True, ActivationSuspended=True)
    for server in ("EX01", "EX02"):
        world.shell(f"Resume-MailboxDatabaseCopy MB01\\{server}")
        assert world.copy(f"MB01\\{server}")["ActivationSuspended"] is False
