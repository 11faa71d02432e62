"""Servers, their roles and their database availability group."""

from __future__ import annotations

import enum

import msgspec


class Role(enum.StrEnum):
    """What a server does (Exchange role names)."""

    MAILBOX = "mailbox"
    CLIENT_ACCESS = "clientaccess"
    HUB_TRANSPORT = "hubtransport"
    WITNESS = "witness"


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """TCP ports of a server. PostgreSQL of database number n listens on `postgres + n`. The `array_` ones take
    connections from the balancers of the client access array only, each begun by a PROXY header."""

    agent: int = 64326
    postgres: int = 64328
    etcd_client: int = 2379
    etcd_peer: int = 2380
    smtp: int = 25
    submission: int = 587
    imap: int = 143
    imaps: int = 993
    https: int = 443
    array_smtp: int = 64310
    array_submission: int = 64311
    array_imap: int = 64312
    array_imaps: int = 64313
    array_https: int = 64314


class MountDial(enum.StrEnum):
    """How many generations may be missing when a copy is mounted (spec 3.4); BestEffort only as an override."""

    LOSSLESS = "Lossless"
    GOOD_AVAILABILITY = "GoodAvailability"
    BEST_AVAILABILITY = "BestAvailability"
    BEST_EFFORT = "BestEffort"


def https(address: str, port: int) -> str:
    """The address of a server of ours as a URL: an IPv6 literal stands in brackets (RFC 3986 3.2.2)."""
    return f"https://[{address}]:{port}" if ":" in address else f"https://{address}:{port}"


class ActivationPolicy(enum.StrEnum):
    """Whether the copies of a server may be activated automatically (spec 3.6)."""

    UNRESTRICTED = "Unrestricted"
    INTRASITE_ONLY = "IntrasiteOnly"
    BLOCKED = "Blocked"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A joined host: `address` is on the MAPI network, `replication_address` carries the log stream."""

    name: str
    address: str
    replication_address: str
    roles: tuple[Role, ...]
    ports: Ports = Ports()
    site: str = "Default-First-Site-Name"
    mount_dial: MountDial = MountDial.LOSSLESS
    activation_policy: ActivationPolicy = ActivationPolicy.UNRESTRICTED
    maximum_active_databases: int | None = None
    maximum_preferred_active_databases: int | None = None


class MaintenancePhase(enum.StrEnum):
    """How far a server's maintenance is."""

    STARTING = "starting"
    ACTIVE = "active"


class MaintenanceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A server in maintenance, and exactly what has to be restored afterwards (spec 3.10). `suspended`: databases whose
    activation on this server was suspended by the start and was not before; `moved`: what was active on it."""

    server: str
    phase: MaintenancePhase
    operator: str = ""
    began: str = ""
    comment: str = ""
    previous_policy: ActivationPolicy = ActivationPolicy.UNRESTRICTED
    suspended: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()


class DagNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """A network of a DAG that an administrator described (spec 1.6). Not enabled for replication: a last resort."""

    name: str
    subnets: tuple[str, ...]
    description: str = ""
    replication_enabled: bool = True
    ignore_network: bool = False


class NetworkCompression(enum.StrEnum):
    """When what a DAG replicates is compressed (spec 1.6; docs/decisions/014)."""

    DISABLED = "Disabled"
    ENABLED = "Enabled"
    INTER_SUBNET_ONLY = "InterSubnetOnly"
    SEED_ONLY = "SeedOnly"


class DatabaseAvailabilityGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A DAG: 0 to 16 members and a witness that votes exactly when their number is even (spec 1.1, 1.4). The alternate
    witness is used only by a datacenter switchover (1.3)."""

    name: str
    members: tuple[str, ...] = ()
    witness_server: str | None = None
    witness_directory: str | None = None
    alternate_witness_server: str | None = None
    alternate_witness_directory: str | None = None
    networks: tuple[DagNetwork, ...] = ()
    network_compression: NetworkCompression = NetworkCompression.INTER_SUBNET_ONLY
