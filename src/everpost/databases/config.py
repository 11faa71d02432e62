"""The configuration of a copy's PostgreSQL, as text. Numbers have their reason beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from everpost.model.database import Token

TARGET = "recovery_target_time"
UPSTREAM = "upstream.conf"
SUPERUSER = "everpost"
REPLICATION = "everpost_replication"
STORE = "everpost_store"
MAIL = "mail"

_SETTINGS = """\
wal_level = replica
wal_log_hints = on                     # pg_rewind needs it
full_page_writes = on
fsync = on
synchronous_commit = on
recovery_init_sync_method = syncfs     # one call; fsync of each of 1,000 files delays a restart by up to a second
restart_after_crash = off              # rule 3.6: the agent activates it again, nobody else
hot_standby = on
recovery_target_timeline = 'latest'
wal_retrieve_retry_interval = 20ms     # with the default of 5 s a failover takes 5 s
wal_receiver_timeout = 5s
wal_sender_timeout = 5s                # not a failure detector, see rule 3.7
wal_receiver_status_interval = 1s
wal_compression = lz4                  # full-page images; decision 014
max_wal_size = 1GB                     # initdb scales it to 64 MB with 1 MB segments: a storm of checkpoints
min_wal_size = 64MB
max_wal_senders = 10
max_replication_slots = 10
max_prepared_transactions = 0
max_connections = 100                  # the same on every copy: a standby must not have fewer
superuser_reserved_connections = 5     # the agent keeps one open
shared_buffers = 64MB
wal_buffers = 4MB
jit = off
max_worker_processes = 8               # not below what initdb noted, or a standby does not start
max_parallel_workers = 0
max_parallel_workers_per_gather = 0
max_logical_replication_workers = 0
bgwriter_delay = 10s
bgwriter_lru_maxpages = 0
autovacuum_naptime = 60s
autovacuum_max_workers = 2
log_destination = 'stderr'
logging_collector = off
log_min_messages = warning
log_line_prefix = '%m [%p] '
lc_messages = 'C'                      # the agent reads the log
timezone = 'UTC'
tcp_keepalives_idle = 5
tcp_keepalives_interval = 2
tcp_keepalives_count = 3
"""


def quote(text: str) -> str:
    """A value in single quotes, for postgresql.conf and connection strings alike."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quote_setting(text: str) -> str:
    """A value in postgresql.conf."""
    return "'" + text.replace("'", "''") + "'"


def main_file(conf: Path, *, addresses: Sequence[str], port: int, sockets: Path, tls: Path, name: str) -> str:
    """postgresql.conf, which lies outside PGDATA and includes the files that the agent changes at run time."""
    listen = ",".join(dict.fromkeys(addresses))
    return _SETTINGS + "\n".join(
        (
            f"listen_addresses = {quote_setting(listen)}",
            f"port = {port}",
            f"unix_socket_directories = {quote_setting(str(sockets))}",
            "unix_socket_permissions = 0700",
            f"hba_file = {quote_setting(str(conf / 'hba.conf'))}",
            f"ident_file = {quote_setting(str(conf / 'ident.conf'))}",
            f"cluster_name = {quote_setting(name)}",
            "ssl = on",
            f"ssl_cert_file = {quote_setting(str(tls / 'host.crt'))}",
            f"ssl_key_file = {quote_setting(str(tls / 'host.key'))}",
            f"ssl_ca_file = {quote_setting(str(tls / 'ca.crt'))}",
            "ssl_min_protocol_version = 'TLSv1.3'",
            f"include = {quote_setting(str(conf / UPSTREAM))}",
            f"include = {quote_setting(str(conf / 'names.conf'))}",
            f"include = {quote_setting(str(conf / 'keep.conf'))}",
            "",
        )
    )


def names_file(names: Sequence[str]) -> str:
    """synchronous_standby_names: all of them by name, never ANY, never `*` (3.1)."""
    value = f"{len(names)} ({', '.join(chr(34) + name + chr(34) for name in names)})" if names else ""
    return f"synchronous_standby_names = {quote_setting(value)}\n"


def hba_file(*, admitted: bool) -> str:
    """Who may connect. The agent by its operating-system user; replication by a certificate of our authority; clients
    likewise, and only while the copy is open (3.3)."""
    lines = [
        f"local all {SUPERUSER} peer map=agent",
        f"local replication {SUPERUSER} peer map=agent",  # the scrub
        f"hostssl replication {REPLICATION} all cert map=hosts",
        f"hostssl postgres {REPLICATION} all cert map=hosts",
    ]
    if admitted:
        lines.append(f"hostssl {MAIL} {STORE} all cert map=hosts")
    return "\n".join(lines) + "\n"


def ident_file(os_user: str) -> str:
    """Which certificate or operating-system user may be which role."""
    return f"agent {os_user} {SUPERUSER}\nhosts /^.*$ {REPLICATION}\nhosts /^.*$ {STORE}\n"


def standby_name(database: str, server: str, incarnation: str, token: Token) -> str:
    """The name of a standby: copy, incarnation and epoch followed, at most 63 bytes (3.1)."""

    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9]+", "", text.lower())[:18]

    return f"{plain(database)}_{plain(server)}_{incarnation}_g{token.generation}e{token.epoch}"


def conninfo(host: str, port: int, *, tls: Path, application_name: str, dbname: str = "") -> str:
    """A connection to another host's PostgreSQL as the replication role; the host must prove its address. Of several
    addresses, separated by commas, the first that answers is used: the replication network before the MAPI network."""
    several = host.count(",") + 1
    fields = {
        "host": host,
        "port": ",".join([str(port)] * several),
        "user": REPLICATION,
        "sslmode": "verify-full",
        "sslcert": str(tls / "host.crt"),
        "sslkey": str(tls / "host.key"),
        "sslrootcert": str(tls / "ca.crt"),
        "application_name": application_name,
        "connect_timeout": "3" if several == 1 else "2",  # of each address; 2 s is the least that libpq knows
        "keepalives_idle": "2",
        "keepalives_interval": "1",
        "keepalives_count": "3",
        "tcp_user_timeout": "5000",
    }
    if dbname:
        fields["dbname"] = dbname
    return " ".join(f"{key}={quote(value)}" for key, value in fields.items())


def upstream_file(info: str | None, delay: float = 0.0) -> str:
    """primary_conninfo; none at all stops the receiver. `delay` in seconds keeps replay behind (a lagged copy)."""
    return f"primary_conninfo = {quote_setting(info or '')}\nrecovery_min_apply_delay = {int(delay * 1000)}ms\n"


def target(until: float, incarnation: str) -> str:
    """Replay stops for good at Unix second `until`; PostgreSQL takes that at its start only. It says for which files
    that was."""
    return f"{TARGET} = '{datetime.fromtimestamp(until, UTC).isoformat(sep=' ')}'  # {incarnation}\n"


def moment(text: str) -> float | None:
    """The `until` of an instance, as its setting says it."""
    return datetime.fromisoformat(text).timestamp() if text else None
