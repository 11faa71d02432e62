"""The checker: every kind of violation must be found, and an honest history must pass."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everpost.lab.history import Found, Verdict, judge, longest_gap
from everpost.lab.report import ZERO

ANNA = "anna@contoso.com"
HIGHEST = {(ANNA, "INBOX"): 100}


def tried(identity: str, *, at: float = 1.0, sha: str = "s", user: str = ANNA, folder: str = "INBOX") -> dict[str, Any]:
    return {"kind": "try", "id": identity, "user": user, "folder": folder, "sha": sha, "at": at}


def ack(identity: str, *, at: float = 2.0) -> dict[str, Any]:
    return {"kind": "ack", "id": identity, "user": ANNA, "at": at}


def sent(identity: str, *, at: float = 1.0, sha: str = "s") -> list[dict[str, Any]]:
    return [tried(identity, at=at, sha=sha), ack(identity, at=at + 0.5)]


def fact(kind: str, identity: str) -> dict[str, Any]:
    return {"kind": kind, "id": identity, "at": 3.0}


def message(uid: int, identity: str, **changes: Any) -> Found:
    one = Found(ANNA, "INBOX", 7, uid, identity, "s", frozenset(), modseq=50)
    return dataclasses.replace(one, **changes)


def seen(uid: int, identity: str, validity: int = 7) -> dict[str, Any]:
    return {"kind": "seen", "user": ANNA, "folder": "INBOX", "validity": validity, "uid": uid, "id": identity}


def flag(uid: int, name: str, *, kind: str = "flag", want: bool = True) -> dict[str, Any]:
    place = {"user": ANNA, "folder": "INBOX", "validity": 7, "uid": uid}
    return {"kind": kind, "flag": name, "want": want, **place}


def modseq(value: int, session: str = "s1", *, began: float = 10.0, at: float | None = None) -> dict[str, Any]:
    known = began + 0.1 if at is None else at
    return {
        "kind": "modseq", "session": session, "user": ANNA, "folder": "INBOX", "value": value, "began": began,
        "at": known,
    }  # fmt: skip


def stamp(uid: int, value: int, *, at: float = 10.0) -> dict[str, Any]:
    return {"kind": "stamp", "user": ANNA, "folder": "INBOX", "validity": 7, "uid": uid, "value": value, "at": at}


def zeros(verdict: Verdict) -> dict[str, int]:
    """The violations that were found."""
    return {name: getattr(verdict, name) for name in ZERO if getattr(verdict, name)}


def test_an_honest_history_passes() -> None:
    verdict = judge(
        [
            *sent("a"), *sent("b", at=2.0), seen(1, "a"), flag(1, "$L", kind="flagging"), flag(1, "$L"),
            modseq(60), stamp(1, 70, at=10.2), modseq(70, began=10.5), modseq(80, "s2", began=10.6),
        ],
        [message(1, "a", flags=frozenset({"$L", "\\Seen"}), modseq=70), message(2, "b")],
        HIGHEST,
    )  # fmt: skip
    assert zeros(verdict) == {}
    assert (verdict.acknowledged, verdict.flags_acknowledged, verdict.resubmitted) == (2, 1, 0)
    assert verdict.cases == []


def test_a_lost_message_is_found() -> None:
    assert zeros(judge([*sent("a"), *sent("b", at=2.0)], [message(1, "a")], {})) == {"lost": 1}


def test_a_message_in_the_wrong_mailbox_or_folder_is_lost_and_unexpected() -> None:
    for change in ({"user": "ben@contoso.com"}, {"folder": "Sent"}):
        assert zeros(judge(sent("a"), [message(1, "a", **change)], {})) == {"lost": 1, "unexpected": 1}


def test_a_changed_byte_is_found_acknowledged_or_not() -> None:
    assert zeros(judge(sent("a", sha="right"), [message(1, "a", sha="wrong")], {})) == {"lost": 1, "changed": 1}
    assert zeros(judge([tried("a", sha="right")], [message(1, "a", sha="wrong")], {})) == {"changed": 1}


def test_something_strange_above_the_message_is_found() -> None:
    assert zeros(judge(sent("a"), [message(1, "a", clean=False)], {})) == {"lost": 1, "changed": 1}


def test_a_message_that_nobody_sent_is_found() -> None:
    assert zeros(judge([], [message(1, "")], {})) == {"unexpected": 1}
    assert zeros(judge([], [message(1, "x")], {})) == {"unexpected": 1}


def test_a_second_copy_is_a_duplicate_unless_the_client_sent_it_again() -> None:
    twice = [message(1, "a"), message(2, "a")]
    assert zeros(judge(sent("a"), twice, {})) == {"duplicated": 1}
    again = [tried("a"), fact("unknown", "a"), tried("a"), ack("a")]
    verdict = judge(again, twice, {})
    assert zeros(verdict) == {}
    assert verdict.resubmitted == 1
    assert zeros(judge(again, [*twice, message(3, "a")], {})) == {"duplicated": 1}


def test_a_copy_of_what_was_refused_is_a_duplicate() -> None:
    refused = [tried("a"), fact("later", "a"), tried("a"), ack("a")]
    assert zeros(judge(refused, [message(1, "a")], {})) == {}
    assert judge(refused, [message(1, "a")], {}).resubmitted == 0
    assert zeros(judge(refused, [message(1, "a"), message(2, "a")], {})) == {"duplicated": 1}
    assert zeros(judge(refused[:2], [message(1, "a")], {})) == {"duplicated": 1}


def test_a_try_without_answer_may_or_may_not_be_there() -> None:
    for found in ([], [message(1, "a")]):
        assert zeros(judge([tried("a")], found, {})) == {}
        assert zeros(judge([tried("a"), fact("unknown", "a")], found, {})) == {}


def test_a_lost_flag_is_found() -> None:
    there = [message(1, "a")]
    assert zeros(judge([*sent("a"), flag(1, "$L")], there, {})) == {"flags_lost": 1}
    assert zeros(judge([*sent("a"), flag(4, "$L")], there, {})) == {"flags_lost": 1}


def test_a_flag_that_was_cleared_must_stay_clear() -> None:
    facts = [*sent("a"), flag(1, "$L"), flag(1, "$L", want=False)]
    assert zeros(judge(facts, [message(1, "a")], {})) == {}
    assert zeros(judge(facts, [message(1, "a", flags=frozenset({"$L"}))], {})) == {"flags_lost": 1}


def test_a_flag_whose_change_was_under_way_may_be_either() -> None:
    facts = [*sent("a"), flag(1, "$L"), flag(1, "$L", kind="flagging", want=False)]
    for flags in (frozenset[str](), frozenset({"$L"})):
        assert zeros(judge(facts, [message(1, "a", flags=flags)], {})) == {}


def test_a_reused_uid_is_found() -> None:
    there = [message(1, "a")]
    both = [*sent("a"), *sent("b"), fact("expunging", "b"), fact("expunged", "b")]
    assert zeros(judge([*both, seen(1, "b")], there, {})) == {"uid_reused": 1}
    assert zeros(judge([*both, seen(3, "b"), seen(3, "a"), seen(1, "a")], there, {})) == {"uid_reused": 1}


def test_a_message_that_changed_its_uid_or_uidvalidity_is_found() -> None:
    assert zeros(judge([*sent("a"), seen(2, "a")], [message(1, "a")], {})) == {"uid_reused": 1}
    assert zeros(judge([*sent("a"), seen(1, "a", validity=6)], [message(1, "a")], {})) == {"uid_reused": 1}


def test_what_was_shown_and_is_gone_is_found_even_if_it_was_not_acknowledged() -> None:
    assert zeros(judge([tried("a"), seen(1, "a")], [], {})) == {"vanished": 1}


def test_expunged_messages_stay_away_and_unfinished_ones_may_be_either() -> None:
    gone = [*sent("a"), seen(1, "a"), fact("expunging", "a"), fact("expunged", "a")]
    assert zeros(judge(gone, [], {})) == {}
    assert zeros(judge(gone, [message(1, "a")], {})) == {"resurrected": 1}
    for found in ([], [message(1, "a")]):
        assert zeros(judge(gone[:-1], found, {})) == {}


def test_uids_ascend_in_the_order_of_acknowledgements() -> None:
    facts = [*sent("a", at=1.0), *sent("b", at=2.0)]
    assert zeros(judge(facts, [message(2, "a"), message(1, "b")], {})) == {"uid_disordered": 1}
    together = [*sent("a", at=1.0), *sent("b", at=1.2)]
    assert zeros(judge(together, [message(2, "a"), message(1, "b")], {})) == {}


def test_a_modseq_that_goes_back_is_found() -> None:
    end = {(ANNA, "INBOX"): 9}
    assert judge([modseq(9), modseq(8, began=11.0)], [], end).modseq_backwards > 0
    assert zeros(judge([modseq(9)], [], {(ANNA, "INBOX"): 8})) == {"modseq_backwards": 1}
    assert zeros(judge([modseq(9)], [], {})) == {"modseq_backwards": 1}


def test_an_answer_older_than_what_another_session_knew_is_found() -> None:
    end = {(ANNA, "INBOX"): 9}
    later = modseq(8, "s2", began=10.2)
    assert zeros(judge([modseq(9, began=10.0, at=10.1), later], [], end)) == {"modseq_backwards": 1}
    assert zeros(judge([modseq(9, began=10.0, at=10.3), later], [], end)) == {}, "asked before the other one knew"


def test_a_stamp_that_goes_back_is_found() -> None:
    end = {(ANNA, "INBOX"): 60}
    there = [message(1, "a", modseq=50)]
    assert zeros(judge([*sent("a"), stamp(1, 50)], there, end)) == {}
    assert zeros(judge([*sent("a"), stamp(1, 55)], there, end)) == {"modseq_backwards": 1}
    assert zeros(judge([*sent("a"), stamp(1, 50), modseq(40, began=10.5)], there, end)) == {"modseq_backwards": 1}


def _history(chance: random.Random, count: int) -> tuple[list[dict[str, Any]], list[Found]]:
    """An honest server under a random load."""
    facts: list[dict[str, Any]] = []
    found: list[Found] = []
    for number in range(1, count + 1):
        identity, at = f"m{number}", number + 0.0
        kind = chance.choice(("sent", "sent", "again", "refused", "open", "expunged"))
        if kind == "again":
            facts += [tried(identity, at=at), fact("unknown", identity)]
        if kind == "refused":
            facts += [tried(identity, at=at), fact("later", identity)]
            continue
        facts += [tried(identity, at=at)] if kind == "open" else sent(identity, at=at)
        if kind == "expunged":
            facts += [seen(number, identity), fact("expunging", identity), fact("expunged", identity)]
        elif kind != "open" or chance.random() < 0.5:
            flags = frozenset({"$L"} if chance.random() < 0.5 else ())
            facts += [seen(number, identity), *([flag(number, "$L")] if flags else [])]
            found.append(message(number, identity, flags=flags, modseq=number))
    return facts, found


@settings(max_examples=60, deadline=None)
@given(st.integers(), st.integers(3, 40), st.sampled_from(["drop", "byte", "double", "swap", "flags", "stranger"]))
def test_any_single_violation_in_any_history_is_found(seed: int, count: int, violation: str) -> None:
    chance = random.Random(seed)
    facts, found = _history(chance, count)
    assert zeros(judge(facts, found, HIGHEST)) == {}
    index = chance.randrange(len(found)) if found else 0
    if not found or (violation == "swap" and len(found) < 2):
        return
    victim = found[index]
    match violation:
        case "drop":
            del found[index]
        case "byte":
            found[index] = dataclasses.replace(victim, sha="other")
        case "double":
            found += [dataclasses.replace(victim, uid=1000), dataclasses.replace(victim, uid=1001)]
        case "swap":
            other = found[index - 1]
            found[index] = dataclasses.replace(victim, identity=other.identity)
            found[index - 1] = dataclasses.replace(other, identity=victim.identity)
        case "flags":
            if not victim.flags:
                return
            found[index] = dataclasses.replace(victim, flags=frozenset())
        case "stranger":
            found.append(message(1000, "nobody sent this"))
    assert zeros(judge(facts, found, HIGHEST)) != {}


@pytest.mark.parametrize(
    ("times", "gap"), [([], 10.0), ([1.0, 9.0], 8.0), ([0.5, 1.0, 1.5, 12.0], 8.5), ([-5.0, 9.9], 9.9)]
)
def test_the_longest_gap_counts_both_ends(times: list[float], gap: float) -> None:
    assert longest_gap(times, 0.0, 10.0) == pytest.approx(gap)
