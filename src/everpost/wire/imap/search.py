"""SEARCH keys (RFC 3501 6.4.4, RFC 7162 3.1.5) as a tree, and whether a message matches it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from everpost.wire.imap.grammar import BadSyntax, NumberSet, Words
from everpost.wire.imap.searchtext import body_text, fold, header_text, header_values, sent

_FLAG_KEYS = {
    "ANSWERED": "\\Answered",
    "DELETED": "\\Deleted",
    "DRAFT": "\\Draft",
    "FLAGGED": "\\Flagged",
    "SEEN": "\\Seen",
}
_HEADER_KEYS = ("BCC", "CC", "FROM", "SUBJECT", "TO")
CHARSETS = ("US-ASCII", "UTF-8")
"""What CHARSET may name; anything else is answered BADCHARSET."""
MOST_DEPTH = 50


@dataclass(frozen=True)
class Key:
    """`name`: the key in upper case; `value`: its argument."""

    name: str
    value: Any = None
    children: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A message as far as a search needs it; what no key asks for is left empty."""

    number: int
    uid: int
    modseq: int
    flags: frozenset[str]
    recent: bool = False
    internal_date: datetime | None = None
    size: int = 0
    header: bytes = b""
    raw: bytes = b""


def parse(words: Words) -> tuple[Key, str]:
    """The whole rest of the command: (tree, charset). Raises BadSyntax; an unknown charset is the caller's NO."""
    charset = "US-ASCII"
    if words.accept(b"CHARSET "):
        charset = words.astring().decode("ascii", "replace").upper()
        words.accept(b" ")
    keys = [_key(words, 0)]
    while not words.at_end():
        words.space()
        keys.append(_key(words, 0))
    return Key("AND", None, tuple(keys)), charset


def _key(words: Words, depth: int) -> Key:
    if depth > MOST_DEPTH:
        raise BadSyntax("the search is nested too deeply")
    if words.accept(b"("):
        keys = [_key(words, depth + 1)]
        while not words.accept(b")"):
            words.space()
            keys.append(_key(words, depth + 1))
        return Key("AND", None, tuple(keys))
    if words.rest[:1].isdigit() or words.peek(b"*"):
        return Key("SET", words.number_set())
    name = words.word()
    if name in ("ALL", "NEW", "OLD", "RECENT"):
        return Key(name)
    if name in _FLAG_KEYS:
        return Key("FLAG", _FLAG_KEYS[name])
    if name.startswith("UN") and name[2:] in _FLAG_KEYS:
        return Key("NOT", None, (Key("FLAG", _FLAG_KEYS[name[2:]]),))
    words.space()
    if name in ("KEYWORD", "UNKEYWORD"):
        key = Key("FLAG", words.atom().decode("latin-1"))
        return key if name == "KEYWORD" else Key("NOT", None, (key,))
    if name == "NOT":
        return Key("NOT", None, (_key(words, depth + 1),))
    if name == "OR":
        first = _key(words, depth + 1)
        words.space()
        return Key("OR", None, (first, _key(words, depth + 1)))
    if name == "UID":
        return Key("UID", words.number_set())
    if name in ("LARGER", "SMALLER"):
        return Key(name, words.number())
    if name in ("BEFORE", "ON", "SINCE", "SENTBEFORE", "SENTON", "SENTSINCE"):
        return Key(name, words.date())
    if name in ("BODY", "TEXT"):
        return Key(name, _text(words.astring()))
    if name in _HEADER_KEYS:
        return Key("HEADER", (name.lower().encode(), _text(words.astring())))
    if name == "HEADER":
        field = words.astring().lower()
        words.space()
        return Key("HEADER", (field, _text(words.astring())))
    if name == "MODSEQ":
        if words.is_string():
            words.string()
            words.space()
            words.atom()
            words.space()
        return Key("MODSEQ", words.number())
    raise BadSyntax(f"the search key {name} is not known")


def _text(text: bytes) -> str:
    return fold(text.decode("utf-8", "replace"))


def needs(key: Key) -> set[str]:
    """Which of DATE, SIZE, HEADER, RAW the tree looks at."""
    found = set().union(*(needs(child) for child in key.children)) if key.children else set()
    kinds = {
        "LARGER": "SIZE", "SMALLER": "SIZE", "BEFORE": "DATE", "ON": "DATE", "SINCE": "DATE",
        "SENTBEFORE": "HEADER", "SENTON": "HEADER", "SENTSINCE": "HEADER", "HEADER": "HEADER",
        "BODY": "RAW", "TEXT": "RAW",
    }  # fmt: skip
    if key.name in kinds:
        found.add(kinds[key.name])
    return found


def split(key: Key) -> tuple[Key, Key]:
    """(what flags and numbers alone decide, the rest); a message is found when both match."""
    children = key.children if key.name == "AND" else (key,)
    light = tuple(child for child in children if not needs(child))
    heavy = tuple(child for child in children if needs(child))
    return Key("AND", None, light), Key("AND", None, heavy)


def uses_modseq(key: Key) -> bool:
    """Whether MODSEQ is among the keys (the response then carries the highest one)."""
    return key.name == "MODSEQ" or any(uses_modseq(child) for child in key.children)


def contains(numbers: NumberSet, number: int, largest: int) -> bool:
    """Whether a set holds a number; `*` is `largest`."""
    for first, last in numbers:
        low, high = first or largest, last or largest
        if min(low, high) <= number <= max(low, high):
            return True
    return False


def matches(key: Key, message: Subject, largest_number: int, largest_uid: int) -> bool:
    """Whether the message is found."""

    def inner(child: Key) -> bool:
        return matches(child, message, largest_number, largest_uid)

    match key.name:
        case "ALL":
            return True
        case "AND":
            return all(inner(child) for child in key.children)
        case "OR":
            return any(inner(child) for child in key.children)
        case "NOT":
            return not inner(key.children[0])
        case "SET":
            return contains(key.value, message.number, largest_number)
        case "UID":
            return contains(key.value, message.uid, largest_uid)
        case "FLAG":
            wanted = key.value.lower()
            return any(flag.lower() == wanted for flag in message.flags)
        case "RECENT":
            return message.recent
        case "NEW":
            return message.recent and "\\Seen" not in message.flags
        case "OLD":
            return not message.recent
        case "LARGER":
            return bool(message.size > key.value)
        case "SMALLER":
            return bool(message.size < key.value)
        case "MODSEQ":
            return bool(message.modseq >= key.value)
        case "BEFORE" | "ON" | "SINCE":
            when = message.internal_date.astimezone(UTC).date() if message.internal_date else None
            return _compare(key.name, when, key.value)
        case "SENTBEFORE" | "SENTON" | "SENTSINCE":
            return _compare(key.name[4:], sent(message.header), key.value)
        case "HEADER":
            field, wanted = key.value
            return any(wanted in value for value in header_values(message.header, field))
        case "BODY":
            return key.value in body_text(message.raw)
        case "TEXT":
            return key.value in header_text(message.raw) or key.value in body_text(message.raw)
    return False


def _compare(name: str, when: date | None, wanted: date) -> bool:
    if when is None:
        return False
    return {"BEFORE": when < wanted, "ON": when == wanted, "SINCE": when >= wanted}[name]
