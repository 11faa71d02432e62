"""What the ledgers say, held against what the mailboxes hold. Pure: no socket, no file, no clock.

Facts are the lines of the ledgers (`lab.load`), each writer's in the order in which it wrote them:

    try      id user folder sha         about to be sent (once for each time it is sent)
    later    id                         surely not taken this time
    unknown  id                         the answer was lost: it may have been taken
    ack      id [validity uid]          taken
    seen     user folder validity uid id
    flagging, flag      user folder validity uid flag want       about to be changed, changed
    expunging, expunged id
    modseq   session user folder value began       HIGHESTMODSEQ, asked for at `began`, known at `at`
    stamp    user folder validity uid value        MODSEQ that a STORE answered
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Fact = Mapping[str, Any]


class Place(NamedTuple):
    """Where a UID stands for one message for ever."""

    user: str
    folder: str
    validity: int
    uid: int


@dataclass(frozen=True)
class Found:
    """One message as the audit read it by IMAP. `sha`: of what the client sent; `clean`: nothing but trace headers
    stands above it."""

    user: str
    folder: str
    validity: int
    uid: int
    identity: str
    sha: str
    flags: frozenset[str]
    modseq: int = 0
    clean: bool = True

    @property
    def place(self) -> Place:
        return Place(self.user, self.folder, self.validity, self.uid)


@dataclass
class Verdict:
    """Counts of the report, and the first few cases in words."""

    acknowledged: int = 0
    lost: int = 0
    changed: int = 0
    duplicated: int = 0
    resubmitted: int = 0
    unexpected: int = 0
    vanished: int = 0
    resurrected: int = 0
    flags_acknowledged: int = 0
    flags_lost: int = 0
    uid_reused: int = 0
    uid_disordered: int = 0
    modseq_backwards: int = 0
    cases: list[str] = field(default_factory=list)

    def case(self, text: str) -> None:
        if len(self.cases) < 20:
            self.cases.append(text)


@dataclass
class Sent:
    """What the ledgers tell of one message."""

    user: str
    folder: str
    sha: str
    first: float
    tries: int = 0
    refused: int = 0
    doubts: int = 0
    acknowledged: float | None = None
    expunging: bool = False
    expunged: bool = False


def sent_messages(facts: Iterable[Fact], verdict: Verdict) -> dict[str, Sent]:
    """By identity. A try after a lost answer is counted as resubmitted."""
    sent: dict[str, Sent] = {}
    for fact in facts:
        kind = fact["kind"]
        if kind == "try":
            one = sent.setdefault(fact["id"], Sent(fact["user"], fact["folder"], fact["sha"], fact["at"]))
            one.tries += 1
            verdict.resubmitted += one.doubts > 0
        elif kind in ("later", "unknown", "ack", "expunging", "expunged"):
            one = sent[fact["id"]]
            one.refused += kind == "later"
            one.doubts += kind == "unknown"
            one.expunging |= kind == "expunging"
            one.expunged |= kind == "expunged"
            if kind == "ack":
                one.acknowledged = fact["at"]
    return sent


def judge(facts: Iterable[Fact], found: Iterable[Found], highest: Mapping[tuple[str, str], int]) -> Verdict:
    """Compare. `highest`: HIGHESTMODSEQ at the end, by user and folder."""
    facts = list(facts)
    found = list(found)
    verdict = Verdict()
    sent = sent_messages(facts, verdict)
    copies: dict[tuple[str, str, str], list[Found]] = defaultdict(list)
    for one in found:
        copies[(one.user, one.folder, one.identity)].append(one)
    _messages(sent, copies, verdict)
    _strangers(sent, copies, verdict)
    _flags(facts, found, verdict)
    _uids(facts, sent, found, copies, verdict)
    _order(sent, copies, verdict)
    _modseqs(facts, found, highest, verdict)
    return verdict


def _messages(sent: Mapping[str, Sent], copies: Mapping[tuple[str, str, str], list[Found]], verdict: Verdict) -> None:
    for identity, one in sent.items():
        here = copies.get((one.user, one.folder, identity), [])
        verdict.acknowledged += one.acknowledged is not None
        changed = any(copy.sha != one.sha or not copy.clean for copy in here)
        if changed:
            verdict.changed += 1
            verdict.case(f"changed: {identity} of {one.user} is not what was sent")
        if one.acknowledged is not None and not one.expunging and (changed or not here):
            verdict.lost += 1
            if not here:
                verdict.case(f"lost: {identity} for {one.user}, acknowledged at {one.acknowledged:.3f}")
        if one.expunged and here:
            verdict.resurrected += 1
            verdict.case(f"back after its EXPUNGE: {identity} of {one.user}")
        allowed = max(one.tries - one.refused, 1 if one.acknowledged is not None else 0)
        if len(here) > allowed:
            verdict.duplicated += len(here) - allowed
            verdict.case(f"duplicated: {identity} of {one.user}, {len(here)} copies of {one.tries} tries")


def _strangers(sent: Mapping[str, Sent], copies: Mapping[tuple[str, str, str], list[Found]], verdict: Verdict) -> None:
    """Messages that nobody sent to where they are."""
    for (user, folder, identity), here in copies.items():
        known = sent.get(identity)
        if known is None or (known.user, known.folder) != (user, folder):
            verdict.unexpected += len(here)
            verdict.case(f"unexpected: {identity or 'a message without identity'} in {folder} of {user}")


def _place(fact: Fact) -> Place:
    return Place(fact["user"], fact["folder"], fact["validity"], fact["uid"])


def _flags(facts: list[Fact], found: list[Found], verdict: Verdict) -> None:
    """The last acknowledged change of a flag holds, unless a later one was under way. One writer for each flag."""
    held = {one.place: one.flags for one in found}
    wanted: dict[tuple[Place, str], bool | None] = {}
    for fact in facts:
        if fact["kind"] == "flagging":
            wanted[(_place(fact), fact["flag"])] = None
        elif fact["kind"] == "flag":
            verdict.flags_acknowledged += 1
            wanted[(_place(fact), fact["flag"])] = fact["want"]
    for (place, flag), want in wanted.items():
        if want is not None and (place not in held or (flag in held[place]) != want):
            verdict.flags_lost += 1
            verdict.case(f"flag lost: {flag} of {place} should be {'set' if want else 'clear'}")


def _uids(
    facts: list[Fact],
    sent: Mapping[str, Sent],
    found: list[Found],
    copies: Mapping[tuple[str, str, str], list[Found]],
    verdict: Verdict,
) -> None:
    """A UID stands for one message for ever, and what was shown once does not vanish."""
    there = {one.place: one.identity for one in found}
    shown: dict[Place, set[str]] = defaultdict(set)
    for fact in facts:
        if fact["kind"] == "seen":
            shown[_place(fact)].add(fact["id"])
    for place, names in shown.items():
        now = there.get(place)
        if len(names | ({now} if now is not None else set())) > 1:
            verdict.uid_reused += 1
            verdict.case(f"UID reused: {place} was {sorted(names)}, is {now}")
            continue
        name = next(iter(names))
        if now is None and not (name in sent and sent[name].expunging):
            if copies.get((place.user, place.folder, name)):
                verdict.uid_reused += 1
                verdict.case(f"UID changed: {name} was {place}")
            else:
                verdict.vanished += 1
                verdict.case(f"vanished: {name} was seen at {place}")


def _order(sent: Mapping[str, Sent], copies: Mapping[tuple[str, str, str], list[Found]], verdict: Verdict) -> None:
    """What was acknowledged before another one was first sent has the lower UID (RFC 3501 2.3.1.1)."""
    folders: dict[tuple[str, str], list[tuple[float, float, int, str]]] = defaultdict(list)
    for identity, one in sent.items():
        here = copies.get((one.user, one.folder, identity), [])
        if len(here) == 1 and one.acknowledged is not None:
            folders[(one.user, one.folder)].append((one.first, one.acknowledged, here[0].uid, identity))
    for rows in folders.values():
        ended = sorted((end, uid) for _, end, uid, _ in rows)
        highest = list(itertools.accumulate((uid for _, uid in ended), max))
        for begun, _, uid, identity in rows:
            before = bisect_left(ended, (begun, 0))
            if before and highest[before - 1] >= uid:
                verdict.uid_disordered += 1
                verdict.case(f"UID order: {identity} has {uid}, an earlier message {highest[before - 1]}")


def _modseqs(facts: list[Fact], found: list[Found], highest: Mapping[tuple[str, str], int], verdict: Verdict) -> None:
    """HIGHESTMODSEQ never falls: for one session, nor for one that asks after another one knew; nor a message's."""
    last: dict[tuple[str, str], int] = {}
    known: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    stamps: Counter[Place] = Counter()
    for fact in facts:
        folder = (fact["user"], fact["folder"]) if fact["kind"] in ("modseq", "stamp") else ("", "")
        if fact["kind"] == "stamp":
            stamps[_place(fact)] = max(stamps[_place(fact)], fact["value"])
            known[folder].append((fact["at"], fact["value"]))
        elif fact["kind"] == "modseq":
            key = (fact["session"], fact["folder"])
            if fact["value"] < last.get(key, 0):
                verdict.modseq_backwards += 1
                verdict.case(f"MODSEQ back: {key} saw {last[key]}, then {fact['value']}")
            last[key] = fact["value"]
            known[folder].append((fact["at"], fact["value"]))
    _stale(facts, known, verdict)
    for where, values in known.items():
        most = max(value for _, value in values)
        if highest.get(where, 0) < most:
            verdict.modseq_backwards += 1
            verdict.case(f"MODSEQ back: {where} ends at {highest.get(where)}, {most} was seen")
    for one in found:
        if one.modseq < stamps[one.place]:
            verdict.modseq_backwards += 1
            verdict.case(f"MODSEQ back: {one.place} has {one.modseq}, {stamps[one.place]} was answered")


def _stale(facts: list[Fact], known: Mapping[tuple[str, str], list[tuple[float, int]]], verdict: Verdict) -> None:
    """All sessions read one clock: an answer is compared with what others knew before it was asked for."""
    times = {where: sorted(values) for where, values in known.items()}
    peaks = {where: list(itertools.accumulate((value for _, value in rows), max)) for where, rows in times.items()}
    for fact in facts:
        if fact["kind"] == "modseq":
            where = (fact["user"], fact["folder"])
            before = bisect_left(times[where], (fact["began"], 0))
            if before and peaks[where][before - 1] > fact["value"]:
                verdict.modseq_backwards += 1
                verdict.case(
                    f"MODSEQ stale: {fact['session']} was told {fact['value']} of {where},"
                    f" {peaks[where][before - 1]} was known before it asked"
                )


def longest_gap(times: Iterable[float], begin: float, end: float) -> float:
    """The longest time without an event between `begin` and `end`; both ends count as events."""
    inside = [begin, *sorted(when for when in times if begin < when < end), end]
    return max(after - before for before, after in itertools.pairwise(inside))
