"""The next change of the cluster's members, pure: from who votes and who should, to one addition or removal.

Three rules: a lost voter that is not wanted goes first, since etcd adds nobody while a voter is lost; a living one goes
last, when all that are wanted vote; and the number of voters is not made even because a witness is out of reach, since
with two voters the loss of either stops all writes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from everpost.model.quorum import majority


class AddVoter(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """That host shall vote."""

    name: str


class RemoveVoter(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """That host shall vote no more. `lost`: it does not answer."""

    name: str
    lost: bool


def next_step(
    voters: Mapping[str, bool], learners: Collection[str], wanted: Sequence[str], reachable: Collection[str]
) -> AddVoter | RemoveVoter | None:
    """`voters`: who votes, and whether it answers; `learners`: members that do not vote yet; `wanted`: who should vote,
    the witness last; `reachable`: hosts whose agent answers and could start a member. None: nothing can be done, or
    nothing is to do."""
    if not wanted:
        return None  # an organisation without members keeps its voters: somebody must hold the documents
    for name in learners:
        if name not in wanted:
            return RemoveVoter(name=name, lost=name not in reachable)
    answering = sum(voters.values())
    for name, answers in voters.items():
        if name not in wanted and not answers and answering >= majority(len(voters)):
            return RemoveVoter(name=name, lost=True)
    for name in target(voters, wanted, reachable):
        if name not in voters:
            return AddVoter(name=name)
    if all(name in voters for name in wanted):
        for name in voters:
            if name not in wanted:
                return RemoveVoter(name=name, lost=False)
    return None


def target(voters: Collection[str], wanted: Sequence[str], reachable: Collection[str]) -> list[str]:
    """Who of the wanted can vote now: those out of reach cannot, and their absence does not make the number even."""
    chosen = [name for name in wanted if name in voters or name in reachable]
    while chosen and len(chosen) % 2 == 0:
        newcomers = [name for name in chosen if name not in voters]
        if not newcomers:
            break
        chosen.remove(newcomers[-1])
    return chosen
