"""What both works of the array process stand in: the holder's (`array.service`) and the DNS updater's
(`array.dns.service`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from everpost.clock import Clock
from everpost.directory.interface import Directory, Entry
from everpost.directory.schema import OrganizationView
from everpost.model.tenure import Timing


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """`instance` is the life of this process on the server `me`. `entry` and `learn` are the directory's cache; `page`
    gives the deadline and the epoch of the server's own tenure."""

    me: str
    instance: str
    directory: Directory
    clock: Clock
    organization: OrganizationView
    timing: Timing
    entry: Callable[[str], Entry | None]
    learn: Callable[[Entry], None]
    page: Callable[[], tuple[float, int]]
