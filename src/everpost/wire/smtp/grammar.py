"""Arguments of MAIL, RCPT and BDAT, and replies (RFC 5321 4.1.2, 4.2; RFC 1870, 3030, 6152, 6531)."""

from __future__ import annotations

import re
from typing import NamedTuple

from everpost.errors import Refused

LONGEST_ADDRESS = 320

_PATH = re.compile(r"\s*<(?:@[^:>]*:)?([^<>]*)>(?:[ \t]+(.*))?$", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\udc00-\udcff]")
_ADDRESS = re.compile(r"""(?:"[^"]*"|[^\s"@]+)(?:@[^\s"@]+)?""")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^\s=]+))?")
_NUMBER = re.compile(r"[0-9]{1,20}")


class UnknownParameter(Refused):
    """A parameter of an extension that was not announced, or a value that it does not have (reply code 555)."""


class NeedsUtf8(Refused):
    """An address beyond ASCII without SMTPUTF8 (RFC 6531 3.5; reply code 553)."""


class Path(NamedTuple):
    """An address ("" for the null sender) and ESMTP parameters, keywords in upper case."""

    address: str
    parameters: dict[str, str]


class Sender(NamedTuple):
    """MAIL. `size`: bytes as the client estimates, 0 if it does not."""

    address: str
    size: int
    utf8: bool


class ChunkSize(NamedTuple):
    """BDAT."""

    size: int
    last: bool


def _path(argument: str, keyword: str) -> Path:
    """`FROM:<a@b> SIZE=10`, with or without a space behind the colon (some clients send one). Raises Refused."""
    head, colon, rest = argument.partition(":")
    found = _PATH.match(rest)
    if not colon or head.strip().upper() != keyword or found is None:
        raise Refused(f"Syntax: {keyword}:<address>")
    address = found[1].strip()
    if _CONTROL.search(address) or len(address) > LONGEST_ADDRESS or (address and not _ADDRESS.fullmatch(address)):
        raise Refused("That is not an address")
    parameters: dict[str, str] = {}
    for word in (found[2] or "").split():
        parameter = _PARAMETER.fullmatch(word)
        if parameter is None or parameter[1].upper() in parameters:
            raise Refused("A parameter cannot be read")
        parameters[parameter[1].upper()] = parameter[2] or ""
    return Path(address, parameters)


def parse_sender(argument: str, *, extended: bool) -> Sender:
    """The argument of MAIL; `extended`: after EHLO, else no parameter is known. Raises Refused."""
    address, parameters = _path(argument, "FROM")
    if parameters and not extended:
        raise UnknownParameter("Parameters need EHLO")
    size = parameters.pop("SIZE", "0")
    body = parameters.pop("BODY", "7BIT").upper()
    utf8 = parameters.pop("SMTPUTF8", None)
    parameters.pop("AUTH", None)  # who is said to have sent it first (RFC 4954 5): of no use here
    if parameters or utf8 or body not in ("7BIT", "8BITMIME"):
        raise UnknownParameter("That parameter is not known")
    if not _NUMBER.fullmatch(size):
        raise Refused("SIZE is a number of bytes")
    if utf8 is None and not address.isascii():
        raise NeedsUtf8("An address beyond ASCII needs SMTPUTF8")
    return Sender(address, int(size), utf8 is not None)


def parse_recipient(argument: str, *, utf8: bool) -> str:
    """The address in the argument of RCPT; `utf8`: MAIL said SMTPUTF8. Raises Refused."""
    address, parameters = _path(argument, "TO")
    if not address:
        raise Refused("Syntax: TO:<address>")
    if parameters:
        raise UnknownParameter("That parameter is not known")
    if not utf8 and not address.isascii():
        raise NeedsUtf8("An address beyond ASCII needs SMTPUTF8")
    return address


def parse_chunk(argument: str) -> ChunkSize:
    """The argument of BDAT. Raises Refused: then nobody knows how many bytes follow."""
    words = argument.split()
    if not words or not _NUMBER.fullmatch(words[0]) or [word.upper() for word in words[1:]] not in ([], ["LAST"]):
        raise Refused("Syntax: BDAT size [LAST]")
    return ChunkSize(int(words[0]), len(words) == 2)


def reply(code: int, *lines: str) -> bytes:
    """A reply of one or more lines."""
    out = [f"{code}-{line}\r\n" for line in lines[:-1]]
    out.append(f"{code} {lines[-1]}\r\n")
    return "".join(out).encode("utf-8", "replace")
