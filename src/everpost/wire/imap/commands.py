"""What a client may ask, as values: each command's arguments parsed (RFC 3501 6 and the extensions of `verbs`)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from everpost.wire.imap import fetch, listing, search
from everpost.wire.imap.grammar import BadSyntax, NumberSet, Words

SPECIAL_USES = ("\\Archive", "\\Drafts", "\\Flagged", "\\Junk", "\\Sent", "\\Trash", "\\All")
MOST_APPENDS = 100


class Simple(NamedTuple):
    """A command without arguments."""


class Login(NamedTuple):
    user: str
    password: str


class Authenticate(NamedTuple):
    """`initial`: the response that came with it (RFC 4959), still in base64; None: to be asked for."""

    mechanism: str
    initial: bytes | None


class Identify(NamedTuple):
    fields: Mapping[str, str]


class Enable(NamedTuple):
    names: tuple[str, ...]


class Select(NamedTuple):
    name: str
    condstore: bool


class Create(NamedTuple):
    name: str
    special_use: str


class Name(NamedTuple):
    """DELETE, SUBSCRIBE, UNSUBSCRIBE."""

    name: str


class Rename(NamedTuple):
    name: str
    new_name: str


class Status(NamedTuple):
    name: str
    items: tuple[str, ...]


class Message(NamedTuple):
    """One message of an APPEND."""

    flags: frozenset[str]
    internal_date: datetime | None
    raw: bytes


class Append(NamedTuple):
    name: str
    messages: tuple[Message, ...]


class Expunge(NamedTuple):
    """`uids` None: all that are marked (EXPUNGE, not UID EXPUNGE)."""

    uids: NumberSet | None


class Search(NamedTuple):
    key: search.Key
    charset: str


class Fetch(NamedTuple):
    numbers: NumberSet
    request: fetch.Request


class StoreFlags(NamedTuple):
    """`mode`: replace, add or remove."""

    numbers: NumberSet
    mode: str
    silent: bool
    flags: frozenset[str]
    unchanged_since: int | None


class Copy(NamedTuple):
    """COPY and MOVE."""

    numbers: NumberSet
    target: str


Request = (
    Simple
    | Login
    | Authenticate
    | Identify
    | Enable
    | Select
    | Create
    | Name
    | Rename
    | listing.List
    | Status
    | Append
    | Expunge
    | Search
    | Fetch
    | StoreFlags
    | Copy
)


def simple(words: Words) -> Simple:
    words.end()
    return Simple()


def login(words: Words) -> Login:
    words.space()
    user = words.astring().decode("utf-8", "replace")
    words.space()
    password = words.astring().decode("utf-8", "replace")
    words.end()
    return Login(user, password)


def authenticate(words: Words) -> Authenticate:
    words.space()
    mechanism = words.word()
    initial: bytes | None = None
    if not words.at_end():
        words.space()
        initial = words.atom()
        words.end()
    return Authenticate(mechanism, b"" if initial == b"=" else initial)


def identify(words: Words) -> Identify:
    words.space()
    found: dict[str, str] = {}
    if not words.accept(b"NIL"):
        words.expect(b"(")
        while not words.accept(b")"):
            name = words.string().decode("utf-8", "replace")
            words.space()
            found[name.lower()] = (words.nstring() or b"").decode("utf-8", "replace")
            words.accept(b" ")
            if len(found) > 30:
                raise BadSyntax("that is more than 30 fields")
    words.end()
    return Identify(found)


def enable(words: Words) -> Enable:
    names: list[str] = []
    while not words.at_end():
        words.space()
        names.append(words.word())
    if not names:
        raise BadSyntax("ENABLE of nothing")
    return Enable(tuple(names))


def select(words: Words) -> Select:
    words.space()
    name = words.mailbox()
    condstore = False
    if not words.at_end():
        words.space()
        words.expect(b"(")
        while not words.accept(b")"):
            parameter = words.word()
            if parameter != "CONDSTORE":
                raise BadSyntax(f"the parameter {parameter} is not known")
            condstore = True
            words.accept(b" ")
        words.end()
    return Select(name, condstore)


def create(words: Words) -> Create:
    words.space()
    name = words.mailbox()
    use = ""
    if not words.at_end():
        words.space()
        words.expect(b"(")
        if words.word() != "USE":
            raise BadSyntax("only USE is known")
        words.space()
        words.expect(b"(")
        text = words.attribute()
        use = next((known for known in SPECIAL_USES if known.lower() == text.lower()), "\\")
        words.expect(b")")
        words.expect(b")")
        words.end()
    return Create(name, use)


def name(words: Words) -> Name:
    words.space()
    found = words.mailbox()
    words.end()
    return Name(found)


def rename(words: Words) -> Rename:
    words.space()
    before = words.mailbox()
    words.space()
    after = words.mailbox()
    words.end()
    return Rename(before, after)


def list_(words: Words) -> listing.List:
    words.space()
    return listing.parse(words)


def lsub(words: Words) -> listing.List:
    words.space()
    return listing.parse_plain(words)


def status(words: Words) -> Status:
    words.space()
    found = words.mailbox()
    words.space()
    items = listing.status_items(words)
    words.end()
    return Status(found, items)


def append(words: Words) -> Append:
    words.space()
    target = words.mailbox()
    messages: list[Message] = []
    while not words.at_end():
        words.space()
        flags: frozenset[str] = frozenset()
        when: datetime | None = None
        if words.peek(b"("):
            flags = words.flags()
            words.space()
        if words.peek(b'"'):
            when = words.date_time()
            words.space()
        if not words.is_literal():
            raise BadSyntax("a message is sent as a literal")
        messages.append(Message(flags - {"\\Recent"}, when, words.string()))
    if not messages or len(messages) > MOST_APPENDS:
        raise BadSyntax("no message, or too many")
    return Append(target, tuple(messages))


def expunge(words: Words) -> Expunge:
    words.end()
    return Expunge(None)


def uid_expunge(words: Words) -> Expunge:
    words.space()
    uids = words.number_set()
    words.end()
    return Expunge(uids)


def search_(words: Words) -> Search:
    words.space()
    return Search(*search.parse(words))


def fetch_(words: Words) -> Fetch:
    words.space()
    numbers = words.number_set()
    words.space()
    request = fetch.parse(words)
    words.end()
    return Fetch(numbers, request)


_MODES = {"": "replace", "+": "add", "-": "remove"}


def store(words: Words) -> StoreFlags:
    words.space()
    numbers = words.number_set()
    words.space()
    unchanged: int | None = None
    if words.accept(b"("):
        if words.word() != "UNCHANGEDSINCE":
            raise BadSyntax("only UNCHANGEDSINCE is known")
        words.space()
        unchanged = words.number()
        words.expect(b")")
        words.space()
    item = words.word()
    sign = item[:1] if item[:1] in "+-" else ""
    if item.removeprefix(sign) not in ("FLAGS", "FLAGS.SILENT"):
        raise BadSyntax("only FLAGS can be stored")
    words.space()
    flags = words.flags() - {"\\Recent"}
    words.end()
    return StoreFlags(numbers, _MODES[sign], item.endswith(".SILENT"), flags, unchanged)


def copy(words: Words) -> Copy:
    words.space()
    numbers = words.number_set()
    words.space()
    target = words.mailbox()
    words.end()
    return Copy(numbers, target)
