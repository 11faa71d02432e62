"""How the states of a copy follow each other (spec 2.6), as data: the agent checks each change against it, and the
diagram in docs/copies.md is drawn from it.

ServiceDown is no state of the copy's own: others show it while its server does not hold its tenure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from everpost.model.database import CopyState

S = CopyState

GROUPS: Mapping[str, frozenset[CopyState]] = {
    "active": frozenset({S.MOUNTING, S.MOUNTED, S.DISMOUNTING, S.DISMOUNTED}),
    "following": frozenset({S.HEALTHY, S.SEEDING_SOURCE, S.DISCONNECTED_AND_HEALTHY}),
    "trying": frozenset({S.INITIALIZING, S.RESYNCHRONIZING, S.FAILED}),
    "seeding": frozenset({S.SEEDING}),
    "stopped": frozenset({S.SUSPENDED, S.FAILED_AND_SUSPENDED}),
}
"""States that most events meet alike; each state is in one group."""


class Move(NamedTuple):
    """From any state of these groups, at this event, to that state."""

    event: str
    groups: tuple[str, ...]
    to: CopyState


MOVES: tuple[Move, ...] = (
    Move("start, resume, a new active, a seed done", ("active", "following", "trying", "seeding", "stopped"),
         S.INITIALIZING),
    Move("may hold changes that the active has not", ("active", "following", "trying", "stopped"), S.RESYNCHRONIZING),
    Move("cannot copy or replay; is tried again", ("active", "following", "trying", "seeding", "stopped"), S.FAILED),
    Move("receives and replays", ("following", "trying"), S.HEALTHY),
    Move("receives, and another copy is seeded from it", ("following", "trying"), S.SEEDING_SOURCE),
    Move("lost contact to the active", ("following", "trying"), S.DISCONNECTED_AND_HEALTHY),
    Move("needs a seed, or one is ordered", ("active", "following", "trying", "stopped"), S.SEEDING),
    Move("suspended by an administrator", ("active", "following", "trying", "seeding", "stopped"), S.SUSPENDED),
    Move("damaged, quarantined, or seeded in vain", ("active", "following", "trying", "seeding", "stopped"),
         S.FAILED_AND_SUSPENDED),
    Move("chosen as the active", ("active", "following", "trying"), S.MOUNTING),
    Move("opened, or found open", ("active", "trying"), S.MOUNTED),
    Move("closed by plan", ("active", "trying"), S.DISMOUNTING),
    Move("is the active of a database that is not mounted", ("active", "following", "trying"), S.DISMOUNTED),
)  # fmt: skip
"""What is missing matters: nothing goes from Seeding, Suspended or FailedAndSuspended straight to Healthy or to
Mounting, and nothing becomes Mounted that was not Mounting, or found open, before."""


def group(state: CopyState) -> str:
    """The group of a state; "" for those that no copy has of itself."""
    return next((name for name, states in GROUPS.items() if state in states), "")


def legal(before: CopyState, after: CopyState) -> bool:
    """Whether a copy may go from one to the other."""
    return before is after or any(move.to is after and group(before) in move.groups for move in MOVES)


def diagram() -> str:
    """The table as a Mermaid flow chart: a box for each group, an arrow for each move."""
    lines = ["flowchart LR"]
    for name, states in GROUPS.items():
        lines.append(f"  subgraph {name}")
        lines += [f"    {state.name}[{state}]" for state in CopyState if state in states]
        lines.append("  end")
    for move in MOVES:
        lines += [f'  {name} -->|"{move.event}"| {move.to.name}' for name in move.groups]
    return "\n".join(lines)


def table() -> str:
    """The same as a table."""
    lines = ["| from | event | to |", "|---|---|---|"]
    lines += [f"| {', '.join(move.groups)} | {move.event} | {move.to} |" for move in MOVES]
    return "\n".join(lines)
