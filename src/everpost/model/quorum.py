"""Quorum: who votes in a DAG, and what a loss does (spec 1.4). Pure arithmetic for commands and checks."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection

from everpost.model.server import DatabaseAvailabilityGroup

MOST_VOTERS = 7
"""Each further voter makes every write slower; seven bear the loss of three (decisions: Engines)."""


class QuorumModel(enum.StrEnum):
    """The field's names for who votes."""

    NODE_MAJORITY = "NodeMajority"
    NODE_AND_FILE_SHARE_MAJORITY = "NodeAndFileShareMajority"


def model_of(dag: DatabaseAvailabilityGroup) -> QuorumModel:
    """By the number of members: the witness votes exactly when it is even (QUO-1, QUO-2)."""
    even = bool(dag.members) and len(dag.members) % 2 == 0
    return QuorumModel.NODE_AND_FILE_SHARE_MAJORITY if even else QuorumModel.NODE_MAJORITY


def majority(voters: int) -> int:
    """Votes that must be there for a decision."""
    return voters // 2 + 1


def has_quorum(voters: Collection[str], answering: Collection[str]) -> bool:
    """Whether those voters that answer decide. A voter that is lost goes on counting (QUO-7)."""
    return len(set(voters) & set(answering)) >= majority(len(voters))


def tolerance(voters: Collection[str], answering: Collection[str]) -> int:
    """How many more voters may be lost; below 0: the quorum is lost already."""
    return len(set(voters) & set(answering)) - majority(len(voters))


def wanted_voters(dag: DatabaseAvailabilityGroup, site_of: Callable[[str], str] = lambda _: "") -> list[str]:
    """Who should vote: the members, at most seven with the witness, and the witness when the number of members is
    even. In a larger DAG the seats are spread over the sites in proportion to their members, in the order in which
    members were added, so that a further member never changes a seat of its own site's earlier members."""
    witness = model_of(dag) is QuorumModel.NODE_AND_FILE_SHARE_MAJORITY
    seats = MOST_VOTERS - 1 if witness else MOST_VOTERS
    voters = list(dag.members) if len(dag.members) <= seats else _spread(dag.members, seats, site_of)
    if witness and dag.witness_server is not None:
        voters.append(dag.witness_server)
    return voters


def _spread(members: Collection[str], seats: int, site_of: Callable[[str], str]) -> list[str]:
    by_site: dict[str, list[str]] = {}
    for member in members:
        by_site.setdefault(site_of(member), []).append(member)
    taken = dict.fromkeys(by_site, 0)
    for _ in range(seats):
        # The site whose members are least represented gets the next seat; the first site wins a tie.
        site = min((one for one in by_site if taken[one] < len(by_site[one])), key=lambda s: taken[s] / len(by_site[s]))
        taken[site] += 1
    chosen = {member for site, names in by_site.items() for member in names[: taken[site]]}
    return [member for member in members if member in chosen]
