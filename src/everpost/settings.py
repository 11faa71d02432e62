"""One server's settings: a TOML file, parsed once at the edge; unknown keys are refused with the nearest known one."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from everpost.errors import EverpostError
from everpost.model.server import Ports, Role
from everpost.model.tenure import Timing

DEFAULT_PATH = Path("/etc/everpost/everpost.toml")


class SettingsError(EverpostError):
    """The settings file cannot be used."""


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one host. `data_dir` must survive, `run_dir` need not. Empty binary folders: the newest installed.

    `etcd_endpoints` are addresses of other voters known when this file was written; the live list is in
    `data_dir`/voters.json once the agent has run.

    `keep_logs`: how many logs (1 MB) an active copy keeps for copies that are absent or suspended; past them such a
    copy is seeded anew, so that an absent copy cannot fill the disk. `scrub_days`: how often all pages are read.
    `low_space_gb`: with less than this free on the disk of the databases a lagged copy replays what it has, and copies
    keep no log for a TruncationLagTime.
    """

    name: str
    address: str
    replication_address: str = ""
    roles: tuple[Role, ...] = (Role.MAILBOX, Role.CLIENT_ACCESS, Role.HUB_TRANSPORT)
    data_dir: Path = Path("/var/lib/everpost")
    run_dir: Path = Path("/run/everpost")
    ports: Ports = Ports()
    timing: Timing = Timing()
    postgres_bin: str = ""
    etcd_bin: str = ""
    path_root: str = ""
    strict_reads: bool = False
    boot_id_file: Path = Path("/proc/sys/kernel/random/boot_id")
    log_format: str = "auto"
    keep_logs: int = 1024
    scrub_days: float = 7.0
    low_space_gb: float = 10.0

    @property
    def tls_dir(self) -> Path:
        """ca.crt, host.crt, host.key; on the first server ca.key too."""
        return self.data_dir / "tls"

    @property
    def admin_socket(self) -> Path:
        """Where the CLI reaches the agent."""
        return self.run_dir / "admin.sock"

    @property
    def warden_socket(self) -> Path:
        """Where the agent reaches the warden."""
        return self.run_dir / "warden.sock"

    @property
    def shared_page(self) -> Path:
        """`directory.page.SharedPage` of this host."""
        return self.run_dir / "tenure"


_NESTED: dict[str, type[msgspec.Struct]] = {"ports": Ports, "timing": Timing}


def _refuse_unknown(table: dict[str, Any], kind: type[msgspec.Struct], path: Path, prefix: str = "") -> None:
    known = {field.name for field in msgspec.structs.fields(kind)}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known settings: {', '.join(sorted(known))}."
            raise SettingsError(f"Unknown setting {prefix + key!r} in {path}.", remedy=hint)
        inner = _NESTED.get(key) if kind is ServerSettings else None
        if inner is not None and isinstance(value, dict):
            _refuse_unknown(value, inner, path, f"{key}.")


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"a value of type {kind.__name__}")


def load(path: Path) -> ServerSettings:
    """Read and check the settings at `path`. Raises SettingsError with its remedy."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"There are no settings at {path}.", remedy="Run `everpost server init` or `everpost server join` first."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}.", remedy="Correct the file and try again.") from error
    _refuse_unknown(table, ServerSettings, path)
    try:
        settings = msgspec.convert(table, ServerSettings, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path}: {error}.", remedy="Correct the file and try again.") from error
    refusal = settings.timing.refusal()
    if refusal:
        raise SettingsError(f"{path}: {refusal}.", remedy="Raise timing.take or lower timing.hold.")
    if not settings.replication_address:
        settings = msgspec.structs.replace(settings, replication_address=settings.address)
    return settings
