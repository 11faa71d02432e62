"""One-time tokens: once, for a day, for one name, whatever answers are lost."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from everpost.directory import joining, keys
from everpost.directory.interface import Entry
from everpost.directory.memory import MemoryDirectory
from everpost.directory.schema import decode
from everpost.errors import AlreadyExists, OutcomeUnknown, Refused
from everpost.model.server import Role, Server

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def host(name: str = "EX02") -> Server:
    return Server(name=name, address="10.77.0.12", replication_address="10.78.0.12", roles=(Role.MAILBOX,))


async def invite(directory: MemoryDirectory) -> str:
    """A fresh token's secret."""
    text = await joining.create_token(directory, address="10.77.0.11", port=64326, fingerprint="ab" * 32, now=NOW)
    invitation = joining.read_token(text)
    assert (invitation.address, invitation.port, invitation.fingerprint) == ("10.77.0.11", 64326, "ab" * 32)
    return invitation.secret


async def test_a_token_brings_one_host_in() -> None:
    directory = MemoryDirectory()
    secret = await invite(directory)
    await joining.redeem(directory, secret, host(), now=NOW)
    entry = await directory.get(keys.server("EX02"))
    assert entry is not None and decode(Server, entry.value) == host()
    with pytest.raises(Refused, match="used already"):
        await joining.redeem(directory, secret, host("EX03"), now=NOW)


async def test_the_directory_never_holds_the_secret() -> None:
    directory = MemoryDirectory()
    secret = await invite(directory)
    entries, _ = await directory.list("/")
    assert entries and not any(secret.encode() in entry.value or secret in entry.key for entry in entries)


async def test_an_expired_token_is_refused_with_what_to_do() -> None:
    directory = MemoryDirectory()
    secret = await invite(directory)
    with pytest.raises(Refused, match="expired") as refused:
        await joining.redeem(directory, secret, host(), now=NOW + timedelta(hours=25))
    assert "everpost server token" in refused.value.remedy


@pytest.mark.parametrize("name", ["EX02", "ex02"])
async def test_a_name_that_is_taken_leaves_the_token_usable(name: str) -> None:
    directory = MemoryDirectory()
    await joining.redeem(directory, await invite(directory), host(), now=NOW)
    secret = await invite(directory)
    with pytest.raises(AlreadyExists):
        await joining.redeem(directory, secret, host(name), now=NOW)
    await joining.redeem(directory, secret, host("EX03"), now=NOW)


@pytest.mark.parametrize("name", ["", "EX/02", "../location/MB01", "-EX", "E" * 64, "EX 02", "EX02\n"])
async def test_a_name_that_is_no_host_name_is_refused(name: str) -> None:
    directory = MemoryDirectory()
    with pytest.raises(Refused, match="no name for a server"):
        await joining.redeem(directory, await invite(directory), host(name), now=NOW)


class Slow(MemoryDirectory):
    """Others get their turn between reading and writing."""

    async def list(self, prefix: str) -> tuple[list[Entry], int]:
        found = await super().list(prefix)
        await asyncio.sleep(0.01)
        return found


async def test_of_two_with_one_token_one_comes_in() -> None:
    directory = Slow()
    secret = await invite(directory)
    results = await asyncio.gather(
        *(joining.redeem(directory, secret, host(name), now=NOW) for name in ("EX02", "EX03")), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "Refused"]


async def test_of_two_with_one_name_one_comes_in() -> None:
    directory = Slow()
    secrets = [await invite(directory), await invite(directory)]
    results = await asyncio.gather(
        *(joining.redeem(directory, secret, host(), now=NOW) for secret in secrets), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["AlreadyExists", "NoneType"]


@pytest.mark.parametrize("effect", [True, False])
async def test_a_lost_answer_is_settled(effect: bool) -> None:
    directory = MemoryDirectory()
    secret = await invite(directory)
    directory.lose_answers(2, effect=effect)
    await joining.redeem(directory, secret, host(), now=NOW)
    assert await directory.get(keys.server("EX02")) is not None


async def test_when_no_answer_comes_it_says_so() -> None:
    directory = MemoryDirectory()
    secret = await invite(directory)
    directory.lose_answers(joining.TRIES, effect=False)
    with pytest.raises(OutcomeUnknown):
        await joining.redeem(directory, secret, host(), now=NOW)


@pytest.mark.parametrize("text", ["", "hello", "AAAA", "e30", "é"])
def test_other_words_are_no_tokens(text: str) -> None:
    with pytest.raises(Refused, match="not a token"):
        joining.read_token(text)
