"""FETCH: what the session knows is answered at once, the rest in batches, each written as one piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from everpost.clientaccess.session import Session
from everpost.clientaccess.view import FolderView
from everpost.store.interface import FlagMode, MessageData, Part
from everpost.wire.imap import commands
from everpost.wire.imap.fetch import Item
from everpost.wire.imap.grammar import format_date_time
from everpost.wire.mime.section import decode, header_fields, section

BATCH = 5000
"""Messages of an answer that needs nothing from the store, in one write."""
NEWS_EVERY = 1.0
"""Seconds: a FETCH that shows no flags does not look for changes more often."""
EXPUNGED = b"[EXPUNGEISSUED] Some of the messages are gone"

_PARTS = {
    "INTERNALDATE": Part.DATE,
    "RFC822.SIZE": Part.SIZE,
    "ENVELOPE": Part.ENVELOPE,
    "BODYSTRUCTURE": Part.BODYSTRUCTURE,
    "BODY": Part.BODY,
}
Renderer = Callable[[int, MessageData], bytes]


async def on_fetch(session: Session, request: commands.Fetch) -> bytes:
    return await _fetch(session, request, by_uid=False)


async def on_uid_fetch(session: Session, request: commands.Fetch) -> bytes:
    return await _fetch(session, request, by_uid=True)


async def _fetch(session: Session, request: commands.Fetch, *, by_uid: bool) -> bytes:
    items = list(request.request.items)
    names = {item.name for item in items}
    since = request.request.changed_since
    if since is not None and "MODSEQ" not in names:
        items.append(Item("MODSEQ"))
    session.condstore |= since is not None or "MODSEQ" in names
    if by_uid and "UID" not in names:
        items.insert(0, Item("UID"))
    fresh = since is not None or bool(names & {"FLAGS", "MODSEQ"})
    await session.sync(expunge=by_uid, older_than=0.0 if fresh else NEWS_EVERY)
    view = session.folder
    indexes = view.select(request.numbers, by_uid=by_uid)
    if since is not None:
        indexes = [at for at in indexes if view.modseqs[at] > since]
    if not view.read_only and any(not item.peek for item in items):
        items = await _mark_seen(session, indexes, items)
    missing = await _send(session, indexes, items)
    return EXPUNGED if missing else b"FETCH done"


async def _mark_seen(session: Session, indexes: Sequence[int], items: list[Item]) -> list[Item]:
    """Reading a body sets \\Seen (RFC 3501 6.4.5); the answer then tells the flags too."""
    view = session.folder
    unseen = [view.uids[at] for at in indexes if "\\Seen" not in view.flags[at]]
    if not unseen:
        return items
    changed = await session.store.store_flags(
        session.box,
        view.folder_id,
        unseen,
        FlagMode.ADD,
        frozenset({"\\Seen"}),
        op=session.operation(),
        deadline=session.deadline(),
    )
    view.learn(changed.messages)
    names = {item.name for item in items}
    extra = [Item(name) for name in ("FLAGS", *(("MODSEQ",) if session.condstore else ())) if name not in names]
    return [*items, *extra]


def parts_of(items: Sequence[Item]) -> Part:
    """What the store must load for them."""
    parts = Part(0)
    for item in items:
        parts |= _PARTS.get(item.name, Part(0))
        if item.name == "SECTION":
            if not item.numbers and item.text.startswith("HEADER"):
                parts |= Part.HEADER
            else:
                parts |= Part.RAW
                if item.numbers or item.text:
                    parts |= Part.STRUCTURE
    return parts


async def _send(session: Session, indexes: Sequence[int], items: Sequence[Item]) -> bool:
    """Say all, each batch written while the next one is made, the last one with the tagged answer. Whether messages
    were missing."""
    view = session.folder
    parts = parts_of(items)
    renderers = [_renderer(item, view) for item in items]
    if not parts:
        for start in range(0, len(indexes), BATCH):
            await session.flush()
            for at in indexes[start : start + BATCH]:
                session.say(_line(at, MessageData(uid=view.uids[at]), renderers))
        return view.any_gone(indexes)
    places = {view.uids[at]: at for at in indexes}
    cut = len(indexes) == 1 and Part.RAW in parts and any(item.partial is not None for item in items)
    if cut:
        known = session.services.contents.get(session.box, view.folder_id, view.uids[indexes[0]], parts)
        if known is not None:
            session.say(_line(indexes[0], known, renderers))
            return False
    found = 0
    async for batch in session.store.fetch(
        session.box, view.folder_id, list(places), parts, deadline=session.deadline()
    ):
        await session.flush()
        found += len(batch)
        session.say(*[_line(places[data.uid], data, renderers) for data in batch])
        if cut and batch:
            session.services.contents.keep(session.box, view.folder_id, batch[0], parts)
    return found < len(places)


def _line(at: int, data: MessageData, renderers: Sequence[Renderer]) -> bytes:
    return b"* %d FETCH (%b)\r\n" % (at + 1, b" ".join([render(at, data) for render in renderers]))


def _renderer(item: Item, view: FolderView) -> Renderer:
    match item.name:
        case "UID":
            return lambda at, data: b"UID %d" % data.uid
        case "FLAGS":
            return lambda at, data: b"FLAGS " + view.shown_flags(at)
        case "MODSEQ":
            return lambda at, data: b"MODSEQ (%d)" % view.modseqs[at]
        case "INTERNALDATE":
            return _internal_date
        case "RFC822.SIZE":
            return lambda at, data: b"RFC822.SIZE %d" % (data.size or 0)
        case "ENVELOPE":
            return lambda at, data: b"ENVELOPE " + (data.envelope or b"NIL")
        case "BODYSTRUCTURE":
            return lambda at, data: b"BODYSTRUCTURE " + (data.bodystructure or b"NIL")
        case "BODY":
            return lambda at, data: b"BODY " + (data.body or b"NIL")
    return lambda at, data: item.label + b" " + _nstring(content(item, data), item.partial)


def _internal_date(at: int, data: MessageData) -> bytes:
    assert data.internal_date is not None, "the store was asked for DATE"
    return b"INTERNALDATE " + format_date_time(data.internal_date)


def _nstring(text: bytes | None, partial: tuple[int, int] | None) -> bytes:
    if text is None:
        return b"NIL"
    if partial is not None:
        text = text[partial[0] : partial[0] + partial[1]]
    return b"{%d}\r\n%b" % (len(text), text)


def content(item: Item, data: MessageData) -> bytes | None:
    """The bytes of `BODY[...]`, before a partial cut; None: there is no such part."""
    text = "HEADER" if item.text.startswith("HEADER") else item.text
    if not item.numbers and text == "HEADER":
        found = data.header or b""
    elif not item.numbers and not text:
        found = data.raw or b""
    else:
        assert data.structure is not None, "the store was asked for STRUCTURE"
        span = section(decode(data.structure), item.numbers, text)
        if span is None:
            return None
        found = (data.raw or b"")[span[0] : span[1]]
    if item.text.startswith("HEADER.FIELDS"):
        return header_fields(found, item.fields, without=item.text.endswith("NOT"))
    return found
