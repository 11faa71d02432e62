"""The IMAP conversation: input, dispatch, answers, and who is told BYE (RFC 3501)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from everpost.clientaccess import changing, fetching, folders, idle, login, searching, selection
from everpost.clientaccess.session import LOGIN_LIMIT, QUIET_LIMIT, Bye, No, Services, Session
from everpost.errors import Refused
from everpost.log import fact
from everpost.net.conn import Connection
from everpost.store.interface import FolderExists, NoSuchFolder, StoreUnavailable
from everpost.wire.imap import respond, verbs
from everpost.wire.imap.grammar import BadSyntax
from everpost.wire.imap.reader import Command, Continue, Fault
from everpost.wire.imap.verbs import State

log = logging.getLogger(__name__)

BAD_BEFORE_LOGIN = 3
BAD_AFTER_LOGIN = 20
"""Commands in a row that were not understood (findings: C38)."""
GREETING = "Everpost"
"""The same on every server; it resembles no other product's, as clients guess dialects from it (findings: C29, H5)."""

Handler = Callable[[Session, Any], Awaitable[bytes]]

HANDLERS: dict[str, Handler] = {
    "CAPABILITY": login.on_capability,
    "NOOP": login.on_noop,
    "LOGOUT": login.on_logout,
    "ID": login.on_id,
    "AUTHENTICATE": login.on_authenticate,
    "LOGIN": login.on_login,
    "ENABLE": login.on_enable,
    "SELECT": selection.on_select,
    "EXAMINE": selection.on_examine,
    "CREATE": folders.on_create,
    "DELETE": folders.on_delete,
    "RENAME": folders.on_rename,
    "SUBSCRIBE": folders.on_subscribe,
    "UNSUBSCRIBE": folders.on_unsubscribe,
    "LIST": folders.on_list,
    "LSUB": folders.on_lsub,
    "NAMESPACE": folders.on_namespace,
    "STATUS": folders.on_status,
    "APPEND": changing.on_append,
    "IDLE": idle.on_idle,
    "CHECK": selection.on_check,
    "CLOSE": selection.on_close,
    "UNSELECT": selection.on_unselect,
    "EXPUNGE": selection.on_expunge,
    "UID EXPUNGE": selection.on_expunge,
    "SEARCH": searching.on_search,
    "UID SEARCH": searching.on_uid_search,
    "FETCH": fetching.on_fetch,
    "UID FETCH": fetching.on_uid_fetch,
    "STORE": changing.on_store,
    "UID STORE": changing.on_uid_store,
    "COPY": changing.on_copy,
    "UID COPY": changing.on_uid_copy,
    "MOVE": changing.on_move,
    "UID MOVE": changing.on_uid_move,
}
"""One for each verb of `wire.imap.verbs` but STARTTLS, which answers by itself."""


class ImapServer:
    """Makes a conversation of each connection."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._conversations: set[Conversation] = set()
        self._stopping = False
        self._draining = False

    async def handle(self, connection: Connection) -> None:
        """Until the client leaves."""
        conversation = Conversation(self._services, connection)
        self._conversations.add(conversation)
        if self._stopping or self._draining:
            conversation.stop()
        try:
            await conversation.run()
        finally:
            self._conversations.discard(conversation)

    def stop(self) -> None:
        """Tell every client BYE, each as soon as its command is answered."""
        self._stopping = True
        for conversation in list(self._conversations):
            conversation.stop()

    def drain(self, draining: bool) -> None:
        """From now on clients are sent elsewhere: BYE instead of a greeting, which a balancer takes for down too, and
        BYE to those that are here as at a stop. False: all are welcome again."""
        self._draining = draining
        for conversation in list(self._conversations) if draining else ():
            conversation.stop()


class Conversation:
    """The loop of one session."""

    def __init__(self, services: Services, connection: Connection) -> None:
        self.session = Session(services, connection)
        self._task: asyncio.Task[None] | None = None
        self._interruptible = False
        self._stopping = False
        self._bad = 0

    def stop(self) -> None:
        """End it with BYE, now if it only waits for the client, else after the command that runs."""
        self._stopping = True
        if self._interruptible and self._task is not None:
            self._interruptible = False
            self._task.cancel()

    async def run(self) -> None:
        """From the greeting to the end."""
        session = self.session
        self._task = asyncio.current_task()
        try:
            await session.begin()
            if self._stopping:
                raise _stopped()
            session.say(respond.ok(b"CAPABILITY " + login.capability(session), GREETING))
            await session.flush()
            while not session.ended:
                await self._next()
        except Bye as error:
            session.say(respond.bye(error.words, error.code))
            await session.flush()
        except asyncio.CancelledError:
            if not self._stopping or self._task is None:
                raise
            self._task.uncancel()
            await session.begin()
            stopped = _stopped()
            session.say(respond.bye(stopped.words, stopped.code))
            await session.flush()
        finally:
            login.left(session)

    async def _next(self) -> None:
        """One event of the input, answered."""
        session = self.session
        if self._stopping:
            await session.begin()
            raise _stopped()
        event = session.reader.next_event()
        if event is None:
            session.reader.feed(await self._input())
            return
        await session.begin()
        match event:
            case Continue():
                session.say(respond.continuation())
            case Fault(text, fatal, tag):
                if fatal:
                    raise Bye(f"{text[:1].upper()}{text[1:]}")
                session.say(respond.tagged(tag or b"*", "NO", b"[TOOBIG] " + respond.text(text)))
                self._count_bad()
            case Command():
                await self._command(event)
        await session.flush()

    async def _input(self) -> bytes:
        session = self.session
        limit = LOGIN_LIMIT if session.state is State.NOT_AUTHENTICATED else QUIET_LIMIT
        try:
            data = await self._interrupted(session.connection.read(limit))
        except TimeoutError:
            await session.begin()
            raise Bye("Nothing was said for too long") from None
        if not data:
            session.ended = True
        return data

    async def _interrupted(self, work: Awaitable[bytes]) -> bytes:
        """Work that `stop` may cut short, as nothing is lost by that."""
        self._interruptible = True
        try:
            return await work
        finally:
            self._interruptible = False

    async def _command(self, command: Command) -> None:
        session = self.session
        try:
            begun = verbs.begin(command)
        except BadSyntax as error:
            session.say(respond.untagged(b"BAD " + respond.text(error.what)))
            return self._count_bad()
        try:
            words = await self._answer(begun)
            if words is not None:
                session.say(respond.tagged(begun.tag, "OK", words))
            self._bad = 0
        except BadSyntax as error:
            session.say(respond.tagged(begun.tag, "BAD", respond.text(error.what)))
            self._count_bad()
        except No as error:
            session.say(respond.tagged(begun.tag, "NO", error.answer))
        except NoSuchFolder as error:
            session.say(respond.tagged(begun.tag, "NO", b"[NONEXISTENT] " + respond.text(error.what)))
        except FolderExists as error:
            session.say(respond.tagged(begun.tag, "NO", b"[ALREADYEXISTS] " + respond.text(error.what)))
        except StoreUnavailable as error:
            # Never NO: some clients throw their copy of a folder away on it (findings: C21, H9).
            fact(log, "gave a session up", level=logging.WARNING, verb=begun.verb, why=error.what)
            raise Bye("The mailbox is not available; try again later", b"UNAVAILABLE") from None
        except Refused as error:
            session.say(respond.tagged(begun.tag, "NO", b"[CANNOT] " + respond.text(error.what)))
        return None

    async def _answer(self, begun: verbs.Begun) -> bytes | None:
        verb = verbs.VERBS.get(begun.verb)
        if verb is None:
            raise BadSyntax("that command is not known")
        if self.session.state not in verb.states:
            raise BadSyntax(f"{begun.verb} is not for this state")
        request = verb.parse(begun.words)
        if begun.verb == "STARTTLS":
            await login.on_starttls(self.session, begun.tag)
            return None
        work = HANDLERS[begun.verb](self.session, request)
        return await (self._interrupted(work) if begun.verb == "IDLE" else work)

    def _count_bad(self) -> None:
        self._bad += 1
        limit = BAD_BEFORE_LOGIN if self.session.state is State.NOT_AUTHENTICATED else BAD_AFTER_LOGIN
        if self._bad >= limit:
            raise Bye("Too many commands that are not understood")


def _stopped() -> Bye:
    return Bye("The server stops; come back at once", b"UNAVAILABLE")
