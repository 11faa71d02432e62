"""Records that are kept on DNS servers by dynamic update (RFC 2136), and what the server that keeps them says."""

from __future__ import annotations

import enum

import msgspec


class DnsMode(enum.StrEnum):
    """What an array's name resolves to: its virtual address, or the addresses of all servers that are well (6.3)."""

    VIRTUAL_IP = "VirtualIP"
    ROUND_ROBIN = "RoundRobin"


class DnsZone(msgspec.Struct, frozen=True, kw_only=True):
    """A zone whose records we keep. `servers`: `address` or `address:port`, tried in order. `key_file` holds the TSIG
    key on each server that may update (relative: below its data folder); the secret is never in the directory. `ttl`
    and `round_robin_ttl` in seconds. `adopt`: names whose present records may be replaced though we did not make
    them."""

    zone: str
    servers: tuple[str, ...]
    key_file: str = "dns.key"
    ttl: int = 300
    round_robin_ttl: int = 5
    publish_mx: bool = False
    adopt: tuple[str, ...] = ()


class ZoneStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one zone is. `names`: those that may bear our mark, recorded before the first update of each. `stale_since`:
    since when the records cannot be kept right (wall clock, "" if they are right), and why. `conflicts`: names that we
    leave alone, each with the reason and the remedy."""

    zone: str
    server: str = ""
    key: str = ""
    names: tuple[str, ...] = ()
    updated: str = ""
    stale_since: str = ""
    error: str = ""
    conflicts: dict[str, str] = {}


class DnsUpdater(msgspec.Struct, frozen=True, kw_only=True):
    """Which server keeps the records: rewritten twice a second, each time by compare-and-swap on its own revision.
    `epoch` grows with every change of the updater and stands in the marks in the zone too. `rotation`: by array and
    server, "" if its address is published, else why not."""

    server: str
    instance: str
    epoch: int
    counter: int = 0
    held: bool = True
    reason: str = ""
    zones: tuple[ZoneStatus, ...] = ()
    rotation: dict[str, dict[str, str]] = {}
