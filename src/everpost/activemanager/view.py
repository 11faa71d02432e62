"""The frozen snapshot on which the Active Manager decides. Built by `gather`, never changed."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from everpost.model.database import CopyStatus, Location, MailboxDatabase, Progress
from everpost.model.server import ActivationPolicy, MountDial
from everpost.model.tenure import TenureState


class ServerView(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the DAG. `tenure` None: it never had one. `expired`: no renewal was seen for TAKE seconds, so it may
    be taken. `fence_revision`, `tenure_revision`: what a compare-and-swap that relies on this must guard. The rest is
    what an administrator set for it."""

    name: str
    tenure: TenureState | None
    tenure_revision: int = 0
    fence_revision: int = 0
    epoch: int = 0
    expired: bool = False
    site: str = ""
    mount_dial: MountDial = MountDial.LOSSLESS
    activation_policy: ActivationPolicy = ActivationPolicy.UNRESTRICTED
    maximum_active: int | None = None
    maximum_preferred: int | None = None
    maintenance: bool = False

    @property
    def holds_tenure(self) -> bool:
        """Whether it renews, as far as was seen."""
        return self.tenure is TenureState.UP and not self.expired


class DatabaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A database, its location at `revision`, for how long this revision has been seen, and the copies' own words."""

    database: MailboxDatabase
    location: Location
    revision: int
    seen_for: float
    progress: Progress | None = None
    copies: Mapping[str, CopyStatus] = {}


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What one server's Active Manager sees of its DAG. A server without a DAG is a DAG of itself, always its PAM."""

    me: str
    dag: str | None
    pam: str | None
    pam_revision: int
    servers: Mapping[str, ServerView]
    databases: tuple[DatabaseView, ...]

    @property
    def is_pam(self) -> bool:
        """Whether this server decides."""
        return self.dag is None or self.pam == self.me
