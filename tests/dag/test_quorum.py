"""Quorum by arithmetic: the worked examples of spec 1.4 (T-QUO-1..8), who votes, and the next change of voters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everpost.directory.voting import AddVoter, RemoveVoter, next_step, target
from everpost.model import quorum
from everpost.model.quorum import QuorumModel
from everpost.model.server import DatabaseAvailabilityGroup

WITNESS = "WIT"


def dag(members: int) -> DatabaseAvailabilityGroup:
    names = tuple(f"MBX{n}" for n in range(1, members + 1))
    return DatabaseAvailabilityGroup(name="DAG1", members=names, witness_server=WITNESS)


@pytest.mark.parametrize(
    ("members", "lost", "up", "left"),
    [
        pytest.param(2, ["MBX1"], True, 0, id="T-QUO-1 one member of two"),
        pytest.param(2, [WITNESS], True, 0, id="T-QUO-2 the witness of two"),
        pytest.param(2, ["MBX1", WITNESS], False, -1, id="T-QUO-3 member and witness of two"),
        pytest.param(4, ["MBX1", "MBX2"], True, 0, id="T-QUO-4 two voters of four and witness"),
        pytest.param(4, ["MBX1", "MBX2", WITNESS], False, -1, id="T-QUO-5 three voters of four and witness"),
        pytest.param(5, ["MBX1", "MBX2"], True, 0, id="T-QUO-6 two of five"),
        pytest.param(5, ["MBX1", "MBX2", "MBX3"], False, -1, id="T-QUO-7 the smaller side of five over a cut line"),
        pytest.param(6, ["MBX1", "MBX2", WITNESS], True, 0, id="T-QUO-8 three voters of six and witness"),
    ],
)
def test_T_QUO_1_to_8(members: int, lost: list[str], up: bool, left: int) -> None:
    voters = quorum.wanted_voters(dag(members))
    answering = [name for name in voters if name not in lost]
    assert quorum.has_quorum(voters, answering) is up
    assert quorum.tolerance(voters, answering) == left


@pytest.mark.parametrize("members", range(17))
def test_the_witness_votes_exactly_when_members_are_even(members: int) -> None:
    group = dag(members)
    voters = quorum.wanted_voters(group)
    even = members > 0 and members % 2 == 0
    assert (WITNESS in voters) is even
    assert (quorum.model_of(group) is QuorumModel.NODE_AND_FILE_SHARE_MAJORITY) is even
    assert len(voters) <= quorum.MOST_VOTERS
    assert members == 0 or len(voters) % 2 == 1, "an even number of voters bears no more and costs more"
    if members <= 6:
        assert set(group.members) <= set(voters)


def test_seats_of_a_large_dag_are_spread_over_the_sites() -> None:
    names = tuple(f"A{n}" for n in range(8)) + tuple(f"B{n}" for n in range(4))
    group = DatabaseAvailabilityGroup(name="DAG1", members=names, witness_server=WITNESS)
    voters = quorum.wanted_voters(group, lambda name: name[0])
    assert sorted(name[0] for name in voters if name != WITNESS) == ["A"] * 4 + ["B"] * 2
    grown = DatabaseAvailabilityGroup(name="DAG1", members=(*names, "A8", "A9"), witness_server=WITNESS)
    assert quorum.wanted_voters(grown, lambda name: name[0])[-1] == WITNESS


def settle(voters: dict[str, bool], wanted: list[str], reachable: set[str]) -> tuple[dict[str, bool], list[str]]:
    """Do step after step; the numbers of voters in between."""
    steps = []
    for _ in range(40):
        step = next_step(voters, [], wanted, reachable)
        if step is None:
            return voters, steps
        if isinstance(step, AddVoter):
            assert all(voters.values()), "etcd adds nobody while a voter is lost"
            voters = {**voters, step.name: True}
        else:
            voters = {name: answers for name, answers in voters.items() if name != step.name}
        steps.append(("+" if isinstance(step, AddVoter) else "-") + step.name)
    raise AssertionError(f"it never ends: {steps}")


@pytest.mark.parametrize(
    ("voters", "wanted", "reachable", "steps"),
    [
        ("A", "AB W", "BW", "+B +W"),
        ("ABW", "ABC", "C", "+C -W"),
        ("ABC", "AB W", "W", "+W -C"),
        ("ABW", "A", "", "-B -W"),
        ("ABw", "AB X", "X", "-w +X"),  # a lost witness goes before its successor comes
        ("ABW", "AB X", "X", "+X -W"),  # a living one after it
        ("Ab W", "A", "", "-b -W"),  # -ConfigurationOnly
        ("A", "AB W", "B", ""),  # no witness: a second voter alone would make things worse
        ("A", "AB", "B", ""),
        ("ABW", "ABC", "", ""),  # the third is out of reach: the witness goes on voting
        ("abW", "W X", "X", ""),  # without quorum nothing is possible
        ("AB", "", "", ""),
    ],
)
def test_the_next_change_of_voters(voters: str, wanted: str, reachable: str, steps: str) -> None:
    """Small letters: votes and does not answer."""

    def name(letter: str) -> str:
        return letter.upper() if letter != "w" else "OLD"

    now = {name(one): one.isupper() for one in voters.replace(" ", "")}
    asked = list(wanted.replace(" ", ""))
    found = settle(now, asked, set(reachable))[1]
    assert [step.replace("OLD", "w").replace("-B", "-b") if "b" in steps else step.replace("OLD", "w")
            for step in found] == steps.split()  # fmt: skip


def test_a_learner_that_nobody_wants_any_more_is_removed() -> None:
    """etcd takes one learner at a time: a forgotten one would block every later change."""
    assert next_step({"A": True}, ["X"], ["A"], []) == RemoveVoter(name="X", lost=True)


NAMES = ["A", "B", "C", "D", "E", "W"]


@given(
    st.dictionaries(st.sampled_from(NAMES), st.booleans(), min_size=1),
    st.lists(st.sampled_from(NAMES), unique=True, min_size=1),
    st.sets(st.sampled_from(NAMES)),
)
def test_no_step_costs_the_quorum(voters: dict[str, bool], wanted: list[str], reachable: set[str]) -> None:
    if not quorum.has_quorum(voters, [name for name in voters if voters[name]]):
        return
    if all(voters.values()) or all(name not in wanted for name in voters if not voters[name]):
        for _ in range(30):
            step = next_step(voters, [], wanted, reachable)
            if step is None:
                break
            if isinstance(step, AddVoter):
                assert step.name in wanted and step.name in reachable
                voters = {**voters, step.name: True}
            else:
                assert step.name not in wanted
                voters = {name: answers for name, answers in voters.items() if name != step.name}
            assert quorum.has_quorum(voters, [name for name in voters if voters[name]])
        else:
            raise AssertionError("it never ends")
        assert set(target(voters, wanted, reachable)) <= set(voters)
