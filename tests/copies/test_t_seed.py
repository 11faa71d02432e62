"""Seeding on real PostgreSQL and etcd: T-SEED-1, T-SEED-3, and taking an order back."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from everpost.lab.organisation import CommandFailed

from .conftest import World

pytestmark = [pytest.mark.netns, pytest.mark.timeout(240)]
MEGABYTES = 160


@pytest.fixture(scope="module")
def bulky(world: World) -> World:
    """A database whose seed takes a moment."""
    world.whole()
    world.sql(
        "EX01", "MB01", "create table public.bulk (b bytea); alter table public.bulk alter b set storage external"
    )
    world.sql(
        "EX01",
        "MB01",
        f"insert into public.bulk select convert_to(repeat('x', 1048576), 'utf8') from generate_series(1, {MEGABYTES})",
    )
    world.sql("EX01", "MB01", "checkpoint")
    world.whole()
    return world


def _seed_size(world: World, server: str) -> int:
    """Bytes of the seed that is being made there."""
    total = 0
    for folder in (world.o.server(server).data / "databases" / "MB01").glob("seed-*"):
        for path in folder.rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:
                pass
    return total


def _rest_of(world: World, server: str) -> list[Path]:
    return list((world.o.server(server).data / "databases" / "MB01").glob("seed-*"))


def _base_backups(world: World, server: str) -> list[int]:
    """Processes of seeds (a scrub has no folder)."""
    found = []
    for pid in world.o.server(server).host.pids():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"pg_basebackup" in line and b"/seed-" in line:
            found.append(pid)
    return found


def test_T_SEED_1_a_passive_source_shows_that_it_is_one(bulky: World) -> None:
    world = bulky
    world.shell("Suspend-MailboxDatabaseCopy MB01\\EX03")
    before = world.incarnation("EX03")
    world.shell("Set-DatabaseAvailabilityGroup E14-DAG -NetworkCompression SeedOnly")
    world.shell("Update-MailboxDatabaseCopy MB01\\EX03 -SourceServer EX02 -BeginSeed")
    world.wait("MB01\\EX02", Status="SeedingSource", Synchronous=True)
    seeding = world.copy("MB01\\EX03")
    assert (seeding["Status"], seeding["SeedingSource"]) == ("Seeding", "EX02")
    world.write("EX01", "MB01", 101)
    world.wait("MB01\\EX03", Status="Healthy", Synchronous=True)
    world.wait("MB01\\EX02", Status="Healthy")
    assert world.incarnation("EX03") != before
    assert world.facts("EX03", "seeded")[-1]["seed_source"] == "EX02"
    assert world.facts("EX03", "seed fetched")[-1]["compressed"] is True
    world.row_there("EX03", "MB01", 101)
    world.shell("Set-DatabaseAvailabilityGroup E14-DAG -NetworkCompression InterSubnetOnly")


def test_T_SEED_3_a_cut_at_60_percent_is_survived_without_anybody(bulky: World) -> None:
    world = bulky
    broken = len(world.facts("EX03", "seed broke off"))
    world.shell("Update-MailboxDatabaseCopy MB01\\EX03 -Force -BeginSeed")
    whole = sum(path.stat().st_size for path in (world.pgdata("EX01") / "base").rglob("*") if path.is_file())
    host = world.o.server("EX03").host
    world.o.wait(lambda: _seed_size(world, "EX03") > 0.6 * whole, 30, "60 % of the seed")
    host.cut()
    try:
        world.wait("MB01\\EX03", Status="ServiceDown")
        world.o.wait(lambda: _rest_of(world, "EX03") == [], 30, "the seed notices the cut")
        world.write("EX01", "MB01", 102)
    finally:
        host.mend()
    world.wait("MB01\\EX03", Status="Healthy", Synchronous=True)
    world.row_there("EX03", "MB01", 102)
    assert len(world.facts("EX03", "seed broke off")) == broken + 1
    assert _rest_of(world, "EX03") == []


def test_T_SEED_2_the_active_stays_while_it_is_a_seeding_source(bulky: World) -> None:
    """With -SkipActiveCopyChecks it goes all the same; the seed breaks off and is begun anew from the new active."""
    world = bulky
    world.shell("Suspend-MailboxDatabaseCopy MB01\\EX03")
    world.shell("Update-MailboxDatabaseCopy MB01\\EX03 -BeginSeed")
    world.wait("MB01\\EX03", Status="Seeding", SeedingSource="EX01")
    with pytest.raises(CommandFailed, match="seeding source"):
        world.shell("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX02")
    assert world.copy("MB01\\EX01")["ActiveCopy"]
    world.shell("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX02 -SkipActiveCopyChecks")
    assert world.copy("MB01\\EX02")["ActiveCopy"]
    for server in ("EX01", "EX03"):
        world.wait(f"MB01\\{server}", Status="Healthy", Synchronous=True)
    assert world.facts("EX03", "seeded")[-1]["seed_source"] == "EX02"
    assert world.facts("EX03", "seed fetched")[-1]["compressed"] is False, "one subnet, and the preset InterSubnetOnly"
    world.shell("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX01")
    world.whole()


def test_a_cancelled_seed_leaves_the_copy_suspended_with_its_reason(bulky: World) -> None:
    world = bulky
    before = world.incarnation("EX02")
    world.shell("Update-MailboxDatabaseCopy MB01\\EX02 -Force -BeginSeed")
    world.wait("MB01\\EX02", Status="Seeding")
    assert "is being seeded" in world.refused("Resume-MailboxDatabaseCopy MB01\\EX02")
    world.shell("Update-MailboxDatabaseCopy MB01\\EX02 -CancelSeed")
    row = world.copy("MB01\\EX02")
    assert row["Status"] == "Suspended" and "cancelled" in row["SuspendComment"]
    assert (world.incarnation("EX02"), _rest_of(world, "EX02"), _base_backups(world, "EX02")) == (before, [], [])
    world.shell("Resume-MailboxDatabaseCopy MB01\\EX02")
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=True)
    assert world.incarnation("EX02") == before


def test_a_seed_outlives_its_agent(bulky: World) -> None:
    """The order is in the directory: an agent that is killed begins it again, and nothing of the first try is left."""
    world = bulky
    before = world.incarnation("EX02")
    world.shell("Update-MailboxDatabaseCopy MB01\\EX02 -Force -BeginSeed")
    world.wait("MB01\\EX02", Status="Seeding")
    agent = world.o.server("EX02").pid("agent")
    assert agent is not None
    world.o.signal([agent], signal.SIGKILL)
    world.o.wait(lambda: world.incarnation("EX02") != before, 60, "the seed is done")
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=True)
    assert (_rest_of(world, "EX02"), _base_backups(world, "EX02")) == ([], [])


def test_manual_resume_leaves_the_seeded_copy_suspended(bulky: World) -> None:
    world = bulky
    before = world.incarnation("EX02")
    world.shell("Update-MailboxDatabaseCopy MB01\\EX02 -Force -ManualResume -DeleteExistingFiles")
    row = world.copy("MB01\\EX02")
    world.wait("MB01\\EX02", Status="Suspended")
    assert "resume it by hand" in row["SuspendComment"] and world.incarnation("EX02") != before
    world.shell("Resume-MailboxDatabaseCopy MB01\\EX02")
    world.wait("MB01\\EX02", Status="Healthy", Synchronous=True)


def test_no_copy_changed_its_state_against_the_table(world: World) -> None:
    """Runs last: over all that the tests before did."""
    for server in world.o.servers:
        assert world.facts(server.name, "copy state out of order") == []
