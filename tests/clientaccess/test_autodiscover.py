"""Autodiscover answers with the array's name, to its own user alone, and refuses in the field's codes (spec 6.6)."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from everpost.clientaccess.autodiscover import OUTLOOK, Autodiscover, asked
from everpost.directory import keys
from everpost.directory.interface import Entry
from everpost.directory.schema import OrganizationDocument, OrganizationView, encode
from everpost.errors import Refused
from everpost.model.array import ClientAccessArray
from everpost.model.database import MailboxDatabase
from everpost.model.recipient import Mailbox
from everpost.model.server import Ports, Role, Server
from everpost.net import tls

REQUEST = (
    '<Autodiscover xmlns="{scheme}://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006"><Request>'
    "<EMailAddress>{address}</EMailAddress><AcceptableResponseSchema>{scheme}://{schema}</AcceptableResponseSchema>"
    "</Request></Autodiscover>"
)
PATH = "/autodiscover/autodiscover.xml"


def request(address: str = "mira@contoso.com", *, scheme: str = "http", schema: str = OUTLOOK) -> str:
    return REQUEST.format(address=address, scheme=scheme, schema=schema)


def view(*, fqdn: str = "casarray.contoso.com", aliases: tuple[str, ...] = ()) -> OrganizationView:
    found = OrganizationView()
    server = Server(
        name="EX01", address="127.0.0.1", replication_address="127.0.0.1", roles=(Role.CLIENT_ACCESS,), site="S"
    )
    documents = {
        keys.ORGANIZATION: OrganizationDocument(name="Contoso", domain="contoso.com"),
        keys.server("EX01"): server,
        keys.database("MB01"): MailboxDatabase(name="MB01", guid="d", number=0, servers=("EX01",)),
        keys.client_access_array("A"): ClientAccessArray(name="A", fqdn=fqdn, site="s", aliases=aliases),
    }
    for name in ("mira", "otto"):
        documents[keys.mailbox(name)] = Mailbox(
            guid=name, name=name.title(), alias=name, addresses=(f"{name}@contoso.com",), database="MB01"
        )
    for number, (key, document) in enumerate(documents.items(), 1):
        found.apply(key, Entry(key, encode(document), number))
    return found


class OnePassword:
    serving = True

    async def verify(self, password_hash: str | None, password: str) -> bool:
        return password_hash is not None and password == "right"


Post = Callable[..., "aiohttp.client._RequestContextManager"]


@pytest.fixture
async def post(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> AsyncIterator[Post]:
    authority = tls.create_authority("Contoso")
    key = tls.new_key()
    signed = authority.sign(tls.requested_key(tls.request(key, "EX01")), "EX01", ["127.0.0.1"])
    tls.save_host(tmp_path, key, signed, authority.pem)
    port, array_port = free_ports(2)
    web = Autodiscover(view(), OnePassword(), Ports(), lambda: OnePassword.serving)
    await web.start("127.0.0.1", port, array_port, tls.server_context(tmp_path))
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:

        def ask(body: str, user: str = "mira@contoso.com", password: str = "right", path: str = PATH) -> object:
            headers = {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
            return session.post(f"https://127.0.0.1:{port}{path}", data=body, headers=headers)

        yield ask  # type: ignore[misc]
    await web.stop()


async def test_health_is_the_tenure_of_the_host(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    async with post("", path="/healthz") as answer:
        assert answer.status == 200
    monkeypatch.setattr(OnePassword, "serving", False)
    async with post("", path="/healthz") as answer:
        assert answer.status == 503


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_server_is_always_the_array(post: Post, scheme: str) -> None:
    async with post(request(scheme=scheme)) as answer:
        text = await answer.text()
    assert answer.status == 200 and answer.content_type == "text/xml"
    assert text.count("<Server>casarray.contoso.com</Server>") == 2
    assert "<Type>IMAP</Type>" in text and "<Port>993</Port>" in text and "<LoginName>mira@contoso.com<" in text


async def test_only_the_user_with_the_password_is_told(post: Post) -> None:
    async with post(request(), password="wrong") as answer:
        assert answer.status == 401 and "Basic" in answer.headers["WWW-Authenticate"]
    async with post(request("otto@contoso.com")) as answer:
        others = await answer.text()
    async with post(request("nobody@contoso.com")) as answer:
        nobody = await answer.text()
    assert "<ErrorCode>500</ErrorCode>" in others and "<ErrorCode>500</ErrorCode>" in nobody


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", 600),
        ("<Autodiscover/>", 600),
        ("not xml", 600),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', 600),
        (request(schema="schemas.microsoft.com/exchange/autodiscover/mobilesync/responseschema/2006"), 601),
    ],
)
async def test_errors_have_the_codes_of_the_field(post: Post, body: str, code: int) -> None:
    async with post(body) as answer:
        assert f"<ErrorCode>{code}</ErrorCode>" in await answer.text()


def test_an_entity_is_never_expanded() -> None:
    bomb = b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "x"><!ENTITY b "&a;&a;&a;">]><l>&b;</l>'
    with pytest.raises(Refused, match="600"):
        asked(bomb)
