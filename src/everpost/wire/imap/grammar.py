"""The words of a command (RFC 3501 9): atoms, strings, sets, flags, dates. Raises BadSyntax, never anything else."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone

from everpost.errors import EverpostError
from everpost.wire.imap import mutf7
from everpost.wire.imap.reader import MARK, Command

_ATOM = re.compile(rb'[^\x00-\x20\x7f(){%*"\\\]]+')
_ASTRING = re.compile(rb'[^\x00-\x20\x7f(){%*"\\]+')
_LIST = re.compile(rb'[^\x00-\x20\x7f(){"\\]+')
_FLAG = re.compile(rb'\\?[^\x00-\x20\x7f(){%*"\\\]]+')
_NUMBER = re.compile(rb"\d{1,20}")
_SET = re.compile(rb"(?:\d{1,10}|\*)(?::(?:\d{1,10}|\*))?(?:,(?:\d{1,10}|\*)(?::(?:\d{1,10}|\*))?)*|\$")
_TAG = re.compile(rb'[^\x00-\x20\x7f(){%*"\\+]+')
_DATETIME = re.compile(r"^([ \d]\d)-(\w{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)$")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
LARGEST = (1 << 63) - 1
LONGEST_FLAG = 100
MOST_FLAGS = 200
STAR = 0
"""`*` in a set: the largest number there is."""

NumberSet = Sequence[tuple[int, int]]


class BadSyntax(EverpostError):
    """The command is not understood: BAD."""


class Words:
    """A cursor over a command."""

    def __init__(self, command: Command) -> None:
        self._text = command.text
        self._literals = list(command.literals)
        self._at = 0

    @property
    def rest(self) -> bytes:
        """What was not read yet."""
        return self._text[self._at :]

    def peek(self, text: bytes) -> bool:
        """Whether these bytes come next, letters in any case."""
        return self._text[self._at : self._at + len(text)].upper() == text

    def accept(self, text: bytes) -> bool:
        """Read these bytes if they come next."""
        if self.peek(text):
            self._at += len(text)
            return True
        return False

    def expect(self, text: bytes) -> None:
        """These bytes must come."""
        if not self.accept(text):
            raise BadSyntax(f"{text.decode()!r} is missing")

    def space(self) -> None:
        """At least one space; some clients send two."""
        self.expect(b" ")
        while self.accept(b" "):
            pass

    def end(self) -> None:
        """Nothing may follow."""
        if self.rest.strip(b" "):
            raise BadSyntax("there is more than expected")

    def at_end(self) -> bool:
        """Whether nothing follows."""
        return not self.rest.strip(b" ")

    def _match(self, pattern: re.Pattern[bytes], what: str) -> bytes:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise BadSyntax(f"{what} is missing")
        self._at = found.end()
        return found[0]

    def tag(self) -> bytes:
        return self._match(_TAG, "a tag")

    def atom(self) -> bytes:
        return self._match(_ATOM, "an atom")

    def word(self) -> str:
        """An atom in upper case."""
        return self.atom().decode("ascii", "replace").upper()

    def number(self) -> int:
        """Of at most 63 bits (RFC 7162 7)."""
        found = int(self._match(_NUMBER, "a number"))
        if found > LARGEST:
            raise BadSyntax("the number is too large")
        return found

    def string(self) -> bytes:
        """Quoted or literal."""
        if self._text[self._at : self._at + 1] == MARK:
            self._at += 1
            return self._literals.pop(0)
        self.expect(b'"')
        out = bytearray()
        while True:
            ch = self._text[self._at : self._at + 1]
            if not ch or ch == MARK:
                raise BadSyntax("a quoted string is not closed")
            self._at += 1
            if ch == b'"':
                return bytes(out)
            if ch == b"\\":
                ch = self._text[self._at : self._at + 1]
                self._at += 1
            out += ch

    def is_string(self) -> bool:
        """Whether a string comes next."""
        return self._text[self._at : self._at + 1] in (b'"', MARK)

    def is_literal(self) -> bool:
        """Whether a literal comes next."""
        return self._text[self._at : self._at + 1] == MARK

    def attribute(self) -> str:
        """A flag or an attribute of a folder, known or not."""
        return self._match(_FLAG, "an attribute").decode("latin-1")

    def astring(self) -> bytes:
        return self.string() if self.is_string() else self._match(_ASTRING, "a string")

    def nstring(self) -> bytes | None:
        if self.accept(b"NIL"):
            return None
        return self.string()

    def mailbox(self) -> str:
        """A folder's name; INBOX in any case, a trailing separator taken away."""
        name = mutf7.decode(self.astring())
        if name.upper() == "INBOX" or name.upper().startswith("INBOX/"):
            name = "INBOX" + name[5:]
        return name.rstrip("/") if len(name) > 1 else name

    def list_mailbox(self) -> str:
        """A name with wildcards."""
        return mutf7.decode(self.string() if self.is_string() else self._match(_LIST, "a pattern"))

    def number_set(self) -> NumberSet:
        """`1,3:5,7:*`; STAR for `*`."""
        text = self._match(_SET, "a set of numbers").decode()
        if text == "$":
            raise BadSyntax("saved results are not known")
        found = []
        for part in text.split(","):
            low, _, high = part.partition(":")
            first = STAR if low == "*" else int(low)
            last = first if not high else STAR if high == "*" else int(high)
            if (first == 0 and low != "*") or (last == 0 and high not in ("*", "") and high != ""):
                raise BadSyntax("numbers begin at 1")
            found.append((first, last))
        return found

    def flag(self) -> str:
        return canonical_flag(self._match(_FLAG, "a flag").decode("latin-1"))

    def flags(self) -> frozenset[str]:
        """`(\\Seen $Junk)`, or without parentheses as STORE allows."""
        found: set[str] = set()
        if self.accept(b"("):
            while not self.accept(b")"):
                found.add(self.flag())
                self.accept(b" ")
        else:
            found.add(self.flag())
            while not self.at_end():
                self.space()
                found.add(self.flag())
        if len(found) > MOST_FLAGS or any(len(flag) > LONGEST_FLAG for flag in found):
            raise BadSyntax("too many flags, or too long ones")
        return frozenset(found)

    def date_time(self) -> datetime:
        found = _DATETIME.match(self.string().decode("ascii", "replace"))
        if found is None or found[2].lower() not in _MONTHS or not 1900 <= int(found[3]) <= 9990:
            raise BadSyntax("that is no date and time")
        offset = timedelta(hours=int(found[8]), minutes=int(found[9]))
        try:
            return datetime(
                int(found[3]), _MONTHS.index(found[2].lower()) + 1, int(found[1]),
                int(found[4]), int(found[5]), min(int(found[6]), 59),
                tzinfo=timezone(-offset if found[7] == "-" else offset),
            )  # fmt: skip
        except ValueError:
            raise BadSyntax("that is no date and time") from None

    def date(self) -> date:
        text = self.astring().decode("ascii", "replace").strip()
        day, _, rest = text.partition("-")
        month, _, year = rest.partition("-")
        try:
            return date(int(year), _MONTHS.index(month.lower()) + 1, int(day))
        except ValueError:
            raise BadSyntax("that is no date") from None


_SYSTEM = {flag.lower(): flag for flag in ("\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft", "\\Recent")}


def canonical_flag(flag: str) -> str:
    """System flags in their usual spelling; keywords as they are."""
    if flag.startswith("\\"):
        known = _SYSTEM.get(flag.lower())
        if known is None:
            raise BadSyntax(f"{flag} is no flag")
        return known
    return flag


def format_date_time(when: datetime) -> bytes:
    """INTERNALDATE."""
    when = when.astimezone(UTC)
    month = _MONTHS[when.month - 1].capitalize()
    return f'"{when.day:2d}-{month}-{when.year:04d} {when:%H:%M:%S} +0000"'.encode()


def quote(text: bytes) -> bytes:
    """A quoted string, or a literal for what does not fit into one."""
    if any(ch < 32 or ch > 126 for ch in text) or len(text) > 1000:
        return b"{%d}\r\n%b" % (len(text), text)
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def format_mailbox(name: str) -> bytes:
    """A folder's name in a response."""
    return quote(mutf7.encode(name))


def format_flags(flags: frozenset[str], *, recent: bool = False) -> bytes:
    """`(\\Seen $Junk)`."""
    words = sorted(flags) + (["\\Recent"] if recent else [])
    return b"(" + " ".join(words).encode("latin-1", "replace") + b")"


def format_set(numbers: Sequence[int]) -> bytes:
    """Ascending numbers as ranges."""
    parts: list[bytes] = []
    at = 0
    while at < len(numbers):
        end = at
        while end + 1 < len(numbers) and numbers[end + 1] == numbers[end] + 1:
            end += 1
        parts.append(b"%d" % numbers[at] if end == at else b"%d:%d" % (numbers[at], numbers[end]))
        at = end + 1
    return b",".join(parts)


def in_order(numbers: Sequence[int]) -> bytes:
    """Numbers as a set that keeps their order (UIDPLUS maps one set onto another)."""
    ascending = all(one < two for one, two in itertools.pairwise(numbers))
    return format_set(numbers) if ascending else b",".join(b"%d" % number for number in numbers)
