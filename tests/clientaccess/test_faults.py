"""Sessions outlive what happens behind them; what was computed under a tenure that is over never leaves."""

from __future__ import annotations

import imaplib
import re
import socket
import time

import pytest

from everpost.clientaccess import idle
from everpost.clientaccess import session as session_module
from everpost.net import conn

from .conftest import Serving

MAIL = b"Subject: x\r\n\r\nHello\r\n"
LOGIN = b'l LOGIN anna "pass word \\\\ \\"quoted\\""\r\n'


class Raw:
    """A client that sees lines."""

    def __init__(self, serving: Serving) -> None:
        self.socket = socket.create_connection(("127.0.0.1", serving.port), 20)
        self.file = self.socket.makefile("rb")
        self.file.readline()
        self.ask(LOGIN, b"l")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, data: bytes, tag: bytes) -> list[bytes]:
        self.send(data)
        return self.until(tag + b" ")

    def until(self, start: bytes) -> list[bytes]:
        lines = []
        while True:
            line = self.file.readline()
            assert line, lines
            lines.append(line)
            if line.startswith(start):
                return lines

    def silent(self, seconds: float) -> bool:
        """Whether nothing comes for that long."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(1, socket.MSG_PEEK) is None
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(20)

    def gone(self) -> bool:
        """Whether the server closed, without a word."""
        try:
            return self.file.readline() == b""
        except ConnectionResetError:
            return True


@pytest.mark.parametrize(
    "command",
    [
        b'LIST "" "*"', b'LSUB "" "*"', b"STATUS INBOX (MESSAGES)", b"SELECT INBOX", b"CREATE new", b"DELETE Junk",
        b"RENAME Junk Spam", b"SUBSCRIBE x", b"UNSUBSCRIBE x", b"APPEND INBOX {1+}\r\nx", b"NOOP", b"CHECK", b"CLOSE",
        b"EXPUNGE", b"FETCH 1 (FLAGS BODY[])", b"SEARCH TEXT x", b"STORE 1 FLAGS (\\Seen)", b"COPY 1 Trash",
        b"UID MOVE 1 Trash", b"UID EXPUNGE 1",
    ],
)  # fmt: skip
def test_a_command_stalls_and_then_answers(serving: Serving, command: bytes) -> None:
    serving.call(serving.store.add, "INBOX", MAIL)
    client = Raw(serving)
    client.ask(b"s SELECT INBOX\r\n", b"s")
    serving.call(serving.store.away)
    client.send(b"a " + command + b"\r\n")
    assert client.silent(0.3)
    serving.call(serving.store.reopen)
    assert client.until(b"a ")[-1].startswith(b"a OK"), command


def test_after_ten_minutes_bye_and_never_no(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "STALL_LIMIT", 0.3)
    client = Raw(serving)
    serving.call(serving.store.away)
    client.send(b'a LSUB "" "*"\r\n')
    assert client.file.readline().startswith(b"* BYE [UNAVAILABLE]")
    assert client.gone()


def test_idle_goes_on_across_a_move_and_says_it_is_there(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "STILL_HERE", 0.3)
    monkeypatch.setattr(idle, "LOOK", 0.1)
    client = Raw(serving)
    client.ask(b"s SELECT INBOX\r\n", b"s")
    client.send(b"a IDLE\r\n")
    client.until(b"+ ")
    serving.call(serving.store.away)
    client.until(b"* OK Still here")
    client.until(b"* OK Still here")
    serving.call(serving.store.add, "INBOX", MAIL)
    serving.call(serving.store.reopen)
    client.until(b"* 1 EXISTS")
    # Its end does not wait for the database.
    serving.call(serving.store.away)
    assert client.ask(b"DONE\r\n", b"a")[-1] == b"a OK IDLE done\r\n"
    serving.call(serving.store.reopen)


def test_a_lost_wake_up_is_made_good_by_a_look(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "LOOK", 0.2)
    client = Raw(serving)
    client.ask(b"s SELECT INBOX\r\n", b"s")
    client.send(b"a IDLE\r\n")
    client.until(b"+ ")
    serving.call(serving.store._events.__setitem__, serving.store.folder("INBOX").id, set())
    serving.call(serving.store.add, "INBOX", MAIL)
    client.until(b"* 1 EXISTS")
    client.ask(b"DONE\r\n", b"a")


def test_nothing_is_written_while_the_tenure_is_lost(serving: Serving) -> None:
    client = Raw(serving)
    serving.tenure.held = False
    client.send(b"a NOOP\r\n")
    assert client.silent(0.5)
    serving.tenure.held = True
    assert client.until(b"a ") == [b"a OK NOOP done\r\n"]


def test_a_reply_computed_before_a_freeze_is_never_sent_after_it(serving: Serving) -> None:
    """The store's answer comes before the tenure ends; a new tenure of this server begins; the client learns nothing
    of the old answer, and a new connection is served."""
    serving.call(serving.store.add, "INBOX", MAIL)
    client = Raw(serving)
    client.ask(b"s SELECT INBOX\r\n", b"s")
    serving.call(serving.store.away)
    client.send(b"a STORE 1 +FLAGS (\\Seen)\r\n")
    assert client.silent(0.2)
    serving.tenure.held = False
    serving.call(serving.store.reopen)
    assert client.silent(0.3)
    serving.tenure.epoch += 1
    serving.tenure.held = True
    assert client.gone()
    assert Raw(serving).ask(b"a NOOP\r\n", b"a")


def test_a_tenure_that_stays_lost_drops_connections(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conn, "HOLD_LIMIT", 0.3)
    client = Raw(serving)
    serving.tenure.held = False
    client.send(b"a NOOP\r\n")
    assert client.gone()


def test_a_stop_says_bye_and_lets_commands_end(serving: Serving) -> None:
    serving.call(serving.store.add, "INBOX", MAIL)
    quiet, idling, busy = Raw(serving), Raw(serving), Raw(serving)
    idling.ask(b"s SELECT INBOX\r\n", b"s")
    idling.send(b"i IDLE\r\n")
    idling.until(b"+ ")
    serving.call(serving.store.away)
    busy.send(b"a APPEND INBOX {1+}\r\nx\r\n")
    assert busy.silent(0.2)
    serving.call(serving.server.stop)
    assert quiet.until(b"* BYE")
    assert idling.until(b"* BYE")
    serving.call(serving.store.reopen)
    assert busy.until(b"a ")[-1].startswith(b"a OK [APPENDUID")
    assert busy.until(b"* BYE")
    for client in (quiet, idling, busy):
        assert client.gone()


def test_a_deleted_folder_ends_its_sessions_only(serving: Serving) -> None:
    first, second = Raw(serving), serving.client()
    first.ask(b"s SELECT Junk\r\n", b"s")
    second.delete("Junk")
    first.send(b"a NOOP\r\n")
    assert first.until(b"* BYE")
    assert second.noop()[0] == "OK"


def test_an_error_nobody_expected_ends_one_conversation(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*arguments: object, **named: object) -> None:
        raise RuntimeError("a fault of ours")

    client, other = Raw(serving), Raw(serving)
    with monkeypatch.context() as patch:
        patch.setattr(serving.store, "list_subscriptions", broken)
        client.send(b'a LSUB "" "*"\r\n')
        assert client.gone()
    assert other.ask(b"a NOOP\r\n", b"a")


@pytest.mark.parametrize("command", [b"IDLE", b"AUTHENTICATE PLAIN"])
def test_a_line_without_end_ends_the_conversation(serving: Serving, command: bytes) -> None:
    client = Raw(serving)
    if command != b"IDLE":
        client.file.close()
        client.socket = socket.create_connection(("127.0.0.1", serving.port), 20)
        client.file = client.socket.makefile("rb")
        client.file.readline()
    client.send(b"a " + command + b"\r\n")
    client.until(b"+ ")
    client.send(b"x" * 100_000)
    assert client.file.readline().startswith(b"* BYE")


def test_two_sessions_idle_on_one_folder(serving: Serving) -> None:
    """A second IDLE does not end the first one's news (findings: H8)."""
    clients = [Raw(serving) for _ in range(3)]
    for client in clients:
        client.ask(b"s SELECT INBOX\r\n", b"s")
        client.send(b"a IDLE\r\n")
        client.until(b"+ ")
    writer = serving.client()
    writer.append("INBOX", "", None, MAIL)
    for client in clients:
        assert client.until(b"* 1 EXISTS")
        client.ask(b"DONE\r\n", b"a")


def test_recent_is_told_to_one_session(serving: Serving) -> None:
    first, second = Raw(serving), Raw(serving)
    first.ask(b"s SELECT INBOX\r\n", b"s")
    first.ask(b"u UNSELECT\r\n", b"u")
    serving.call(serving.store.add, "INBOX", MAIL)
    assert b'* STATUS "INBOX" (RECENT 1)\r\n' in first.ask(b"t STATUS INBOX (RECENT)\r\n", b"t")
    assert b"* 1 RECENT\r\n" in second.ask(b"s EXAMINE INBOX\r\n", b"s")
    assert b"* 1 RECENT\r\n" in first.ask(b"s SELECT INBOX\r\n", b"s")
    assert b"* 0 RECENT\r\n" in second.ask(b"s SELECT INBOX\r\n", b"s")


def test_a_large_fetch_is_not_held_in_memory_for_a_slow_client(serving: Serving) -> None:
    """Writes wait for the client: batches are asked for as it reads."""
    raw = b"Subject: big\r\n\r\n" + b"x" * 78 + b"\r\n"
    serving.call(serving.store.add, "INBOX", *[raw * 40] * 6000)
    client = Raw(serving)
    client.ask(b"s SELECT INBOX\r\n", b"s")
    client.send(b"a FETCH 1:* (BODY.PEEK[])\r\n")
    time.sleep(0.5)
    assert serving.store.batches < 50
    lines = client.until(b"a ")
    assert sum(bool(re.match(rb"\* \d+ FETCH", line)) for line in lines) == 6000


def test_a_client_that_goes_away_leaves_nothing(serving: Serving) -> None:
    clients = [serving.client() for _ in range(5)]
    clients[0].select()
    for client in clients:
        client.shutdown()
    deadline = time.monotonic() + 10
    while serving.services.users and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not serving.services.users
    with pytest.raises((imaplib.IMAP4.abort, OSError)):
        clients[0].noop()
