"""A client that goes away and comes back (RFC 7162): what it knew, with the changes since, must equal a full sync.

python resync.py save HOST:PORT[,HOST:PORT] CA USER PASSWORD FILE     until FILE.stop exists
python resync.py check HOST:PORT CA USER PASSWORD FILE                prints what differs, a line each
"""

from __future__ import annotations

import imaplib
import json
import re
import ssl
import sys
import time
from pathlib import Path
from typing import Any

EVERY = 2.0
MOST_STATES = 200
_UID = re.compile(rb"UID (\d+)")
_FLAGS = re.compile(rb"FLAGS \(([^)]*)\)")
State = dict[str, Any]


def _connect(at: str, ca: str, user: str, password: str) -> imaplib.IMAP4_SSL:
    host, _, port = at.rpartition(":")
    client = imaplib.IMAP4_SSL(host, int(port), ssl_context=ssl.create_default_context(cafile=ca), timeout=60)
    client.login(user, password)
    return client


def _flags(client: imaplib.IMAP4, modifier: str = "") -> dict[str, list[str]]:
    answer, data = client.uid("FETCH", "1:*", f"(UID FLAGS){modifier}")
    if answer != "OK":
        raise imaplib.IMAP4.error(f"FETCH: {data!r}")
    found = {}
    for line in data:
        if isinstance(line, bytes) and (uid := _UID.search(line)) and (flags := _FLAGS.search(line)):
            found[uid[1].decode()] = sorted(word for word in flags[1].decode().split() if word != "\\Recent")
    return found


def _select(client: imaplib.IMAP4) -> tuple[int, int]:
    """UIDVALIDITY and HIGHESTMODSEQ of the INBOX."""
    answer, _ = client.select("INBOX", readonly=True)
    validity, highest = client.response("UIDVALIDITY")[1][0], client.response("HIGHESTMODSEQ")[1][0]
    if answer != "OK" or validity is None or highest is None:
        raise imaplib.IMAP4.error(f"SELECT: {answer}")
    return int(validity), int(highest)


def save(places: list[str], ca: str, user: str, password: str, file: Path) -> None:
    """A state a line; the next place is tried when one does not answer."""
    stop = file.with_name(file.name + ".stop")
    turn = 0
    with file.open("a") as out:
        while not stop.exists() and turn < MOST_STATES:
            turn += 1
            try:
                client = _connect(places[turn % len(places)], ca, user, password)
                validity, highest = _select(client)
                state = {"validity": validity, "highest": highest, "flags": _flags(client)}
                client.logout()
                out.write(json.dumps(state) + "\n")
                out.flush()
            except (OSError, imaplib.IMAP4.error):
                pass
            time.sleep(EVERY)


def resynced(state: State, changed: dict[str, list[str]], uids: set[str]) -> dict[str, list[str] | None]:
    """What the client believes after it was told of `changed` and of which `uids` there are."""
    return {uid: changed.get(uid, state["flags"].get(uid)) for uid in uids}


def check(at: str, ca: str, user: str, password: str, file: Path) -> list[str]:
    """What differs; nothing may be changing."""
    client = _connect(at, ca, user, password)
    validity, _ = _select(client)
    full = _flags(client)
    wrong = []
    states = [json.loads(line) for line in file.read_text().splitlines()]
    if not states:
        wrong.append("no state was ever saved")
    for number, state in enumerate(states):
        if state["validity"] != validity:
            wrong.append(f"state {number}: UIDVALIDITY was {state['validity']}, is {validity}")
            continue
        mine = resynced(state, _flags(client, f" (CHANGEDSINCE {state['highest']})"), set(full))
        for uid in sorted((uid for uid in full if mine[uid] != full[uid]), key=int)[:3]:
            wrong.append(f"state {number} at {state['highest']}: UID {uid} is {full[uid]}, resync says {mine[uid]}")
    client.logout()
    return wrong


def main() -> None:
    what, at, ca, user, password, file = sys.argv[1:]
    if what == "save":
        save(at.split(","), ca, user, password, Path(file))
    else:
        print("\n".join(check(at, ca, user, password, Path(file))))


if __name__ == "__main__":
    main()
