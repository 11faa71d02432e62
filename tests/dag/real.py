"""An organisation in network namespaces for the tests of DAGs, and the questions that they ask."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

from everpost.lab.organisation import CommandFailed, Organisation, Server

DAG = "DAG1"


def dag(server: Server, name: str = DAG) -> dict[str, Any]:
    """Get-DatabaseAvailabilityGroup -Status as that server shows it."""
    return server.rows(f"Get-DatabaseAvailabilityGroup {name} -Status", 20.0)[0]


def said(server: Server, line: str) -> str:
    """The refusal of a line; the test fails when it is not refused."""
    try:
        server.rows(line, 90.0)
    except CommandFailed as refused:
        return str(refused)
    raise AssertionError(f"{line} was not refused")


def mounted(organisation: Organisation, server: Server, database: str) -> str | None:
    """On which server the database is mounted, by that server's view and by PostgreSQL itself: a status may be the
    last word from before a crash."""
    for row in organisation.status(server).values():
        if row["DatabaseName"] == database and row["Status"] == "Mounted":
            name = str(row["MailboxServer"])
            return name if query(organisation.server(name), database, "select pg_is_in_recovery()") == "f" else None
    return None


def query(server: Server, database: str, sql: str) -> str:
    """One value of a copy's PostgreSQL (MB01 is database number 0), "" when it does not answer."""
    argv = ["setpriv", "--reuid=everpost", "--regid=everpost", "--clear-groups", "psql", "-h", str(server.run / "pg")]
    argv += ["-p", str(64328 + int(database[-2:]) - 1), "-U", "everpost", "postgres", "-Atc", sql]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, cwd="/").stdout.strip()


def holds(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition stays true for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not condition():
            return False
        time.sleep(0.2)
    return True
