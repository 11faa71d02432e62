"""FETCH items (RFC 3501 6.4.5, RFC 7162 3.1.4): parsed from the command, and what they need of the store."""

from __future__ import annotations

import re
from typing import NamedTuple

from everpost.wire.imap.grammar import BadSyntax, Words, quote

_PLAIN = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\\]\[]+')

MACROS = {
    "ALL": ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE"),
    "FAST": ("FLAGS", "INTERNALDATE", "RFC822.SIZE"),
    "FULL": ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY"),
}
SIMPLE = ("UID", "FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODYSTRUCTURE", "MODSEQ")
WHOLE = {"RFC822": "", "RFC822.HEADER": "HEADER", "RFC822.TEXT": "TEXT"}


class Item(NamedTuple):
    """`name`: one of SIMPLE, BODY (the structure), or SECTION. `label`: how a section is called in the response."""

    name: str
    label: bytes = b""
    numbers: tuple[int, ...] = ()
    text: str = ""
    fields: frozenset[bytes] = frozenset()
    partial: tuple[int, int] | None = None
    peek: bool = True


class Request(NamedTuple):
    """The items, and CHANGEDSINCE if it was given."""

    items: tuple[Item, ...]
    changed_since: int | None


def parse(words: Words) -> Request:
    """Everything behind the set."""
    items: list[Item] = []
    if words.accept(b"("):
        while not words.accept(b")"):
            items.append(_item(words))
            words.accept(b" ")
    else:
        for macro, names in MACROS.items():
            if words.rest.upper().split(b" ")[0] == macro.encode():
                words.atom()
                items = [Item(name) for name in names]
        if not items:
            items = [_item(words)]
    if not items:
        raise BadSyntax("FETCH of nothing")
    changed: int | None = None
    if words.accept(b" "):
        words.expect(b"(")
        while not words.accept(b")"):
            modifier = words.word()
            if modifier != "CHANGEDSINCE":
                raise BadSyntax(f"the modifier {modifier} is not known")
            words.space()
            changed = words.number()
            words.accept(b" ")
    return Request(tuple(items), changed)


def _item(words: Words) -> Item:
    for name in ("BODY.PEEK[", "BODY["):
        if words.accept(name.encode()):
            return _section(words, peek=name != "BODY[")
    for name in sorted((*SIMPLE, *WHOLE, "BODY"), key=len, reverse=True):
        if words.accept(name.encode()):
            if name in WHOLE:
                return Item("SECTION", name.encode(), (), WHOLE[name], peek=name == "RFC822.HEADER")
            return Item(name)
    raise BadSyntax("that cannot be fetched")


def _label(name: bytes) -> bytes:
    return name.upper() if _PLAIN.fullmatch(name) else quote(name)


def _section(words: Words, *, peek: bool) -> Item:
    numbers: list[int] = []
    text = ""
    fields: frozenset[bytes] = frozenset()
    label = bytearray(b"BODY[")
    while not words.peek(b"]"):
        if words.rest[:1].isdigit():
            numbers.append(words.number())
            label += b"%d" % numbers[-1]
            if words.accept(b"."):
                label += b"."
            elif not words.peek(b"]"):
                raise BadSyntax("a part's number is followed by a dot")
            continue
        for name in ("HEADER.FIELDS.NOT", "HEADER.FIELDS", "HEADER", "TEXT", "MIME"):
            if words.accept(name.encode()):
                text = name
                break
        else:
            raise BadSyntax("that section is not known")
        label += text.encode()
        if "FIELDS" in text:
            words.space()
            words.expect(b"(")
            names: list[bytes] = []
            while not words.accept(b")"):
                names.append(words.astring())
                words.accept(b" ")
            fields = frozenset(name.lower() for name in names)
            if not names:
                raise BadSyntax("HEADER.FIELDS of nothing")
            label += b" (" + b" ".join(_label(name) for name in names) + b")"
    words.expect(b"]")
    if text == "MIME" and not numbers:
        raise BadSyntax("MIME belongs to a part")
    label += b"]"
    partial: tuple[int, int] | None = None
    if words.accept(b"<"):
        start = words.number()
        words.expect(b".")
        length = words.number()
        words.expect(b">")
        if length == 0:
            raise BadSyntax("a partial fetch of nothing")
        partial = (start, length)
        label += b"<%d>" % start
    return Item("SECTION", bytes(label), tuple(numbers), text, fields, partial, peek)
