"""Commands about folders: LIST to LSUB, SELECT to UNSELECT, STATUS, APPEND."""

from __future__ import annotations

from datetime import datetime

from everpost.clientaccess.selected import Selected
from everpost.clientaccess.session import No, Session
from everpost.store.interface import Append, Folder, NoSuchFolder
from everpost.wire.imap.grammar import BadSyntax, Words, format_flags, format_mailbox, in_order

SYSTEM_FLAGS = frozenset({"\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft"})
SPECIAL_USES = ("\\Archive", "\\Drafts", "\\Junk", "\\Sent", "\\Trash")


def _matches(pattern: str, name: str) -> bool:
    """`*` matches anything, `%` anything but the separator. One pass with two lists, no backtracking."""
    states = {0}
    for ch in (*name, None):
        closure = set(states)
        for state in sorted(states):
            while state < len(pattern) and pattern[state] in "*%":
                state += 1
                closure.add(state)
        if ch is None:
            return len(pattern) in closure
        following = set()
        for state in closure:
            if state < len(pattern):
                if pattern[state] == "*" or (pattern[state] == "%" and ch != "/"):
                    following.add(state)
                elif pattern[state] == ch:
                    following.add(state + 1)
        states = following
    return False


def _attributes(folder: Folder, folders: list[Folder], *, subscribed: bool) -> bytes:
    words = []
    if not folder.selectable:
        words.append("\\Noselect")
    children = any(other.name.startswith(folder.name + "/") for other in folders)
    words.append("\\HasChildren" if children else "\\HasNoChildren")
    if folder.special_use:
        words.append(folder.special_use)
    if subscribed and folder.subscribed:
        words.append("\\Subscribed")
    return " ".join(words).encode()


async def on_list(session: Session, words: Words) -> str:
    """LIST, with RFC 5258 selection and return options."""
    words.space()
    chosen: set[str] = set()
    if words.accept(b"("):
        while not words.accept(b")"):
            chosen.add(words.word())
            words.accept(b" ")
        words.space()
    unknown = chosen - {"SUBSCRIBED", "REMOTE", "RECURSIVEMATCH", "SPECIAL-USE"}
    if unknown or chosen == {"RECURSIVEMATCH"}:
        raise BadSyntax("that selection option is not known")
    reference = words.mailbox()
    words.space()
    patterns = []
    if words.accept(b"("):
        while not words.accept(b")"):
            patterns.append(words.list_mailbox())
            words.accept(b" ")
    else:
        patterns.append(words.list_mailbox())
    returns = _return_options(words)
    words.end()
    if patterns == [""]:
        session.out += b'* LIST (\\Noselect) "/" ""\r\n'
        return "OK LIST done"
    folders = await session.services.store.list_folders(session.mailbox, deadline=session.deadline())
    show_subscribed = "SUBSCRIBED" in returns or "SUBSCRIBED" in chosen
    for folder in folders:
        if not any(_matches(_join(reference, pattern), folder.name) for pattern in patterns):
            continue
        if ("SUBSCRIBED" in chosen and not folder.subscribed) or ("SPECIAL-USE" in chosen and not folder.special_use):
            continue
        attributes = _attributes(folder, folders, subscribed=show_subscribed)
        session.out += b'* LIST (%b) "/" %b\r\n' % (attributes, format_mailbox(folder.name))
    if "SUBSCRIBED" in chosen:
        existing = {folder.name for folder in folders}
        for name in await session.services.store.list_subscriptions(session.mailbox, deadline=session.deadline()):
            if name not in existing and any(_matches(_join(reference, pattern), name) for pattern in patterns):
                session.out += b'* LIST (\\NonExistent \\Subscribed) "/" %b\r\n' % format_mailbox(name)
    return "OK LIST done"


def _return_options(words: Words) -> set[str]:
    if not words.accept(b" RETURN ("):
        return set()
    found = set()
    while not words.accept(b")"):
        found.add(words.word())
        words.accept(b" ")
    if found - {"SUBSCRIBED", "CHILDREN", "SPECIAL-USE"}:
        raise BadSyntax("that return option is not known")
    return found


def _join(reference: str, pattern: str) -> str:
    whole = pattern if not reference else reference.rstrip("/") + "/" + pattern.lstrip("/")
    if whole.upper() == "INBOX":
        return "INBOX"
    return whole


async def on_lsub(session: Session, words: Words) -> str:
    words.space()
    reference = words.mailbox()
    words.space()
    pattern = _join(reference, words.list_mailbox())
    words.end()
    store = session.services.store
    existing = {one.name: one for one in await store.list_folders(session.mailbox, deadline=session.deadline())}
    for name in await store.list_subscriptions(session.mailbox, deadline=session.deadline()):
        if _matches(pattern, name):
            folder = existing.get(name)
            attributes = b"" if folder is not None and folder.selectable else b"\\Noselect"
            session.out += b'* LSUB (%b) "/" %b\r\n' % (attributes, format_mailbox(name))
    return "OK LSUB done"


async def on_select(session: Session, words: Words) -> str:
    return await _select(session, words, read_only=False)


async def on_examine(session: Session, words: Words) -> str:
    return await _select(session, words, read_only=True)


async def _select(session: Session, words: Words, *, read_only: bool) -> str:
    words.space()
    name = words.mailbox()
    if words.accept(b" "):
        words.expect(b"(")
        while not words.accept(b")"):
            if words.word() != "CONDSTORE":
                raise BadSyntax("that parameter is not known")
            session.condstore = True
            words.accept(b" ")
    words.end()
    session.selected = None
    store = session.services.store
    folder = await store.get_folder(session.mailbox, name, deadline=session.deadline())
    if not folder.selectable:
        raise NoSuchFolder(f"{name} holds other folders only.")
    snapshot = await store.snapshot(session.mailbox, folder.id, deadline=session.deadline())
    selected = session.selected = Selected(snapshot, read_only=read_only)
    known = set(SYSTEM_FLAGS)
    for state in snapshot.messages:
        known |= state.flags
    session.out += b"* FLAGS %b\r\n" % format_flags(frozenset(known))
    permanent = b"()" if read_only else format_flags(frozenset(known))[:-1] + b" \\*)"
    session.out += b"* OK [PERMANENTFLAGS %b] flags that stay\r\n" % permanent
    session.out += b"* %d EXISTS\r\n* 0 RECENT\r\n" % len(selected.uids)
    for number, uid in enumerate(selected.uids, 1):
        if "\\Seen" not in selected.states[uid].flags:
            session.out += b"* OK [UNSEEN %d] the first unseen\r\n" % number
            break
    found = selected.folder
    session.out += b"* OK [UIDVALIDITY %d] UIDs are valid\r\n" % found.uid_validity
    session.out += b"* OK [UIDNEXT %d] the next UID\r\n" % found.uid_next
    session.out += b"* OK [HIGHESTMODSEQ %d] the highest MODSEQ\r\n" % found.highest_modseq
    return "OK [READ-ONLY] EXAMINE done" if read_only else "OK [READ-WRITE] SELECT done"


async def on_close(session: Session, words: Words) -> str:
    words.end()
    selected = session.folder()
    if not selected.read_only:
        await session.services.store.expunge(
            session.mailbox, selected.folder.id, None, op=session.operation(), deadline=session.deadline()
        )
    session.selected = None
    return "OK CLOSE done"


async def on_unselect(session: Session, words: Words) -> str:
    words.end()
    session.selected = None
    return "OK UNSELECT done"


async def on_create(session: Session, words: Words) -> str:
    words.space()
    name = words.mailbox()
    use = ""
    if words.accept(b" (USE ("):
        use = next((one for one in SPECIAL_USES if words.accept(one.upper().encode())), "")
        if not use:
            raise No("[USEATTR] that use is not known")
        words.expect(b"))")
    words.end()
    _must_be_a_name(name)
    await session.services.store.create_folder(
        session.mailbox, name, op=session.operation(), special_use=use, deadline=session.deadline()
    )
    return "OK CREATE done"


def _must_be_a_name(name: str) -> None:
    if not name or name.startswith("/") or "//" in name or any(ord(ch) < 32 or ch == "\x7f" for ch in name):
        raise No("[CANNOT] that cannot be a folder's name")
    if name.upper() == "INBOX":
        raise No("[CANNOT] INBOX is there already")
    if len(name) > 1000 or "*" in name or "%" in name:
        raise No("[CANNOT] that name is too long or holds wildcards")


async def on_delete(session: Session, words: Words) -> str:
    words.space()
    name = words.mailbox()
    words.end()
    if name == "INBOX":
        raise No("[CANNOT] INBOX cannot be deleted")
    await session.services.store.delete_folder(
        session.mailbox, name, op=session.operation(), deadline=session.deadline()
    )
    return "OK DELETE done"


async def on_rename(session: Session, words: Words) -> str:
    words.space()
    name = words.mailbox()
    words.space()
    new = words.mailbox()
    words.end()
    _must_be_a_name(new)
    await session.services.store.rename_folder(
        session.mailbox, name, new, op=session.operation(), deadline=session.deadline()
    )
    return "OK RENAME done"


async def on_subscribe(session: Session, words: Words) -> str:
    return await _subscribe(session, words, True)


async def on_unsubscribe(session: Session, words: Words) -> str:
    return await _subscribe(session, words, False)


async def _subscribe(session: Session, words: Words, wanted: bool) -> str:
    words.space()
    name = words.mailbox()
    words.end()
    await session.services.store.subscribe(
        session.mailbox, name, wanted, op=session.operation(), deadline=session.deadline()
    )
    return f"OK {'SUBSCRIBE' if wanted else 'UNSUBSCRIBE'} done"


async def on_status(session: Session, words: Words) -> str:
    words.space()
    name = words.mailbox()
    words.space()
    words.expect(b"(")
    items = []
    while not words.accept(b")"):
        items.append(words.word())
        words.accept(b" ")
    folder = await session.services.store.get_folder(session.mailbox, name, deadline=session.deadline())
    values = {
        "MESSAGES": folder.exists,
        "RECENT": 0,
        "UIDNEXT": folder.uid_next,
        "UIDVALIDITY": folder.uid_validity,
        "UNSEEN": folder.unseen,
        "HIGHESTMODSEQ": folder.highest_modseq,
        "DELETED": folder.deleted,
        "SIZE": folder.size,
    }
    unknown = [item for item in items if item not in values]
    if unknown or not items:
        raise BadSyntax("that status item is not known")
    if "HIGHESTMODSEQ" in items:
        session.condstore = True
    shown = " ".join(f"{item} {values[item]}" for item in items)
    session.out += b"* STATUS %b (%b)\r\n" % (format_mailbox(folder.name), shown.encode())
    return "OK STATUS done"


async def on_append(session: Session, words: Words) -> str:
    words.space()
    name = words.mailbox()
    words.space()
    flags: frozenset[str] = frozenset()
    when: datetime | None = None
    if words.peek(b"("):
        flags = words.flags() - {"\\Recent"}
        words.space()
    if words.peek(b'"'):
        when = words.date_time()
        words.space()
    raw = words.string()
    words.end()
    try:
        added = await session.services.store.append(
            session.mailbox,
            name,
            [Append(raw=raw, flags=flags, internal_date=when)],
            op=session.operation(),
            deadline=session.deadline(),
        )
    except NoSuchFolder:
        raise No("[TRYCREATE] there is no such folder") from None
    if session.selected is not None and session.selected.folder.name == name:
        await session.catch_up(expunge=True)
    return f"OK [APPENDUID {added.uid_validity} {in_order(added.uids).decode()}] APPEND done"
