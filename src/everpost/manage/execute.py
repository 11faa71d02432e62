"""Runs a line of the shell: finds commands, binds, pipes rows, and says what happened as events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from everpost.errors import EverpostError, Refused
from everpost.manage import parse, registry
from everpost.manage.parse import Call
from everpost.manage.registry import Command
from everpost.manage.render import Row

COMMON = ("verbose", "whatif", "confirm", "format", "erroraction", "warningaction", "debug", "domaincontroller")
"""Parameters that every command takes (spec 9.1)."""
_LIST = ("format-list", "fl")
_TABLE = ("format-table", "ft")
_SELECT = ("select-object", "select")


@dataclass
class Result:
    """Rows and how they want to be shown."""

    rows: list[Row] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    view: str = "table"
    verbose: bool = False


def _common(call: Call, result: Result) -> None:
    for name in list(call.named):
        if name.lower() in COMMON and not (name.lower() == "format" and call.named[name] is True):
            value = call.named.pop(name)
            if name.lower() == "verbose":
                result.verbose = value is not False
            elif name.lower() == "format":
                if str(value).lower() not in ("json", "list", "table"):
                    raise Refused(f"-Format is table, list or json, not {value!r}.")
                result.view = str(value).lower()
            elif name.lower() == "whatif" and value is not False:
                call.named["WhatIf"] = True


def _shape(call: Call, result: Result) -> bool:
    """Whether the call only says how rows are shown."""
    name = call.name.lower()
    if name not in (*_LIST, *_TABLE, *_SELECT):
        return False
    wanted: list[str] = []
    for value in [*call.positional, *call.named.values()]:
        wanted += [str(one) for one in (value if isinstance(value, list) else [value]) if one is not True]
    if name in _LIST:
        result.view = "list"
        result.columns = ()
    elif name in _TABLE:
        result.view = "table"
    if wanted and wanted != ["*"]:
        known = {key.lower(): key for row in result.rows for key in row}
        result.columns = tuple(known.get(one.lower(), one) for one in wanted)
        result.rows = [{name: row.get(name) for name in result.columns} for row in result.rows]
    elif result.rows and name in _SELECT:
        result.columns = tuple(result.rows[0])
    return True


async def _invoke(command: Command, call: Call, context: Any, fed: list[Row] | None) -> list[Row]:
    what_if = call.named.pop("WhatIf", False)
    if what_if and not any(parameter.name == "WhatIf" for parameter in command.parameters):
        raise Refused(f"{command.name} does not know -WhatIf.")
    if what_if:
        call.named["WhatIf"] = True
    if fed is None:
        return await command.function(context, **registry.bind(command, call.positional, call.named))
    rows: list[Row] = []
    for row in fed:
        identity = row.get("Identity", row.get("Name"))
        arguments = registry.bind(command, [identity, *call.positional], call.named)
        rows += await command.function(context, **arguments)
    return rows


async def run_line(line: str, context: Any, *, on_verbose: Callable[[bool], None]) -> list[Result]:
    """One result for each statement. `on_verbose` is told whether -Verbose was asked before a command runs."""
    results = []
    for statement in parse.parse(line):
        result = Result()
        fed: list[Row] | None = None
        for call in statement:
            _common(call, result)
            if fed is not None and _shape(call, result):
                continue
            command = registry.find(call.name)
            on_verbose(result.verbose)
            fed = await _invoke(command, call, context, fed)
            result.rows = fed
            # What would be done has other columns than what was done.
            result.columns = () if call.named.get("WhatIf") else command.columns
        results.append(result)
    return results


def describe(error: EverpostError) -> dict[str, str]:
    """An error as an event."""
    return {"what": error.what, "remedy": error.remedy, "kind": type(error).__name__}
