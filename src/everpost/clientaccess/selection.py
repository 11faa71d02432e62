"""Opening and closing a folder: SELECT, EXAMINE, CLOSE, UNSELECT, CHECK, EXPUNGE."""

from __future__ import annotations

from everpost.clientaccess.session import No, Session
from everpost.clientaccess.view import FolderView
from everpost.wire.imap import commands, respond


async def on_select(session: Session, request: commands.Select) -> bytes:
    await _open(session, request, read_only=False)
    return b"[READ-WRITE] SELECT done"


async def on_examine(session: Session, request: commands.Select) -> bytes:
    await _open(session, request, read_only=True)
    return b"[READ-ONLY] EXAMINE done"


async def _open(session: Session, request: commands.Select, *, read_only: bool) -> None:
    """Whatever becomes of it, the folder that was open is closed (RFC 3501 6.3.1)."""
    session.view = None
    session.condstore |= request.condstore
    folder = await session.store.get_folder(session.box, request.name, deadline=session.deadline())
    if not folder.selectable:
        raise No("That name holds other folders only", "NONEXISTENT")
    snapshot = await session.store.snapshot(session.box, folder.id, deadline=session.deadline())
    view = session.view = FolderView(snapshot, read_only=read_only)
    view.recent = session.services.recents.claim(session.box.guid, view.folder_id, list(view.uids), keep=not read_only)
    session.tell_flags()
    session.say(b"* %d EXISTS\r\n* %d RECENT\r\n" % (len(view), len(view.recent)))
    unseen = view.first_unseen()
    if unseen is not None:
        session.say(respond.ok(b"UNSEEN %d" % unseen, "The first unseen message"))
    session.say(
        respond.ok(b"UIDVALIDITY %d" % view.uid_validity, "UIDs are valid"),
        respond.ok(b"UIDNEXT %d" % view.uid_next, "The next UID"),
        respond.ok(b"HIGHESTMODSEQ %d" % view.highest_modseq, "The highest MODSEQ"),
    )


async def on_check(session: Session, request: commands.Simple) -> bytes:
    await session.sync(expunge=True)
    return b"CHECK done"


async def on_close(session: Session, request: commands.Simple) -> bytes:
    """Removes what is marked, and tells nothing of it (RFC 3501 6.4.2). Most often nothing is: a cheap question then
    spares a replicated write."""
    view = session.folder
    if not view.read_only:
        changes = await session.store.changes(
            session.box, view.folder_id, view.highest_modseq, deadline=session.deadline()
        )
        if changes.folder.deleted:
            await session.store.expunge(
                session.box, view.folder_id, None, op=session.operation(), deadline=session.deadline()
            )
    session.view = None
    return b"CLOSE done"


async def on_unselect(session: Session, request: commands.Simple) -> bytes:
    session.view = None
    return b"UNSELECT done"


async def on_expunge(session: Session, request: commands.Expunge) -> bytes:
    view = session.writable_folder()
    uids = None if request.uids is None else view.uids_at(view.select(request.uids, by_uid=True))
    if uids is None or uids:
        await session.store.expunge(
            session.box, view.folder_id, uids, op=session.operation(), deadline=session.deadline()
        )
    await session.sync(expunge=True)
    return b"EXPUNGE done"
