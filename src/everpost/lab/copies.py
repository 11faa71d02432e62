"""Compares the copies of a database by SQL, each on its own socket, knowing nothing of what the tables mean."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable

from everpost.lab.organisation import Server

FIRST_PORT = 64328
_TABLES = (
    "select quote_ident(schemaname) || '.' || quote_ident(tablename) from pg_tables"
    " where schemaname not like 'pg\\_%' and schemaname <> 'information_schema' order by 1"
)
Ask = Callable[[str], str]
"""Runs a statement on a copy and gives its rows, one a line, fields divided by `|`."""


def sql(server: Server, number: int, statement: str, database: str = "mail") -> str:
    """A statement on a copy's own socket, as the copy's user. Raises CalledProcessError."""
    argv = ["psql", "-h", str(server.run / "pg"), "-p", str(FIRST_PORT + number), "-U", "everpost"]
    argv += [database, "-XAtc", statement]
    if os.geteuid() == 0:
        argv = ["setpriv", "--reuid=everpost", "--regid=everpost", "--clear-groups", *argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True, cwd="/")
    return done.stdout.strip()


def asking(server: Server, number: int) -> Ask:
    """A copy as `compare` wants it; asks once more when replay took the snapshot away."""

    def ask(statement: str) -> str:
        try:
            return sql(server, number, statement)
        except subprocess.CalledProcessError:
            return sql(server, number, statement)

    return ask


def fingerprint(ask: Ask) -> dict[str, str]:
    """Count and order-independent hash of the rows of every table, in one snapshot."""
    tables = ask(_TABLES).splitlines()
    if not tables:
        return {}
    each = [
        f"select '{table}', count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) from {table} t"
        for table in tables
    ]
    return dict(line.split("|", 1) for line in ask(" union all ".join(each)).splitlines())


def compare(active: Ask, passive: Ask, name: str, seconds: float = 30.0) -> str:
    """What differs between a copy that has replayed the active's log and the active; empty: nothing.

    An active that rests still writes now and then (checkpoints, probes). A difference counts when nothing was written
    while it was looked at, or when it stays."""
    end = time.monotonic() + seconds
    unequal: list[str] = []
    while time.monotonic() < end:
        target = active("select pg_current_wal_flush_lsn()")
        if passive(f"select pg_last_wal_replay_lsn() >= '{target}'") != "t":
            unequal = [f"{target} is not replayed"]
            time.sleep(0.1)
            continue
        one, other = fingerprint(active), fingerprint(passive)
        unequal = sorted(table for table in one.keys() | other.keys() if one.get(table) != other.get(table))
        if one and not unequal:
            return ""
        if not one:
            return f"{name}: the active has no tables"
        if active("select pg_current_wal_flush_lsn()") == target:
            break
        time.sleep(0.2)
    return f"{name}: {', '.join(unequal)}"


def messages(ask: Ask) -> int:
    """Messages in all mailboxes of a copy."""
    return int(ask("select count(*) from everpost_mail.message"))
