"""Conversations as text files: each played whole, and again a byte at a time."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from everpost.store.interface import FlagMode

from .conftest import Serving

FILES = sorted((Path(__file__).parent / "dialogues").glob("*.txt"))
MESSAGE = "From: bob@contoso.com\r\nSubject: {}\r\n\r\nHello\r\n"


def act(serving: Serving, line: str) -> None:
    """One `!` line."""
    store = serving.store
    verb, *rest = line.split()
    match verb:
        case "deliver":
            serving.call(store.add, "INBOX", MESSAGE.format(rest[0]).encode())
        case "flag":
            inbox = store.folder("INBOX")
            change = store.store_flags(store.box, inbox.id, [int(rest[0])], FlagMode.ADD, frozenset({rest[1]}), op=line)
            serving.run(change)
        case "expunge":
            serving.call(store.remove, "INBOX", int(rest[0]))
        case "forget":
            serving.call(store.forget, "INBOX", int(rest[0]))
        case "stall":
            serving.call(store.away)
        case "recover":
            serving.call(store.reopen)
        case _:
            raise AssertionError(f"unknown action {verb}")


class Player:
    def __init__(self, port: int, *, bytewise: bool) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.bytewise = bytewise

    def send(self, lines: list[str]) -> None:
        data = "\r\n".join([*lines, ""]).encode()
        if self.bytewise:
            for at in range(len(data)):
                self.socket.sendall(data[at : at + 1])
        else:
            self.socket.sendall(data)

    def expect(self, wanted: str) -> None:
        got = self.file.readline().decode()
        pattern = ".*".join(re.escape(part) for part in wanted.split("..."))
        assert re.fullmatch(pattern + "\r\n", got), f"wanted {wanted!r}, got {got!r}"


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_dialogue(serving: Serving, path: Path, bytewise: bool) -> None:
    player = Player(serving.port, bytewise=bytewise)
    said: list[str] = []
    for line in path.read_text().split("\n"):
        kind, text = line[:2], line[3:]
        if kind != "C:" and said:
            player.send(said)
            said = []
        if kind == "C:":
            said.append(text)
        elif kind == "S:":
            player.expect(text)
        elif kind == "! ":
            act(serving, line[2:])
        else:
            assert not line or line.startswith("#"), line
    if said:
        player.send(said)
    player.socket.close()
