"""Commands about messages: FETCH, SEARCH, STORE, COPY, MOVE, EXPUNGE, IDLE."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from everpost.clientaccess.selected import Selected
from everpost.clientaccess.session import IDLE_LIMIT, No, Session
from everpost.store.interface import FlagMode, MessageData, NoSuchFolder, Part
from everpost.wire.imap import fetch, search
from everpost.wire.imap.fetch import Item
from everpost.wire.imap.grammar import BadSyntax, Words, format_date_time, format_flags, format_set, in_order
from everpost.wire.mime.section import decode, header_fields, section

STILL_HERE = 120.0
"""Seconds between signs of life while a client idles: routers forget quiet connections (findings: H4)."""
_PARTS = {
    "ENVELOPE": Part.ENVELOPE,
    "BODYSTRUCTURE": Part.BODYSTRUCTURE,
    "BODY": Part.BODY,
    "INTERNALDATE": Part.DATE,
    "RFC822.SIZE": Part.SIZE,
}


def _chosen(session: Session, words: Words, selected: Selected) -> list[int]:
    numbers = words.number_set()
    if not session.uid_command and selected.out_of_range(numbers):
        raise BadSyntax("there is no message of that number")
    return selected.by_set(numbers, uid=session.uid_command)


async def on_fetch(session: Session, words: Words) -> str:
    words.space()
    selected = session.folder()
    uids = _chosen(session, words, selected)
    words.space()
    request = fetch.parse(words)
    words.end()
    items = list(request.items)
    names = {item.name for item in items}
    if "MODSEQ" in names or request.changed_since is not None:
        session.condstore = True
    if session.uid_command and "UID" not in names:
        items.insert(0, Item("UID"))
    if request.changed_since is not None:
        if "MODSEQ" not in names:
            items.append(Item("MODSEQ"))
        await session.catch_up(expunge=False)
        uids = [uid for uid in uids if selected.states[uid].modseq > request.changed_since]
    if uids and any(not item.peek for item in items) and not selected.read_only:
        await _mark_seen(session, selected, uids, items)
    await _send(session, selected, uids, items)
    await session.catch_up(expunge=session.uid_command)
    return "OK FETCH done"


async def _mark_seen(session: Session, selected: Selected, uids: list[int], items: list[Item]) -> None:
    unseen = [uid for uid in uids if "\\Seen" not in selected.states[uid].flags]
    if unseen:
        changed = await session.services.store.store_flags(
            session.mailbox,
            selected.folder.id,
            unseen,
            FlagMode.ADD,
            frozenset({"\\Seen"}),
            op=session.operation(),
            deadline=session.deadline(),
        )
        selected.learn(changed.messages)
        if not any(item.name == "FLAGS" for item in items):
            items.append(Item("FLAGS"))


async def _send(session: Session, selected: Selected, uids: list[int], items: list[Item]) -> None:
    parts = Part(0)
    for item in items:
        parts |= _PARTS.get(item.name, Part(0))
        if item.name == "SECTION":
            header_only = not item.numbers and item.text.startswith("HEADER")
            parts |= Part.HEADER if header_only else Part.RAW
            if item.numbers or item.text == "TEXT":
                parts |= Part.STRUCTURE
    if not parts:
        # Everything asked for is in the session: no question to the store at all.
        for uid in uids:
            session.out += _line(selected, MessageData(uid=uid), items)
        return
    store = session.services.store
    async for batch in store.fetch(session.mailbox, selected.folder.id, uids, parts, deadline=session.deadline()):
        for data in batch:
            if data.uid in selected.states:
                session.out += _line(selected, data, items)
        await session.flush()


def _line(selected: Selected, data: MessageData, items: Sequence[Item]) -> bytes:
    state = selected.states[data.uid]
    words: list[bytes] = []
    for item in items:
        match item.name:
            case "UID":
                words.append(b"UID %d" % data.uid)
            case "FLAGS":
                words.append(b"FLAGS " + format_flags(state.flags, recent=data.uid in selected.recent))
            case "MODSEQ":
                words.append(b"MODSEQ (%d)" % state.modseq)
            case "INTERNALDATE":
                assert data.internal_date is not None
                words.append(b"INTERNALDATE " + format_date_time(data.internal_date))
            case "RFC822.SIZE":
                words.append(b"RFC822.SIZE %d" % (data.size or 0))
            case "ENVELOPE":
                words.append(b"ENVELOPE " + (data.envelope or b"NIL"))
            case "BODYSTRUCTURE":
                words.append(b"BODYSTRUCTURE " + (data.bodystructure or b"NIL"))
            case "BODY":
                words.append(b"BODY " + (data.body or b"NIL"))
            case "SECTION":
                words.append(item.label + b" " + _literal(_content(item, data), item))
    return b"* %d FETCH (%b)\r\n" % (selected.number(data.uid), b" ".join(words))


def _literal(content: bytes | None, item: Item) -> bytes:
    if content is None:
        return b"NIL"
    if item.partial is not None:
        start, length = item.partial
        content = content[start : start + length]
    return b"{%d}\r\n%b" % (len(content), content)


def _content(item: Item, data: MessageData) -> bytes | None:
    """The bytes of a section; None where there is no such part."""
    if not item.numbers and item.text.startswith("HEADER"):
        header = data.header or b""
        if item.text == "HEADER":
            return header
        return header_fields(header, item.fields, without=item.text.endswith("NOT"))
    raw = data.raw or b""
    if not item.numbers and not item.text:
        return raw
    assert data.structure is not None
    text = "HEADER" if item.text.startswith("HEADER") else item.text
    found = section(decode(data.structure), item.numbers, text)
    if found is None:
        return None
    content = raw[found[0] : found[1]]
    if "FIELDS" in item.text:
        return header_fields(content, item.fields, without=item.text.endswith("NOT"))
    return content


async def on_search(session: Session, words: Words) -> str:
    words.space()
    selected = session.folder()
    tree, charset = search.parse(words)
    if charset not in ("US-ASCII", "UTF-8"):
        raise No("[BADCHARSET (US-ASCII UTF-8)] that charset is not known")
    modseq = search.uses_modseq(tree)
    if modseq:
        session.condstore = True
    await session.catch_up(expunge=False)
    found = [uid async for uid in _found(session, selected, tree)]
    numbers = found if session.uid_command else [selected.number(uid) for uid in found]
    session.out += b"* SEARCH" + b"".join(b" %d" % number for number in numbers)
    if modseq and found:
        session.out += b" (MODSEQ %d)" % max(selected.states[uid].modseq for uid in found)
    session.out += b"\r\n"
    if session.uid_command:
        session.out += selected.expunge()
    return "OK SEARCH done"


async def _found(session: Session, selected: Selected, tree: search.Key) -> AsyncIterator[int]:
    needs = search.needs(tree)
    kinds = {"DATE": Part.DATE, "SIZE": Part.SIZE, "HEADER": Part.HEADER, "RAW": Part.RAW | Part.HEADER}
    parts = Part(0)
    for need in needs:
        parts |= kinds[need]
    last, largest = len(selected.uids), selected.largest_uid

    def hit(data: MessageData) -> bool:
        state = selected.states[data.uid]
        subject = search.Subject(
            number=selected.number(data.uid),
            uid=data.uid,
            modseq=state.modseq,
            flags=state.flags,
            recent=data.uid in selected.recent,
            internal_date=data.internal_date,
            size=data.size or 0,
            header=data.header or b"",
            raw=data.raw or b"",
        )
        return search.matches(tree, subject, last, largest)

    if not parts:
        for uid in list(selected.uids):
            if hit(MessageData(uid=uid)):
                yield uid
        return
    store = session.services.store
    uids = list(selected.uids)
    async for batch in store.fetch(session.mailbox, selected.folder.id, uids, parts, deadline=session.deadline()):
        for data in batch:
            if data.uid in selected.states and hit(data):
                yield data.uid
        await asyncio.sleep(0)


async def on_store(session: Session, words: Words) -> str:
    words.space()
    selected = session.folder(writable=True)
    uids = _chosen(session, words, selected)
    words.space()
    unchanged: int | None = None
    if words.accept(b"(UNCHANGEDSINCE "):
        unchanged = words.number()
        words.expect(b")")
        words.space()
        session.condstore = True
    item = words.word()
    silent = item.endswith(".SILENT")
    mode = {"FLAGS": FlagMode.REPLACE, "+FLAGS": FlagMode.ADD, "-FLAGS": FlagMode.REMOVE}.get(
        item.removesuffix(".SILENT")
    )
    if mode is None:
        raise BadSyntax("STORE knows FLAGS, +FLAGS and -FLAGS")
    words.space()
    flags = words.flags() - {"\\Recent"}
    words.end()
    if not uids:
        return "OK STORE done"
    changed = await session.services.store.store_flags(
        session.mailbox,
        selected.folder.id,
        uids,
        mode,
        flags,
        op=session.operation(),
        unchanged_since=unchanged,
        deadline=session.deadline(),
    )
    selected.learn(changed.messages)
    if not silent or session.condstore:
        for state in changed.messages:
            if state.uid in selected.states:
                session.out += selected.fetch_line(state.uid, with_uid=session.uid_command, condstore=session.condstore)
    await session.catch_up(expunge=session.uid_command)
    if changed.modified:
        numbers = (
            list(changed.modified)
            if session.uid_command
            else [selected.number(uid) for uid in changed.modified if uid in selected.states]
        )
        return f"OK [MODIFIED {format_set(numbers).decode()}] STORE done for the others"
    return "OK STORE done"


async def on_copy(session: Session, words: Words) -> str:
    return await _copy(session, words, move=False)


async def on_move(session: Session, words: Words) -> str:
    return await _copy(session, words, move=True)


async def _copy(session: Session, words: Words, *, move: bool) -> str:
    words.space()
    selected = session.folder(writable=move)
    uids = _chosen(session, words, selected)
    words.space()
    target = words.mailbox()
    words.end()
    verb = "MOVE" if move else "COPY"
    if not uids:
        return f"OK {verb} done"
    try:
        added = await session.services.store.copy(
            session.mailbox,
            selected.folder.id,
            uids,
            target,
            op=session.operation(),
            move=move,
            deadline=session.deadline(),
        )
    except NoSuchFolder:
        raise No("[TRYCREATE] there is no such folder") from None
    code = ""
    if added.uids:
        source, made = format_set(list(added.source_uids)).decode(), in_order(list(added.uids)).decode()
        code = f"[COPYUID {added.uid_validity} {source} {made}] "
    if move and code:
        session.out += f"* OK {code}moved\r\n".encode()
        code = ""
    await session.catch_up(expunge=True)
    return f"OK {code}{verb} done"


async def on_expunge(session: Session, words: Words) -> str:
    selected = session.folder(writable=True)
    among: list[int] | None = None
    if session.uid_command:
        words.space()
        among = selected.by_set(words.number_set(), uid=True)
    words.end()
    await session.services.store.expunge(
        session.mailbox, selected.folder.id, among, op=session.operation(), deadline=session.deadline()
    )
    await session.catch_up(expunge=True)
    return "OK EXPUNGE done"


async def on_idle(session: Session, words: Words) -> str:
    """RFC 2177; without a selected folder it only waits."""
    words.end()
    session.out += b"+ idling\r\n"
    await session.catch_up(expunge=True)
    await session.flush()
    done = asyncio.ensure_future(session.line(IDLE_LIMIT))
    news: asyncio.Future[None] | None = None
    selected = session.selected
    wakes = session.services.store.wake(session.mailbox, selected.folder.id) if selected is not None else None
    try:
        while True:
            if wakes is not None and news is None:
                news = asyncio.ensure_future(_next(wakes))
            waiting = {done} | ({news} if news is not None else set())
            finished, _ = await asyncio.wait(waiting, timeout=STILL_HERE, return_when=asyncio.FIRST_COMPLETED)
            session.renew_permit()
            if done in finished:
                if done.result().strip().upper() != b"DONE":
                    raise BadSyntax("DONE ends IDLE")
                break
            if not finished:
                session.out += b"* OK still here\r\n"
            news = None if news in finished else news
            await session.catch_up(expunge=True)
            await session.flush()
    finally:
        done.cancel()
        if news is not None:
            news.cancel()
    return "OK IDLE done"


async def _next(wakes: AsyncIterator[None]) -> None:
    await anext(wakes)


async def on_check(session: Session, words: Words) -> str:
    words.end()
    await session.catch_up(expunge=True)
    return "OK CHECK done"
