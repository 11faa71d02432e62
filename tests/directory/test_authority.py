"""A role's confirmation of commits: against a real agent's port over mutual TLS, and against the page."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from everpost.clock import SystemClock
from everpost.directory import authority as authority_module
from everpost.directory import keys
from everpost.directory.authority import RoleAuthority
from everpost.directory.interface import Entry
from everpost.directory.page import SharedPage
from everpost.directory.schema import OrganizationView, encode
from everpost.model.authority import NotConfirmed
from everpost.model.database import Location, LocationState, MailboxDatabase, Member, Token
from everpost.model.server import Ports, Role, Server
from everpost.net import tls

NUMBER = 3


def location(active: str, epoch: int = 5, state: LocationState = LocationState.OPEN) -> Location:
    return Location(database="MB01", active=active, token=Token(1, epoch), state=state, set=(Member("EX03", "aa"),))


class Agent:
    """The agent of EX02. `reply` decides; what was asked is kept."""

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []
        self.reply: Callable[[], Awaitable[web.Response]] = self.yes

    async def yes(self) -> web.Response:
        return web.json_response({"confirmed": True})

    async def no(self) -> web.Response:
        return web.json_response({"confirmed": False}, status=409)

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        return await self.reply()


class Host:
    """EX01's role process beside EX02's agent."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.folder = folder
        certifier = tls.create_authority("Contoso")
        key = tls.new_key()
        tls.save_host(folder / "tls", key, certifier.sign(key.public_key(), "EX01", ["127.0.0.1"]), certifier.pem)
        self.page = SharedPage(folder / "page", writable=True)
        self.page.set_deadline(SystemClock().boottime() + 60, 1)
        self.view = OrganizationView()
        self.agent = Agent()
        self.port = ports[0]
        for name, port in (("EX01", ports[1]), ("EX02", ports[0])):
            self.put(
                keys.server(name),
                Server(
                    name=name,
                    address="127.0.0.1",
                    replication_address="127.0.0.1",
                    roles=(Role.MAILBOX,),
                    ports=Ports(agent=port),
                ),
            )
        self.put(keys.database("MB01"), MailboxDatabase(name="MB01", guid="g", number=NUMBER, servers=("EX01", "EX02")))
        self.role = self.authority("EX01")

    def authority(self, me: str, *, strict_reads: bool = False) -> RoleAuthority:
        context = tls.client_context(self.folder / "tls")
        return RoleAuthority(me, SharedPage(self.folder / "page"), self.view, context, strict_reads=strict_reads)

    def put(self, key: str, value: object) -> None:
        self.view.apply(key, Entry(key, encode(value), 1))

    def place(self, where: Location) -> Location:
        self.put(keys.location("MB01"), where)
        self.role.wake()
        return where

    async def listen(self) -> web.AppRunner:
        app = web.Application()
        app.add_routes([web.post(path, self.agent.handle) for path in ("/v1/confirm", "/v1/cover")])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        context = tls.server_context(self.folder / "tls", client_certificates=ssl.CERT_REQUIRED)
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=context).start()
        return runner


@pytest.fixture
async def host(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> AsyncIterator[Host]:
    found = Host(tmp_path, free_ports(2))
    runner = await found.listen()
    yield found
    await found.role.close()
    await runner.cleanup()


async def test_the_page_alone_answers_for_an_active_of_this_host_with_a_set(host: Host) -> None:
    host.page.set_database(NUMBER, epoch=5, single=False)
    await host.role.confirm("MB01", host.place(location("EX01")))
    assert host.agent.asked == []


@pytest.mark.parametrize("epoch", [0, 4, 6])
async def test_another_epoch_in_the_page_is_not_confirmed(host: Host, epoch: int) -> None:
    host.page.set_database(NUMBER, epoch=epoch, single=False)
    with pytest.raises(NotConfirmed):
        await host.role.confirm("MB01", location("EX01"))


async def test_after_the_deadline_nothing_is_confirmed(host: Host) -> None:
    host.page.set_database(NUMBER, epoch=5, single=False)
    host.page.set_deadline(SystemClock().boottime() - 0.001, 1)
    assert not host.role.serving()
    with pytest.raises(NotConfirmed):
        await host.role.confirm("MB01", location("EX01"))


async def test_a_single_copy_of_this_host_asks_its_agent(host: Host) -> None:
    host.page.set_database(NUMBER, epoch=5, single=True)
    with pytest.raises(NotConfirmed):
        await host.role.confirm("MB01", location("EX01"))  # nobody listens there: no confirmation
    host.put(
        keys.server("EX01"),
        Server(name="EX01", address="127.0.0.1", replication_address="", roles=(), ports=Ports(agent=host.port)),
    )
    await host.role.confirm("MB01", location("EX01"))
    assert host.agent.asked == [{"database": "MB01", "epoch": 5}]


async def test_a_remote_active_is_asked_and_may_decline(host: Host) -> None:
    await host.role.confirm("MB01", location("EX02"))
    assert host.agent.asked == [{"database": "MB01", "epoch": 5}]
    host.agent.reply = host.agent.no
    with pytest.raises(NotConfirmed):
        await host.role.confirm("MB01", location("EX02"))


@pytest.mark.parametrize("body", [[], {"confirmed": "yes"}, {}, "confirmed"])
async def test_an_odd_answer_is_no_confirmation_and_the_next_commit_is_asked_for(host: Host, body: object) -> None:
    async def odd() -> web.Response:
        return web.json_response(body)

    host.agent.reply = odd
    with pytest.raises(NotConfirmed):
        await host.role.confirm("MB01", location("EX02"))
    host.agent.reply = host.agent.yes
    await host.role.confirm("MB01", location("EX02"))


async def test_commits_that_returned_before_a_question_was_sent_share_it_and_later_ones_the_next(host: Host) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> web.Response:
        arrived.set()
        await go_on.wait()
        return web.json_response({"confirmed": True})

    host.agent.reply = slow
    where = location("EX02")
    first = [asyncio.create_task(host.role.confirm("MB01", where)) for _ in range(50)]
    await asyncio.wait_for(arrived.wait(), 10)
    later = [asyncio.create_task(host.role.confirm("MB01", where)) for _ in range(50)]
    await asyncio.sleep(0.05)
    assert len(host.agent.asked) == 1 and not any(task.done() for task in (*first, *later))
    go_on.set()
    await asyncio.wait_for(asyncio.gather(*first, *later), 10)
    assert len(host.agent.asked) == 2, "the later commits were confirmed by a question from before they returned"


async def test_without_an_answer_the_outcome_is_unknown(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority_module, "CONFIRM_LIMIT", 0.2)

    async def never() -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    host.agent.reply = never
    with pytest.raises(NotConfirmed):
        await asyncio.wait_for(host.role.confirm("MB01", location("EX02")), 10)


async def test_closing_leaves_nobody_waiting(host: Host) -> None:
    async def never() -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    host.agent.reply = never
    tasks = [asyncio.create_task(host.role.confirm("MB01", location("EX02"))) for _ in range(2)]
    await asyncio.sleep(0.1)
    tasks.append(asyncio.create_task(host.role.confirm("MB01", location("EX02"))))
    await asyncio.sleep(0.05)
    await host.role.close()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert all(isinstance(result, NotConfirmed) for result in results)


async def test_a_commit_task_that_is_given_up_does_not_disturb_the_others(host: Host) -> None:
    tasks = [asyncio.create_task(host.role.confirm("MB01", location("EX02"))) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait_for(asyncio.gather(*tasks[1:]), 10)


async def test_an_agent_of_another_authority_is_not_believed(host: Host, tmp_path: Path) -> None:
    foreign = tls.create_authority("Contoso")
    key = tls.new_key()
    tls.save_host(tmp_path / "foreign", key, foreign.sign(key.public_key(), "EX01", ["127.0.0.1"]), foreign.pem)
    role = RoleAuthority("EX01", SharedPage(tmp_path / "page"), host.view, tls.client_context(tmp_path / "foreign"))
    with pytest.raises(NotConfirmed):
        await role.confirm("MB01", location("EX02"))
    assert host.agent.asked == []
    await role.close()


async def test_where_clients_go_and_when_they_learn_of_a_move(host: Host) -> None:
    assert host.role.endpoint("MB01") is None and host.role.location("MB01") is None
    seen = host.place(location("EX01"))
    assert host.role.endpoint("MB01") == ("127.0.0.1", Ports().postgres + NUMBER)
    waiting = asyncio.create_task(host.role.location_changed("MB01", seen, 10.0))
    await asyncio.sleep(0.01)
    host.role.wake()  # something else changed
    await asyncio.sleep(0.01)
    assert not waiting.done()
    moved = host.place(location("EX02", 6, LocationState.ACTIVATING))
    assert await asyncio.wait_for(waiting, 5) == moved
    assert host.role.endpoint("MB01") is None
    assert await host.role.location_changed("MB01", moved, 0.05) == moved


async def test_strict_reads_are_covered_by_the_own_agent(host: Host) -> None:
    assert await host.role.cover()
    assert host.agent.asked == [], "not asked for, so nothing is asked"
    strict = host.authority("EX02", strict_reads=True)
    assert await asyncio.gather(*(strict.cover() for _ in range(20))) == [True] * 20
    assert 1 <= len(host.agent.asked) <= 2, "one question covers all that came before it"
    host.agent.reply = host.agent.no
    assert not await strict.cover()
    await strict.close()
