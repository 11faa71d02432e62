"""Pieces that every process of a host puts together in the same way."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path

from everpost.directory import etcdserver, keys
from everpost.directory.cache import DirectoryCache
from everpost.directory.etcd import EtcdDirectory
from everpost.directory.schema import OrganizationView
from everpost.net import tls
from everpost.settings import ServerSettings


def voters_file(settings: ServerSettings) -> Path:
    """Where the agent keeps the directory's members for the next start."""
    return settings.data_dir / "voters.json"


def etcd_file(settings: ServerSettings) -> Path:
    """The member that `everpost serve` runs here while this file exists."""
    return settings.data_dir / "etcd.json"


def init_file(settings: ServerSettings) -> Path:
    """What `everpost server init` leaves for the first server's agent to put into the directory."""
    return settings.data_dir / "init.json"


def dac_file(settings: ServerSettings) -> Path:
    """What datacenter activation coordination remembers over a restart (`activemanager.dac.Remembered`)."""
    return settings.data_dir / "dac.json"


def boot_id(settings: ServerSettings) -> str:
    """Which boot of this machine it is; "" when the kernel does not say."""
    try:
        return settings.boot_id_file.read_text().strip()
    except OSError:
        return ""


def endpoints(settings: ServerSettings) -> list[str]:
    """Client URLs of the directory's members, the host's own first."""
    found: list[str] = []
    own = etcdserver.load(etcd_file(settings))
    if own is not None:
        found.append(own.client_url)
    try:
        found += json.loads(voters_file(settings).read_text())
    except (OSError, ValueError):
        pass
    return list(dict.fromkeys(found))


def open_directory(settings: ServerSettings) -> EtcdDirectory:
    """The directory as this host reaches it."""
    return EtcdDirectory(endpoints(settings), tls.client_context(settings.tls_dir))


async def follow_voters(settings: ServerSettings, directory: EtcdDirectory) -> None:
    """Take up changes of voters.json and etcd.json, which the agent writes."""
    known = endpoints(settings)
    while True:
        await asyncio.sleep(1.0)
        now = endpoints(settings)
        if now != known:
            known = now
            directory.set_endpoints(now)


def configuration_cache(
    directory: EtcdDirectory, view: OrganizationView, wake: Callable[[], None]
) -> list[DirectoryCache]:
    """Caches that keep `view` current: configuration and locations."""
    return [
        DirectoryCache(directory, prefix, on_change=view.apply, wake=wake) for prefix in (keys.CONFIG, keys.LOCATIONS)
    ]


def stop_event() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    return stop
