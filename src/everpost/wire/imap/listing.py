"""LIST with its extensions (RFC 3501 6.3.8, RFC 5258, RFC 5819, RFC 6154): parsed, and names matched. Pure."""

from __future__ import annotations

from typing import NamedTuple

from everpost.wire.imap.grammar import BadSyntax, Words

SELECTIONS = frozenset(("SUBSCRIBED", "REMOTE", "RECURSIVEMATCH", "SPECIAL-USE"))
RETURNS = frozenset(("SUBSCRIBED", "CHILDREN", "SPECIAL-USE", "STATUS"))
STATUS_ITEMS = ("MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "HIGHESTMODSEQ", "SIZE", "DELETED")
MOST_PATTERNS = 50


class List(NamedTuple):
    """`patterns` have their reference before them already; an empty one asks for the separator alone. `extended`: there
    is a selection, a return, or a list of patterns."""

    patterns: tuple[str, ...]
    selection: frozenset[str] = frozenset()
    returns: frozenset[str] = frozenset()
    status: tuple[str, ...] = ()
    extended: bool = False


def status_items(words: Words) -> tuple[str, ...]:
    """`(MESSAGES UNSEEN)`."""
    words.expect(b"(")
    items: list[str] = []
    while not words.accept(b")"):
        item = words.word()
        if item not in STATUS_ITEMS:
            raise BadSyntax(f"the status item {item} is not known")
        items.append(item)
        words.accept(b" ")
    if not items:
        raise BadSyntax("STATUS of nothing")
    return tuple(items)


def parse(words: Words) -> List:
    """Everything behind LIST."""
    selection: set[str] = set()
    extended = words.accept(b"(")
    if extended:
        while not words.accept(b")"):
            selection.add(words.word())
            words.accept(b" ")
        words.space()
    if not selection <= SELECTIONS:
        raise BadSyntax(f"the selection {' '.join(sorted(selection - SELECTIONS))} is not known")
    if "RECURSIVEMATCH" in selection and not selection & {"SUBSCRIBED", "SPECIAL-USE"}:
        raise BadSyntax("RECURSIVEMATCH stands with another selection")
    reference = words.list_mailbox()
    words.space()
    patterns: list[str] = []
    if words.accept(b"("):
        extended = True
        while not words.accept(b")"):
            patterns.append(words.list_mailbox())
            words.accept(b" ")
    else:
        patterns.append(words.list_mailbox())
    if not patterns or len(patterns) > MOST_PATTERNS:
        raise BadSyntax("no patterns, or too many")
    returns: set[str] = set()
    status: tuple[str, ...] = ()
    if words.accept(b" RETURN "):
        extended = True
        words.expect(b"(")
        while not words.accept(b")"):
            returns.add(words.word())
            if "STATUS" in returns and not status:
                words.space()
                status = status_items(words)
            words.accept(b" ")
    if not returns <= RETURNS:
        raise BadSyntax(f"the return option {' '.join(sorted(returns - RETURNS))} is not known")
    words.end()
    full = tuple(reference + pattern if pattern else "" for pattern in patterns)
    return List(full, frozenset(selection), frozenset(returns), status, extended)


def parse_plain(words: Words) -> List:
    """Everything behind LSUB."""
    reference = words.list_mailbox()
    words.space()
    pattern = words.list_mailbox()
    words.end()
    return List((reference + pattern,))


def matches(pattern: str, name: str) -> bool:
    """Whether a name fits: `*` stands for anything, `%` for anything without "/". INBOX in any case. Takes time in
    proportion to both lengths, whatever the pattern."""
    folded = 5 if name == "INBOX" or name.startswith("INBOX/") else 0
    reached = {0}
    for ch in _shortest(pattern):
        if ch == "*":
            reached = set(range(min(reached), len(name) + 1))
        elif ch == "%":
            spread: set[int] = set()
            for at in sorted(reached):
                while at not in spread:
                    spread.add(at)
                    if at < len(name) and name[at] != "/":
                        at += 1
            reached = spread
        else:
            upper = ch.upper()
            reached = {
                at + 1 for at in reached if at < len(name) and (name[at] == ch or (at < folded and name[at] == upper))
            }
        if not reached:
            return False
    return len(name) in reached


def _shortest(pattern: str) -> str:
    """Neighbouring wildcards as one."""
    out: list[str] = []
    for ch in pattern:
        if out and ch in "*%" and out[-1] in "*%":
            out[-1] = "*" if "*" in (ch, out[-1]) else "%"
        else:
            out.append(ch)
    return "".join(out)
