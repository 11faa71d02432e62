"""Sabotage of where copies are activated: the tests of best copy selection and maintenance would notice."""

from __future__ import annotations

import pytest

from everpost.activemanager import bestcopy, decide
from everpost.errors import Refused
from everpost.manage.cmdlets import maintenance
from everpost.model.server import MaintenanceRecord, MountDial
from tests.activemanager import test_bestcopy as selection
from tests.manage import test_maintenance as keeping
from tests.manage.organisation import Organisation


def test_a_dial_that_needs_no_proof_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    proven = decide._by_dial

    def careless(view: object, database: object, load: object) -> str | None:
        from msgspec.structs import replace

        closed = replace(database, location=replace(database.location, closed_lsn=1))  # type: ignore[attr-defined, type-var]
        return proven(view, closed, load)  # type: ignore[arg-type]

    monkeypatch.setattr(decide, "_by_dial", careless)
    with pytest.raises(AssertionError):
        selection.test_T_AM_2_a_dead_server_is_no_proof_that_it_is_off_so_no_dial_applies()


def test_a_dial_that_allows_anything_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(selection.loss.ALLOWED, MountDial.GOOD_AVAILABILITY, 7)
    with pytest.raises(AssertionError):
        selection.test_T_AM_2_the_dial_against_what_is_missing(MountDial.GOOD_AVAILABILITY, 7, False)


def test_limits_that_are_counted_once_a_round_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "_count", lambda load, action: None)
    with pytest.raises(AssertionError):
        selection.test_T_AM_3_the_limit_holds_within_one_round_of_decisions_too()


def test_maintenance_that_selection_does_not_know_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bestcopy, "administrative_refusal", lambda *_: None)
    with pytest.raises(AssertionError):
        selection.test_T_AM_4_what_is_blocked_is_passed_over_but_for_a_named_target({}, {"maintenance": True}, "in")


async def test_a_stop_that_clears_every_block_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = maintenance._restore

    async def clear_all(context: object, record: MaintenanceRecord) -> None:
        from msgspec.structs import replace

        names = tuple(context.organization.databases)  # type: ignore[attr-defined]
        await restore(context, replace(record, suspended=names))  # type: ignore[arg-type]

    monkeypatch.setattr(maintenance, "_restore", clear_all)
    with pytest.raises(AssertionError):
        await keeping.test_T_MNT_2_what_was_suspended_before_stays_so()


async def test_a_start_that_plans_nothing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(context: object, server: str) -> maintenance.Plan:
        return maintenance.Plan([], [], [])

    monkeypatch.setattr(maintenance, "_plan", nothing)
    found = await Organisation(("EX1", "EX2"), {"A": ("EX1", "EX2"), "B": ("EX1",)}).start()
    with pytest.raises(Refused):
        await found.run("Start-DagServerMaintenance EX1 -OverrideMinimumTwoCopies")
    assert found.writes > 0, "without the plan it is found out half-way: the test of the plan asserts no write at all"
