"""SEARCH: flags and numbers are decided in the session; only what is left is loaded, and texts are read in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from everpost.clientaccess.fetching import EXPUNGED
from everpost.clientaccess.session import No, Session
from everpost.clientaccess.view import FolderView
from everpost.store.interface import MessageData, Part
from everpost.wire.imap import commands, respond, search
from everpost.wire.imap.grammar import STAR, BadSyntax
from everpost.wire.imap.search import Key, Subject

_PARTS = {"DATE": Part.DATE, "SIZE": Part.SIZE, "HEADER": Part.HEADER, "RAW": Part.RAW}


async def on_search(session: Session, request: commands.Search) -> bytes:
    return await _search(session, request, by_uid=False)


async def on_uid_search(session: Session, request: commands.Search) -> bytes:
    return await _search(session, request, by_uid=True)


async def _search(session: Session, request: commands.Search, *, by_uid: bool) -> bytes:
    if request.charset not in search.CHARSETS:
        raise No("That charset is not known", f"BADCHARSET ({' '.join(search.CHARSETS)})")
    modseq = search.uses_modseq(request.key)
    session.condstore |= modseq
    await session.sync(expunge=by_uid)
    view = session.folder
    _check_numbers(request.key, len(view))
    light, heavy = search.split(request.key)
    indexes = [at for at in range(len(view)) if search.matches(light, _subject(view, at), len(view), _largest(view))]
    if heavy.children and indexes:
        indexes = await _narrow(session, heavy, indexes)
    line = respond.numbers(b"SEARCH", view.uids_at(indexes) if by_uid else [at + 1 for at in indexes])
    if modseq and indexes:
        line += b" (MODSEQ %d)" % max(view.modseqs[at] for at in indexes)
    session.say(line + b"\r\n")
    return EXPUNGED if view.any_gone(indexes) else b"SEARCH done"


def _check_numbers(key: Key, size: int) -> None:
    """A message number that does not exist is BAD, as in FETCH; an empty folder takes any."""
    if key.name == "SET" and size:
        for first, last in key.value:
            if STAR not in (first, last) and max(first, last) > size:
                raise BadSyntax(f"there are only {size} messages")
    for child in key.children:
        _check_numbers(child, size)


def _largest(view: FolderView) -> int:
    return view.uids[-1] if len(view) else 0


def _subject(view: FolderView, at: int, data: MessageData | None = None) -> Subject:
    uid = view.uids[at]
    state = Subject(at + 1, uid, view.modseqs[at], view.flags[at], uid in view.recent)
    if data is None:
        return state
    return Subject(
        state.number, uid, state.modseq, state.flags, state.recent,
        data.internal_date, data.size or 0, data.header or b"", data.raw or b"",
    )  # fmt: skip


async def _narrow(session: Session, key: Key, indexes: Sequence[int]) -> list[int]:
    view = session.folder
    needs = search.needs(key)
    parts = Part(0)
    for need in needs:
        parts |= _PARTS[need]
    places = {view.uids[at]: at for at in indexes}
    largest = _largest(view)

    def matching(batch: Sequence[MessageData]) -> list[int]:
        return [
            places[data.uid]
            for data in batch
            if search.matches(key, _subject(view, places[data.uid], data), len(view), largest)
        ]

    found: list[int] = []
    async for batch in session.store.fetch(
        session.box, view.folder_id, list(places), parts, deadline=session.deadline()
    ):
        if needs & {"HEADER", "RAW"}:
            # Decoding texts takes long: other sessions go on meanwhile.
            found += await asyncio.to_thread(matching, batch)
        else:
            found += matching(batch)
    return found
