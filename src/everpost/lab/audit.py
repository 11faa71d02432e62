"""Reads everything back: every mailbox by IMAP, every copy by SQL on its own socket."""

from __future__ import annotations

import hashlib
import imaplib
import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from everpost.lab.history import Found
from everpost.lab.organisation import Server

_UID = re.compile(rb"UID (\d+)")
_FLAGS = re.compile(rb"FLAGS \(([^)]*)\)")
_START = b"X-Ledger-Id: "


def facts(ledgers: Iterable[Path]) -> list[dict[str, Any]]:
    """All lines of all ledgers."""
    found = []
    for ledger in ledgers:
        if ledger.exists():
            for line in ledger.read_bytes().splitlines():
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue  # a half-written last line of a killed writer: never acknowledged
    return found


def read_mailbox(client: imaplib.IMAP4, user: str) -> tuple[list[Found], int]:
    """Every message of a logged-in user's INBOX and Sent, and INBOX's HIGHESTMODSEQ."""
    found: list[Found] = []
    highest = 0
    for folder in ("INBOX", "Sent"):
        client.select(folder, readonly=True)
        validity = int(client.response("UIDVALIDITY")[1][0] or 0)
        if folder == "INBOX":
            highest = int(re.sub(rb"\D", b"", client.response("HIGHESTMODSEQ")[1][0] or b"0"))
        found += _folder(client, user, folder, validity)
    return found, highest


def _folder(client: imaplib.IMAP4, user: str, folder: str, validity: int) -> Iterator[Found]:
    begin = 1
    while True:
        status, data = client.uid("SEARCH", f"UID {begin}:{begin + 499}")
        uids = [int(word) for word in (data[0] or b"").split()]
        status, last = client.uid("SEARCH", "UID *")
        if uids:
            status, data = client.uid("FETCH", f"{begin}:{begin + 499}", "(UID FLAGS BODY.PEEK[])")
            assert status == "OK"
            for item in data:
                if isinstance(item, tuple):
                    yield _message(user, folder, validity, item[0], item[1])
        begin += 500
        if not last[0] or begin > max(int(word) for word in last[0].split()):
            return


def _message(user: str, folder: str, validity: int, head: bytes, raw: bytes) -> Found:
    uid, flags = _UID.search(head), _FLAGS.search(head)
    assert uid is not None
    assert flags is not None
    start = raw.find(_START)
    own = raw[start:] if start >= 0 else raw
    identity = own[len(_START) :].split(b"\r\n", 1)[0].decode() if start >= 0 else ""
    sha = hashlib.sha256(own).hexdigest()
    return Found(user, folder, validity, int(uid[1]), identity, sha, frozenset(flags[1].decode().split()))


def connect(host: str, port: int, ca: Path) -> imaplib.IMAP4_SSL:
    """An IMAP connection that believes the lab's authority. Call from where the host can be reached."""
    return imaplib.IMAP4_SSL(host, port, ssl_context=ssl.create_default_context(cafile=str(ca)), timeout=120)


def collect(host: str, port: int, ca: Path, users: Iterable[str], password: str) -> dict[str, Any]:
    """Read all mailboxes; plain values, to be written as JSON and read back by `collected`."""
    messages: list[dict[str, Any]] = []
    modseqs: dict[str, int] = {}
    for user in users:
        client = connect(host, port, ca)
        client.login(user, password)
        found, modseqs[user] = read_mailbox(client, user)
        messages += [{**asdict(one), "flags": sorted(one.flags)} for one in found]
        client.logout()
    return {"messages": messages, "modseqs": modseqs}


def collected(text: str) -> tuple[list[Found], dict[str, int]]:
    """The inverse of `collect`."""
    data = json.loads(text)
    found = [Found(**{**row, "flags": frozenset(row["flags"])}) for row in data["messages"]]
    return found, data["modseqs"]


def main() -> None:
    """`python -m everpost.lab.audit HOST PORT CA USERS PASSWORD FILE`, run on a host of the lab."""
    host, port, ca, users, password, out = sys.argv[1:]
    Path(out).write_text(json.dumps(collect(host, int(port), Path(ca), users.split(","), password)))


def sql(server: Server, number: int, statement: str, database: str = "mail") -> str:
    """A statement on a copy's own socket, as the copy's user."""
    argv = [
        "psql",
        "-h",
        str(server.run / "pg"),
        "-p",
        str(64328 + number),
        "-U",
        "everpost",
        database,
        "-Atc",
        statement,
    ]
    if os.geteuid() == 0:
        argv = ["setpriv", "--reuid=everpost", "--regid=everpost", "--clear-groups", *argv]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True, cwd="/").stdout.strip()


_TABLES = (
    "select quote_ident(schemaname) || '.' || quote_ident(tablename) from pg_tables"
    " where schemaname in ('everpost', 'everpost_mail') order by 1"
)


def fingerprint(server: Server, number: int) -> dict[str, str]:
    """Rows and an order-independent hash of each table of a copy."""
    marks = {}
    for table in sql(server, number, _TABLES).splitlines():
        statement = f"select count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) from {table} t"
        marks[table] = sql(server, number, statement)
    return marks


def copies_identical(active: Server, passive: Server, number: int, seconds: float = 30.0) -> tuple[bool, str]:
    """Whether a passive copy that has replayed the active's log has the same rows."""
    target = sql(active, number, "select pg_current_wal_flush_lsn()")
    end = time.monotonic() + seconds
    while sql(passive, number, f"select pg_last_wal_replay_lsn() >= '{target}'") != "t":
        if time.monotonic() > end:
            return False, f"the copy on {passive.name} did not replay {target}"
        time.sleep(0.1)
    one, other = fingerprint(active, number), fingerprint(passive, number)
    unequal = [table for table in one if one[table] != other.get(table)]
    return not unequal and bool(one), ", ".join(unequal)


if __name__ == "__main__":
    main()
