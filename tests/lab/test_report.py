"""The report: what did not hold, or was never measured, is said; the picture; the comparison of copies."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from everpost.lab import copies
from everpost.lab.history import Verdict
from everpost.lab.report import BOUNDS, ZERO, counts, failures, sessions
from everpost.lab.screen import Screen, table

GOOD: dict[str, Any] = {
    **counts(Verdict(acknowledged=5000)),
    **dict.fromkeys(BOUNDS, 0.9),
    "sessions_total": 8, "sessions_survived": 8, "copies_identical": True, "rejoin_s": 9.0, "waiting_message_s": 3.0,
}  # fmt: skip


def test_a_good_report_has_no_failures() -> None:
    assert failures(GOOD, 5000) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, 1) for name in ZERO), *((name, most + 0.001) for name, most in BOUNDS.items()),
        ("sessions_survived", 7), ("sessions_total", 0), ("copies_identical", False), ("acknowledged", 4999),
        ("waiting_message_s", None), ("rejoin_s", None),
    ],
)  # fmt: skip
def test_each_broken_promise_is_said(field: str, value: object) -> None:
    assert len(failures({**GOOD, field: value}, 5000)) == 1


@pytest.mark.parametrize("field", GOOD)
def test_what_was_not_measured_did_not_hold(field: str) -> None:
    unbounded = {"resubmitted", "flags_acknowledged"}
    report = {name: value for name, value in GOOD.items() if name != field}
    assert bool(failures(report, 5000)) == (field not in unbounded)


def test_a_session_that_was_dropped_or_never_ended_did_not_survive() -> None:
    facts = [
        {"kind": "session", "session": "a"}, {"kind": "survived", "session": "a"},
        {"kind": "dropped", "session": "b"}, {"kind": "survived", "session": "b"}, {"kind": "session", "session": "c"},
    ]  # fmt: skip
    assert sessions(facts, 3) == {"sessions_total": 3, "sessions_survived": 1}


def test_plain_lines_without_a_terminal_and_a_panel_with_one() -> None:
    rows = [{"Name": "MB01\\EX01", "Status": "Mounted", "CopyQueueLength": 0, "Epoch": "1.2"}]
    plain = io.StringIO()
    screen = Screen(plain)
    screen.watch(lambda: ["never shown"])
    screen.say("one")
    screen.picture(rows)
    screen.close()
    assert "\x1b" not in plain.getvalue()
    assert "never shown" not in plain.getvalue()
    assert "Epoch" in plain.getvalue()
    assert "1.2" in plain.getvalue()


def test_the_panel_is_drawn_below_each_line_and_taken_away_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everpost.lab.screen.EVERY", 0.01)
    output = io.StringIO()
    screen = Screen(output, live=True)
    shown = 0

    def look() -> list[str]:
        nonlocal shown
        shown += 1
        if shown == 2:
            raise RuntimeError("no answer")
        return ["panel", *table([])]

    screen.watch(look)
    while shown < 4:
        screen.say("line")
    screen.close()
    text = output.getvalue()
    assert "no answer" in text
    assert text.endswith("\x1b[J")


def copy(rows: dict[str, str], lsn: Callable[[], str] = lambda: "0/1", *, replayed: bool = True) -> copies.Ask:
    """A copy that answers what `copies` asks."""

    def ask(statement: str) -> str:
        if "flush_lsn" in statement:
            return lsn()
        if "replay_lsn" in statement:
            return "t" if replayed else "f"
        if "pg_tables" in statement:
            return "\n".join(rows)
        return "\n".join(f"{table}|{mark}" for table, mark in rows.items())

    return ask


def test_equal_copies_are_equal() -> None:
    rows = {"s.a": "3 77", "s.b": "0 0"}
    assert copies.compare(copy(rows), copy(rows), "MB01") == ""


@pytest.mark.parametrize(
    "other", [{"s.a": "3 78", "s.b": "0 0"}, {"s.a": "3 77"}, {"s.a": "3 77", "s.b": "0 0", "s.c": "0 0"}, {}]
)
def test_any_difference_at_rest_is_found(other: dict[str, str]) -> None:
    rows = {"s.a": "3 77", "s.b": "0 0"}
    assert "s." in copies.compare(copy(rows), copy(other), "MB01")


def test_a_copy_that_does_not_replay_is_not_equal() -> None:
    rows = {"s.a": "3 77"}
    assert "not replayed" in copies.compare(copy(rows), copy(rows, replayed=False), "MB01", seconds=0.3)


def test_a_difference_while_the_active_writes_is_looked_at_again() -> None:
    moving = iter(range(1000))
    seen = iter(["3 77", "3 78"])
    current = {"s.a": "3 78"}

    def passive(statement: str) -> str:
        return copy({"s.a": next(seen)} if "union" in statement or "count(*)" in statement else current)(statement)

    assert copies.compare(copy(current, lambda: f"0/{next(moving)}"), passive, "MB01", seconds=5.0) == ""


def test_an_empty_active_is_no_success() -> None:
    assert copies.compare(copy({}), copy({}), "MB01", seconds=0.3) != ""
