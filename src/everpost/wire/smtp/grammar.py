"""Arguments of MAIL and RCPT, and replies (RFC 5321 4.1.2, 4.2)."""

from __future__ import annotations

import re
from typing import NamedTuple

from everpost.errors import Refused

_PATH = re.compile(r"\s*<(?:@[^:>]*:)?([^<>]*)>(?:\s+(.*))?$", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\udc00-\udcff]")


class Path(NamedTuple):
    """An address ("" for the null sender) and ESMTP parameters, keywords in upper case."""

    address: str
    parameters: dict[str, str]


def parse_path(argument: str, keyword: str) -> Path:
    """`FROM:<a@b> SIZE=10`, with or without a space behind the colon. Raises Refused."""
    head, colon, rest = argument.partition(":")
    if not colon or head.strip().upper() != keyword:
        raise Refused(f"Syntax: {keyword}:<address>")
    found = _PATH.match(rest)
    if found is None:
        raise Refused(f"Syntax: {keyword}:<address>")
    address = found[1].strip()
    if _CONTROL.search(address) or len(address) > 320:
        raise Refused("The address holds bytes that no address has.")
    parameters: dict[str, str] = {}
    for word in (found[2] or "").split():
        name, _, value = word.partition("=")
        parameters[name.upper()] = value
    return Path(address, parameters)


def reply(code: int, *lines: str) -> bytes:
    """A reply of one or more lines."""
    out = [f"{code}-{line}\r\n" for line in lines[:-1]]
    out.append(f"{code} {lines[-1]}\r\n")
    return "".join(out).encode("utf-8", "replace")
