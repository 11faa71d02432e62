"""Copies on real PostgreSQL and etcd: T-CPY-1 to T-CPY-6 of the specification, as an administrator meets them."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime

import pytest

from everpost.databases import processes

from .conftest import KEEP_LOGS, World

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


def test_a_damaged_page_is_found_and_the_copy_healed_from_the_good_one(world: World) -> None:
    world.whole()
    before = world.incarnation("EX02")
    victim = max((world.pgdata("EX02") / "base" / "4").glob("[0-9]*"), key=lambda path: path.stat().st_size)
    with victim.open("r+b") as file:
        file.seek(4000)
        file.write(b"\xff" * 64)
    world.wait("MB01\\EX02", Status="FailedAndSuspended")
    assert f"/{victim.name}" in world.facts("EX02", "copy suspended itself")[-1]["why"]
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=True, ErrorMessage="")
    assert world.incarnation("EX02") != before
    assert world.copy("MB01\\EX03")["Status"] == "Healthy"


def test_T_CPY_4_a_suspended_copy_costs_bounded_disk_and_is_seeded_anew(world: World) -> None:
    world.whole()
    before = world.incarnation("EX02")
    world.shell("Suspend-MailboxDatabaseCopy MB01\\EX02")
    rounds, each = 7, 100
    switch = "perform pg_logical_emit_message(false, 'test', 'x'); perform pg_switch_wal();"
    for _ in range(rounds):
        world.sql("EX01", "MB01", f"do $$ begin for i in 1..{each} loop {switch} end loop; end $$")
        world.sql("EX01", "MB01", "checkpoint")
    kept = sum(path.stat().st_size for path in (world.pgdata("EX01") / "pg_wal").iterdir() if path.is_file())
    # What is kept for absent copies, what recycling holds ready, and the logs since the last checkpoint but one.
    assert kept >> 20 < KEEP_LOGS + 4 * each < rounds * each
    world.o.wait(lambda: world.copy("MB01\\EX02")["CopyQueueLength"] >= rounds * each, 10, "the queue is shown")
    world.shell("Resume-MailboxDatabaseCopy MB01\\EX02")
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=True)
    assert world.incarnation("EX02") != before
    assert "does not have the log any more" in world.facts("EX02", "seeding")[-1]["why"]


def test_T_CPY_5_resuming_without_repair_fails_again(world: World) -> None:
    world.whole()
    cause = world.pgdata("EX01") / "base" / "unreadable"
    cause.touch(0o600)  # ours, not PostgreSQL's: no base backup can be taken of the active
    world.shell("Update-MailboxDatabaseCopy MB01\\EX02 -Force -DeleteExistingFiles -BeginSeed")
    world.wait("MB01\\EX02", Status="FailedAndSuspended", Synchronous=False)
    assert "unreadable" in world.copy("MB01\\EX02")["ErrorMessage"]
    told = "Get-EverpostEvent -Id 5020 -Server EX02 -Database MB01"
    world.o.wait(lambda: "unreadable" in world.shell(told)[-1]["Message"], 10, "the event of the journal")
    events = len(world.shell(told))
    failed = len(world.facts("EX02", "copy suspended itself"))
    world.shell("Resume-MailboxDatabaseCopy MB01\\EX02")
    world.o.wait(lambda: len(world.facts("EX02", "copy suspended itself")) > failed, 30, "it fails again")
    world.wait("MB01\\EX02", Status="FailedAndSuspended", Synchronous=False)
    world.write("EX01", "MB01", 5)
    cause.unlink()
    assert world.copy("MB01\\EX02")["Status"] == "FailedAndSuspended"  # nobody rechecks by himself
    assert len(world.shell(told)) == events + 1, "each change of the state is told once"
    world.shell("Resume-MailboxDatabaseCopy MB01\\EX02")
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=True, ErrorMessage="")
    world.row_there("EX02", "MB01", 5)
    assert world.shell("Get-EverpostEvent -Id 5021 -Server EX02 -Database MB01")


def test_T_CPY_6_a_lagged_copy_is_no_member_and_is_not_chosen(world: World) -> None:
    world.whole()
    world.shell("Set-MailboxDatabaseCopy MB01\\EX02 -ReplayLagTime 02:00:00 -ActivationPreference 1")
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=False, ReplayLagTime="0.02:00:00")
    world.o.wait(lambda: world.sql("EX02", "MB01", "show recovery_min_apply_delay") == "2h", 10, "the lag")
    world.write("EX01", "MB01", 6)
    world.row_there("EX03", "MB01", 6)
    for _ in range(3):
        world.sql("EX01", "MB01", "select pg_logical_emit_message(false, 'test', repeat('x', 1000000))")
    world.o.wait(lambda: world.copy("MB01\\EX02")["ReplayQueueLength"] >= 2, 15, "a replay queue")
    assert world.sql("EX02", "MB01", "select count(*) from public.seen where n = 6") == "0"
    assert world.copy("MB01\\EX02")["CopyQueueLength"] == 0
    world.o.signal(_everything(world, "EX01"), signal.SIGKILL)
    ask = world.o.server("EX03")
    world.o.wait(lambda: ask.rows("Get-MailboxDatabase MB01 -Status")[0]["MountedOnServer"] == "EX03", 30, "EX03 opens")
    assert ask.rows("Get-MailboxDatabaseCopyStatus MB01\\EX01")[0]["CopyQueueLength"] == "Unknown"
    world.o.server("EX01").start()
    world.wait("MB01\\EX01", Status="Healthy", Synchronous=True)
    world.shell("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX01")
    _stands_at_a_point_in_time(world)
    _activated_after_it_replayed_all(world)
    _played_down_and_lagging_again(world)
    world.shell("Set-MailboxDatabaseCopy MB01\\EX02 -ReplayLagTime 00:00:00 -ActivationPreference 2")
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=True)
    world.row_there("EX02", "MB01", 6)


def _stands_at_a_point_in_time(world: World) -> None:
    """LAG-6: what was deleted by mistake can be read on the lagged copy as it was."""
    world.sql("EX01", "MB01", "insert into public.seen values (60)")
    time.sleep(1.1)
    before = datetime.now(UTC).isoformat(timespec="seconds")
    time.sleep(1.1)
    world.sql("EX01", "MB01", "delete from public.seen where n = 60")
    said = world.refused("Resume-MailboxDatabaseCopy MB01\\EX02 -ReplayToTime 2020-01-01T00:00:00Z")
    assert "has replayed up to" in said and "Name a time between" in said
    received = int(world.sql("EX01", "MB01", "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint >> 20"))
    world.o.wait(lambda: world.copy("MB01\\EX02")["LastLogCopied"] >= received, 20, "EX02 has received it")
    world.shell(f"Resume-MailboxDatabaseCopy MB01\\EX02 -ReplayToTime {before}")
    world.row_there("EX02", "MB01", 60)
    row = world.copy("MB01\\EX02")
    assert row["Status"] == "Suspended" and before in row["SuspendComment"]
    assert world.sql("EX01", "MB01", "select count(*) from public.seen where n = 60") == "0"
    world.shell("Resume-MailboxDatabaseCopy MB01\\EX02")
    # With a backlog it asks for a stream only when that is replayed (docs/copies.md).
    world.o.wait(lambda: world.copy("MB01\\EX02")["Status"] in ("Healthy", "DisconnectedAndHealthy"), 30, "it goes on")
    world.o.wait(lambda: world.sql("EX02", "MB01", "show recovery_target_time") == "", 20, "no time to stand at")
    assert world.sql("EX02", "MB01", "show recovery_min_apply_delay") == "2h"


def _activated_after_it_replayed_all(world: World) -> None:
    """LAG-7."""
    world.write("EX01", "MB01", 61)
    assert world.sql("EX02", "MB01", "select count(*) from public.seen where n = 61") == "0"
    said = world.refused("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX02")
    assert "lagged" in said and "-SkipLagChecks" in said
    [row] = world.shell("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX02 -SkipLagChecks")
    assert (row["Status"], row["ActiveServerAtEnd"], row["NumberOfLogsLost"]) == ("Succeeded", "EX02", 0)
    assert world.sql("EX02", "MB01", "select count(*) from public.seen where n in (6, 60, 61)") == "2"
    world.wait("MB01\\EX01", Status="Healthy", Synchronous=True)
    world.shell("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX01")
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=False, ReplayLagTime="0.02:00:00")


def _played_down_and_lagging_again(world: World) -> None:
    world.shell("Resume-MailboxDatabaseCopy MB01\\EX02 -DisableReplayLag -DisableReplayLagReason drill")
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=True, ReplayLagTime="0.02:00:00")
    assert world.copy("MB01\\EX02")["ReplayLagStatus"] == "Enabled: False; PlayDownReason: drill"
    world.shell("Suspend-MailboxDatabaseCopy MB01\\EX02 -EnableReplayLag")
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=False)
    world.o.wait(lambda: world.sql("EX02", "MB01", "show recovery_min_apply_delay") == "2h", 20, "the lag")


def test_LAG_6_a_lagged_copy_is_activated_as_it_was_at_a_point_in_time(world: World) -> None:
    """A mass deletion, and what came after it, is given up by a word; who has it keeps it, and follows again by one."""
    world.whole()
    world.shell("Set-MailboxDatabaseCopy MB01\\EX02 -ReplayLagTime 02:00:00")
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=False)
    world.o.wait(lambda: world.sql("EX02", "MB01", "show recovery_min_apply_delay") == "2h", 20, "the lag")
    world.sql("EX01", "MB01", "select everpost_mail.ensure_mailbox(gen_random_uuid())")
    folder = "select uid_validity || ' ' || uid_next from everpost_mail.folder where name = 'INBOX'"
    validity, following = map(int, world.sql("EX01", "MB01", folder).split())
    world.write("EX01", "MB01", 70)
    time.sleep(1.1)
    then = datetime.now(UTC).isoformat(timespec="seconds")
    time.sleep(1.1)
    world.sql("EX01", "MB01", "delete from public.seen where n = 70")
    world.write("EX01", "MB01", 71)
    world.sql("EX01", "MB01", "select pg_logical_emit_message(true, 'test', 'acknowledged after the point')")

    line = f"Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX02 -ReplayToTime {then}"
    for words in ("is given up", "MB01 would be opened on EX02", "EX01, EX03", "-AcceptDataLoss"):
        assert words in world.refused(line)
    [row] = world.shell(f"{line} -AcceptDataLoss -WhatIf")
    assert "needs -AcceptDataLoss" in row["Reason"]
    assert "does not lag" in world.refused(f"{line.replace('EX02', 'EX03')} -AcceptDataLoss")
    assert world.copy("MB01\\EX01")["Status"] == "Mounted" and world.copy("MB01\\EX02")["Status"] == "Healthy"

    [row] = world.shell(f"{line} -AcceptDataLoss", 120.0)
    assert (row["Status"], row["ActiveServerAtEnd"], row["RecoveryPointObjective"]) == ("Succeeded", "EX02", then)
    assert world.sql("EX02", "MB01", "select string_agg(n::text, ' ') from public.seen where n in (70, 71)") == "70"
    after = list(map(int, world.sql("EX02", "MB01", folder).split()))
    assert after[0] > validity and after[1] > following, "no UID is given twice, and clients look at all anew"
    assert then in world.shell("Get-EverpostEvent -Id 5006 -Database MB01")[-1]["Message"]
    [row] = world.shell(f"{line} -AcceptDataLoss")
    assert (row["Status"], row["ActiveServerAtEnd"]) == ("NotNeeded", "EX02")

    for server in ("EX01", "EX03"):
        world.wait(f"MB01\\{server}", Status="FailedAndSuspended")
        assert "acknowledged mail" in world.copy(f"MB01\\{server}")["ErrorMessage"]
    for server in ("EX01", "EX03"):
        world.shell(f"Resume-MailboxDatabaseCopy MB01\\{server} -SetAsideDivergedLogs", 120.0)
        world.wait(f"MB01\\{server}", Status="Healthy", Synchronous=True)
        [kept] = (world.o.server(server).data / "databases" / "MB01").glob("diverged-*")
        log = b"".join(path.read_bytes() for path in (kept / "log").glob("[0-9A-F]" * 24))
        assert b"acknowledged after the point" in log, "what it alone had is kept"
        assert world.sql(server, "MB01", "select string_agg(n::text, ' ') from public.seen where n in (70, 71)") == "70"
    world.write("EX02", "MB01", 72)
    world.shell("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX01")
    world.wait("MB01\\EX02", Synchronous=False, ReplayLagTime="0.02:00:00", ActivationSuspended=False)
    world.shell("Set-MailboxDatabaseCopy MB01\\EX02 -ReplayLagTime 00:00:00")
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=True)
    world.row_there("EX02", "MB01", 72)


def test_TruncationLagTime_keeps_the_log_for_its_time_on_that_copy_only(world: World) -> None:
    """LAG-2, TRU-1: the others keep it by number."""
    world.whole()
    begin = int(world.sql("EX01", "MB01", "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint >> 20"))
    world.shell("Set-MailboxDatabaseCopy MB01\\EX02 -TruncationLagTime 1.00:00:00")
    rounds, each = 2, 50
    switch = "perform pg_logical_emit_message(false, 'test', 'x'); perform pg_switch_wal();"
    for _ in range(rounds):
        before = _keeps(world, "EX02")
        world.sql("EX01", "MB01", f"do $$ begin for i in 1..{each} loop {switch} end loop; end $$")
        world.sql("EX01", "MB01", "checkpoint")
        world.o.wait(lambda before=before: _keeps(world, "EX02") >= before + each // 2, 40, "what came is kept")

    def truncated() -> bool:
        for server in ("EX02", "EX03"):
            world.sql(server, "MB01", "checkpoint")
        return _oldest(world, "EX03") > begin

    world.o.wait(truncated, 40, "a copy without that time truncates")
    assert _oldest(world, "EX02") <= begin
    world.shell("Set-MailboxDatabaseCopy MB01\\EX02 -TruncationLagTime 00:00:00")
    world.o.wait(lambda: _keeps(world, "EX02") == KEEP_LOGS, 40, "it keeps by number again")


def _keeps(world: World, server: str) -> int:
    return int(world.sql(server, "MB01", "select setting from pg_settings where name = 'wal_keep_size'"))


def _oldest(world: World, server: str) -> int:
    """Generation of the oldest log."""
    names = [path.name for path in (world.pgdata(server) / "pg_wal").glob("[0-9A-F]" * 24)]
    return min(int(name[8:16], 16) * 4096 + int(name[16:], 16) for name in names)


def _everything(world: World, server: str) -> list[int]:
    return [pid for pid in world.o.server(server).host.pids() if processes.alive(pid)]
