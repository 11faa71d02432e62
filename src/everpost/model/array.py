"""Client access arrays: one name and one virtual address for the client access servers of a site (spec 6.2, 6.9)."""

from __future__ import annotations

import enum

import msgspec

from everpost.model.dns import DnsMode


class Affinity(enum.StrEnum):
    """Which server a client gets again (spec 6.4): any, the same one by its address, or by its /24."""

    NONE = "None"
    SINGLE = "Single"
    NETWORK = "Network"


class ClientAccessArray(msgspec.Struct, frozen=True, kw_only=True):
    """An array; exactly one for each site. Settings have the names of the field's script (spec 6.9): `limit` probes of
    `gateway`, one each `probe_interval` seconds, must fail before it counts as silent; `hostname`: the servers that may
    hold `ip`, the preferred one first (empty: all client access servers of the site); `mail_to` and `mail_from` of the
    mail at each change (empty: those of the organisation). `failback`: seconds for which the preferred holder must have
    been well before the address goes back to it by itself; 0: it stays where it is. `aliases`: former names, which
    clients may still use. `drained` servers get no new connections; `weights` are 1 where nothing is said. `dns_mode`:
    what the name resolves to."""

    name: str
    fqdn: str
    site: str
    guid: str = ""
    aliases: tuple[str, ...] = ()
    ip: str = ""
    gateway: str = ""
    limit: int = 10
    probe_interval: float = 0.15
    hostname: tuple[str, ...] = ()
    mail_to: str = ""
    mail_from: str = ""
    failback: float = 0.0
    affinity: Affinity = Affinity.NONE
    drained: tuple[str, ...] = ()
    weights: dict[str, int] = {}
    dns_mode: DnsMode = DnsMode.VIRTUAL_IP
    made_as: str = ""
    """The name it was made with, if it has another one now."""

    @property
    def key(self) -> str:
        """What the directory and the array processes call it, for ever: a new name must not make a second resource,
        whose holder knows nothing of the first one's."""
        return self.made_as or self.name


class HolderState(enum.StrEnum):
    """Whether somebody holds the address."""

    HELD = "held"
    FREE = "free"


class HolderRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds an array's address. Changed only when it is acquired, taken or given back: its mod-revision guards each
    beat. `instance`: one life of the holder's process; `target`: whom it was given back for; `before`: who had it."""

    array: str
    holder: str
    instance: str
    epoch: int
    state: HolderState
    target: str = ""
    before: str = ""
    reason: str = ""


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """Rewritten by the holder at each renewal."""

    holder: str
    epoch: int
    counter: int


class MoveOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An administrator's word that the address shall move; valid for the tenure `epoch` alone."""

    target: str
    epoch: int
    operator: str = ""


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What a server that may hold the address says of itself, once a second and when it changes. `gateway` None: there
    is none to look at; `obstacle`: why it cannot hold the address now, "" if it can; `services`: connections now, in
    all, and whether it is up, by `service/server`, as its balancer sees them."""

    server: str
    counter: int
    obstacle: str = ""
    gateway: bool | None = None
    services: dict[str, tuple[str, int, int]] = {}
