"""Log-ins that decide who is balanced to: what counts, what HAProxy is told, and the mailboxes they use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everpost.array import checks, healthmailbox
from everpost.array.checks import Around, LoginChecks
from everpost.array.verdict import FALL, Verdicts
from everpost.clientaccess.selfcheck import SelfCheck
from everpost.clock import SystemClock
from everpost.directory import keys
from everpost.directory.memory import MemoryDirectory
from everpost.directory.passwords import Verifier
from everpost.directory.schema import OrganizationDocument, OrganizationView, encode
from everpost.model.database import MailboxDatabase
from everpost.model.server import Role, Server
from everpost.net import login
from everpost.net.login import Account, Outcome, Result

OK, FAILED, STALLED = Result(Outcome.OK), Result(Outcome.FAILED, "no"), Result(Outcome.STALLED, "nothing heard")


def down(*rounds: tuple[Result, Result]) -> list[str]:
    verdicts = Verdicts()
    for first, second in rounds:
        verdicts.heard({"EX01": first, "EX02": second})
    return sorted(verdicts.down)


def test_a_server_where_log_in_fails_twice_is_taken_out_and_put_back() -> None:
    assert down((FAILED, OK)) == []
    assert down((FAILED, OK), (OK, OK), (FAILED, OK)) == [], "not in a row"
    assert down((FAILED, OK), (FAILED, OK)) == ["EX01"]
    assert down((FAILED, OK), (FAILED, OK), (OK, OK)) == ["EX01"], "once may be luck"
    assert down((FAILED, OK), (FAILED, OK), (OK, OK), (OK, OK)) == []


def test_one_that_stalls_while_the_other_works_is_taken_out() -> None:
    assert down(*[(STALLED, OK)] * FALL) == ["EX01"]


def test_one_that_fails_while_the_other_stalls_is_taken_out() -> None:
    assert down(*[(FAILED, STALLED)] * FALL) == ["EX01"], "slow is not broken"


@given(st.lists(st.tuples(*[st.sampled_from((OK, FAILED, STALLED))] * 3), max_size=30))
def test_never_are_all_servers_out(rounds: list[tuple[Result, Result, Result]]) -> None:
    verdicts = Verdicts()
    for round_ in rounds:
        verdicts.heard(dict(zip(("EX01", "EX02", "EX03"), round_, strict=True)))
        assert len(verdicts.down) < 3


@pytest.mark.parametrize("both", [(STALLED, STALLED), (FAILED, FAILED)])
def test_when_nobody_can_log_in_nobody_is_taken_out(both: tuple[Result, Result]) -> None:
    assert down(*[both] * 20) == []
    assert down((FAILED, OK), *[both] * 20) == []


def test_one_that_is_out_stays_out_while_nobody_can_say_anything() -> None:
    assert down((FAILED, OK), (FAILED, OK), (STALLED, STALLED)) == ["EX01"]


def test_one_that_left_the_array_is_forgotten() -> None:
    verdicts = Verdicts()
    for _ in range(FALL):
        verdicts.heard({"EX01": FAILED, "EX02": OK})
    verdicts.heard({"EX02": OK})
    assert verdicts.down == {}


# -- talking to servers --------------------------------------------------------------------------------------------

Conversation = dict[bytes, bytes]
GOOD = {
    b"a LOGIN": b"a OK\r\n",
    b"b STATUS": b"* STATUS INBOX (MESSAGES 0)\r\nb OK\r\n",
    b"c LOGOUT": b"* BYE\r\nc OK\r\n",
}


@asynccontextmanager
async def server(greeting: bytes, answers: Conversation) -> AsyncIterator[int]:
    """Answers the commands that begin as the keys do; others it leaves unanswered."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        while line := await reader.readline():
            for begin, answer in answers.items():
                if line.startswith(begin):
                    writer.write(answer)
        writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


async def plain_imap(port: int) -> Result:
    """Without TLS, which the whole organisation's test has."""
    return await login.imap("127.0.0.1", port, None, Account("u", 'p"w'), 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        (GOOD, Outcome.OK),
        ({**GOOD, b"a LOGIN": b"a NO [AUTHENTICATIONFAILED] wrong\r\n"}, Outcome.FAILED),
        ({**GOOD, b"b STATUS": b"b NO [UNAVAILABLE] it moves\r\n"}, Outcome.STALLED),
        ({b"a LOGIN": b"a OK\r\n"}, Outcome.STALLED),
        ({}, Outcome.STALLED),
    ],
    ids=["works", "log-in refused", "database away", "database says nothing", "says nothing"],
)
async def test_what_an_answer_means(answers: Conversation, outcome: Outcome) -> None:
    async with server(b"* OK here\r\n", answers) as port:
        assert (await plain_imap(port)).outcome is outcome


async def test_no_greeting_and_nobody_there_are_failures() -> None:
    async with server(b"* BYE full\r\n", GOOD) as port:
        assert (await plain_imap(port)).outcome is Outcome.FAILED
    assert (await plain_imap(port)).outcome is Outcome.FAILED


# -- mailboxes -----------------------------------------------------------------------------------------------------


class Organised:
    """A memory directory and what a server sees of it."""

    def __init__(self) -> None:
        self.directory = MemoryDirectory()
        self.view = OrganizationView()

    async def put(self, key: str, value: bytes) -> None:
        await self.directory.txn({}, {key: value})
        await self.look()

    async def look(self) -> None:
        for entry in (await self.directory.list(keys.CONFIG))[0]:
            self.view.apply(entry.key, entry)


async def organised() -> Organised:
    found = Organised()
    roles = (Role.MAILBOX, Role.CLIENT_ACCESS, Role.HUB_TRANSPORT)
    await found.put(keys.ORGANIZATION, encode(OrganizationDocument(name="C", domain="contoso.com")))
    one = Server(name="EX01", address="127.0.0.1", replication_address="127.0.0.1", roles=roles)
    await found.put(keys.server("EX01"), encode(one))
    database = MailboxDatabase(name="MB01", guid="g", number=0, servers=("EX01",))
    await found.put(keys.database("MB01"), encode(database))
    return found


async def test_a_health_mailbox_is_made_once_and_its_password_is_right() -> None:
    o = await organised()
    assert healthmailbox.missing(o.view) == ["MB01"]
    assert await healthmailbox.make(o.directory, o.view, "MB01")
    assert not await healthmailbox.make(o.directory, o.view, "MB01"), "seen by one who does not know of it yet"
    o.view.apply(keys.health_mailbox("MB01"), await o.directory.get(keys.health_mailbox("MB01")))
    assert not await healthmailbox.make(o.directory, o.view, "MB01"), "by one who has seen half of it"
    await o.look()
    [one] = healthmailbox.usable(o.view)
    mailbox = o.view.mailbox_by_address(one.user)
    assert mailbox is not None and mailbox.monitoring and healthmailbox.missing(o.view) == []
    assert await Verifier().verify(mailbox.password_hash, one.password)
    assert o.view.mailbox_count == {}, "it is in nobody's way"
    assert one.password not in encode(mailbox).decode()
    gone = healthmailbox.removal(o.view, "MB01")
    assert set(gone) == {keys.health_mailbox("MB01"), keys.mailbox(mailbox.guid), keys.address(one.user)}


async def test_haproxy_is_told_and_the_round_uses_the_health_mailbox(monkeypatch: pytest.MonkeyPatch) -> None:
    o = await organised()
    users: list[str] = []

    def answering(result: Result) -> Callable[..., Awaitable[Result]]:
        async def attempt(host: str, port: int, tls: object, account: Account, limit: float) -> Result:
            users.append(account.user)
            return result if host == "127.0.0.1" else OK

        return attempt

    roles = (
        ("imap", Role.CLIENT_ACCESS, "imaps", answering(FAILED)),
        ("smtp", Role.HUB_TRANSPORT, "submission", answering(OK)),
    )
    monkeypatch.setattr(checks, "_PROTOCOLS", roles)
    monkeypatch.setattr(checks, "EVERY", 0.05)
    other = Server(name="EX02", address="127.0.0.2", replication_address="127.0.0.2", roles=(Role.CLIENT_ACCESS,))
    members = [*o.view.servers.values(), other]
    found = LoginChecks(Around(o.directory, o.view, SystemClock()), lambda: members)
    running = asyncio.create_task(found.run())
    try:
        async with asyncio.timeout(20):
            while not found.down():
                await o.look()
                await asyncio.sleep(0.02)
            said = {}
            for asked in ("imap/EX01", "imap/EX02", "smtp/EX01"):
                reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
                writer.write(asked.encode() + b"\n")
                said[asked] = (await reader.readline()).decode().strip()
                writer.close()
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert said == {"imap/EX01": "down", "imap/EX02": "up", "smtp/EX01": "up"}
    assert all(user.startswith("healthmailbox-") for user in users)


async def test_what_a_server_says_of_itself() -> None:
    o = await organised()
    serving = [True]
    check = SelfCheck(o.view, "EX01", lambda: serving[0])
    assert check.trouble("imap") == check.trouble("submission") == check.trouble("https") == ""
    assert check.trouble("pop3") is None
    for _ in range(5):
        check.heard("imap", STALLED)
    check.heard("imap", FAILED)
    assert check.trouble("imaps") == ""
    check.heard("imap", FAILED)
    assert "log-in failed" in str(check.trouble("imaps")) and check.trouble("smtp") == ""
    check.heard("imap", OK)
    assert check.trouble("imaps") == ""
    serving[0] = False
    assert check.trouble("imap") == "no tenure"


async def test_a_health_mailbox_that_was_removed_is_made_anew() -> None:
    o = await organised()
    assert await healthmailbox.make(o.directory, o.view, "MB01")
    await o.look()
    [before] = healthmailbox.usable(o.view)
    await o.directory.txn({}, {keys.mailbox(before.guid): None})
    o.view.apply(keys.mailbox(before.guid), None)
    assert healthmailbox.missing(o.view) == ["MB01"]
    assert await healthmailbox.make(o.directory, o.view, "MB01")
    await o.look()
    assert healthmailbox.missing(o.view) == [] and healthmailbox.usable(o.view)[0].guid != before.guid
