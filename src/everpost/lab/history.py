"""What the ledgers say, held against what the mailboxes hold. Pure: no socket, no file, no clock."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Fact = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """One message as the audit read it by IMAP."""

    user: str
    folder: str
    validity: int
    uid: int
    identity: str
    sha: str
    flags: frozenset[str]


@dataclass
class Verdict:
    """Counts of the report, and the first few cases of each kind in words."""

    acknowledged: int = 0
    lost: int = 0
    changed: int = 0
    duplicated: int = 0
    resubmitted: int = 0
    flags_acknowledged: int = 0
    flags_lost: int = 0
    uid_reused: int = 0
    modseq_backwards: int = 0
    cases: list[str] = field(default_factory=list)

    def case(self, text: str) -> None:
        if len(self.cases) < 20:
            self.cases.append(text)


def judge(facts: Iterable[Fact], found: Iterable[Found], modseqs: Mapping[str, int]) -> Verdict:
    """Compare. `modseqs`: HIGHESTMODSEQ of each user's INBOX at the end."""
    facts = list(facts)
    found = list(found)
    verdict = Verdict()
    copies: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for one in found:
        copies[(one.user, one.identity)].append(one)
    unknown = Counter(fact["id"] for fact in facts if fact["kind"] == "unknown")
    _messages(facts, copies, unknown, verdict)
    _flags(facts, found, verdict)
    _uids(facts, found, verdict)
    _modseqs(facts, modseqs, verdict)
    return verdict


def _messages(
    facts: list[Fact], copies: Mapping[tuple[str, str], list[Found]], unknown: Counter[str], verdict: Verdict
) -> None:
    owners: dict[str, str] = {}
    for fact in facts:
        if fact["kind"] in ("ack", "append"):
            user = fact["to"] if fact["kind"] == "ack" else fact["user"]
            owners[fact["id"]] = user
            verdict.acknowledged += 1
            here = copies.get((user, fact["id"]), [])
            if not here:
                verdict.lost += 1
                verdict.case(f"lost: {fact['id']} for {user}, acknowledged at {fact['at']:.3f}")
            elif any(one.sha != fact["sha"] for one in here):
                verdict.lost += 1
                verdict.changed += 1
                verdict.case(f"changed: {fact['id']} of {user} is not what was sent")
    for (user, identity), here in copies.items():
        if len(here) > 1:
            resubmitted = min(len(here) - 1, unknown[identity])
            verdict.resubmitted += resubmitted
            verdict.duplicated += len(here) - 1 - resubmitted
            if len(here) - 1 > resubmitted:
                verdict.case(f"duplicated: {identity} of {user}, {len(here)} copies, {resubmitted} sent again")


def _flags(facts: list[Fact], found: list[Found], verdict: Verdict) -> None:
    flags = {(one.user, one.folder, one.validity, one.uid): one.flags for one in found}
    for fact in facts:
        if fact["kind"] == "flag":
            verdict.flags_acknowledged += 1
            key = (fact["user"], fact["folder"], fact["validity"], fact["uid"])
            if fact["flag"] not in flags.get(key, frozenset()):
                verdict.flags_lost += 1
                verdict.case(f"flag lost: {fact['flag']} of {key}")


def _uids(facts: list[Fact], found: list[Found], verdict: Verdict) -> None:
    """A UID stands for one message for ever."""
    identities: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for one in found:
        identities[(one.user, one.folder, one.validity, one.uid)].add(one.identity)
    for fact in facts:
        if fact["kind"] == "seen":
            identities[(fact["user"], fact["folder"], fact["validity"], fact["uid"])].add(fact["id"])
    for key, names in identities.items():
        if len(names) > 1:
            verdict.uid_reused += 1
            verdict.case(f"UID reused: {key} was {sorted(names)}")


def _modseqs(facts: list[Fact], modseqs: Mapping[str, int], verdict: Verdict) -> None:
    last: dict[str, int] = {}
    highest: dict[str, int] = {}
    for fact in facts:
        if fact["kind"] == "modseq":
            session, value = fact["session"], fact["value"]
            if value < last.get(session, 0):
                verdict.modseq_backwards += 1
                verdict.case(f"MODSEQ back: {session} saw {last[session]}, then {value}")
            last[session] = value
            highest[fact["user"]] = max(highest.get(fact["user"], 0), value)
    for user, value in highest.items():
        if modseqs.get(user, 0) < value:
            verdict.modseq_backwards += 1
            verdict.case(f"MODSEQ back: {user} ends at {modseqs.get(user)}, {value} was seen")


def longest_gap(times: Iterable[float], begin: float, end: float) -> float:
    """The longest time without an event between `begin` and `end`; both ends count as events."""
    inside = [begin, *sorted(when for when in times if begin < when < end), end]
    return max(after - before for before, after in itertools.pairwise(inside))
