"""Activation with loss: last of the folder, as a copy with a fork stays behind."""

from __future__ import annotations

import subprocess
from hashlib import md5

import pytest

from everpost.lab.copies import sql
from everpost.lab.organisation import CommandFailed, Server

from .conftest import World, kill_everything

pytestmark = [pytest.mark.netns, pytest.mark.timeout(300)]

NINE_GENERATIONS = (
    "create table public.filler (text text);"
    "insert into public.filler select repeat(md5(n::text), 30) from generate_series(1, 9500) n"
)


def generated(world: World, name: str) -> int:
    return int(world.o.status(world.first)[name]["LastLogGenerated"])


def test_T_AM_2_what_may_be_lost_is_named_accepted_and_recorded_and_what_returns_is_whole(world: World) -> None:
    world.home()
    first, second = world.first, world.second
    before = generated(world, "MB01\\EX01")
    second.stop()
    sql(first, 0, NINE_GENERATIONS)  # waits for EX02 until that is out of the set
    sql(first, 1, NINE_GENERATIONS)
    world.o.wait(lambda: all(r["Resilience"] == "single" for r in active(world, first)), 20, "EX01 alone")
    world.o.wait(lambda: generated(world, "MB01\\EX01") >= before + 9, 20, "nine generations told")
    kill_everything(first)
    second.start()
    world.o.wait_agent(second)
    world.o.wait(lambda: "lacks at least" in refusal(second, ""), 30, "EX01 judged dead, and what EX02 has known")
    assert "the mount dial is Lossless" in refusal(second, "")

    second.rows("Set-MailboxServer EX02 -AutoDatabaseMountDial GoodAvailability")
    assert "GoodAvailability allows 6" in refusal(second, "-AcceptDataLoss")
    preview = refusal(second, "-MountDialOverride BestAvailability")
    assert "lacks at least" in preview
    assert "-AcceptDataLoss" in preview
    assert world.location("MB01", second) == ("EX01", "ServiceDown"), "nothing was activated by itself"

    line = "Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX02 -MountDialOverride BestAvailability -AcceptDataLoss"
    [row] = second.rows(line)
    assert (row["Status"], row["ActiveServerAtEnd"]) == ("Succeeded", "EX02")
    assert 7 <= row["NumberOfLogsLost"] <= 12
    assert sql(second, 0, "select to_regclass('public.filler')") == ""

    first.start()
    world.o.wait_agent(first)
    world.o.wait(lambda: filled(first, 1) == "9500", 60, "what nobody gave up came back whole")
    world.mounted_on("MB02", "EX01", first)
    name = "MB01\\EX01"
    world.o.wait(lambda: world.o.status(second)[name]["Status"] == "FailedAndSuspended", 60, "the losing copy kept")
    assert "acknowledged mail" in world.o.status(second)[name]["ErrorMessage"]
    assert sql(second, 0, "select 1") == "1"


def test_T_CPY_7_the_losing_copy_follows_again_by_a_word_and_what_it_alone_had_is_kept(world: World) -> None:
    """Goes on where the test before ended: MB01 is open on EX02, and EX01 holds nine generations that it lacks."""
    first, second, name = world.first, world.second, "MB01\\EX01"
    if world.o.status(second)[name]["Status"] != "FailedAndSuspended":
        pytest.fail("there is no losing copy, as the test before failed")
    with pytest.raises(CommandFailed, match="-SetAsideDivergedLogs"):
        second.rows(f"Resume-MailboxDatabaseCopy {name}")
    with pytest.raises(CommandFailed, match="no diverged log"):
        second.rows("Resume-MailboxDatabaseCopy MB01\\EX02 -SetAsideDivergedLogs")
    log = first.data / "log" / "agent.log"
    seen = log.stat().st_size
    second.rows(f"Resume-MailboxDatabaseCopy {name} -SetAsideDivergedLogs", 120.0)
    world.o.wait(lambda: world.o.status(second)[name]["Status"] == "Healthy", 90, "the losing copy follows")
    world.o.wait(lambda: world.o.status(second)[name]["Synchronous"], 90, "and is in the set")
    [folder] = (first.data / "databases" / "MB01").glob("diverged-*")
    assert world.o.status(second)[name]["DivergedLogs"] == str(folder)
    kept = b"".join(path.read_bytes() for path in (folder / "log").glob("[0-9A-F]" * 24))
    assert len(kept) >> 20 >= 9
    assert kept.count(md5(b"9500").hexdigest().encode()) >= 30, "a row that only EX01 had can be read there"
    assert sql(first, 0, "select coalesce(to_regclass('public.filler')::text, '')") == "", "its pages were set back"
    said = log.read_bytes()[seen:].decode()
    assert '"rewind"' in said and '"seeding"' not in said, "it was not seeded"
    second.rows("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX01")
    world.mounted_on("MB01", "EX01", first)


def active(world: World, server: Server) -> list[dict[str, object]]:
    return [row for row in world.o.status(server).values() if row["ActiveCopy"]]


def filled(server: Server, number: int) -> str:
    try:
        return sql(server, number, "select count(*) from public.filler")
    except subprocess.CalledProcessError:
        return "no answer"


def refusal(server: Server, options: str) -> str:
    """What Mount-Database says; "" while it is not refused for what may be lost, as EX01 is not judged dead yet."""
    try:
        server.rows(f"Mount-Database MB01 {options}", 5.0)
    except CommandFailed as refused:
        return str(refused) if "activated" in str(refused) else ""
    return ""
