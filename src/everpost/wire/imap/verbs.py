"""The commands, the states in which each is legal, and what CAPABILITY says: all from one table."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

from everpost.wire.imap import commands
from everpost.wire.imap.grammar import BadSyntax, Words
from everpost.wire.imap.reader import Command

APPEND_LIMIT = 64 * 1024 * 1024
"""Bytes of one APPEND: as much as SMTP takes."""


class State(enum.Flag):
    """RFC 3501 3."""

    NOT_AUTHENTICATED = enum.auto()
    AUTHENTICATED = enum.auto()
    SELECTED = enum.auto()


ANY = State.NOT_AUTHENTICATED | State.AUTHENTICATED | State.SELECTED
BEFORE = State.NOT_AUTHENTICATED
AFTER = State.AUTHENTICATED | State.SELECTED
INSIDE = State.SELECTED


class Verb(NamedTuple):
    """`capability`: what must be announced for clients to use it; "" for RFC 3501 itself."""

    states: State
    parse: Callable[[Words], commands.Request]
    capability: str = ""


VERBS: dict[str, Verb] = {
    "CAPABILITY": Verb(ANY, commands.simple),
    "NOOP": Verb(ANY, commands.simple),
    "LOGOUT": Verb(ANY, commands.simple),
    "ID": Verb(ANY, commands.identify, "ID"),
    "STARTTLS": Verb(BEFORE, commands.simple),
    "AUTHENTICATE": Verb(BEFORE, commands.authenticate),
    "LOGIN": Verb(BEFORE, commands.login),
    "ENABLE": Verb(AFTER, commands.enable, "ENABLE"),
    "SELECT": Verb(AFTER, commands.select),
    "EXAMINE": Verb(AFTER, commands.select),
    "CREATE": Verb(AFTER, commands.create),
    "DELETE": Verb(AFTER, commands.name),
    "RENAME": Verb(AFTER, commands.rename),
    "SUBSCRIBE": Verb(AFTER, commands.name),
    "UNSUBSCRIBE": Verb(AFTER, commands.name),
    "LIST": Verb(AFTER, commands.list_),
    "LSUB": Verb(AFTER, commands.lsub),
    "NAMESPACE": Verb(AFTER, commands.simple, "NAMESPACE"),
    "STATUS": Verb(AFTER, commands.status),
    "APPEND": Verb(AFTER, commands.append),
    "IDLE": Verb(AFTER, commands.simple, "IDLE"),
    "CHECK": Verb(INSIDE, commands.simple),
    "CLOSE": Verb(INSIDE, commands.simple),
    "UNSELECT": Verb(INSIDE, commands.simple, "UNSELECT"),
    "EXPUNGE": Verb(INSIDE, commands.expunge),
    "UID EXPUNGE": Verb(INSIDE, commands.uid_expunge, "UIDPLUS"),
    "SEARCH": Verb(INSIDE, commands.search_),
    "UID SEARCH": Verb(INSIDE, commands.search_),
    "FETCH": Verb(INSIDE, commands.fetch_),
    "UID FETCH": Verb(INSIDE, commands.fetch_),
    "STORE": Verb(INSIDE, commands.store),
    "UID STORE": Verb(INSIDE, commands.store),
    "COPY": Verb(INSIDE, commands.copy),
    "UID COPY": Verb(INSIDE, commands.copy),
    "MOVE": Verb(INSIDE, commands.copy, "MOVE"),
    "UID MOVE": Verb(INSIDE, commands.copy, "MOVE"),
}

_FEATURES = (
    "LITERAL+", "SASL-IR", "CHILDREN", "CONDSTORE", "SPECIAL-USE", "CREATE-SPECIAL-USE", "LIST-EXTENDED",
    "LIST-STATUS", "STATUS=SIZE", "MULTIAPPEND", f"APPENDLIMIT={APPEND_LIMIT}",
)  # fmt: skip
"""Extensions that are no verb of their own."""


def capabilities(*, authenticated: bool, tls_offered: bool, login_allowed: bool) -> bytes:
    """Behind `CAPABILITY `; the same on every server (clients remember it: findings H5)."""
    words = ["IMAP4rev1"]
    words += dict.fromkeys(verb.capability for verb in VERBS.values() if verb.capability)
    words += _FEATURES
    if not authenticated:
        words += ["STARTTLS"] if tls_offered else []
        words += ["AUTH=PLAIN"] if login_allowed else ["LOGINDISABLED"]
    return " ".join(words).encode()


class Begun(NamedTuple):
    """A command whose arguments were not looked at yet. `verb` "": not known."""

    tag: bytes
    verb: str
    words: Words


def begin(command: Command) -> Begun:
    """The tag and the verb. Raises BadSyntax when there is not even a tag."""
    words = Words(command)
    tag = words.tag()
    try:
        words.space()
        verb = words.word()
        if verb == "UID":
            words.space()
            verb += " " + words.word()
    except BadSyntax:
        verb = ""
    return Begun(tag, verb if verb in VERBS else "", words)
