"""What many commands need: guarded changes of documents, and names looked up with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from everpost.errors import NotFound, OutcomeUnknown, Refused, Unavailable
from everpost.manage.context import CommandContext

T = TypeVar("T")
Choice = TypeVar("Choice", bound=StrEnum)


def look_up(table: Mapping[str, T], name: str, what: str, how: str) -> T:
    """The object of that name, in any case. Raises NotFound with the nearest name or the command that lists them."""
    for known, value in table.items():
        if known.lower() == name.lower():
            return value
    near = difflib.get_close_matches(name.lower(), [known.lower() for known in table], n=1)
    original = {known.lower(): known for known in table}
    remedy = f"Did you mean {original[near[0]]}?" if near else f"{how} lists them."
    raise NotFound(f"There is no {what} {name}.", remedy=remedy)


def one_of(parameter: str, kind: type[Choice], text: str) -> Choice:
    """The value of that name, in any case. Raises Refused with all there are."""
    found = next((one for one in kind if one.value.lower() == text.lower()), None)
    if found is None:
        raise Refused(f"{parameter} cannot be {text!r}.", remedy=f"Type {in_words(one.value for one in kind)}.")
    return found


def in_words(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


async def write(context: CommandContext, guards: Iterable[str], puts: Mapping[str, bytes | None], *, what: str) -> None:
    """Write documents if none of the `guards` (keys) changed since this host saw them. The outcome is confirmed: a
    lost answer is settled by sending the same guarded change again, which then cannot succeed twice."""
    if isinstance(guards, Mapping):
        revisions = dict(guards)
    else:
        revisions = {key: context.organization.revision(key) for key in guards}
    unknown = False
    for _ in range(50):
        try:
            result = await context.directory.txn(revisions, puts, read_on_failure=tuple(puts), attempt=1.0)
        except OutcomeUnknown:
            unknown = True
            continue
        except Unavailable:
            await context.clock.sleep(0.2)
            continue
        if result.succeeded:
            return
        current = {key: entry.value if entry is not None else None for key, entry in result.current.items()}
        if unknown and current == dict(puts):
            return
        raise Refused(
            f"{what} was changed by somebody else at this moment.", remedy="Look at it again, then repeat the command."
        )
    raise Unavailable(
        f"{what} could not be written: the directory does not answer.", remedy="See whether it has quorum."
    )


async def seen(context: CommandContext, key: str, revision: int = 1, limit: float = 5.0) -> None:
    """Until this host's view shows the document, so that a following command finds it."""
    end = context.clock.boottime() + limit
    while context.organization.revision(key) < revision and context.clock.boottime() < end:
        await context.clock.sleep(0.01)
