"""The worked examples of spec 1.4 (T-QUO-1..8) on real voters: etcd in network namespaces, its members chosen and
changed by `cli.reconcile`, and a tenure of each mailbox server, whose end dismounts everything on it (QUO-6)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from everpost.model import quorum

from .voting_hosts import TIMING, WITNESS, VotingHost, VotingHosts

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.timeout(120),
]
GOES_ON = 5.0
"""Seconds within which a majority renews again; when the leader is among the lost another one is elected first."""
BACK = 20.0


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.fixture(scope="module")
def dag() -> Iterator[VotingHosts]:
    """Four members and the witness; the tests change its size, in their order."""
    found = VotingHosts(4)
    try:
        yield found
    finally:
        found.close()


def serves(dag: VotingHosts, hosts: list[VotingHost], since: float) -> None:
    """Each of them renews by a request sent after the loss, and its tenure is valid HOLD after that still."""
    took = dag.wait(
        lambda: all(host.valid() and host.confirmed > since for host in hosts), GOES_ON, "renewals after the loss"
    )
    time.sleep(TIMING.hold + 0.2)  # what was confirmed before the loss is worth nothing any more
    assert all(host.valid() for host in hosts), "the quorum is there, so every tenure must be renewed"
    print(f"renewed {took:.2f} s after the loss, tenures that lapsed: {sum(host.lapses for host in hosts)}")


def stops(dag: VotingHosts, hosts: list[VotingHost], since: float) -> None:
    """Each of them is without a tenure HOLD after the loss at the latest, and stays so."""
    took = dag.wait(lambda: not any(host.valid() for host in hosts), TIMING.hold + 1.0, "the end of every tenure")
    # A renewal that was under way may be confirmed still; none that was sent once the loss was complete.
    late = [host.name for host in hosts if host.confirmed > since + TIMING.attempt]
    time.sleep(1.5)
    assert not late and not any(host.valid() for host in hosts), f"without quorum there is no tenure: {late}"
    print(f"all tenures ended {took:.2f} s after the loss")


def all_back(dag: VotingHosts) -> None:
    now = boottime()
    dag.wait(lambda: all(host.valid() and host.confirmed > now for host in dag.members), BACK, "every tenure again")


def others(dag: VotingHosts, *lost: str) -> list[VotingHost]:
    return [host for host in dag.members if host.name not in lost]


def cut(dag: VotingHosts, *names: str) -> float:
    """The cards of those hosts go down; when that was done."""
    for name in names:
        dag.hosts[name].host.cut()
    return boottime()


def mend(dag: VotingHosts, *names: str) -> None:
    for name in names:
        dag.hosts[name].host.mend()


def test_T_QUO_4_and_5_four_members_and_witness_bear_two_and_not_three(dag: VotingHosts) -> None:
    """One after the other: what is lost goes on counting (QUO-7)."""
    assert quorum.wanted_voters(dag.dag) == ["MBX1", "MBX2", "MBX3", "MBX4", WITNESS]
    try:
        serves(dag, others(dag, "MBX1", "MBX2"), cut(dag, "MBX1", "MBX2"))
        assert not dag.hosts["MBX1"].valid() and not dag.hosts["MBX2"].valid(), "who is cut off serves nothing"
        stops(dag, dag.members, cut(dag, WITNESS))
    finally:
        mend(dag, "MBX1", "MBX2", WITNESS)
    all_back(dag)


def test_T_QUO_6_five_members_bear_two(dag: VotingHosts) -> None:
    """Their members of etcd are killed; the hosts themselves live, and renew with the others."""
    dag.resize(5)
    assert quorum.wanted_voters(dag.dag) == ["MBX1", "MBX2", "MBX3", "MBX4", "MBX5"]
    lost = ("MBX1", "MBX4")
    try:
        for name in lost:
            dag.hosts[name].signal(signal.SIGKILL)
        serves(dag, dag.members, boottime())
    finally:
        for name in lost:
            dag.hosts[name].start()
    all_back(dag)


def test_T_QUO_7_of_five_over_a_cut_line_only_the_three_serve(dag: VotingHosts) -> None:
    """Both sides live on; the smaller one has no service until the line is back."""
    dag.wait(lambda: answers(dag, "MBX1", "MBX4"), BACK, "the restarted voters")
    far = ("MBX4", "MBX5")
    dag.split(far)
    since = boottime()
    try:
        stops(dag, [dag.hosts[name] for name in far], since)
        serves(dag, others(dag, *far), since)
        assert not any(dag.hosts[name].valid() for name in far)
    finally:
        dag.join(far)
    all_back(dag)


def test_T_QUO_8_six_members_and_witness_bear_three(dag: VotingHosts) -> None:
    """Frozen this time: connections stay open and nothing answers."""
    dag.resize(6)
    assert len(quorum.wanted_voters(dag.dag)) == 7
    lost = ("MBX1", "MBX2", WITNESS)
    try:
        for name in lost:
            dag.hosts[name].signal(signal.SIGSTOP)
        serves(dag, others(dag, *lost), boottime())
    finally:
        for name in lost:
            dag.hosts[name].signal(signal.SIGCONT)
    all_back(dag)


def test_T_QUO_1_to_3_two_members_and_witness_bear_one(dag: VotingHosts) -> None:
    dag.resize(2)
    assert quorum.wanted_voters(dag.dag) == ["MBX1", "MBX2", WITNESS]
    try:
        serves(dag, dag.members, cut(dag, WITNESS))  # T-QUO-2
        mend(dag, WITNESS)
        dag.wait(lambda: answers(dag, WITNESS), BACK, "the witness")
        serves(dag, others(dag, "MBX2"), cut(dag, "MBX2"))  # T-QUO-1
        stops(dag, dag.members, cut(dag, WITNESS))  # T-QUO-3
    finally:
        mend(dag, WITNESS, "MBX2")
    all_back(dag)


def answers(dag: VotingHosts, *names: str) -> bool:
    """Whether those voters know a leader."""
    return all(dag.hosts[name].knows_a_leader() for name in names)
