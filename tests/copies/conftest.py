"""One organisation of three mailbox servers in network namespaces, shared by the tests of this folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everpost.lab.copies import sql
from everpost.lab.hosts import open_lab
from everpost.lab.organisation import DAG, CommandFailed, Organisation, Server

KEEP_LOGS = 64
SCRUB_DAYS = 3.0 / 86400.0


class TunedServer(Server):
    """A server whose settings make copies cheap to lose: few logs are kept, pages are read every few seconds."""

    def start(self) -> None:
        text = self.config.read_text()
        if "keep_logs" not in text:
            self.config.write_text(f"keep_logs = {KEEP_LOGS}\nscrub_days = {SCRUB_DAYS}\nlow_space_gb = 0.0\n" + text)
        super().start()


class World:
    """The organisation, and what the tests ask again and again."""

    def __init__(self, organisation: Organisation, numbers: dict[str, int]) -> None:
        self.o = organisation
        self.numbers = numbers

    def shell(self, line: str, timeout: float = 90.0) -> list[dict[str, Any]]:
        """A line on EX01."""
        return self.o.servers[0].rows(line, timeout)

    def refused(self, line: str) -> str:
        """What a line that must be refused says."""
        with pytest.raises(CommandFailed) as caught:
            self.shell(line)
        return str(caught.value)

    def copy(self, name: str) -> dict[str, Any]:
        """One copy's row."""
        return self.o.status()[name]

    def wait(self, name: str, seconds: float = 90.0, **expected: object) -> float:
        """Until the copy's row has these values."""

        def holds() -> bool:
            row = self.o.status().get(name, {})  # an agent that was just started knows of no database yet
            return all(row.get(key) == value for key, value in expected.items())

        try:
            return self.o.wait(holds, seconds, f"{name} {expected}")
        except CommandFailed as error:
            raise AssertionError(f"{error}: {json.dumps(self.o.status(), indent=1)}") from None

    def sql(self, server: str, database: str, statement: str, where: str = "mail") -> str:
        """On a copy's own socket."""
        return sql(self.o.server(server), self.numbers[database], statement, where)

    def write(self, server: str, database: str, value: int) -> None:
        """A row that is acknowledged when this returns."""
        self.sql(server, database, f"insert into public.seen values ({value})")

    def row_there(self, server: str, database: str, value: int, seconds: float = 30.0) -> float:
        """Until a passive copy shows the row."""
        ask = f"select count(*) from public.seen where n = {value}"
        return self.o.wait(lambda: self.sql(server, database, ask) == "1", seconds, f"{value} on {server}")

    def whole(self) -> None:
        """MB01 active on EX01, with synchronous copies on EX02 and EX03."""
        for server in ("EX02", "EX03"):
            if f"MB01\\{server}" not in self.o.status():
                self.shell(f"Add-MailboxDatabaseCopy MB01 {server}")
        for server in ("EX02", "EX03"):
            self.wait(f"MB01\\{server}", Status="Healthy", Synchronous=True)

    def incarnation(self, server: str) -> str:
        """The life of a copy's files."""
        state = json.loads((self.o.server(server).data / "databases" / "MB01" / "state.json").read_text())
        return str(state["incarnation"])

    def pgdata(self, server: str) -> Path:
        """Where a copy's files are."""
        root = self.o.server(server).data / "databases" / "MB01"
        return root / str(json.loads((root / "state.json").read_text())["folder"])

    def facts(self, server: str, text: str) -> list[dict[str, Any]]:
        """Lines of the agent's log with that text."""
        found = []
        for line in (self.o.server(server).data / "log" / "agent.log").read_text().splitlines():
            if text in line and line.startswith("{"):
                found.append(json.loads(line))
        return [one for one in found if one["text"] == text]


def add_server(o: Organisation, name: str, number: int) -> None:
    """A further member of the DAG."""
    first = o.servers[0]
    server = TunedServer(o.lab.host(name, number))
    token = first.command("server", "token", "--config", str(first.config)).strip().splitlines()[-1]
    server.command("server", "join", "--token", token, "--roles", "mailbox", *server.folders())
    server.start()
    o.wait_agent(server)
    o.servers.append(server)
    o.retry(lambda: first.shell(f"Add-DatabaseAvailabilityGroupServer -Identity {DAG} -MailboxServer {name}"))


@pytest.fixture(scope="session")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if os.geteuid() != 0:
        pytest.skip("needs network namespaces: run as root")
    lab = open_lab("copies")
    o = Organisation(lab, roles="mailbox")
    o.servers = [TunedServer(one.host) for one in o.servers]
    began = time.monotonic()
    failed = True
    try:
        o.build()
        add_server(o, "EX03", 14)
        o.servers[0].shell("New-MailboxDatabase -Name MB01 -Server EX01")
        world = World(o, {"MB01": 0, "MB02": 1})
        world.sql("EX01", "MB01", "create table public.seen (n bigint primary key)")
        print(f"built in {time.monotonic() - began:.1f} s, files in {lab.root}")
        before = request.session.testsfailed
        yield world
        failed = request.session.testsfailed > before
    finally:
        o.close(keep_files=failed)
