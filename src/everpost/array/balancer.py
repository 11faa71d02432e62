"""HAProxy's configuration for an array: pure (spec 6.3)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from everpost.model.array import Affinity, ClientAccessArray
from everpost.model.server import Role, Server

SERVICES = (
    ("imap", "imap", "imap", Role.CLIENT_ACCESS),
    ("imaps", "imaps", "imap", Role.CLIENT_ACCESS),
    ("https", "https", "imap", Role.CLIENT_ACCESS),
    ("smtp", "smtp", "smtp", Role.HUB_TRANSPORT),
    ("submission", "submission", "smtp", Role.HUB_TRANSPORT),
)
"""Name, the clients' port, whose health check it shares, the role that serves it. TLS passes through to the server."""

_CHECKS = {
    "imap": (r"^\*\ OK", r"z\ LOGOUT\r\n", r"z\ OK"),
    "smtp": ("^220", r"QUIT\r\n", "^221"),
}
"""A check speaks the protocol: the greeting is given only by a server that holds its tenure."""

_HEAD = """\
# Written by Everpost for the array {name}; changes are lost.
global
    stats socket "{socket}" mode 600 level admin
    stats timeout 5s
    maxconn 8000
    no strict-limits
    hard-stop-after 1h
    spread-checks 5

defaults
    mode tcp
    # A server that just died, before its checks have said so: each further attempt goes to another one.
    retries 3
    option redispatch 1
    option clitcpka
    option srvtcpka
    timeout connect 700ms
    timeout check 2s
    # Clients wait in IDLE for up to 29 minutes (RFC 2177).
    timeout client 35m
    timeout server 35m
    timeout client-fin 10s
    timeout server-fin 10s
"""

_BALANCE = {
    Affinity.NONE: ("balance leastconn",),
    # A hash, not a table of who was where: both balancers give the same answer, so a move of the address keeps it.
    Affinity.SINGLE: ("balance source", "hash-type consistent"),
    Affinity.NETWORK: ("balance hash src,ipmask(24,64)", "hash-type consistent"),
}


def configuration(array: ClientAccessArray, servers: Iterable[Server], socket: Path, agent: int = 0) -> str:
    """The whole file. `servers`: the array's members. `agent`: the port where it asks whether log-ins work."""
    members = sorted(servers, key=lambda one: one.name)
    lines = [_HEAD.format(name=array.name, socket=socket)]
    for name, port, check, role in SERVICES:
        able = [one for one in members if role in one.roles]
        if not able:
            continue
        # Bound before the address is here, so that a takeover need not wait for a start.
        host = f"[{array.ip}]" if ":" in array.ip else array.ip
        lines.append(f"frontend {name}-in")
        lines.append(f"    bind {host}:{getattr(able[0].ports, port)} transparent")
        lines.append(f"    default_backend {name}\n")
        lines.append(f"backend {name}")
        lines += [f"    {line}" for line in _BALANCE[array.affinity]]
        if check == name:
            greeting, goodbye, answer = _CHECKS[check]
            lines.append("    option tcp-check")
            lines.append(f"    tcp-check expect rstring {greeting}")
            lines.append(f"    tcp-check send {goodbye}")
            lines.append(f"    tcp-check expect rstring {answer}")
        lines += [_server(array, one, name, check, agent) for one in able]
        lines.append("")
    return "\n".join(lines)


def _server(array: ClientAccessArray, one: Server, name: str, check: str, agent: int) -> str:
    host = f"[{one.address}]" if ":" in one.address else one.address
    line = f"    server {one.name} {host}:{getattr(one.ports, f'array_{name}')} send-proxy-v2"
    line += f" weight {0 if one.name in array.drained else array.weights.get(one.name, 1)}"
    if check == name:
        line += " check check-send-proxy inter 500ms fastinter 200ms downinter 500ms fall 2 rise 2"
        if agent:
            line += f" agent-check agent-addr 127.0.0.1 agent-port {agent} agent-inter 500ms"
            line += f' agent-send "{name}/{one.name}\\n"'
    else:
        line += f" track {check}/{one.name}"
    return line + " on-marked-down shutdown-sessions"


def services(shown: str) -> dict[str, tuple[str, int, int]]:
    """`show stat` as (status, connections now, connections in all) by `service/server`."""
    rows = [line.split(",") for line in shown.splitlines() if line]
    if not rows:
        return {}
    header = rows[0]
    header[0] = header[0].removeprefix("# ")
    where = {name: place for place, name in enumerate(header)}
    wanted = {name for name, *_ in SERVICES}
    found = {}
    for row in rows[1:]:
        service, server = row[where["pxname"]], row[where["svname"]]
        if service in wanted and server not in ("FRONTEND", "BACKEND"):
            status = row[where["status"]].split()[0]
            found[f"{service}/{server}"] = (status, int(row[where["scur"]] or 0), int(row[where["stot"]] or 0))
    return found
