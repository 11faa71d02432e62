"""Logs in to a mail server as a client does, to see whether it can be done (spec 6.3): IMAP over TLS, SMTP submission.

Certificates are not checked: this asks whether a server works, as the account has nothing worth stealing, and the name
in a certificate is often that of the array alone.
"""

from __future__ import annotations

import asyncio
import base64
import enum
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


class Outcome(enum.Enum):
    """`STALLED`: no answer within the limit, or the database is not there now. A server whose log-ins stall may be in
    order, as a database that moves to another server stalls them everywhere."""

    OK = "ok"
    FAILED = "failed"
    STALLED = "stalled"


@dataclass(frozen=True)
class Result:
    """`why`: "" if it worked."""

    outcome: Outcome
    why: str = ""


@dataclass(frozen=True)
class Account:
    """Who logs in."""

    user: str
    password: str


class _Refused(Exception):
    """The server said no."""


class _Unavailable(Exception):
    """It says that it cannot do it now."""


def context() -> ssl.SSLContext:
    """TLS without a look at the certificate."""
    found = ssl.create_default_context()
    found.check_hostname = False
    found.verify_mode = ssl.CERT_NONE
    return found


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Login = Callable[[str, int, ssl.SSLContext, Account], Awaitable[None]]


async def _try(login: Login, host: str, port: int, tls: ssl.SSLContext, account: Account, limit: float) -> Result:
    try:
        async with asyncio.timeout(limit):
            await login(host, port, tls, account)
    except TimeoutError:
        return Result(Outcome.STALLED, f"no answer within {limit:g} s")
    except _Unavailable as error:
        return Result(Outcome.STALLED, str(error))
    except (_Refused, OSError, EOFError, ValueError) as error:
        return Result(Outcome.FAILED, str(error) or type(error).__name__)
    return Result(Outcome.OK)


async def imap(host: str, port: int, tls: ssl.SSLContext, account: Account, limit: float) -> Result:
    """Log in on a port with TLS, and ask for the state of the inbox, which only its database knows."""
    return await _try(_imap, host, port, tls, account, limit)


async def submission(host: str, port: int, tls: ssl.SSLContext, account: Account, limit: float) -> Result:
    """STARTTLS and log in."""
    return await _try(_submission, host, port, tls, account, limit)


async def _line(reader: asyncio.StreamReader) -> str:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the connection was closed")
    return line.decode("utf-8", "replace").rstrip()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


async def _imap(host: str, port: int, tls: ssl.SSLContext, account: Account) -> None:
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        greeting = await _line(reader)
        if not greeting.startswith("* OK"):
            raise _Refused(greeting)
        await _command(reader, writer, f"a LOGIN {_quoted(account.user)} {_quoted(account.password)}", _Refused)
        await _command(reader, writer, "b STATUS INBOX (MESSAGES)", _Unavailable)
        await _command(reader, writer, "c LOGOUT", _Refused)
    finally:
        writer.transport.abort()


async def _command(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: str, refused: type[Exception]
) -> None:
    """Raises `refused` if the answer is not OK."""
    writer.write(command.encode() + b"\r\n")
    tag = command.partition(" ")[0]
    while not (line := await _line(reader)).startswith(f"{tag} "):
        pass
    if not line.startswith(f"{tag} OK"):
        raise refused(line)


async def _submission(host: str, port: int, tls: ssl.SSLContext, account: Account) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        await _reply(reader, "220")
        await _say(reader, writer, "EHLO health.invalid", "250")
        await _say(reader, writer, "STARTTLS", "220")
        await writer.start_tls(tls)
        await _say(reader, writer, "EHLO health.invalid", "250")
        plain = base64.b64encode(f"\0{account.user}\0{account.password}".encode()).decode()
        await _say(reader, writer, f"AUTH PLAIN {plain}", "235")
        await _say(reader, writer, "QUIT", "221")
    finally:
        writer.transport.abort()


async def _say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: str, expected: str) -> None:
    writer.write(command.encode() + b"\r\n")
    await _reply(reader, expected)


async def _reply(reader: asyncio.StreamReader, expected: str) -> None:
    """A reply of any number of lines (RFC 5321 4.2.1)."""
    while (line := await _line(reader))[3:4] == "-":
        pass
    if not line.startswith(expected):
        raise _Refused(line)
