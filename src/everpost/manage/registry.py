"""The registry: a command is one typed async function. Shell, command line and help all come from it."""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from everpost.errors import Refused

Function = Callable[..., Awaitable[list[Any]]]
F = TypeVar("F", bound=Function)


@dataclass(frozen=True)
class Parameter:
    """One parameter in the words of the shell. `position` None: by name only; `nullable`: $null is a value of it. A
    switch is there or not; a boolean is set to $true or $false, or left as it is."""

    name: str
    kind: str
    mandatory: bool
    position: int | None
    nullable: bool = False

    @property
    def switch(self) -> bool:
        return self.kind == "switch"


@dataclass(frozen=True)
class Command:
    """`verb` and `noun` as typed; `columns` of the default table."""

    verb: str
    noun: str
    function: Function
    parameters: tuple[Parameter, ...]
    columns: tuple[str, ...]
    help: str

    @property
    def name(self) -> str:
        return f"{self.verb}-{self.noun}"


_commands: dict[str, Command] = {}
_aliases: dict[str, str] = {}


def _pascal(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def _kind(annotation: Any) -> str:
    if annotation == (bool | None):
        return "boolean"
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) in (tuple, list):
        return "list"
    return {str: "text", int: "number", bool: "switch"}[annotation]


def command(
    name: str, *, positional: int = 1, columns: tuple[str, ...] = (), aliases: tuple[str, ...] = ()
) -> Callable[[F], F]:
    """Register a function as a command; its parameters after the context become -PascalCase ones. The first
    `positional` of them may be given without a name."""

    def register(function: F) -> F:
        verb, _, noun = name.partition("-")
        hints = typing.get_type_hints(function)
        parameters = []
        for position, parameter in enumerate(list(inspect.signature(function).parameters.values())[1:]):
            parameters.append(
                Parameter(
                    name=_pascal(parameter.name),
                    kind=_kind(hints[parameter.name]),
                    mandatory=parameter.default is inspect.Parameter.empty,
                    position=position if position < positional else None,
                    nullable=hints[parameter.name] == (int | None),
                )
            )
        text = inspect.getdoc(function) or ""
        _commands[name.lower()] = Command(verb, noun, function, tuple(parameters), columns, text)
        for alias in aliases:
            _aliases[alias.lower()] = name.lower()
        return function

    return register


def commands() -> list[Command]:
    """All, by noun and verb."""
    return sorted(_commands.values(), key=lambda one: (one.noun, one.verb))


def find(name: str) -> Command:
    """By name in any case, or alias. Raises Refused with the nearest name."""
    key = _aliases.get(name.lower(), name.lower())
    found = _commands.get(key)
    if found is None:
        near = difflib.get_close_matches(name.lower(), _commands, n=1, cutoff=0.5)
        hint = f"Did you mean {_commands[near[0]].name}?" if near else "Get-Command lists all commands."
        raise Refused(f"There is no command {name}.", remedy=hint)
    return found


def _python_name(parameter: Parameter) -> str:
    name = parameter.name
    return "".join("_" + ch.lower() if ch.isupper() and i else ch.lower() for i, ch in enumerate(name))


def _convert(parameter: Parameter, value: Any) -> Any:
    if parameter.kind in ("switch", "boolean"):
        if isinstance(value, bool):
            return value
        raise Refused(f"-{parameter.name} is $true or $false, not {value!r}.")
    if parameter.kind == "number":
        if value is None and parameter.nullable:
            return None
        try:
            return int(value)
        except (TypeError, ValueError):
            raise Refused(f"-{parameter.name} takes a number, not {value!r}.") from None
    if parameter.kind == "list":
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    if value is None:
        raise Refused(f"-{parameter.name} must not be $null.", remedy="Name the object, or leave the parameter out.")
    if isinstance(value, list | tuple):
        raise Refused(f"-{parameter.name} takes one value, not a list.")
    return str(value)


def resolve(found: Command, name: str) -> Parameter:
    """A parameter by name or unambiguous beginning, in any case. Raises Refused."""
    lower = name.lower()
    exact = [parameter for parameter in found.parameters if parameter.name.lower() == lower]
    matching = exact or [parameter for parameter in found.parameters if parameter.name.lower().startswith(lower)]
    if len(matching) == 1:
        return matching[0]
    known = ", ".join("-" + parameter.name for parameter in found.parameters)
    if matching:
        raise Refused(f"-{name} may mean {', '.join('-' + one.name for one in matching)}.", remedy="Type more of it.")
    raise Refused(f"{found.name} has no parameter -{name}.", remedy=f"It knows {known or 'none'}.")


def bind(found: Command, positional: list[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the function. Raises Refused for what is missing, unknown or given twice."""
    values: dict[str, Any] = {}
    positional = list(positional)
    for name, value in named.items():
        parameter = resolve(found, name)
        if parameter.switch and not isinstance(value, bool):
            positional.insert(0, value)  # `-Status MB01`: a switch takes no value, so the word stands for itself
            value = True
        if parameter.name in values:
            raise Refused(f"-{parameter.name} was given twice.")
        values[parameter.name] = _convert(parameter, value)
    places = [one for one in found.parameters if one.position is not None and one.name not in values]
    if len(positional) > len(places):
        raise Refused(f"{found.name} does not know what {positional[len(places)]!r} is.", remedy="Name the parameter.")
    for parameter, value in zip(places, positional, strict=False):
        values[parameter.name] = _convert(parameter, value)
    for parameter in found.parameters:
        if parameter.mandatory and parameter.name not in values:
            raise Refused(f"{found.name} needs -{parameter.name}.")
    return {_python_name(one): values[one.name] for one in found.parameters if one.name in values}
