"""The delivering client against a hub that answers by script: what is noted as refused, doubtful, acknowledged."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from everpost.lab.history import judge
from everpost.lab.load.ledger import Ledger
from everpost.lab.load.smtp import Sender

RAW = b"X-Ledger-Id: m\r\nSubject: x\r\n\r\n.dot\r\n..two\r\n"


class Script:
    """A hub. Each connection takes the next list of answers: to MAIL, RCPT, DATA and the message; None: it hangs up."""

    def __init__(self, *connections: list[str | None]) -> None:
        self.received: list[bytes] = []
        self._connections = connections
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for answers in self._connections:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as lines:
                self._talk(connection, lines, list(answers))

    def _talk(self, connection: socket.socket, lines: object, answers: list[str | None]) -> None:
        connection.sendall(b"220 hub\r\n")
        data = False
        received = b""
        for line in lines:  # type: ignore[attr-defined]
            if data:
                received += line
                if line != b".\r\n":
                    continue
                self.received.append(received)
                data, received = False, b""
            elif line.upper().startswith((b"EHLO", b"RSET")):
                connection.sendall(b"250 hub\r\n")
                continue
            answer = answers.pop(0) if answers else None
            if answer is None:
                return
            data = answer.startswith("354")
            connection.sendall(answer.encode() + b"\r\n")

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "ledger"


def kinds(path: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in path.read_text().splitlines()]


def sender(path: Path, *scripts: Script) -> Sender:
    return Sender(Ledger(str(path)), [("127.0.0.1", script.port) for script in scripts])


OK: list[str | None] = ["250 ok", "250 ok", "354 go", "250 ok"]


def test_an_acknowledgement_is_noted_after_its_attempt_and_dots_are_doubled(path: Path) -> None:
    hub = Script(OK + OK)
    client = sender(path, hub)
    assert client.send("m", "anna", RAW)
    assert client.send("n", "anna", RAW)
    assert kinds(path) == ["try", "ack", "try", "ack"]
    assert hub.received == [b"X-Ledger-Id: m\r\nSubject: x\r\n\r\n..dot\r\n...two\r\n.\r\n"] * 2


@pytest.mark.parametrize(
    "answers",
    [
        ["451 away", "503 mail first", "503 mail first"],
        ["250 ok", "452 later", "503 no recipients"],
        ["250 ok", "250 ok", "451 not now"],
        ["250 ok", "250 ok", "354 go", "452 full"],
        ["250 ok", "250 ok", "354 go", "550 never"],
        ["250 ok", None],
        [None],
    ],
)
def test_a_refusal_is_no_doubt(path: Path, answers: list[str | None]) -> None:
    """Nothing of it may be in a mailbox."""
    assert not sender(path, Script(answers)).send("m", "anna", RAW)
    assert kinds(path) == ["try", "later"]


@pytest.mark.parametrize("answers", [[*OK[:3], None], [*OK[:3], "451 gave up waiting"]])
def test_a_lost_answer_and_a_wait_that_was_given_up_leave_doubt(path: Path, answers: list[str | None]) -> None:
    client = sender(path, Script(answers + OK, OK))
    assert not client.send("m", "anna", RAW)
    assert client.send("m", "anna", RAW)
    assert kinds(path) == ["try", "unknown", "try", "ack"]
    facts = [json.loads(line) for line in path.read_text().splitlines()]
    assert judge(facts, [], {}).resubmitted == 1


def test_a_client_with_two_hubs_goes_to_the_other_and_home_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Script([None], OK), Script(OK + OK)
    client = sender(path, first, second)
    assert not client.send("m", "anna", RAW)
    assert client.send("m", "anna", RAW)
    assert (len(first.received), len(second.received)) == (0, 1)
    monkeypatch.setattr("everpost.lab.load.smtp.HOME", 0.0)
    assert client.send("m", "anna", RAW)
    assert (len(first.received), len(second.received)) == (1, 1)


def test_nobody_listening_is_a_refusal(path: Path) -> None:
    hub = Script()
    hub.close()
    assert not sender(path, hub).send("m", "anna", RAW)
    assert kinds(path) == ["try", "later"]
