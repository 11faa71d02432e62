"""The report of the demonstration: its fields, and which promises did not hold. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from everpost.lab.history import Fact, Verdict

ZERO = (
    "lost", "duplicated", "flags_lost", "uid_reused", "modseq_backwards",
    "changed", "unexpected", "vanished", "resurrected", "uid_disordered",
)  # fmt: skip
"""What must not happen once."""
BOUNDS = {"unplanned_outage_s": 5.0, "other_database_stall_s": 4.0, "switchover_pause_s": 1.0}
"""Seconds at most."""

Report = dict[str, Any]


def counts(verdict: Verdict) -> Report:
    """What the audit counted."""
    names = ("acknowledged", "resubmitted", "flags_acknowledged", *ZERO)
    return {name: getattr(verdict, name) for name in names}


def sessions(facts: Iterable[Fact], begun: int) -> Report:
    """Of the sessions begun on a server, how many kept their connection with every command answered OK."""
    facts = list(facts)
    dropped = {fact["session"] for fact in facts if fact["kind"] == "dropped"}
    survived = {fact["session"] for fact in facts if fact["kind"] == "survived"} - dropped
    return {"sessions_total": begun, "sessions_survived": len(survived)}


def failures(report: Mapping[str, Any], least: int) -> list[str]:
    """What was promised and did not hold, or was not measured."""
    broken = []
    for name in ZERO:
        if report.get(name) != 0:
            broken.append(f"{name} is {report.get(name)}, not 0")
    for name, most in BOUNDS.items():
        value = report.get(name)
        if value is None or value > most:
            broken.append(f"{name} is {value}, over {most}")
    if report.get("copies_identical") is not True:
        broken.append("the copies are not identical")
    total, survived = report.get("sessions_total", 0), report.get("sessions_survived", 0)
    if survived != total or not total:
        broken.append(f"{survived} of {total} sessions survived")
    if report.get("waiting_message_s") is None:
        broken.append("the message that waited was not seen sent")
    if report.get("rejoin_s") is None:
        broken.append("the lost server did not rejoin")
    if report.get("acknowledged", 0) < least:
        broken.append(f"only {report.get('acknowledged', 0)} messages were acknowledged, not {least}")
    return broken


def text(report: Mapping[str, Any], cases: Sequence[str]) -> list[str]:
    """For people: fields, then cases in words."""
    return [*(f"  {name:24}{value}" for name, value in report.items()), *(f"  ! {case}" for case in cases)]
