"""Joining the organisation: a one-time token brings a new host its certificate and its place in the directory."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from datetime import datetime, timedelta

import msgspec

from everpost.directory import keys
from everpost.directory.interface import Directory
from everpost.directory.schema import decode, encode
from everpost.errors import AlreadyExists, EverpostError, OutcomeUnknown, Refused
from everpost.model.server import Server

LIFETIME = timedelta(hours=24)
TRIES = 5
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_AGAIN = "Run `everpost server token` on a joined server for a new one."


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """What the printable token holds: where to knock, whom to believe, and the secret."""

    address: str
    port: int
    fingerprint: str
    secret: str


class TokenDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What the directory holds of a token: never the secret itself."""

    expires: datetime


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A new host's request: the secret, its own document, and its signing request in PEM."""

    secret: str
    server: Server
    signing_request: str


class JoinAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The certificate, the authority's, and where the directory's members answer."""

    certificate: str
    authority: str
    endpoints: tuple[str, ...]
    organization: str


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def write_token(invitation: Invitation) -> str:
    """As one word that can be copied."""
    return base64.urlsafe_b64encode(msgspec.json.encode(invitation)).decode().rstrip("=")


def read_token(text: str) -> Invitation:
    """The inverse of `write_token`. Raises Refused."""
    text = text.strip()
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=Invitation)
    except (ValueError, msgspec.MsgspecError):
        raise Refused(
            "That is not a token of this organisation.", remedy="Run `everpost server token` on a joined server."
        ) from None


async def create_token(directory: Directory, *, address: str, port: int, fingerprint: str, now: datetime) -> str:
    """A fresh token, valid once and for a day."""
    secret = secrets.token_urlsafe(24)
    document = TokenDocument(expires=now + LIFETIME)
    key = keys.token(_digest(secret))
    result = await directory.txn({key: 0}, {key: encode(document)}, attempt=2.0)
    if not result.succeeded:
        raise EverpostError("The token could not be recorded.", remedy="Try again.", retry=True)
    return write_token(Invitation(address=address, port=port, fingerprint=fingerprint, secret=secret))


async def redeem(directory: Directory, secret: str, server: Server, *, now: datetime) -> None:
    """Consume the token and record the server, in one transaction. Raises Refused or AlreadyExists, and Unavailable.

    A lost answer is settled by sending the same transaction again until one is answered: its guards let only one win.
    """
    if not _NAME.fullmatch(server.name):
        raise Refused(
            f"{server.name!r} is no name for a server.", remedy="Use 1 to 63 letters, digits and hyphens, like EX02."
        )
    token = keys.token(_digest(secret))
    entry = await directory.get(token)
    if entry is None:
        raise Refused("This token was used already, or was never given.", remedy=_AGAIN)
    if decode(TokenDocument, entry.value).expires < now:
        raise Refused("This token has expired.", remedy=_AGAIN)
    await _refuse_taken(directory, server.name)
    place, value = keys.server(server.name), encode(server)
    for tried in range(TRIES):
        try:
            result = await directory.txn(
                {token: entry.revision, place: 0},
                {token: None, place: value},
                read_on_failure=(token, place),
                attempt=2.0,
            )
        except OutcomeUnknown:
            continue
        found = result.current.get(place)
        if result.succeeded or (tried > 0 and found is not None and found.value == value):
            return
        if found is not None:
            await _refuse_taken(directory, server.name)
        raise Refused("The token was used at this very moment.", remedy=_AGAIN)
    raise OutcomeUnknown(
        f"Whether {server.name} was recorded is not known: the directory did not answer.",
        remedy="See `Get-ExchangeServer`, then make a new token if it is not there.",
    )


async def _refuse_taken(directory: Directory, name: str) -> None:
    """Names are compared without case: host names and certificates do so too."""
    entries, _ = await directory.list(keys.SERVERS)
    for entry in entries:
        if entry.key.removeprefix(keys.SERVERS).casefold() == name.casefold():
            raise AlreadyExists(
                f"A server named {name} has joined already.", remedy="Choose another name, or remove the old server."
            )
