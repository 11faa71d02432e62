"""What may be changed in a zone, and under which conditions: pure.

Each name that we keep has a mark beside it, the TXT record `_everpost.<name>`. It says whose the name is, which types
of it, and under which token of the updater it was last claimed. Every update demands the very mark that was seen, so
that it is a compare-and-swap on the DNS server itself: an updater that was replaced while it stood still changes
nothing, and a name without our mark is only ever created where there was nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from everpost.array.dns.records import RecordSet

MARK = "_everpost"
MARK_TTL = 300
_FAMILIES = (("A", "AAAA", "CNAME"), ("SRV",), ("MX",))
"""Types that go together: what a host name resolves to may change between the first three."""

Token = tuple[int, int]
"""(generation of the directory, epoch of the updater): never goes back."""


@dataclass(frozen=True)
class Mark:
    """A mark as it stands in the zone."""

    organization: str
    token: Token
    kinds: tuple[str, ...]

    def strings(self) -> tuple[str, ...]:
        """The strings of the TXT record."""
        return (
            "heritage=everpost",
            f"organization={self.organization}",
            f"token={self.token[0]}.{self.token[1]}",
            f"types={','.join(self.kinds)}",
        )


def read_mark(strings: Iterable[str]) -> Mark | None:
    """The mark in a TXT record; None: it is none of ours."""
    fields = dict(text.partition("=")[::2] for text in strings)
    generation, _, epoch = fields.get("token", "").partition(".")
    if fields.get("heritage") != "everpost" or not (generation.isdigit() and epoch.isdigit()):
        return None
    kinds = tuple(kind for kind in fields.get("types", "").split(",") if kind)
    return Mark(fields.get("organization", ""), (int(generation), int(epoch)), kinds)


def mark_name(name: str) -> str:
    """Where the mark of a name stands."""
    return f"{MARK}.{name}"


def family(kind: str) -> tuple[str, ...]:
    """The types that are kept together with one."""
    return next((kinds for kinds in _FAMILIES if kind in kinds), (kind,))


@dataclass(frozen=True)
class Seen:
    """A name as it is in the zone: its mark, and its records of the types that concern us."""

    mark: Mark | None
    records: frozenset[RecordSet]


@dataclass(frozen=True)
class Change:
    """One UPDATE message: if `mark` is there as it was seen (None: no mark at all) and there is nothing of `absent`
    (None in it: the name is not used at all), then all of `kinds` are deleted, `records` added and `new_mark` set
    (None: deleted). The server does all of it or nothing (RFC 2136 3.4)."""

    name: str
    mark: Mark | None
    absent: tuple[str | None, ...]
    kinds: tuple[str, ...]
    records: tuple[RecordSet, ...]
    new_mark: Mark | None


@dataclass(frozen=True)
class Conflict:
    """A name that is left alone, and what an administrator can do about it."""

    name: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Replaced:
    """The zone has been claimed under a later token: this updater is over."""

    name: str
    token: Token


def plan(
    name: str, wanted: Iterable[RecordSet], seen: Seen, *, organization: str, token: Token, adopt: bool = False
) -> Change | Conflict | Replaced | None:
    """What to do about one name so that it has `wanted`, which may be nothing; None: it is as it should be."""
    records = tuple(sorted(wanted, key=lambda one: one.kind))
    mark = seen.mark
    if mark is None and not records:
        return None
    if mark is not None and mark.organization != organization:
        return Conflict(
            name,
            f"{name} is kept by another organisation ({mark.organization}).",
            f"Give one of the two another name, or delete {mark_name(name)} if that organisation is no more.",
        )
    if mark is not None and mark.token > token:
        return Replaced(name, mark.token)
    kinds = tuple(dict.fromkeys(kind for one in records for kind in family(one.kind)))
    if mark is None:
        new = Mark(organization, token, kinds)
        # A name with a CNAME has nothing else, and servers ignore in silence what does not fit (RFC 2136 3.4.2.2).
        lonely: tuple[str | None, ...] = (None,) if any(one.kind == "CNAME" for one in records) else ()
        absent = () if adopt else lonely or kinds
        return Change(name, None, absent, kinds, records, new)
    if not records:
        return Change(name, mark, (), mark.kinds, (), None)
    wanted_mark = Mark(organization, token, kinds)
    if mark == wanted_mark and seen.records == frozenset(records):
        return None
    foreign = () if adopt else tuple(kind for kind in kinds if kind not in mark.kinds)
    return Change(name, mark, foreign, tuple(dict.fromkeys((*mark.kinds, *kinds))), records, wanted_mark)


def taken(name: str, what: Iterable[RecordSet]) -> Conflict:
    """The server said that the name, or its types, exist and that we did not make them."""
    shown = "; ".join(f"{one.kind} {', '.join(one.data)}" for one in sorted(what, key=lambda one: one.kind))
    return Conflict(
        name,
        f"{name} has records that Everpost did not make{': ' + shown if shown else ''}.",
        f"Delete them, or let them be replaced: Set-DnsUpdate -Adopt {name}",
    )


def by_name(records: Iterable[RecordSet]) -> Mapping[str, list[RecordSet]]:
    """Grouped, those of round robins (the shortest life) first."""
    found: dict[str, list[RecordSet]] = {}
    for one in sorted(records, key=lambda one: (one.ttl, one.name)):
        found.setdefault(one.name, []).append(one)
    return found
