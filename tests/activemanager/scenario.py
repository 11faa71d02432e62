"""Reads scenario files: a view in words, then `=>` lines with the actions that are expected, in order.

me EX02                 pam EX01                dag E14-DAG
server EX01 up|expired|taken|released|never
database MB01 open EX01 epoch 5 servers EX01,EX02 set EX02 [eligible EX02,EX01] [target EX02] [seen 3.0]
              [refused EX02] [reason restart] [lossy] [dismount]
copy MB01 EX02 Healthy [queue 0/0]
=> take EX01 with pam
=> become pam
=> activate MB01 on EX02 at 6 guarded by EX01
=> nothing
"""

from __future__ import annotations

from pathlib import Path

from everpost.activemanager.decide import Action, Activate, Settle, TakePam, TakeServer, decide
from everpost.activemanager.view import DatabaseView, ServerView, View
from everpost.model.database import (
    CopyState,
    CopyStatus,
    Location,
    LocationState,
    MailboxDatabase,
    Member,
    Opening,
    Refusal,
    Token,
)
from everpost.model.tenure import TenureState

TENURES = {
    "up": (TenureState.UP, False),
    "expired": (TenureState.UP, True),
    "taken": (TenureState.TAKEN, False),
    "released": (TenureState.RELEASED, False),
    "never": (None, False),
}


def _members(words: str) -> tuple[Member, ...]:
    return tuple(Member(name, "1") for name in words.split(",") if name and name != "-")


def _options(words: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    position = 0
    while position < len(words):
        if words[position] in ("lossy", "dismount"):
            options[words[position]] = "yes"
            position += 1
        else:
            options[words[position]] = words[position + 1]
            position += 2
    return options


def _database(words: list[str], copies: dict[str, CopyStatus]) -> DatabaseView:
    name, state, active, *rest = words
    options = _options(rest)
    epoch = int(options.get("epoch", "1"))
    members = _members(options.get("set", ""))
    eligible = _members(options["eligible"]) if "eligible" in options else (*members, Member(active, "1"))
    openings = () if options.get("opened") == "never" else (Opening(Token(1, epoch - 1), active, 2, 100, "n"),)
    location = Location(
        database=name,
        active=active,
        token=Token(1, epoch),
        state=LocationState(state),
        set=members,
        eligible=eligible if openings else (),
        openings=openings,
        target=options.get("target"),
        refused=tuple(Refusal(server, "said no") for server in options.get("refused", "").split(",") if server),
        reason=options.get("reason", ""),
        lossy="lossy" in options,
        dismount="dismount" in options,
    )
    servers = tuple(options["servers"].split(","))
    database = MailboxDatabase(name=name, guid=name, number=0, servers=servers)
    return DatabaseView(
        database=database, location=location, revision=7, seen_for=float(options.get("seen", "0")), copies=copies
    )


def parse(text: str) -> tuple[View, list[str]]:
    """The view and the expected lines of one scenario."""
    facts: dict[str, str] = {}
    servers: dict[str, ServerView] = {}
    rows: list[list[str]] = []
    copies: dict[str, dict[str, CopyStatus]] = {}
    expected: list[str] = []
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("=>"):
            expected.append(line[2:].strip())
            continue
        match line.split():
            case []:
                pass
            case ["server", name, tenure]:
                state, expired = TENURES[tenure]
                servers[name] = ServerView(
                    name=name,
                    tenure=state,
                    expired=expired,
                    fence_revision=len(servers) + 1,
                    tenure_revision=9,
                    epoch=1,
                )
            case ["database", *words]:
                rows.append(words)
            case ["copy", database, server, state, *rest]:
                queue = _options(rest).get("queue", "0/0").split("/")
                copies.setdefault(database, {})[server] = CopyStatus(
                    database=database,
                    server=server,
                    state=CopyState(state),
                    copy_queue=int(queue[0]),
                    replay_queue=int(queue[1]),
                )
            case [key, value]:
                facts[key] = value
            case other:
                raise ValueError(f"unknown line: {other}")
    view = View(
        me=facts["me"],
        dag=facts.get("dag"),
        pam=facts.get("pam"),
        pam_revision=3,
        servers=servers,
        databases=tuple(_database(words, copies.get(words[0], {})) for words in rows),
    )
    return view, expected


def describe(action: Action) -> str:
    """An action in the words of a scenario."""
    match action:
        case TakeServer(server=server, with_pam=with_pam):
            return f"take {server}" + (" with pam" if with_pam else "")
        case TakePam():
            return "become pam"
        case Activate(database=database, after=after, fences=fences):
            guarded = f" guarded by {','.join(sorted(fences))}" if fences else ""
            lossy = " with loss" if after.lossy else ""
            return f"activate {database} on {after.active} at {after.token.epoch}{lossy}{guarded}"
        case Settle(database=database, after=after, fences=fences):
            return f"{after.state} {database}" + (f" guarded by {','.join(sorted(fences))}" if fences else "")


def outcome(text: str) -> tuple[list[str], list[str]]:
    """(what is decided, what the scenario expects)."""
    view, expected = parse(text)
    decided = [describe(action) for action in decide(view)] or ["nothing"]
    return decided, expected


def files() -> list[Path]:
    """All scenario files."""
    return sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
