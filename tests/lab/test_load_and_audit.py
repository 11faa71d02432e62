"""The generators against a small server whose database goes away for a moment, then the audit: an honest server passes,
and every way in which the server then deceives is found."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from everpost.lab import audit
from everpost.lab.history import Fact, Verdict, judge
from everpost.lab.ledgers import Ledgers
from everpost.lab.load.composer import Composer
from everpost.lab.load.deliver import Worker
from everpost.lab.load.ledger import Ledger
from everpost.lab.load.probe import Probe
from everpost.lab.load.sessions import Drafter, Reader
from everpost.lab.load.smtp import Sender
from everpost.lab.report import ZERO, sessions

from .server import PASSWORD, USERS, Small

ANNA, BEN = USERS
AWAY = 1.2
MINIMUM = 60
LIMIT = 60.0


@dataclasses.dataclass
class Played:
    """A server after the load, and what the ledgers say."""

    server: Small
    facts: list[Fact]
    ledgers: Ledgers

    def judged(self) -> Verdict:
        """By a fresh reading."""
        reading = audit.collect("127.0.0.1", self.server.imaps, self.server.ca, USERS, PASSWORD)
        return judge(self.facts, reading.messages, reading.highest)


def _writers(server: Small, folder: Path, ledgers: Ledgers) -> tuple[list[threading.Thread], dict[str, Ledger]]:
    made: dict[str, Ledger] = {}

    def ledger(name: str) -> Ledger:
        ledgers.add(name, folder / name)
        made[name] = Ledger(str(folder / name))
        return made[name]

    hub, imap, ca = f"127.0.0.1:{server.smtp}", ("127.0.0.1", server.imaps), str(server.ca)
    options = {"hubs": hub, "to": ",".join(USERS), "rate": 60.0, "threads": 2, "large": False, "name": "hub"}
    delivering = ledger("hub")
    works: list[Callable[[], None]] = [
        Worker(argparse.Namespace(**options), delivering, number, []).run for number in range(2)
    ]
    probe = Probe(ledger("probe"), "probe", hub, BEN)
    works.append(lambda: probe.run(20.0))
    open_sessions = ledger("sessions")
    works += [Reader(open_sessions, f"reader-{n}", imap, ca, user, PASSWORD).run for n, user in enumerate(USERS)]
    works.append(Drafter(open_sessions, "drafter", imap, ca, ANNA, PASSWORD).run)
    composer = Composer(ledger("composer"), "composer", imap, ca, BEN, PASSWORD)
    composer.to, composer.password, composer.server = ANNA, PASSWORD, imap
    composer.context = ssl.create_default_context(cafile=ca)
    submission = [("127.0.0.1", server.submission)]
    composer.sender = Sender(made["composer"], submission, login=(BEN, PASSWORD), context=composer.context)
    works.append(composer.run)
    return [threading.Thread(target=work, daemon=True) for work in works], made


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    folder = tmp_path_factory.mktemp("load")
    patch = pytest.MonkeyPatch()
    patch.setattr("everpost.lab.load.sessions.PAUSE", 0.1)
    ledgers = Ledgers()
    with Small(folder).running() as server:
        threads, made = _writers(server, folder, ledgers)
        for thread in threads:
            thread.start()

        def kinds(name: str, kind: str) -> int:
            return sum(fact["kind"] == kind for fact in ledgers.facts(name))

        _until(lambda: kinds("sessions", "session") == 3 and kinds("composer", "session") == 1, "log in")
        _until(lambda: ledgers.count() > MINIMUM, "mail")
        server.call(server.store.away)
        (folder / "composer.go").touch()
        time.sleep(AWAY)
        server.call(server.store.reopen)
        _until(lambda: kinds("composer", "arrived") == 1, "the message that waited")
        for name in ("Sent", "Drafts"):
            _until(lambda name=name: len(server.messages(ANNA, name)) > 2, f"mail in {name}")
        _until(lambda: kinds("sessions", "expunged") > 2 and kinds("sessions", "flag") > 8, "changes")
        for name in made:
            (folder / f"{name}.stop").touch()
        for thread in threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
        patch.undo()
        yield Played(server, ledgers.facts(), ledgers)


def zeros(verdict: Verdict) -> dict[str, int]:
    return {name: getattr(verdict, name) for name in ZERO if getattr(verdict, name)}


def test_an_honest_server_passes(played: Played) -> None:
    verdict = played.judged()
    assert zeros(verdict) == {}, verdict.cases
    assert verdict.acknowledged > MINIMUM
    assert verdict.flags_acknowledged > 8


def test_every_session_survives_the_move_and_waits_for_it(played: Played) -> None:
    assert sessions(played.ledgers.facts("sessions"), 3) == {"sessions_total": 3, "sessions_survived": 3}
    stalls = [fact["seconds"] for fact in played.ledgers.facts("sessions") if fact["kind"] == "stall"]
    assert any(seconds > AWAY / 2 for seconds in stalls)


def test_the_message_that_waited_was_sent_once_the_database_was_back(played: Played) -> None:
    [arrived] = [fact for fact in played.ledgers.facts("composer") if fact["kind"] == "arrived"]
    assert arrived["seconds"] > AWAY / 2


def test_probes_do_not_wait_for_each_other(played: Played) -> None:
    """While nothing was answered, tries went on."""
    tries = [fact["at"] for fact in played.ledgers.facts("probe") if fact["kind"] == "try"]
    acks = sorted(played.ledgers.acknowledged("probe"))
    gap = max(itertools.pairwise(acks), key=lambda pair: pair[1] - pair[0])
    assert sum(gap[0] < at < gap[1] for at in tries) > 10 * AWAY


def _first(messages: dict[int, Any]) -> int:
    return min(messages)


def _drop(messages: dict[int, Any]) -> None:
    del messages[_first(messages)]


def _flip(messages: dict[int, Any]) -> None:
    uid = _first(messages)
    raw = messages[uid].raw
    messages[uid] = dataclasses.replace(messages[uid], raw=raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:])


def _above(messages: dict[int, Any]) -> None:
    """A header between ours and the client's."""
    uid = _first(messages)
    raw = messages[uid].raw.replace(b"X-Ledger-Id", b"X-Other: 1\r\nX-Ledger-Id", 1)
    messages[uid] = dataclasses.replace(messages[uid], raw=raw)


def _copy(messages: dict[int, Any]) -> None:
    first, uid = messages[_first(messages)], max(messages) + 1
    messages[uid] = dataclasses.replace(first, state=_state(first, uid=uid))


def _state(message: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(message.state, **changes)


def _exchange(messages: dict[int, Any]) -> None:
    """Two UIDs stand for each other's message."""
    one, other = sorted(messages)[:2]
    first, second = messages[one], messages[other]
    messages[one] = dataclasses.replace(second, state=_state(second, uid=one))
    messages[other] = dataclasses.replace(first, state=_state(first, uid=other))


def _clear(messages: dict[int, Any]) -> None:
    for uid, message in messages.items():
        messages[uid] = dataclasses.replace(message, state=_state(message, flags=frozenset()))


@pytest.mark.parametrize("folder", ["INBOX", "Sent", "Drafts"])
@pytest.mark.parametrize(
    ("deceive", "found"),
    [
        (_drop, "lost"), (_flip, "changed"), (_above, "changed"), (_copy, "duplicated"), (_exchange, "uid_reused"),
    ],
)  # fmt: skip
def test_a_server_that_deceives_is_found_out(
    played: Played, folder: str, deceive: Callable[[dict[int, Any]], None], found: str
) -> None:
    messages = played.server.messages(ANNA, folder)
    before = dict(messages)
    played.server.call(deceive, messages)
    try:
        verdict = played.judged()
    finally:
        played.server.call(lambda: (messages.clear(), messages.update(before)))
    assert getattr(verdict, found) > 0, verdict


def test_lost_flags_are_found(played: Played) -> None:
    for folder in ("INBOX", "Sent"):
        messages = played.server.messages(ANNA, folder)
        before = dict(messages)
        played.server.call(_clear, messages)
        try:
            assert played.judged().flags_lost > 0
        finally:
            played.server.call(lambda messages=messages, before=before: messages.update(before))


def test_mail_in_another_mailbox_is_found(played: Played) -> None:
    messages, others = played.server.messages(ANNA, "INBOX"), played.server.messages(BEN, "INBOX")
    before, others_before = dict(messages), dict(others)
    uid, free = _first(messages), max(others) + 1
    played.server.call(
        others.__setitem__, free, dataclasses.replace(messages[uid], state=_state(messages[uid], uid=free))
    )
    try:
        assert zeros(played.judged()) == {"unexpected": 1}
    finally:
        played.server.call(lambda: (messages.update(before), others.clear(), others.update(others_before)))


def test_a_modseq_that_went_back_is_found(played: Played) -> None:
    played.server.call(played.server.modseq, ANNA, "INBOX", -(10**6))
    try:
        assert set(zeros(played.judged())) == {"modseq_backwards"}
    finally:
        played.server.call(played.server.modseq, ANNA, "INBOX", 10**6)
