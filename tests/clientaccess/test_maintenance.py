"""Maintenance sends clients elsewhere: BYE to those that wait, after the command to those that do not, none let in; and
its end undoes that (spec 3.10)."""

from __future__ import annotations

import imaplib

import pytest

from everpost.directory import keys
from everpost.directory.interface import Entry
from everpost.directory.schema import OrganizationView, encode
from everpost.model.server import MaintenancePhase, MaintenanceRecord, Role, Server

from .conftest import Serving


def test_idle_sessions_end_with_bye_and_new_ones_are_not_greeted(serving: Serving) -> None:
    client = serving.client()
    client.select("INBOX")
    serving.call(serving.server.drain, True)
    said = client.readline()
    assert said.startswith(b"* BYE [UNAVAILABLE]"), said
    assert client.readline() == b""
    with pytest.raises(imaplib.IMAP4.error, match="BYE"):  # what the balancer's check takes for down as well
        serving.client(login=False)
    serving.call(serving.server.drain, False)
    again = serving.client()
    assert again.noop()[0] == "OK"
    again.logout()


def organisation(roles: dict[str, tuple[Role, ...]], *maintained: str) -> OrganizationView:
    view = OrganizationView()
    for name, has in roles.items():
        document = Server(name=name, address=name, replication_address=name, roles=has)
        view.apply(keys.server(name), Entry(keys.server(name), encode(document), 1))
    for name in maintained:
        record = MaintenanceRecord(server=name, phase=MaintenancePhase.STARTING)
        view.apply(keys.maintenance(name), Entry(keys.maintenance(name), encode(record), 1))
    return view


def test_nobody_is_sent_away_when_there_is_nowhere_to_go() -> None:
    both, mailbox = (Role.MAILBOX, Role.CLIENT_ACCESS), (Role.MAILBOX,)
    assert organisation({"EX01": both, "EX02": both}, "EX01").drained("EX01", Role.CLIENT_ACCESS)
    assert not organisation({"EX01": both, "EX02": both}, "EX01").drained("EX02", Role.CLIENT_ACCESS)
    assert not organisation({"EX01": both, "EX02": mailbox}, "EX01").drained("EX01", Role.CLIENT_ACCESS)
    assert not organisation({"EX01": both, "EX02": both}, "EX01", "EX02").drained("EX01", Role.CLIENT_ACCESS)
    assert not organisation({"EX01": both, "EX02": both}).drained("EX01", Role.CLIENT_ACCESS)
