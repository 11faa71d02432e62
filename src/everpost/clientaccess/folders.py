"""Commands about folders that need not be open: LIST, LSUB, STATUS, CREATE, DELETE, RENAME, SUBSCRIBE, NAMESPACE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from everpost.clientaccess.session import No, Session
from everpost.store.interface import Folder
from everpost.wire.imap import commands, listing, respond

LONGEST_NAME = 500
DEEPEST = 30


async def on_namespace(session: Session, request: commands.Simple) -> bytes:
    session.say(b'* NAMESPACE (("" "/")) NIL NIL\r\n')
    return b"NAMESPACE done"


def _fits(patterns: Iterable[str], name: str) -> bool:
    return any(listing.matches(pattern, name) for pattern in patterns)


def _ancestors(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _attributes(folder: Folder | None, parents: set[str], name: str, *, subscribed: bool) -> list[str]:
    if folder is None:
        words = ["\\NonExistent"]
    else:
        words = [] if folder.selectable else ["\\Noselect"]
    words.append("\\HasChildren" if name in parents else "\\HasNoChildren")
    if folder is not None and folder.special_use:
        words.append(folder.special_use)
    if subscribed:
        words.append("\\Subscribed")
    return words


async def on_list(session: Session, request: listing.List) -> bytes:
    """Plain LIST carries children and special use too, as clients expect (findings: C5)."""
    if request.patterns == ("",):
        session.say(respond.listed(b"LIST", ["\\Noselect"], ""))
        return b"LIST done"
    found = await session.store.list_folders(session.box, deadline=session.deadline())
    folders = {folder.name: folder for folder in found}
    subscribed = {folder.name for folder in found if folder.subscribed}
    chosen = set(folders)
    if "SUBSCRIBED" in request.selection:
        subscribed.update(await session.store.list_subscriptions(session.box, deadline=session.deadline()))
        chosen = set(subscribed)
    if "SPECIAL-USE" in request.selection:
        chosen = {name for name in chosen if name in folders and folders[name].special_use}
    show = bool({"SUBSCRIBED"} & (request.selection | request.returns))
    parents = {above for name in folders for above in _ancestors(name)}
    inside = {above for name in chosen for above in _ancestors(name) if not _fits(request.patterns, name)}
    recursive = inside if "RECURSIVEMATCH" in request.selection else set()
    for name in sorted((chosen | recursive), key=lambda name: (name != "INBOX", name)):
        if not _fits(request.patterns, name):
            continue
        attributes = _attributes(folders.get(name), parents, name, subscribed=show and name in subscribed)
        criteria = sorted(request.selection & {"SUBSCRIBED", "SPECIAL-USE"}) if name in recursive else ()
        session.say(respond.listed(b"LIST", attributes, name, child_info=criteria))
        if request.status and name in folders and folders[name].selectable:
            session.say(_status(session, folders[name], request.status))
    return b"LIST done"


async def on_lsub(session: Session, request: listing.List) -> bytes:
    """A name above a subscribed one is shown when `%` ends before the latter (RFC 3501 6.3.9)."""
    if request.patterns == ("",):
        session.say(respond.listed(b"LSUB", ["\\Noselect"], ""))
        return b"LSUB done"
    names = set(await session.store.list_subscriptions(session.box, deadline=session.deadline()))
    found = await session.store.list_folders(session.box, deadline=session.deadline())
    usable = {folder.name for folder in found if folder.selectable}
    above = {parent for name in names for parent in _ancestors(name)} if "%" in request.patterns[0] else set()
    for name in sorted(names | above):
        if _fits(request.patterns, name):
            plain = name in names and name in usable
            session.say(respond.listed(b"LSUB", [] if plain else ["\\Noselect"], name))
    return b"LSUB done"


async def on_status(session: Session, request: commands.Status) -> bytes:
    folder = await session.store.get_folder(session.box, request.name, deadline=session.deadline())
    if not folder.selectable:
        raise No("That name holds other folders only", "NONEXISTENT")
    if "HIGHESTMODSEQ" in request.items:
        session.condstore = True
    session.say(_status(session, folder, request.items))
    return b"STATUS done"


def _status(session: Session, folder: Folder, items: Iterable[str]) -> bytes:
    view = session.view
    recents = session.services.recents
    if view is not None and view.folder_id == folder.id:
        recent = len(view.recent)
    else:
        recent = recents.count(session.box.guid, folder.id, folder.uid_next, folder.exists)
    values: Mapping[str, int] = {
        "MESSAGES": folder.exists,
        "RECENT": recent,
        "UIDNEXT": folder.uid_next,
        "UIDVALIDITY": folder.uid_validity,
        "UNSEEN": folder.unseen,
        "HIGHESTMODSEQ": folder.highest_modseq,
        "SIZE": folder.size,
        "DELETED": folder.deleted,
    }
    return respond.status(folder.name, [(item, values[item]) for item in items])


def refusal(name: str) -> str | None:
    """Why a folder cannot have that name."""
    parts = name.split("/")
    if not all(parts):
        return "A name has no empty parts"
    if len(name) > LONGEST_NAME or len(parts) > DEEPEST:
        return "The name is too long or too deep"
    if any(ch in name for ch in "*%") or any(ord(ch) < 32 or 0x7F <= ord(ch) < 0xA0 for ch in name):
        return "The name holds wildcards or control characters"
    if any(0xD800 <= ord(ch) < 0xE000 for ch in name):
        return "The name is no Unicode text"
    return None


def _must_be_a_name(name: str) -> None:
    found = refusal(name)
    if found is not None:
        raise No(found, "CANNOT")
    if name == "INBOX":
        raise No("There is INBOX already", "ALREADYEXISTS")


async def on_create(session: Session, request: commands.Create) -> bytes:
    _must_be_a_name(request.name)
    if request.special_use == "\\":
        raise No("That use is not known", "USEATTR")
    await session.store.create_folder(
        session.box,
        request.name,
        op=session.operation(),
        special_use=request.special_use,
        deadline=session.deadline(),
    )
    return b"CREATE done"


async def on_delete(session: Session, request: commands.Name) -> bytes:
    """The folder may be the selected one: it is closed first."""
    if request.name == "INBOX":
        raise No("INBOX stays", "CANNOT")
    await session.store.delete_folder(session.box, request.name, op=session.operation(), deadline=session.deadline())
    if session.view is not None and session.view.name == request.name:
        session.view = None
    return b"DELETE done"


async def on_rename(session: Session, request: commands.Rename) -> bytes:
    _must_be_a_name(request.new_name)
    if request.new_name.startswith(request.name + "/"):
        raise No("A folder cannot go into itself", "CANNOT")
    await session.store.rename_folder(
        session.box, request.name, request.new_name, op=session.operation(), deadline=session.deadline()
    )
    if session.view is not None and session.view.name == request.name != "INBOX":
        session.view.name = request.new_name
    return b"RENAME done"


async def on_subscribe(session: Session, request: commands.Name) -> bytes:
    await _subscribe(session, request.name, subscribed=True)
    return b"SUBSCRIBE done"


async def on_unsubscribe(session: Session, request: commands.Name) -> bytes:
    await _subscribe(session, request.name, subscribed=False)
    return b"UNSUBSCRIBE done"


async def _subscribe(session: Session, name: str, *, subscribed: bool) -> None:
    if subscribed and refusal(name) is not None:
        raise No(refusal(name) or "", "CANNOT")
    await session.store.subscribe(session.box, name, subscribed, op=session.operation(), deadline=session.deadline())
