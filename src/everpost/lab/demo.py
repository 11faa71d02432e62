"""`everpost demo`: a whole organisation on this machine, a server that dies, and an audit."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from everpost.errors import EverpostError
from everpost.lab.load.own import own_messages
from everpost.lab.relay import start_relays
from everpost.lab.screen import Screen
from everpost.lab.story import DOMAIN, PASSWORD, Story

LEAST_ACKNOWLEDGED = 5000
INTERRUPTED = 130
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """SIGTERM, or the terminal is gone."""


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="everpost demo", description="Two servers and a witness on this machine; one server dies; an audit."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--mail", metavar="PATH", help="your own mail as load: mbox, Maildir or folder of .eml")
    parser.add_argument("--mode", choices=("netns", "loopback"), help="netns when root, else loopback")
    parser.add_argument("--rate", type=float, default=35.0, help="deliveries a second of each of the four senders")
    parser.add_argument("--seconds", type=float, default=30.0, help="about how long load runs beside the faults")
    parser.add_argument("--least", type=int, default=LEAST_ACKNOWLEDGED, help="acknowledged messages to reach")
    keep = parser.add_mutually_exclusive_group()
    keep.add_argument("--keep", action="store_true", default=None, help="leave it running (the default on a terminal)")
    keep.add_argument("--no-keep", dest="keep", action="store_false", help="end after the report")
    arguments = parser.parse_args(argv)
    if arguments.keep is None:
        arguments.keep = sys.stdin.isatty() and sys.stdout.isatty()
    if arguments.mode == "netns" and os.geteuid() != 0:
        parser.error("namespaces need root; leave --mode away for loopback")
    if arguments.mail is not None:
        try:
            own_messages(arguments.mail)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        arguments.mail = str(Path(arguments.mail).resolve())
    return arguments


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Stopped."""

    def stop(signum: int, frame: object) -> None:
        raise Stopped

    before = {one: signal.signal(one, stop) for one in _SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Cleaning up goes on whatever signal comes; a second one would leave servers behind."""
    before = {one: signal.signal(one, signal.SIG_IGN) for one in (*_SIGNALS, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _keep(story: Story) -> None:
    """Leave it running until Ctrl-C, reachable from an ordinary mail client."""
    first = story.organisation.servers[0]
    print("It goes on running. Log in with a mail client (the certificate is the demonstration's own):")
    for line in start_relays(story.lab, first.host):
        print(f"  {line}")
    print(f"  user anna@{DOMAIN}, password {PASSWORD}; mail to anna@{DOMAIN} is taken")
    print(f"  management: {sys.executable} -m everpost shell --config {first.config}")
    print("Ctrl-C ends it.", flush=True)
    while True:
        time.sleep(1.0)


def _tell(story: Story, arguments: argparse.Namespace) -> list[str]:
    """Print and write the report; what did not hold."""
    broken = story.failures()
    print("", *story.lines(), "", sep="\n")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(story.report, indent=2) + "\n")
    for line in broken:
        print(f"NOT KEPT: {line}")
    if not broken:
        print("Nothing acknowledged was lost. Every promise was kept.")
    sys.stdout.flush()
    return broken


def main(argv: list[str]) -> int:
    """0: every promise held. 1: the report says which did not. 130: stopped before the report."""
    arguments = _arguments(argv)
    screen = Screen()
    status = INTERRUPTED
    with _signals():
        story = Story(arguments, screen)
        try:
            story.run()
            screen.close()
            status = 1 if _tell(story, arguments) else 0
            if arguments.keep:
                _keep(story)
        except EverpostError as error:
            screen.close()
            print(f"The demonstration could not go on: {error}", file=sys.stderr, flush=True)
            status = 1
        except (KeyboardInterrupt, Stopped):
            pass
        finally:
            with _undisturbed():
                screen.close()
                story.close()
    return status
