"""Alarms about DNS records that are not kept right: what the updater says of itself, and its silence."""

from __future__ import annotations

from collections.abc import Callable, Collection

from everpost.model.dns import DnsUpdater
from everpost.monitoring import catalogue
from everpost.monitoring.alarms import Alarms, Change
from everpost.monitoring.catalogue import Kind

STALE_RED = 10.0
"""Seconds that records must have been wrong: one try that failed is no alarm."""
SILENT = 20.0
"""Seconds without a word of an updater, which speaks twice a second."""
Tell = Callable[[dict[str, Change], Kind, Kind, str], None]


class DnsAlarms:
    """Looks on every server, so that each shows the alarms; only `writer` writes the journal."""

    def __init__(self) -> None:
        self._stale = Alarms(STALE_RED)
        self._conflicts = Alarms(0.0)
        self._record: DnsUpdater | None = None
        self._heard = float("-inf")

    def saw(self, record: DnsUpdater, now: float) -> None:
        """The updater's record changed."""
        self._record, self._heard = record, now

    def writer(self, now: float) -> str | None:
        """Which server writes the journal: the updater; None: there is none."""
        record = self._record
        return record.server if record is not None and record.held and now - self._heard < SILENT else None

    @property
    def standing(self) -> dict[str, str]:
        """Alarms that stand."""
        return {**self._stale.standing, **self._conflicts.standing}

    def look(self, now: float, zones: Collection[str], tell: Tell) -> None:
        """`zones`: those that are configured."""
        stale: dict[str, str] = {}
        conflicts: dict[str, str] = {}
        keeps = self.writer(now) is not None
        for zone in zones:
            status = next((one for one in self._record.zones if one.zone == zone), None) if self._record else None
            error = f": {status.error}" if status is not None and status.error else ""
            if not keeps:
                stale[f"DNS zone {zone}"] = f"no server keeps the DNS records of {zone}{error}"
            elif status is not None and status.stale_since:
                stale[f"DNS zone {zone}"] = f"the DNS records of {zone} are stale since {status.stale_since}{error}"
            for name, why in status.conflicts.items() if status is not None else ():
                conflicts[f"DNS name {name}"] = why
        tell(self._stale.look(now, stale), catalogue.DNS_STALE, catalogue.DNS_CURRENT, "the records of the {} are kept")
        tell(
            self._conflicts.look(now, conflicts),
            catalogue.DNS_CONFLICT,
            catalogue.DNS_CONFLICT_OVER,
            "nothing is in the way of the {} any more",
        )
