"""Real etcd clusters over mutual TLS: one of a single member for the session, and fresh ones of three."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.directory.members import Members


def _ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@pytest.fixture(scope="session")
def single() -> Iterator[Members]:
    """One member, EX01, shared by all tests that only read and write keys of their own."""
    members = Members()
    try:
        members.spec("EX01", _ports(2))
        members.found("EX01")
        yield members
    finally:
        members.close()


@pytest.fixture
def members(free_ports: Callable[[int], list[int]]) -> Iterator[Members]:
    """Settings for EX01, EX02 and W, none started."""
    found = Members()
    try:
        ports = free_ports(6)
        for index, name in enumerate(("EX01", "EX02", "W")):
            found.spec(name, ports[2 * index : 2 * index + 2])
        yield found
    finally:
        found.close()
