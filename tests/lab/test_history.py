"""The checker: every kind of violation must be found, and an honest history must pass."""

from __future__ import annotations

from typing import Any

import pytest

from everpost.lab.history import Found, judge, longest_gap


def ack(identity: str, sha: str = "s", to: str = "anna") -> dict[str, Any]:
    return {"kind": "ack", "id": identity, "sha": sha, "to": to, "at": 1.0}


def message(uid: int, identity: str, *, sha: str = "s", user: str = "anna", flags: tuple[str, ...] = ()) -> Found:
    return Found(user, "INBOX", 7, uid, identity, sha, frozenset(flags))


def seen(uid: int, identity: str) -> dict[str, Any]:
    return {"kind": "seen", "user": "anna", "folder": "INBOX", "validity": 7, "uid": uid, "id": identity}


def flag(uid: int, name: str) -> dict[str, Any]:
    return {"kind": "flag", "user": "anna", "folder": "INBOX", "validity": 7, "uid": uid, "flag": name}


def modseq(value: int, session: str = "s1") -> dict[str, Any]:
    return {"kind": "modseq", "session": session, "user": "anna", "value": value}


def test_an_honest_history_passes() -> None:
    verdict = judge(
        [ack("a"), ack("b"), seen(1, "a"), flag(1, "$L"), modseq(5), modseq(9)],
        [message(1, "a", flags=("$L", "\\Seen")), message(2, "b")],
        {"anna": 9},
    )
    counts = (verdict.lost, verdict.duplicated, verdict.flags_lost, verdict.uid_reused, verdict.modseq_backwards)
    assert counts == (0, 0, 0, 0, 0)
    assert verdict.acknowledged == 2
    assert verdict.cases == []


def test_a_lost_message_is_found() -> None:
    assert judge([ack("a"), ack("b")], [message(1, "a")], {}).lost == 1


def test_a_message_in_the_wrong_mailbox_is_lost() -> None:
    assert judge([ack("a")], [message(1, "a", user="ben")], {}).lost == 1


def test_a_changed_byte_is_found() -> None:
    verdict = judge([ack("a", sha="right")], [message(1, "a", sha="wrong")], {})
    assert (verdict.lost, verdict.changed) == (1, 1)


def test_a_second_copy_is_a_duplicate_unless_the_client_sent_it_again() -> None:
    twice = [message(1, "a"), message(2, "a")]
    assert judge([ack("a")], twice, {}).duplicated == 1
    verdict = judge([{"kind": "unknown", "id": "a", "at": 0.5}, ack("a")], twice, {})
    assert (verdict.duplicated, verdict.resubmitted) == (0, 1)
    thrice = [*twice, message(3, "a")]
    assert judge([{"kind": "unknown", "id": "a", "at": 0.5}, ack("a")], thrice, {}).duplicated == 1


def test_a_lost_flag_is_found() -> None:
    assert judge([ack("a"), flag(1, "$L")], [message(1, "a")], {}).flags_lost == 1
    assert judge([flag(4, "$L")], [], {}).flags_lost == 1


def test_a_reused_uid_is_found() -> None:
    assert judge([seen(1, "other")], [message(1, "a")], {}).uid_reused == 1
    assert judge([seen(1, "one"), seen(1, "two")], [], {}).uid_reused == 1


def test_a_modseq_that_goes_back_is_found() -> None:
    assert judge([modseq(9), modseq(8)], [], {"anna": 9}).modseq_backwards == 1
    assert judge([modseq(9)], [], {"anna": 8}).modseq_backwards == 1
    assert judge([modseq(9, "s1"), modseq(8, "s2")], [], {"anna": 9}).modseq_backwards == 0


@pytest.mark.parametrize(
    ("times", "gap"), [([], 10.0), ([1.0, 9.0], 8.0), ([0.5, 1.0, 1.5, 12.0], 8.5), ([-5.0, 9.9], 9.9)]
)
def test_the_longest_gap_counts_both_ends(times: list[float], gap: float) -> None:
    assert longest_gap(times, 0.0, 10.0) == pytest.approx(gap)
