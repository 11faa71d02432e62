"""The commands and the stages of a conversation in which each is legal; EHLO and HELP are derived from this table."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Stage(enum.Flag):
    """How far a conversation is (RFC 5321 3)."""

    CONNECTED = enum.auto()
    GREETED = enum.auto()
    SENDER = enum.auto()
    """MAIL was taken."""
    RECIPIENTS = enum.auto()
    """And at least one RCPT."""
    CHUNKS = enum.auto()
    """And BDAT, but not its last."""


ANY = Stage.CONNECTED | Stage.GREETED | Stage.SENDER | Stage.RECIPIENTS | Stage.CHUNKS


class Verb(NamedTuple):
    """`keyword`: what EHLO announces, "" for RFC 5321 itself."""

    stages: Stage
    syntax: str
    keyword: str = ""


VERBS: dict[str, Verb] = {
    "HELO": Verb(ANY, "HELO name"),
    "EHLO": Verb(ANY, "EHLO name"),
    "STARTTLS": Verb(Stage.GREETED, "STARTTLS", "STARTTLS"),
    "AUTH": Verb(Stage.GREETED, "AUTH mechanism [response]", "AUTH PLAIN LOGIN"),
    "MAIL": Verb(Stage.GREETED, "MAIL FROM:<address> [SIZE=n] [BODY=8BITMIME] [SMTPUTF8]"),
    "RCPT": Verb(Stage.SENDER | Stage.RECIPIENTS, "RCPT TO:<address>"),
    "DATA": Verb(Stage.RECIPIENTS, "DATA"),
    "BDAT": Verb(Stage.RECIPIENTS | Stage.CHUNKS, "BDAT size [LAST]", "CHUNKING"),
    "RSET": Verb(ANY, "RSET"),
    "NOOP": Verb(ANY, "NOOP [text]"),
    "VRFY": Verb(ANY, "VRFY address"),
    "HELP": Verb(ANY, "HELP [command]", "HELP"),
    "QUIT": Verb(ANY, "QUIT"),
}

DECLINED = frozenset({"EXPN", "TURN", "ETRN", "SEND", "SOML", "SAML"})
"""Known, and not offered (RFC 5321 4.2.4)."""
OTHER_PROTOCOLS = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT"})
"""A browser that was made to talk to this port: what follows is not from a mail client."""

_FEATURES = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
"""Extensions without a verb of their own."""

_MISSING = {
    Stage.CONNECTED: "Say EHLO first",
    Stage.GREETED: "Say MAIL first",
    Stage.SENDER: "No valid recipients",
    Stage.CHUNKS: "BDAT was begun; go on with it, or say RSET",
}
_BEGUN = "A message is begun already"


def refusal(verb: str, stage: Stage) -> str | None:
    """Why a known verb is not legal at a stage (reply code 503), or None."""
    legal = VERBS[verb].stages
    if stage in legal:
        return None
    if stage is Stage.SENDER and legal == Stage.GREETED:
        return _BEGUN
    return _MISSING.get(stage, _BEGUN)


def extensions(*, size: int, tls_offered: bool, login_offered: bool) -> list[str]:
    """The lines of EHLO behind the host's name; `size` is the longest message in bytes (RFC 1870)."""
    offered = {"STARTTLS": tls_offered, "AUTH": login_offered}
    own = [verb.keyword for name, verb in VERBS.items() if verb.keyword and offered.get(name, True)]
    return [*_FEATURES, f"SIZE {size}", *own]


def usage(argument: str) -> str:
    """The text of HELP (RFC 5321 4.1.1.8)."""
    verb = VERBS.get(argument.upper())
    return f"Syntax: {verb.syntax}" if verb is not None else "Commands: " + " ".join(VERBS)
