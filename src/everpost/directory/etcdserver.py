"""One etcd member: its settings as a durable file, and the command line made from it (findings: block 9)."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import msgspec

from everpost.errors import EverpostError
from everpost.model.server import https

LEAST = (3, 4, 23)
PATHS = ("/usr/bin/etcd", "/usr/local/bin/etcd")


class EtcdMemberSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A member. `initial_cluster`: (name, peer URL) of all members at the time it joins; `fsync` False in labs only."""

    name: str
    address: str
    client_port: int
    peer_port: int
    data_dir: str
    tls_dir: str
    initial_cluster: tuple[tuple[str, str], ...]
    existing: bool
    token: str
    fsync: bool = True
    member: str = ""

    @property
    def peer_url(self) -> str:
        """Where other members reach it."""
        return https(self.address, self.peer_port)

    @property
    def client_url(self) -> str:
        """Where clients reach it."""
        return https(self.address, self.client_port)


def argv(spec: EtcdMemberSpec, binary: str) -> list[str]:
    """The command line."""
    tls = spec.tls_dir
    line = [
        binary,
        "--name", spec.name,
        "--data-dir", spec.data_dir,
        "--heartbeat-interval", "50",
        "--election-timeout", "500",
        "--pre-vote",
        "--listen-client-urls", spec.client_url,
        "--advertise-client-urls", spec.client_url,
        "--listen-peer-urls", spec.peer_url,
        "--initial-advertise-peer-urls", spec.peer_url,
        "--initial-cluster", ",".join(f"{name}={url}" for name, url in spec.initial_cluster),
        "--initial-cluster-state", "existing" if spec.existing else "new",
        "--initial-cluster-token", spec.token,
        "--cert-file", f"{tls}/host.crt", "--key-file", f"{tls}/host.key",
        "--client-cert-auth", "--trusted-ca-file", f"{tls}/ca.crt",
        "--peer-cert-file", f"{tls}/host.crt", "--peer-key-file", f"{tls}/host.key",
        "--peer-client-cert-auth", "--peer-trusted-ca-file", f"{tls}/ca.crt",
        "--grpc-keepalive-min-time", "500ms",
        "--auto-compaction-mode", "revision", "--auto-compaction-retention", "100000",
        "--snapshot-count", "10000",
        "--max-txn-ops", "1024",
        "--quota-backend-bytes", "2147483648",
        "--logger", "zap", "--log-level", "warn",
    ]  # fmt: skip
    if not spec.fsync:
        line.append("--unsafe-no-fsync")
    return line


def find(named: str = "") -> str:
    """The etcd program: named in the settings, else where Debian puts it. Raises EverpostError with what to install."""
    seen = []
    for path in [os.path.join(named, "etcd")] if named else PATHS:
        try:
            text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        found = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", text)
        if found is None:
            continue
        version = (int(found[1]), int(found[2]), int(found[3]))
        seen.append(".".join(map(str, version)))
        if version >= LEAST and version[0] == 3 and version[1] <= 5:
            return path
    raise EverpostError(
        f"No usable etcd was found (seen: {', '.join(seen) or 'none'}).",
        remedy="Install etcd-server of at least 3.4.23, or name its folder as etcd_bin in the settings.",
    )


def save(spec: EtcdMemberSpec, path: Path) -> None:
    """Durably; `everpost serve` runs the member while this file exists."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as file:
        file.write(msgspec.json.encode(spec))
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def load(path: Path) -> EtcdMemberSpec | None:
    """The member that runs here, or None. Raises EverpostError if the file is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=EtcdMemberSpec)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise EverpostError(
            f"{path} cannot be read: {error}.", remedy="Remove this member from the cluster and add it again."
        ) from error


def remove(path: Path) -> None:
    """Durably: `everpost serve` runs no member here any more. Its data stays, and is wiped before another begins."""
    path.unlink(missing_ok=True)
    _sync(path.parent)
