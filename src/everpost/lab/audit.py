"""Reads every mailbox back by IMAP, in a process of its own on a host of the lab.

python -m everpost.lab.audit HOST PORT CA USERS PASSWORD FILE
"""

from __future__ import annotations

import hashlib
import imaplib
import json
import re
import ssl
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from everpost.lab.history import Found

BATCH = 500
_UID = re.compile(rb"UID (\d+)")
_FLAGS = re.compile(rb"FLAGS \(([^)]*)\)")
_MODSEQ = re.compile(rb"MODSEQ \((\d+)\)")
_LISTED = re.compile(rb'\(([^)]*)\) (?:"[^"]*"|NIL) (?:"((?:[^"\\]|\\.)*)"|(\S+))$')
_START = b"X-Ledger-Id: "
_TRACE = re.compile(rb"(?:(?:Return-Path|Received|Delivered-To):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)*")
"""What a server may put above a message (RFC 5321 4.4)."""


@dataclass
class Reading:
    """All mailboxes: their messages, and HIGHESTMODSEQ by user and folder."""

    messages: list[Found] = field(default_factory=list)
    highest: dict[tuple[str, str], int] = field(default_factory=dict)

    def dump(self) -> str:
        """As JSON; `load` is the inverse."""
        rows = [{**asdict(one), "flags": sorted(one.flags)} for one in self.messages]
        return json.dumps({"messages": rows, "highest": [[*key, value] for key, value in self.highest.items()]})

    @staticmethod
    def load(text: str) -> Reading:
        """From JSON."""
        data: dict[str, Any] = json.loads(text)
        found = [Found(**{**row, "flags": frozenset(row["flags"])}) for row in data["messages"]]
        return Reading(found, {(user, folder): value for user, folder, value in data["highest"]})


def read_mailbox(client: imaplib.IMAP4, user: str, into: Reading) -> None:
    """Every message of every folder of a logged-in user. Raises imaplib.IMAP4.error when an answer is not OK."""
    for folder in _folders(client):
        quoted = '"' + folder.replace("\\", "\\\\").replace('"', '\\"') + '"'
        _data(client.select(quoted, readonly=True))
        validity = int(client.response("UIDVALIDITY")[1][0] or 0)
        exists = int(client.response("EXISTS")[1][0] or 0)
        answer = _data(client.status(quoted, "(HIGHESTMODSEQ)"))[0]
        into.highest[(user, folder)] = int(re.findall(rb"HIGHESTMODSEQ (\d+)", answer)[0])
        found = list(_messages(client, user, folder, validity))
        if len(found) < exists:
            raise imaplib.IMAP4.error(f"{folder} of {user} has {exists} messages, {len(found)} could be read")
        into.messages += found


def _data(answer: tuple[str, Any]) -> list[Any]:
    if answer[0] != "OK":
        raise imaplib.IMAP4.error(f"{answer[0]}: {answer[1]}")
    return list(answer[1])


def _folders(client: imaplib.IMAP4) -> list[str]:
    names = []
    for line in _data(client.list()):
        found = _LISTED.search(line)
        if found is None:
            raise imaplib.IMAP4.error(f"LIST was answered {line!r}")
        if b"\\noselect" not in found[1].lower():
            names.append((found[2] or found[3]).decode("ascii"))
    return names


def _messages(client: imaplib.IMAP4, user: str, folder: str, validity: int) -> Iterator[Found]:
    uids = [int(word) for word in (_data(client.uid("SEARCH", "ALL"))[0] or b"").split()]
    for start in range(0, len(uids), BATCH):
        some = uids[start : start + BATCH]
        data = _data(client.uid("FETCH", f"{some[0]}:{some[-1]}", "(UID FLAGS MODSEQ BODY.PEEK[])"))
        for item, after in zip(data, [*data[1:], b""], strict=True):
            if isinstance(item, tuple):
                # Items may stand before the literal or behind it.
                tail = after if isinstance(after, bytes) else b""
                yield message(user, folder, validity, item[0] + b" " + tail, item[1])


def message(user: str, folder: str, validity: int, items: bytes, raw: bytes) -> Found:
    """One message from its FETCH items. What the client sent begins with its identity; above it only trace headers
    may stand, and nothing at all where it was appended."""
    uid, flags, modseq = _UID.search(items), _FLAGS.search(items), _MODSEQ.search(items)
    if uid is None or flags is None or modseq is None:
        raise imaplib.IMAP4.error(f"FETCH was answered without UID, FLAGS or MODSEQ: {items!r}")
    start = raw.find(_START)
    own = raw[start:] if start >= 0 else raw
    identity = own[len(_START) :].split(b"\r\n", 1)[0].decode("ascii", "replace") if start >= 0 else ""
    above = raw[: max(start, 0)]
    return Found(
        user=user,
        folder=folder,
        validity=validity,
        uid=int(uid[1]),
        identity=identity,
        sha=hashlib.sha256(own).hexdigest(),
        flags=frozenset(flags[1].decode("ascii").split()),
        modseq=int(modseq[1]),
        clean=_TRACE.fullmatch(above) is not None if folder == "INBOX" else not above,
    )


def connect(host: str, port: int, ca: Path) -> imaplib.IMAP4_SSL:
    """An IMAP connection that believes the lab's authority. Call from where the host can be reached."""
    return imaplib.IMAP4_SSL(host, port, ssl_context=ssl.create_default_context(cafile=str(ca)), timeout=120)


def collect(host: str, port: int, ca: Path, users: Iterable[str], password: str) -> Reading:
    """Read all mailboxes."""
    reading = Reading()
    for user in users:
        client = connect(host, port, ca)
        client.login(user, password)
        read_mailbox(client, user, reading)
        client.logout()
    return reading


def main() -> None:
    host, port, ca, users, password, out = sys.argv[1:]
    Path(out).write_text(collect(host, int(port), Path(ca), users.split(","), password).dump())


if __name__ == "__main__":
    main()
