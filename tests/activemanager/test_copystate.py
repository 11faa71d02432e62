"""The table of copy states, and the page that is drawn from it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from everpost.model import copystate
from everpost.model.database import CopyState as S

PAGE = Path(__file__).parents[2] / "docs" / "copies.md"


def test_the_page_shows_the_table_and_its_diagram() -> None:
    text = PAGE.read_text()
    assert copystate.table() in text
    assert f"```mermaid\n{copystate.diagram()}\n```" in text


def test_each_state_is_in_one_group_at_most() -> None:
    grouped = [state for states in copystate.GROUPS.values() for state in states]
    assert len(grouped) == len(set(grouped))
    assert {state for state in S if not copystate.group(state)} == {
        S.SERVICE_DOWN,
        S.DISCONNECTED_AND_RESYNCHRONIZING,
    }


# The edges of spec 2.6 that an agent can see itself.
@pytest.mark.parametrize(
    "path",
    [
        (S.INITIALIZING, S.SEEDING, S.INITIALIZING, S.RESYNCHRONIZING, S.HEALTHY),
        (S.HEALTHY, S.SUSPENDED, S.INITIALIZING),
        (S.SUSPENDED, S.SEEDING, S.FAILED),
        (S.HEALTHY, S.DISCONNECTED_AND_HEALTHY, S.HEALTHY),
        (S.HEALTHY, S.FAILED, S.INITIALIZING, S.HEALTHY),
        (S.RESYNCHRONIZING, S.FAILED_AND_SUSPENDED, S.SEEDING),
        (S.HEALTHY, S.MOUNTING, S.MOUNTED, S.DISMOUNTING, S.INITIALIZING),
        (S.HEALTHY, S.SEEDING_SOURCE, S.HEALTHY),
    ],
)
def test_the_ways_of_the_specification_are_legal(path: tuple[S, ...]) -> None:
    assert all(copystate.legal(before, after) for before, after in pairwise(path))


@pytest.mark.parametrize("stopped", [S.SUSPENDED, S.FAILED_AND_SUSPENDED, S.SEEDING])
def test_a_copy_that_does_not_follow_is_neither_healthy_nor_opened(stopped: S) -> None:
    for state in (*copystate.GROUPS["active"], *copystate.GROUPS["following"]):
        assert not copystate.legal(stopped, state), state


def test_nothing_is_mounted_that_was_a_follower_a_moment_ago() -> None:
    assert not any(copystate.legal(state, S.MOUNTED) for state in copystate.GROUPS["following"])
