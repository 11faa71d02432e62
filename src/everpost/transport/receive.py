"""SMTP, the receiving end (RFC 5321; extensions as announced): input, dispatch, answers, and how a conversation ends.

250 after a message means: committed and acknowledged. That is kept in `delivery`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from everpost.errors import Refused
from everpost.net.conn import Connection
from everpost.transport import login, mail
from everpost.transport.session import SILENCE_LIMIT, SIZE_LIMIT, Leave, Refusal, Services, Session
from everpost.wire.smtp import Chunk, Command, Data, Dropped, Event, Fault
from everpost.wire.smtp.grammar import NeedsUtf8, UnknownParameter
from everpost.wire.smtp.verbs import DECLINED, OTHER_PROTOCOLS, VERBS, extensions, refusal, usage

LOOK = 10.0
"""Seconds between looks for clients that are silent for too long."""

Handler = Callable[[Session, str], Awaitable[None]]


async def _on_helo(session: Session, argument: str) -> None:
    _greet(session, argument, extended=False)
    session.say(250, session.services.settings.hostname)


async def _on_ehlo(session: Session, argument: str) -> None:
    _greet(session, argument, extended=True)
    offered = extensions(
        size=SIZE_LIMIT, tls_offered=login.tls_offered(session), login_offered=login.login_offered(session)
    )
    session.say(250, session.services.settings.hostname, *offered)


def _greet(session: Session, argument: str, *, extended: bool) -> None:
    if not argument:
        raise Refused(f"Syntax: {VERBS['EHLO' if extended else 'HELO'].syntax}")
    session.helo, session.extended = argument, extended
    session.reset()


async def _on_noop(session: Session, argument: str) -> None:
    session.say(250, "2.0.0 Fine")


async def _on_vrfy(session: Session, argument: str) -> None:
    session.say(252, "2.1.5 Send it and see")


async def _on_help(session: Session, argument: str) -> None:
    session.say(214, f"2.0.0 {usage(argument)}")


async def _on_quit(session: Session, argument: str) -> None:
    session.ended = True
    session.say(221, "2.0.0 Goodbye")


HANDLERS: dict[str, Handler] = {
    "HELO": _on_helo,
    "EHLO": _on_ehlo,
    "STARTTLS": login.on_starttls,
    "AUTH": login.on_auth,
    "MAIL": mail.on_mail,
    "RCPT": mail.on_rcpt,
    "DATA": mail.on_data,
    "BDAT": mail.on_bdat,
    "RSET": mail.on_rset,
    "NOOP": _on_noop,
    "VRFY": _on_vrfy,
    "HELP": _on_help,
    "QUIT": _on_quit,
}
"""One for each verb of `wire.smtp.verbs`."""


class Receiver:
    """Makes a conversation of each connection."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._conversations: set[Conversation] = set()
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False
        self._draining = False

    async def handle(self, connection: Connection) -> None:
        """Until the client leaves."""
        conversation = Conversation(self.services, connection)
        self._conversations.add(conversation)
        if self._watch is None:
            self._watch = asyncio.ensure_future(self._look_for_silence())
        if self._stopping or self._draining:
            conversation.leave(_stopped())
        try:
            await conversation.run()
        finally:
            self._conversations.discard(conversation)
            if not self._conversations and self._watch is not None:
                self._watch.cancel()
                self._watch = None

    def stop(self) -> None:
        """Tell every client 421, each as soon as what it asked for is answered: a message that was read to its end is
        delivered, and acknowledged."""
        self._stopping = True
        for conversation in list(self._conversations):
            conversation.leave(_stopped())

    def drain(self, draining: bool) -> None:
        """From now on clients are sent elsewhere: 421 instead of a banner, which a balancer takes for down too, and 421
        to those that are here as at a stop. False: all are welcome again."""
        self._draining = draining
        for conversation in list(self._conversations) if draining else ():
            conversation.leave(_stopped())

    async def _look_for_silence(self) -> None:
        clock = self.services.clock
        while True:
            await clock.sleep(LOOK)
            now = clock.boottime()
            for conversation in list(self._conversations):
                since = conversation.session.silent_since
                if since is not None and now - since >= SILENCE_LIMIT:
                    conversation.leave(Leave(421, "4.4.2 Nothing was said for too long"))


class Conversation:
    """The loop of one session."""

    def __init__(self, services: Services, connection: Connection) -> None:
        self.session = Session(services, connection)
        self._task: asyncio.Task[None] | None = None
        self._leave: Leave | None = None
        self._interrupted = False

    def leave(self, reason: Leave) -> None:
        """End it: now if it only waits for the client, else after the answer that is being computed."""
        self._leave = self._leave or reason
        if self.session.silent_since is not None and self._task is not None and not self._interrupted:
            self._interrupted = True
            self._task.cancel()

    async def run(self) -> None:
        """From the banner to the end."""
        session = self.session
        self._task = asyncio.current_task()
        try:
            await self._talk()
        except Leave as reason:
            session.say(reason.code, reason.text)
        except asyncio.CancelledError:
            # Somebody else's: it came while no client was waited for, or is the second.
            if not self._interrupted or self._leave is None or self._task is None or self._task.uncancel():
                raise
            session.begin()
            session.say(self._leave.code, self._leave.text)
        finally:
            session.close()
        await session.flush()

    async def _talk(self) -> None:
        session = self.session
        session.begin()
        if self._leave is not None:
            raise self._leave
        session.say(220, f"{session.services.settings.hostname} ESMTP Everpost")
        while not session.ended:
            if self._leave is not None:
                session.begin()
                raise self._leave
            event = await session.event()
            if event is None:
                return
            session.begin()
            await _answer(session, event)


async def _answer(session: Session, event: Event) -> None:
    match event:
        case Command(verb, argument):
            await _command(session, verb, argument)
        case Data(content):
            await mail.message_came(session, content)
        case Chunk(content):
            await mail.chunk_came(session, content)
        case Dropped(size):
            mail.message_dropped(session, size)
        case Fault(text):
            raise Leave(521, f"5.5.2 {text}")


async def _command(session: Session, verb: str, argument: str) -> None:
    handler = HANDLERS.get(verb)
    if handler is None:
        return _unknown(session, verb)
    try:
        if verb != "BDAT":  # which has bytes behind it, whatever the answer
            _check(session, verb, argument)
        await handler(session, argument)
    except Refusal as error:
        session.refuse(error.code, error.text)
    except UnknownParameter as error:
        session.refuse(555, f"5.5.4 {error.what}")
    except NeedsUtf8 as error:
        session.refuse(553, f"5.6.7 {error.what}")
    except Refused as error:
        session.refuse(501, f"5.5.4 {error.what}")


def _unknown(session: Session, verb: str) -> None:
    if verb in OTHER_PROTOCOLS:
        raise Leave(521, "5.5.1 This is a mail server")
    if verb in DECLINED:
        session.refuse(502, "5.5.1 That is not offered")
    else:
        session.refuse_unknown_command()


def _check(session: Session, verb: str, argument: str) -> None:
    """Raises Refusal, Refused."""
    wrong = refusal(verb, session.stage)
    if wrong is not None:
        raise Refusal(503, f"5.5.1 {wrong}")
    if argument and VERBS[verb].syntax == verb:
        raise Refused(f"Syntax: {verb}")


def _stopped() -> Leave:
    return Leave(421, "4.3.2 The server stops; come back at once")
