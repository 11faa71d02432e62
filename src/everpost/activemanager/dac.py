"""Datacenter activation coordination (spec 4.1, 4.2; architecture 3.12): may a server that has just started mount?

Pure. A bit in the agent's memory is 0 when it starts; while it is 0 the server acquires no tenure, so it activates and
serves nothing. Quorum alone does not set it: a site that gets power back without its line to the other may be quorate,
while the other site was told to go on without it.
"""

from __future__ import annotations

import msgspec


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What another member's agent says: its bit, and the history that it lives in."""

    server: str
    bit: bool
    generation: int
    cluster: str


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """A local file, fsynced before anything is done under it: the highest generation ever seen and its cluster, and
    which boot of the witness was there when the bit was last known to be 1."""

    generation: int = 0
    cluster: str = ""
    witness_boot: str = ""


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """All that the rule looks at. `generation` None: the directory does not answer. `started`: members of the DAG that
    are not stopped, this server included; empty without a DAG. `unbroken`: the fence still carries this host's tenure
    and its warden's life, so only the agent was restarted and no other server can have been told to go on.
    `witness_boot` "" when the witness' agent does not answer; `one_site`: all members and the witness share a site."""

    me: str
    generation: int | None
    cluster: str
    remembered: Remembered
    started: tuple[str, ...]
    answers: tuple[Answer, ...] = ()
    unbroken: bool = False
    witness_boot: str = ""
    one_site: bool = True


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`allowed`: the bit may be set to 1. `outdated`: another member lives in a newer history; this server must not
    take part until it is started anew."""

    allowed: bool
    reason: str
    outdated: bool = False


def judge(found: Situation) -> Verdict:
    """The DACP rule with its two-member rule (DACP-1 to DACP-5)."""
    if found.generation is None:
        return Verdict(allowed=False, reason="the directory has no quorum here")
    refusal = _history(found)
    if refusal is not None:
        return refusal
    others = [name for name in found.started if name != found.me]
    if not others:
        return Verdict(allowed=True, reason="no other member could be active")
    if found.unbroken:
        return Verdict(allowed=True, reason="the tenure of this server never ended")
    same = {
        one.server: one for one in found.answers if (one.generation, one.cluster) == (found.generation, found.cluster)
    }
    for one in same.values():
        if one.bit and one.server in others:
            return Verdict(allowed=True, reason=f"{one.server} may mount, so this server may")
    silent = [name for name in others if name not in same]
    if not silent:
        return Verdict(allowed=True, reason="all members answer and none was active")
    if len(found.started) == 2:
        return _two_members(found, silent[0])
    return Verdict(allowed=False, reason=f"{', '.join(silent)} does not answer and nobody else may mount")


def _history(found: Situation) -> Verdict | None:
    """Whether this is the history that this server and those that answer belong to."""
    known = found.remembered
    assert found.generation is not None
    if found.generation < known.generation:
        return Verdict(
            allowed=False,
            outdated=True,
            reason=f"the directory is at generation {found.generation}, this server has seen {known.generation}",
        )
    if found.generation == known.generation and known.cluster and found.cluster != known.cluster:
        return Verdict(allowed=False, outdated=True, reason="the directory was made anew without a new generation")
    for one in found.answers:
        if one.generation > found.generation:
            return Verdict(
                allowed=False,
                outdated=True,
                reason=f"{one.server} is at generation {one.generation}, newer than {found.generation} here",
            )
    return None


def _two_members(found: Situation, other: str) -> Verdict:
    """The survivor of two compares boots of the witness: unchanged since its bit was 1 means that the witness did not
    go down with it, so this was a restart of one server and no power failure of the site (DACP-5)."""
    if not found.one_site:
        return Verdict(allowed=False, reason=f"{other} does not answer, and the members are not in one site")
    if not found.witness_boot:
        return Verdict(allowed=False, reason=f"neither {other} nor the witness' agent answers")
    if found.witness_boot != found.remembered.witness_boot:
        return Verdict(
            allowed=False,
            reason=f"{other} does not answer, and the witness was restarted since this server last could mount",
        )
    return Verdict(allowed=True, reason=f"{other} does not answer, but the witness ran all the time")
