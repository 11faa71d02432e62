"""Tells a mail program its settings from the mail address alone: Outlook's POX autodiscover, Thunderbird's autoconfig
(spec 6.6). The server is always the name of the client access array, so a profile outlives every single server.

What is answered is configuration, no mail: it needs no tenure of this host.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import ssl
from collections.abc import Callable, Container
from datetime import UTC, datetime
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from aiohttp import web

from everpost.clientaccess.session import Passwords
from everpost.directory.arraynames import client_access_name
from everpost.directory.schema import OrganizationView
from everpost.errors import Refused
from everpost.model.recipient import Mailbox
from everpost.model.server import Ports
from everpost.net.guard import GuardedSocket
from everpost.net.listen import ProxiedSockets

LARGEST = 64 * 1024
OUTLOOK = "schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a"
"""Real programs print the name spaces with http, the documentation with https: both are taken."""
UNKNOWN_ADDRESS, INVALID_REQUEST, NO_PROVIDER = 500, 600, 601


def asked(body: bytes) -> str:
    """The mail address in a POX request. Raises Refused with the field's code as its first word."""
    if not body.strip():
        raise Refused(f"{INVALID_REQUEST} Invalid Request")
    if re.search(rb"<!(DOCTYPE|ENTITY)", body, re.I):
        raise Refused(f"{INVALID_REQUEST} Invalid Request")
    try:
        root = ElementTree.fromstring(body)
    except (ElementTree.ParseError, ValueError, LookupError):
        raise Refused(f"{INVALID_REQUEST} Invalid Request") from None
    found = {element.tag.rpartition("}")[2]: (element.text or "").strip() for element in root.iter()}
    if not found.get("EMailAddress"):
        raise Refused(f"{INVALID_REQUEST} Invalid Request")
    schema = found.get("AcceptableResponseSchema", "")
    if schema.partition("://")[2] != OUTLOOK:
        raise Refused(f"{NO_PROVIDER} Provider is not available")
    return found["EMailAddress"]


def settings(mailbox: Mailbox, server: str, ports: Ports) -> str:
    """The answer: IMAP and submission through the array. No EXCH block: there is no MAPI here to connect to."""
    address = escape(mailbox.addresses[0])
    blocks = "".join(
        f"<Protocol><Type>{kind}</Type><Server>{escape(server)}</Server><Port>{port}</Port>"
        f"<LoginName>{address}</LoginName><DomainRequired>off</DomainRequired><SPA>off</SPA>"
        f"<SSL>{ssl_word}</SSL><Encryption>{encryption}</Encryption><AuthRequired>on</AuthRequired></Protocol>"
        for kind, port, ssl_word, encryption in (
            ("IMAP", ports.imaps, "on", "SSL"),
            ("SMTP", ports.submission, "on", "TLS"),
        )
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        '<Autodiscover xmlns="http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006">'
        f'<Response xmlns="http://{OUTLOOK}"><User><DisplayName>{escape(mailbox.name)}</DisplayName>'
        f"<AutoDiscoverSMTPAddress>{address}</AutoDiscoverSMTPAddress></User>"
        f"<Account><AccountType>email</AccountType><Action>settings</Action>{blocks}</Account>"
        "</Response></Autodiscover>"
    )


def failure(code: int, message: str, now: datetime) -> str:
    """An error as Outlook reads it."""
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        '<Autodiscover xmlns="http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006">'
        f'<Response><Error Time="{now:%H:%M:%S.%f}" Id="{abs(hash(now)) % 10**10}"><ErrorCode>{code}</ErrorCode>'
        f"<Message>{escape(message)}</Message><DebugData/></Error></Response></Autodiscover>"
    )


def autoconfig(domain: str, server: str, ports: Ports) -> str:
    """Thunderbird's configuration; the same for everybody of the domain, so nobody needs to log in for it."""
    login = "<username>%EMAILADDRESS%</username><authentication>password-cleartext</authentication>"
    name, host = escape(domain), f"<hostname>{escape(server)}</hostname>"
    return (
        '<?xml version="1.0" encoding="utf-8"?><clientConfig version="1.1">'
        f'<emailProvider id="{name}"><domain>{name}</domain><displayName>{name}</displayName>'
        f'<incomingServer type="imap">{host}<port>{ports.imaps}</port><socketType>SSL</socketType>{login}'
        f'</incomingServer><outgoingServer type="smtp">{host}<port>{ports.submission}</port>'
        f"<socketType>STARTTLS</socketType>{login}</outgoingServer></emailProvider></clientConfig>"
    )


class Autodiscover:
    """The HTTPS listener of a client access server, direct and behind the array's balancer."""

    def __init__(
        self,
        organization: OrganizationView,
        passwords: Passwords,
        ports: Ports,
        serving: Callable[[], bool],
        trouble: Callable[[str], str | None] = lambda _: None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._organization = organization
        self._passwords = passwords
        self._ports = ports
        self._serving = serving
        self._trouble = trouble
        self._now = now or (lambda: datetime.now(UTC))
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._sockets: ProxiedSockets | None = None

    async def start(self, host: str, port: int, array_port: int, context: ssl.SSLContext) -> None:
        """Listen. Raises OSError."""
        app = web.Application(client_max_size=LARGEST)
        for path in ("/autodiscover/autodiscover.xml", "/Autodiscover/Autodiscover.xml"):
            app.router.add_post(path, self._outlook)
            app.router.add_get(path, self._outlook)
        for path in ("/mail/config-v1.1.xml", "/.well-known/autoconfig/mail/config-v1.1.xml"):
            app.router.add_get(path, self._thunderbird)
        app.router.add_route("*", "/healthz", self._health)
        app.router.add_route("*", "/healthz/{protocol}", self._health_of)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        factory = self._runner.server
        assert factory is not None
        loop = asyncio.get_running_loop()

        async def begin(accepted: GuardedSocket, client: str) -> None:
            await loop.connect_accepted_socket(factory, accepted, ssl=context)

        trusted: Callable[[], Container[str]] = self._organization.balancers
        self._sockets = ProxiedSockets(begin, trusted)
        self._sockets.start(host, array_port)
        self._server = await loop.create_server(factory, host, port, ssl=context, reuse_address=True)

    async def stop(self) -> None:
        """Take no more, and end."""
        if self._sockets is not None:
            self._sockets.stop()
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        """For other people's balancers: whether this host may answer clients."""
        return web.Response(text="ok\n") if self._serving() else web.Response(text="no tenure\n", status=503)

    async def _health_of(self, request: web.Request) -> web.Response:
        """The same for one protocol: whether a log-in works."""
        trouble = self._trouble(request.match_info["protocol"])
        if trouble is None:
            return web.Response(text="not served here\n", status=404)
        return web.Response(text=f"{trouble}\n", status=503) if trouble else web.Response(text="ok\n")

    async def _outlook(self, request: web.Request) -> web.Response:
        user = await self._authenticated(request.headers.get("Authorization", ""))
        if user is None:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="Everpost", charset="UTF-8"'})
        try:
            address = asked(await request.read())
            mailbox = self._organization.mailbox_by_address(address)
            if mailbox is None or mailbox.guid != user.guid:
                raise Refused(f"{UNKNOWN_ADDRESS} The email address can't be found.")
        except Refused as refused:
            code, _, message = refused.what.partition(" ")
            return self._xml(failure(int(code), message, self._now()))
        database = self._organization.databases.get(mailbox.database)
        server = client_access_name(self._organization, database) if database is not None else ""
        return self._xml(settings(mailbox, server, self._ports))

    async def _thunderbird(self, request: web.Request) -> web.Response:
        document = self._organization.organization
        arrays = sorted(self._organization.arrays.values(), key=lambda one: one.name)
        if document is None or not document.domain or not arrays:
            return web.Response(status=404)
        return self._xml(autoconfig(document.domain, arrays[0].fqdn, self._ports))

    @staticmethod
    def _xml(text: str) -> web.Response:
        return web.Response(body=text.encode(), content_type="text/xml", charset="utf-8")

    async def _authenticated(self, header: str) -> Mailbox | None:
        """The user of an Authorization header (RFC 7617), None without a right password."""
        scheme, _, value = header.partition(" ")
        try:
            user, divided, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        if scheme.lower() != "basic" or not divided:
            return None
        mailbox = self._organization.mailbox_by_address(user) or self._organization.mailbox_by_alias(user)
        right = await self._passwords.verify(mailbox.password_hash if mailbox is not None else None, password)
        return mailbox if mailbox is not None and right and mailbox.enabled else None
