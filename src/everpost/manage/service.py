"""The agent's end: a line comes in over the admin socket, events go out as JSON lines."""

from __future__ import annotations

import json
import logging
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from everpost.errors import EverpostError
from everpost.manage import cmdlets
from everpost.manage.execute import describe, run_line

log = logging.getLogger(__name__)

ContextFactory = Callable[[Callable[[str], None], Callable[[str], None], Callable[[], None], str], Any]
_UCRED = struct.Struct("3i")


def operator(request: web.Request) -> str:
    """The account at the other end of the admin socket, as the kernel knows it."""
    transport = request.transport
    peer = transport.get_extra_info("socket") if transport is not None else None
    if peer is None or peer.family != socket.AF_UNIX:
        return "unknown"
    _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def command_handler(factory: ContextFactory) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler for POST /v1/command {"line": ...}. `factory(verbose, warning, failed,
    operator)` makes the context."""
    cmdlets.load()

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        pending: list[dict[str, Any]] = []
        shown = False

        def on_verbose(asked: bool) -> None:
            nonlocal shown
            shown = asked

        def say(kind: str) -> Callable[[str], None]:
            def put(text: str) -> None:
                if kind == "warning" or shown:
                    pending.append({kind: text})

            return put

        async def flush() -> None:
            while pending:
                await response.write(json.dumps(pending.pop(0)).encode() + b"\n")

        try:
            context = factory(say("verbose"), say("warning"), lambda: pending.append({"status": 1}), operator(request))
            for result in await run_line(str(body["line"]), context, on_verbose=on_verbose):
                await flush()
                pending.append({"rows": result.rows, "columns": result.columns, "view": result.view})
            await flush()
        except EverpostError as error:
            await flush()
            pending.append({"error": describe(error)})
        except Exception as error:  # an administrator must see that something broke, and the log where
            log.exception("command")
            pending.append({"error": {"what": f"{type(error).__name__}: {error}", "remedy": "See the agent's log."}})
        await flush()
        await response.write_eof()
        return response

    return handle
