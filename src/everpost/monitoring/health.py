"""The checks of Test-ReplicationHealth (spec 5.1): a table of questions, each a pure function of what was observed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from everpost.model import quorum
from everpost.model.database import CopyState

COPY_QUEUE = 12
REPLAY_QUEUE = 24
"""Generations of 1 MB that may wait: two seconds of a disk at full rate are no fault, a minute's are."""
INITIALIZING = 60.0


class CopyHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One copy on the examined server. `good`: how many copies of its database could serve without loss."""

    name: str
    state: CopyState
    error: str = ""
    copy_queue: int | None = None
    replay_queue: int | None = None
    active: bool = False
    mounted_somewhere: bool = True
    copies: int = 1
    good: int = 1


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What was observed of one server and its DAG. A text is what is wrong, "" when nothing is."""

    server: str
    dag: str | None
    agent: str = ""
    cluster: str = ""
    role: str = "Standalone"
    tenure: bool = True
    coordination: str = ""
    listeners: str = ""
    members_down: tuple[str, ...] = ()
    networks_down: tuple[str, ...] = ()
    pam: str | None = None
    voters: Mapping[str, bool] = {}
    wanted: tuple[str, ...] = ()
    quorum: str = ""
    witness_votes: bool = False
    witness: str = ""
    copies: tuple[CopyHealth, ...] = ()


class Result(NamedTuple):
    """`error` "" is Passed."""

    check: str
    error: str


def _active_manager(found: Health) -> str:
    if found.agent:
        return found.agent
    if found.coordination:
        return f"it may not mount yet: {found.coordination}"
    if not found.tenure:
        return "it does not hold its tenure"
    if found.dag is not None and found.pam is None:
        return f"{found.dag} has no Primary Active Manager"
    return ""


def _quorum(found: Health) -> str:
    if found.quorum:
        return found.quorum
    silent = [name for name, answers in found.voters.items() if not answers]
    missing = [name for name in found.wanted if name not in found.voters]
    left = quorum.tolerance(list(found.voters), [name for name in found.voters if found.voters[name]])
    if silent:
        return f"{', '.join(silent)} votes and does not answer; {max(left, 0)} more may be lost"
    if missing:
        return f"{', '.join(missing)} does not vote; Set-DatabaseAvailabilityGroup {found.dag} repairs it"
    return ""


def _copies(*states: CopyState) -> Callable[[Health], str]:
    def check(found: Health) -> str:
        bad = [copy for copy in found.copies if copy.state in states]
        return "; ".join(f"{copy.name} is {copy.state}" + (f": {copy.error}" if copy.error else "") for copy in bad)

    return check


def _queue(what: str, limit: int, length: Callable[[CopyHealth], int | None]) -> Callable[[Health], str]:
    def check(found: Health) -> str:
        long = [(copy.name, length(copy)) for copy in found.copies if not copy.active]
        return "; ".join(f"{name} has {count} generations to {what}" for name, count in long if (count or 0) > limit)

    return check


def _redundancy(found: Health) -> str:
    bad = [copy for copy in found.copies if copy.copies > 1 and copy.good < 2]
    return "; ".join(f"{copy.name}: {copy.good} of {copy.copies} copies could serve" for copy in bad)


def _availability(found: Health) -> str:
    return "; ".join(f"the database of {copy.name} is mounted nowhere" for copy in found.copies
                     if not copy.mounted_somewhere)  # fmt: skip


S = CopyState
CHECKS: tuple[tuple[str, bool, Callable[[Health], str]], ...] = (
    ("ClusterService", True, lambda found: found.cluster),
    ("ReplayService", False, lambda found: found.agent),
    ("ActiveManager", False, _active_manager),
    ("TasksRpcListener", False, lambda found: found.agent),
    ("TcpListener", True, lambda found: found.listeners),
    ("DagMembersUp", True, lambda found: ", ".join(found.members_down) and f"down: {', '.join(found.members_down)}"),
    ("ClusterNetwork", True, lambda found: "; ".join(found.networks_down)),
    ("QuorumGroup", True, _quorum),
    ("FileShareQuorum", True, lambda found: found.witness if found.witness_votes else ""),
    ("DatabaseRedundancy", True, _redundancy),
    ("DatabaseAvailability", True, _availability),
    ("DBCopySuspended", True, _copies(S.SUSPENDED, S.FAILED_AND_SUSPENDED)),
    ("DBCopyFailed", True, _copies(S.FAILED, S.FAILED_AND_SUSPENDED, S.SERVICE_DOWN)),
    ("DBInitializing", True, _copies(S.INITIALIZING)),
    ("DBDisconnected", True, _copies(S.DISCONNECTED_AND_HEALTHY, S.DISCONNECTED_AND_RESYNCHRONIZING)),
    ("DBLogCopyKeepingUp", True, _queue("copy", COPY_QUEUE, lambda copy: copy.copy_queue)),
    ("DBLogReplayKeepingUp", True, _queue("replay", REPLAY_QUEUE, lambda copy: copy.replay_queue)),
)
"""Name, whether only for members of a DAG, and the question."""


def run(found: Health) -> list[Result]:
    """All checks that apply to the server, in the field's order."""
    return [Result(name, check(found)) for name, members_only, check in CHECKS if found.dag or not members_only]
