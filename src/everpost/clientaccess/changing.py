"""Commands that change messages: STORE, COPY, MOVE, APPEND. Each is one operation of the store, under one id."""

from __future__ import annotations

from everpost.clientaccess.fetching import EXPUNGED
from everpost.clientaccess.session import No, Session
from everpost.store.interface import Added, Append, FlagMode, NoSuchFolder
from everpost.wire.imap import commands, respond
from everpost.wire.imap.grammar import format_set, in_order

_TRY_CREATE = "There is no such folder"


async def on_store(session: Session, request: commands.StoreFlags) -> bytes:
    return await _store(session, request, by_uid=False)


async def on_uid_store(session: Session, request: commands.StoreFlags) -> bytes:
    return await _store(session, request, by_uid=True)


async def _store(session: Session, request: commands.StoreFlags, *, by_uid: bool) -> bytes:
    view = session.writable_folder()
    session.condstore |= request.unchanged_since is not None
    uids = view.uids_at(view.select(request.numbers, by_uid=by_uid))
    if not uids:
        return b"STORE done"
    changed = await session.store.store_flags(
        session.box,
        view.folder_id,
        uids,
        FlagMode(request.mode),
        request.flags,
        op=session.operation(),
        unchanged_since=request.unchanged_since,
        deadline=session.deadline(),
    )
    keywords = len(view.keywords)
    view.learn(changed.messages)
    if len(view.keywords) > keywords:
        session.tell_flags()
    told = [state.uid for state in changed.messages]
    if not request.silent or session.condstore:
        # Under CONDSTORE the MODSEQ is told even for .SILENT (RFC 7162 3.1.3).
        session.tell_changed(told, with_uid=by_uid, flags=not request.silent)
    if changed.modified:
        numbers = [view.index(uid) for uid in changed.modified] if not by_uid else []
        failed = list(changed.modified) if by_uid else [at + 1 for at in numbers if at is not None]
        return b"[MODIFIED %b] STORE done for the others" % format_set(failed)
    if len(told) < len(uids):
        await session.sync(expunge=by_uid)
        return EXPUNGED
    return b"STORE done"


async def on_copy(session: Session, request: commands.Copy) -> bytes:
    return await _copy(session, request, by_uid=False)


async def on_uid_copy(session: Session, request: commands.Copy) -> bytes:
    return await _copy(session, request, by_uid=True)


async def _copy(session: Session, request: commands.Copy, *, by_uid: bool) -> bytes:
    added = await _transfer(session, request, by_uid=by_uid, move=False)
    await session.sync(expunge=True)
    if added is None or not added.uids:
        return b"COPY done"
    return b"[%b] COPY done" % _copied(added)


async def on_move(session: Session, request: commands.Copy) -> bytes:
    return await _move(session, request, by_uid=False)


async def on_uid_move(session: Session, request: commands.Copy) -> bytes:
    return await _move(session, request, by_uid=True)


async def _move(session: Session, request: commands.Copy, *, by_uid: bool) -> bytes:
    """COPYUID goes before the EXPUNGEs (RFC 6851 4.3)."""
    session.writable_folder()
    added = await _transfer(session, request, by_uid=by_uid, move=True)
    if added is not None and added.uids:
        session.say(respond.ok(_copied(added), "Moved"))
    await session.sync(expunge=True)
    return b"MOVE done"


async def _transfer(session: Session, request: commands.Copy, *, by_uid: bool, move: bool) -> Added | None:
    view = session.folder
    uids = view.uids_at(view.select(request.numbers, by_uid=by_uid))
    if not uids:
        return None
    if move and request.target == view.name:
        raise No("The messages are in that folder", "CANNOT")
    try:
        return await session.store.copy(
            session.box,
            view.folder_id,
            uids,
            request.target,
            op=session.operation(),
            move=move,
            deadline=session.deadline(),
        )
    except NoSuchFolder:
        raise No(_TRY_CREATE, "TRYCREATE") from None


def _copied(added: Added) -> bytes:
    return b"COPYUID %d %b %b" % (added.uid_validity, format_set(added.source_uids), in_order(added.uids))


async def on_append(session: Session, request: commands.Append) -> bytes:
    if any(not message.raw for message in request.messages):
        raise No("A message of no bytes is no message", "CANNOT")
    messages = [
        Append(raw=message.raw, flags=message.flags, internal_date=message.internal_date)
        for message in request.messages
    ]
    try:
        added = await session.store.append(
            session.box, request.name, messages, op=session.operation(), deadline=session.deadline()
        )
    except NoSuchFolder:
        raise No(_TRY_CREATE, "TRYCREATE") from None
    await session.sync(expunge=True)
    return b"[APPENDUID %d %b] APPEND done" % (added.uid_validity, in_order(added.uids))
