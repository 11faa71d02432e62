"""One suite for BIND and Knot: what the zone keeper makes of a real zone, and what it leaves alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from everpost.array.dns.client import Client, DnsTrouble, Outdated
from everpost.array.dns.key import Key, parse
from everpost.array.dns.plan import Change, Mark, mark_name, plan
from everpost.array.dns.records import RecordSet
from everpost.array.dns.zone import UpdaterReplaced, ZoneKeeper
from everpost.clock import SystemClock
from everpost.model.dns import DnsZone, ZoneStatus
from tests.array.dns.servers import KEY, OTHER_SECRET, SECRET, ZONE, DnsServer, free_port

ORGANIZATION = "4711"
NAME = "casarray.contoso.com"
ONE, TWO = "192.0.2.11", "192.0.2.12"


def a(name: str, *addresses: str, ttl: int = 5) -> RecordSet:
    return RecordSet(name, "A", ttl, tuple(sorted(addresses)))


@pytest.fixture(scope="module", params=["bind", "knot"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnsServer]:
    found = DnsServer(request.param, tmp_path_factory.mktemp(request.param), free_port())
    found.start()
    yield found
    found.stop()


class Desk:
    """A keeper as the updater of one server has it, with what the directory was told."""

    def __init__(self, server: DnsServer, folder: Path, *, names: Sequence[str] = (), key: str = KEY) -> None:
        self.remembered: list[tuple[str, ...]] = []
        (folder / "dns.key").write_text(key)
        (folder / "dns.key").chmod(0o600)
        self.settings = DnsZone(zone=ZONE, servers=(server.endpoint,))
        before = ZoneStatus(zone=ZONE, names=tuple(names))
        self.keeper = ZoneKeeper(before, clock=SystemClock(), data_dir=folder, remember=self._remember)

    async def _remember(self, zone: str, names: Sequence[str]) -> None:
        self.remembered.append(tuple(names))

    async def keep(self, *wanted: RecordSet, token: tuple[int, int] = (1, 1), untouched: Iterable[str] = ()) -> None:
        how: dict[str, Any] = {"organization": ORGANIZATION, "token": token}
        while not await self.keeper.keep(self.settings, wanted, untouched, **how):
            pass


@pytest.fixture
def desk(server: DnsServer, tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(**how: object) -> Desk:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Desk(server, folder, **how))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in ("casarray", "old", "autodiscover", "_autodiscover._tcp"):
        server.edit(("delete", f"{one}.{ZONE}"), ("delete", mark_name(f"{one}.{ZONE}")))


async def test_records_are_made_changed_and_removed(server: DnsServer, desk: Callable[..., Desk]) -> None:
    d = desk()
    srv = RecordSet(f"_autodiscover._tcp.{ZONE}", "SRV", 300, (f"0 1 443 {NAME}.",))
    alias = RecordSet(f"autodiscover.{ZONE}", "CNAME", 300, (f"{NAME}.",))
    await d.keep(a(NAME, ONE, TWO), srv, alias)
    assert d.keeper.status.stale_since == "", d.keeper.status.error
    assert server.ask(NAME, "A") == [ONE, TWO]
    assert server.ask(f"_autodiscover._tcp.{ZONE}", "SRV") == [f"0 1 443 {NAME}."]
    assert server.ask(f"autodiscover.{ZONE}", "CNAME") == [f"{NAME}."]
    assert set(d.keeper.status.names) == {NAME, srv.name, alias.name}
    assert d.remembered[0] == (NAME,), "before its first update"
    await d.keep(a(NAME, TWO), srv, alias)
    assert server.ask(NAME, "A") == [TWO]
    # The address family changes, and a CNAME becomes addresses: one message each, never without anything.
    await d.keep(RecordSet(NAME, "AAAA", 5, ("2001:db8::11",)), srv, a(alias.name, ONE))
    assert (server.ask(NAME, "A"), server.ask(NAME, "AAAA")) == ([], ["2001:db8::11"])
    assert (server.ask(alias.name, "CNAME"), server.ask(alias.name, "A")) == ([], [ONE])
    await d.keep(untouched=[NAME])
    assert server.ask(NAME, "AAAA") == ["2001:db8::11"], "nothing was said about it"
    assert server.ask(srv.name, "SRV") == [] == server.ask(mark_name(srv.name), "TXT")
    assert d.keeper.status.names == (NAME,)


async def test_names_of_others_are_left_alone(server: DnsServer, desk: Callable[..., Desk]) -> None:
    d = desk()
    theirs, imaps = f"mail.{ZONE}", f"_imaps._tcp.{ZONE}"
    wanted = (a(theirs, ONE), RecordSet(imaps, "SRV", 300, (f"0 1 993 {NAME}.",)), a(NAME, ONE))
    await d.keep(*wanted)
    assert server.ask(theirs, "A") == ["192.0.2.25"] and server.ask(imaps, "SRV") == ["5 1 993 other.contoso.com."]
    assert server.ask(NAME, "A") == [ONE], "what is free is made nevertheless"
    assert set(d.keeper.status.conflicts) == {theirs, imaps} and d.keeper.status.stale_since == ""
    why = d.keeper.status.conflicts[theirs]
    assert "Everpost did not make: A 192.0.2.25" in why and f"Set-DnsUpdate -Adopt {theirs}" in why
    again = desk(names=(theirs, imaps, NAME))
    await again.keep()
    assert server.ask(theirs, "A") == ["192.0.2.25"], "it is not deleted either, though it was asked for once"
    assert server.ask(NAME, "A") == []
    other = desk()
    other.settings = DnsZone(zone=ZONE, servers=(server.endpoint,), adopt=(theirs,))
    await other.keep(*wanted)
    assert server.ask(theirs, "A") == [ONE] and set(other.keeper.status.conflicts) == {imaps}
    server.edit(("delete", theirs), ("delete", mark_name(theirs)), ("add", theirs, "300", "A", "192.0.2.25"))


async def test_a_zone_of_another_organisation_is_left_alone(server: DnsServer, desk: Callable[..., Desk]) -> None:
    await desk().keep(a(NAME, ONE))
    d = desk(names=(NAME,))
    await d.keeper.keep(d.settings, [a(NAME, TWO)], (), organization="other", token=(9, 9))
    assert server.ask(NAME, "A") == [ONE]
    assert "another organisation" in d.keeper.status.conflicts[NAME]


async def test_an_updater_that_was_replaced_changes_nothing(server: DnsServer, desk: Callable[..., Desk]) -> None:
    """It stood still with an update in its hand, and goes on when its successor has claimed the names."""
    former, later = desk(), desk()
    await former.keep(a(NAME, ONE, TWO), token=(1, 1))
    await later.keep(a(NAME, TWO), token=(1, 2))
    known = former.keeper._known[NAME]
    held = plan(NAME, [a(NAME, ONE)], known, organization=ORGANIZATION, token=(1, 1))
    assert isinstance(held, Change)
    with pytest.raises(Outdated):
        await Client(server.endpoint, ZONE, parse(KEY, "")).update(held)
    with pytest.raises(UpdaterReplaced):
        await former.keep(a(NAME, ONE), token=(1, 1))
    assert server.ask(NAME, "A") == [TWO]


async def test_a_directory_that_was_put_back_says_so(server: DnsServer, desk: Callable[..., Desk]) -> None:
    await desk().keep(a(NAME, ONE), token=(2, 1))
    d = desk()
    await d.keep(a(NAME, TWO), token=(1, 7))
    assert server.ask(NAME, "A") == [ONE]
    assert "generation 2" in d.keeper.status.error and f"delete the TXT of {mark_name(NAME)}" in d.keeper.status.error


async def test_sabotage_without_the_mark_it_would(server: DnsServer, desk: Callable[..., Desk]) -> None:
    former, later = desk(), desk()
    await former.keep(a(NAME, ONE, TWO), token=(1, 1))
    await later.keep(a(NAME, TWO), token=(1, 2))
    held = Change(NAME, None, (), ("A",), (a(NAME, ONE),), None)
    message = Client(server.endpoint, ZONE, parse(KEY, ""))._message(held)
    message.sections[1].clear()  # the prerequisites
    client = Client(server.endpoint, ZONE, parse(KEY, ""))
    await client._exchange(message)
    assert server.ask(NAME, "A") == [ONE]


async def test_a_repetition_after_a_lost_answer_changes_nothing(server: DnsServer, desk: Callable[..., Desk]) -> None:
    d = desk()
    client = Client(server.endpoint, ZONE, parse(KEY, ""))
    made = plan(NAME, [a(NAME, ONE)], await client.see(NAME, ("A",)), organization=ORGANIZATION, token=(1, 1))
    assert isinstance(made, Change)
    await client.update(made)  # its answer is lost: the keeper knows nothing of it
    await d.keep(a(NAME, ONE))
    assert server.ask(NAME, "A") == [ONE] and not d.keeper.status.conflicts and not d.keeper.status.stale_since
    assert (await client.see(NAME, ("A",))).mark == Mark(ORGANIZATION, (1, 1), ("A", "AAAA", "CNAME"))


async def test_a_hand_that_deletes_our_records_is_noticed(
    server: DnsServer, desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    d = desk()
    monkeypatch.setattr("everpost.array.dns.zone.VERIFY_EVERY", 0.2)
    await d.keep(a(NAME, ONE))
    server.edit(("delete", NAME, "A"))
    await asyncio.sleep(0.25)
    await d.keep(a(NAME, ONE))
    assert server.ask(NAME, "A") == [ONE]
    server.edit(("delete", NAME), ("delete", mark_name(NAME)))
    await asyncio.sleep(0.25)
    await d.keep(a(NAME, ONE))
    assert server.ask(NAME, "A") == [ONE]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (KEY.replace(SECRET, OTHER_SECRET), "has another secret for the TSIG key everpost (hmac-sha256)"),
        (KEY.replace('"everpost"', '"stranger"'), "does not know the TSIG key stranger (hmac-sha256)"),
        (KEY.replace('"everpost"', '"readonly"'), "key readonly"),
    ],
)
async def test_a_wrong_key_is_refused_in_plain_words(
    server: DnsServer, desk: Callable[..., Desk], key: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    d = desk(key=key)
    await d.keep(a(NAME, ONE))
    assert text in d.keeper.status.error and d.keeper.status.stale_since
    assert server.ask(NAME, "A") == []
    assert SECRET not in caplog.text and OTHER_SECRET not in caplog.text and SECRET not in repr(d.keeper.status)


async def test_a_key_that_may_not_touch_the_zone_and_a_zone_that_is_elsewhere(server: DnsServer) -> None:
    client = Client(server.endpoint, "fabrikam.com", parse(KEY, ""))
    with pytest.raises(DnsTrouble, match=r"does not hold the zone|refuses|gives no signed answer about fabrikam.com"):
        await client.see("casarray.fabrikam.com", ("A",))


async def test_the_next_server_is_asked_when_the_first_is_silent(server: DnsServer, desk: Callable[..., Desk]) -> None:
    d = desk()
    d.settings = DnsZone(zone=ZONE, servers=(f"127.0.0.1:{free_port()}", server.endpoint))
    await d.keep(a(NAME, ONE))
    assert server.ask(NAME, "A") == [ONE] and d.keeper.status.server == server.endpoint


async def test_a_server_that_stops_makes_the_records_stale_until_it_is_back(
    server: DnsServer, desk: Callable[..., Desk]
) -> None:
    d = desk()
    await d.keep(a(NAME, ONE))
    server.stop()
    try:
        await d.keep(a(NAME, TWO))
        assert d.keeper.status.stale_since and "does not answer" in d.keeper.status.error
        began = asyncio.get_running_loop().time()
        await d.keep(a(NAME, TWO))
        assert asyncio.get_running_loop().time() - began < 0.5, "it is not asked again at once"
    finally:
        server.start()
    async with asyncio.timeout(20):
        while d.keeper.status.stale_since:
            await d.keep(a(NAME, TWO))
            await asyncio.sleep(0.1)
    assert server.ask(NAME, "A") == [TWO]


def test_keys_never_show_their_secret() -> None:
    assert SECRET not in repr(parse(KEY, "")) + str(parse(KEY, "")) + repr(Key("a", "hmac-sha256", b"secret of"))
