"""The table of commands with the states they are legal in, and a conversation for each connection."""

from __future__ import annotations

from everpost.clientaccess import access, folders, messages
from everpost.clientaccess.session import Handler, Services, Session
from everpost.net.conn import Connection

COMMANDS: dict[str, tuple[Handler, str]] = {
    "CAPABILITY": (access.on_capability, "any"),
    "NOOP": (access.on_noop, "any"),
    "LOGOUT": (access.on_logout, "any"),
    "ID": (access.on_id, "any"),
    "STARTTLS": (access.on_starttls, "new"),
    "LOGIN": (access.on_login, "new"),
    "AUTHENTICATE": (access.on_authenticate, "new"),
    "ENABLE": (access.on_enable, "user"),
    "NAMESPACE": (access.on_namespace, "user"),
    "LIST": (folders.on_list, "user"),
    "LSUB": (folders.on_lsub, "user"),
    "SELECT": (folders.on_select, "user"),
    "EXAMINE": (folders.on_examine, "user"),
    "CREATE": (folders.on_create, "user"),
    "DELETE": (folders.on_delete, "user"),
    "RENAME": (folders.on_rename, "user"),
    "SUBSCRIBE": (folders.on_subscribe, "user"),
    "UNSUBSCRIBE": (folders.on_unsubscribe, "user"),
    "STATUS": (folders.on_status, "user"),
    "APPEND": (folders.on_append, "user"),
    "IDLE": (messages.on_idle, "user"),
    "CHECK": (messages.on_check, "selected"),
    "CLOSE": (folders.on_close, "selected"),
    "UNSELECT": (folders.on_unselect, "selected"),
    "EXPUNGE": (messages.on_expunge, "selected"),
    "SEARCH": (messages.on_search, "selected"),
    "FETCH": (messages.on_fetch, "selected"),
    "STORE": (messages.on_store, "selected"),
    "COPY": (messages.on_copy, "selected"),
    "MOVE": (messages.on_move, "selected"),
    "UID FETCH": (messages.on_fetch, "selected"),
    "UID SEARCH": (messages.on_search, "selected"),
    "UID STORE": (messages.on_store, "selected"),
    "UID COPY": (messages.on_copy, "selected"),
    "UID MOVE": (messages.on_move, "selected"),
    "UID EXPUNGE": (messages.on_expunge, "selected"),
}


class ImapServer:
    """Makes a session of each connection."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def handle(self, connection: Connection) -> None:
        """Until the client leaves. The greeting is the same on every server."""
        session = Session(self._services, connection)
        greeting = f"* OK [CAPABILITY {access.capability(session)}] Everpost IMAP\r\n".encode()
        await session.run(greeting, COMMANDS)
