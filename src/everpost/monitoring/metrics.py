"""Prometheus metrics in the text format, from what this server knows without asking anybody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from everpost.model.database import CopyStatus


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What this server knows now. `good`: copies that could serve, by replicated database."""

    server: str
    version: str
    tenure: bool | None
    longest_gap: float
    may_mount: bool
    pam: bool
    copies: tuple[CopyStatus, ...]
    good: Mapping[str, int]
    voters: Mapping[str, bool]
    alarms: Iterable[str]


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class _Page:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def family(self, name: str, text: str, samples: Iterable[tuple[Mapping[str, str], float | None]]) -> None:
        """One gauge with its samples; an unknown value is left out rather than shown as 0."""
        self.lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        for labels, value in samples:
            if value is not None:
                shown = ",".join(f'{key}="{_escape(word)}"' for key, word in labels.items())
                self.lines.append(f"{name}{'{' + shown + '}' if shown else ''} {float(value):g}")


def text(found: Reading) -> str:
    """The page."""
    page = _Page()
    page.family("everpost_info", "Version of this server.", [({"server": found.server, "version": found.version}, 1)])
    page.family("everpost_tenure", "1 while this server holds its tenure.", [({}, found.tenure)])
    page.family("everpost_tenure_longest_gap_seconds", "Longest time between renewals.", [({}, found.longest_gap)])
    page.family("everpost_may_mount", "1 once datacenter activation coordination agreed.", [({}, found.may_mount)])
    page.family("everpost_primary_active_manager", "1 on the Primary Active Manager.", [({}, found.pam)])
    page.family(
        "everpost_copy_state",
        "1 for the state that a copy on this server is in.",
        [({"database": one.database, "state": str(one.state)}, 1) for one in found.copies],
    )
    queues = (
        ("copy", "Generations to copy.", [(one.database, one.copy_queue) for one in found.copies]),
        ("replay", "Generations to replay.", [(one.database, one.replay_queue) for one in found.copies]),
    )
    for name, help_text, rows in queues:
        page.family(f"everpost_{name}_queue", help_text, [({"database": one}, length) for one, length in rows])
    page.family(
        "everpost_database_good_copies",
        "Copies that could serve without loss.",
        [({"database": name}, count) for name, count in found.good.items()],
    )
    page.family(
        "everpost_voter_up",
        "1 while a voter of the directory answers.",
        [({"voter": name}, up) for name, up in found.voters.items()],
    )
    page.family("everpost_alarm", "1 for each standing alarm.", [({"alarm": name}, 1) for name in found.alarms])
    return "\n".join(page.lines) + "\n"
