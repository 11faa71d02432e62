"""The administrator's end: sends a line to the local agent and prints what comes back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TextIO

import aiohttp

from everpost.errors import EverpostError, Unavailable
from everpost.manage import render


async def events(socket: Path, line: str) -> list[dict[str, Any]]:
    """All events of one line. Raises Unavailable when no agent listens."""
    connector = aiohttp.UnixConnector(path=str(socket))
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    found = []
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.post("http://agent/v1/command", json={"line": line}) as answer,
        ):
            async for text in answer.content:
                found.append(json.loads(text))
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable(
            f"The agent does not answer on {socket}.", remedy="Start it with `everpost serve`, as root or its user."
        ) from error
    return found


def show(found: list[dict[str, Any]], output: TextIO, errors: TextIO, *, as_json: bool = False) -> int:
    """Print events; 1 if one of them is an error, or a test that failed."""
    status = 0
    for event in found:
        if "verbose" in event:
            errors.write(f"VERBOSE: {event['verbose']}" + "\n")
        elif "warning" in event:
            errors.write(f"WARNING: {event['warning']}" + "\n")
        elif "status" in event:
            status = event["status"]
        elif "error" in event:
            status = 1
            errors.write(f"{event['error']['what']}\n{event['error'].get('remedy', '')}".rstrip() + "\n")
        else:
            _rows(event, output, as_json)
    return status


def _rows(event: dict[str, Any], output: TextIO, as_json: bool) -> None:
    if as_json or event["view"] == "json":
        output.write(render.as_json(event["rows"]) + "\n")
    elif event["view"] == "list":
        output.write(render.listing(event["rows"], event["columns"] if len(event["columns"]) else ()) + "\n")
    elif event["rows"]:
        output.write(render.table(event["rows"], event["columns"]) + "\n")


async def run(socket: Path, line: str) -> int:
    """One line: print to standard output and error; the exit status."""
    try:
        return show(await events(socket, line), sys.stdout, sys.stderr)
    except EverpostError as error:
        sys.stderr.write(f"{error}\n")
        return 1
