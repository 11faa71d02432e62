"""The DACP rule by tables: the vectors of spec 4.2 (T-DAC-1..5) and those of our generations."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from everpost.activemanager.dac import Answer, Remembered, Situation, judge

BEFORE = Remembered(generation=1, cluster="c1", witness_boot="boot-1")


def answer(server: str, bit: bool, *, generation: int = 1, cluster: str = "c1") -> Answer:
    return Answer(server=server, bit=bit, generation=generation, cluster=cluster)


def situation(*answers: Answer, members: int = 2, witness: str = "", **fields: object) -> Situation:
    found = Situation(
        me="MBX1",
        generation=1,
        cluster="c1",
        remembered=BEFORE,
        started=tuple(f"MBX{n}" for n in range(1, members + 1)),
        answers=answers,
        witness_boot=witness,
    )
    return replace(found, **fields)


VECTORS = [
    pytest.param(
        situation(answer("MBX2", False), members=4, witness="boot-2"),
        False,
        id="T-DAC-1 power back, line down, quorate",
    ),
    pytest.param(situation(answer("MBX2", True), members=4), True, id="T-DAC-3 one restarts, the others run"),
    pytest.param(situation(witness="boot-1"), True, id="T-DAC-4 two members, one restarted, the witness ran on"),
    pytest.param(situation(witness="boot-2"), False, id="T-DAC-5 two members, power loss of member and witness"),
    pytest.param(situation(witness=""), False, id="two members, the witness' agent is silent"),
    pytest.param(situation(witness="boot-1", one_site=False), False, id="two members in two sites wait"),
    pytest.param(situation(witness="boot-1", remembered=Remembered()), False, id="two members, nothing remembered"),
    pytest.param(situation(answer("MBX2", False)), True, id="both of two restarted: all answer"),
    pytest.param(situation(answer("MBX2", False), answer("MBX3", False), members=3), True, id="all of three restarted"),
    pytest.param(situation(answer("MBX2", False), members=3), False, id="three members, one silent, all bits 0"),
    pytest.param(situation(members=3, witness="boot-1"), False, id="the rule of two is for two"),
    pytest.param(situation(members=1), True, id="a DAG of one"),
    pytest.param(situation(members=0), True, id="no DAG"),
    pytest.param(situation(members=3, unbroken=True), True, id="only the agent was restarted"),
    pytest.param(situation(answer("MBX2", True), generation=None), False, id="no quorum"),
    pytest.param(situation(answer("MBX2", True, generation=2)), False, id="a peer lives in a newer history"),
    pytest.param(
        situation(answer("MBX2", True), answer("MBX3", False, generation=2), members=3),
        False,
        id="one newer answer outweighs a bit",
    ),
    pytest.param(situation(answer("MBX2", True, cluster="c2")), False, id="a bit of another cluster counts nothing"),
    pytest.param(
        situation(answer("MBX2", True), remembered=Remembered(generation=2, cluster="c2")),
        False,
        id="the directory went back",
    ),
    pytest.param(
        situation(answer("MBX2", True), remembered=Remembered(generation=1, cluster="c0")),
        False,
        id="the directory was made anew",
    ),
    pytest.param(situation(answer("MBX9", True), members=2), False, id="a bit of a server outside the DAG"),
]


@pytest.mark.parametrize(("found", "expected"), VECTORS)
def test_T_DAC_1_to_5_vectors(found: Situation, expected: bool) -> None:
    verdict = judge(found)
    assert verdict.allowed is expected, verdict.reason
    assert verdict.reason


def test_no_answer_of_an_older_history_ever_helps() -> None:
    """T-DAC-1: site A (two members and the witness) gets power while site B was told to go on, at generation 2."""
    for bits in itertools.product((False, True), repeat=2):
        late = situation(answer("MBX2", bits[0]), answer("MBX3", bits[1], generation=2), members=3, witness="boot-1")
        assert judge(late).outdated


def test_more_answers_of_the_same_history_never_forbid() -> None:
    """Order and number of answers: a further peer of the same history can only help."""
    pool = [answer(f"MBX{n}", n == 3) for n in (2, 3, 4)]
    for count in range(4):
        for chosen in itertools.permutations(pool, count):
            before = judge(situation(*chosen, members=4)).allowed
            for extra in pool:
                assert judge(situation(*chosen, extra, members=4)).allowed >= before
