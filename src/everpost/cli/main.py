"""`everpost <what> ...`: serve, server, shell, demo, and every command of the shell as `everpost <verb> <noun>`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from everpost import __version__
from everpost.errors import EverpostError
from everpost.manage import client, cmdlets, registry
from everpost.settings import DEFAULT_PATH, load

USAGE = """\
everpost serve   [--config FILE]            run this server
everpost server  init | token | join        make the first server, invite another, join
everpost shell   [--config FILE] [-c LINE]  the management shell
everpost VERB NOUN [--parameter VALUE ...]  one command, like: everpost get mailbox-database-copy-status MB01
everpost demo    [...]                      a whole organisation on this machine, and a server that dies
everpost help    [COMMAND]                  the commands of the shell
everpost version
"""


def run(argv: list[str]) -> int:
    """The exit status. Errors are one sentence and their remedy, on standard error."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    try:
        return _dispatch(argv)
    except EverpostError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _dispatch(argv: list[str]) -> int:
    match argv[0]:
        case "version" | "--version":
            print(f"everpost {__version__}")
            return 0
        case "serve":
            from everpost.cli import serve

            return serve.main(argv[1:])
        case "server":
            from everpost.cli import server

            return server.main(argv[1:])
        case "demo":
            from everpost.lab import demo

            return demo.main(argv[1:])
        case "shell":
            return _shell(argv[1:])
        case "help":
            return _help(argv[1:])
        case _:
            return _verb_noun(argv)


def _shell(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="everpost shell", description="The management shell.")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH)
    parser.add_argument("-c", dest="line", help="run one line and end")
    arguments = parser.parse_args(argv)
    socket = load(arguments.config).admin_socket
    if arguments.line is not None:
        return asyncio.run(client.run(socket, arguments.line))
    return _interactive(socket)


def _interactive(socket: Path) -> int:
    if sys.stdin.isatty():
        import readline  # noqa: F401  gives input() a history and editing

        print("Everpost management shell. Get-Command lists the commands; exit leaves.")
    status = 0
    while True:
        try:
            line = input("[EP]> " if sys.stdin.isatty() else "")
            while line.rstrip().endswith("`"):
                line += "\n" + input(">> " if sys.stdin.isatty() else "")
        except EOFError:
            return status
        except KeyboardInterrupt:
            print()
            continue
        if line.strip().lower() in ("exit", "quit"):
            return status
        if line.strip():
            status = asyncio.run(client.run(socket, line))


def _help(argv: list[str]) -> int:
    cmdlets.load()
    if not argv:
        for command in registry.commands():
            print(f"{command.name:48}{command.help.splitlines()[0] if command.help else ''}")
        return 0
    command = registry.find(argv[0])
    print(f"{command.name}\n\n{command.help}\n")
    for parameter in command.parameters:
        value = "" if parameter.switch else f" <{parameter.kind}>"
        need = "needed" if parameter.mandatory else "optional"
        print(f"  -{parameter.name}{value}  ({need})")
    return 0


def _quote(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


def to_line(argv: list[str]) -> str:
    """`get mailbox-database-copy-status MB01 --format json` as a line of the shell."""
    cmdlets.load()
    if len(argv) < 2:
        raise EverpostError(f"everpost does not know {argv[0]!r}.", remedy="`everpost --help` shows what it knows.")
    command = registry.find(f"{argv[0]}-{argv[1].replace('-', '')}")
    words = [command.name]
    for word in argv[2:]:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            words.append("-" + name.replace("-", "") + (f":{_quote(value)}" if equals else ""))
        else:
            words.append(_quote(word))
    return " ".join(words)


def _verb_noun(argv: list[str]) -> int:
    config = DEFAULT_PATH
    rest = list(argv)
    if "--config" in rest:
        at = rest.index("--config")
        if at + 1 >= len(rest):
            raise EverpostError("--config needs a file.", remedy="Name the settings file.")
        config = Path(rest[at + 1])
        del rest[at : at + 2]
    line = to_line(rest)
    return asyncio.run(client.run(load(config).admin_socket, line))
