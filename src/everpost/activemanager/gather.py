"""Builds the view on which `decide` works, from what the caches hold. Nothing here asks anybody."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

import msgspec

from everpost.activemanager.view import DatabaseView, ServerView, View
from everpost.directory import keys
from everpost.directory.interface import Entry
from everpost.directory.schema import decode
from everpost.model.database import CopyStatus, Location, MailboxDatabase, Progress
from everpost.model.server import DatabaseAvailabilityGroup, Server
from everpost.model.tenure import FencingRecord, PamRecord, TenureRecord

log = logging.getLogger(__name__)


class Live:
    """The fast-changing keys, decoded when they change: tenure, fence, PAM, progress, status.

    `get` reads a raw entry from the cache; decoded values are kept by revision.
    """

    def __init__(self, get: Callable[[str], Entry | None]) -> None:
        self._get = get
        self._decoded: dict[str, tuple[int, object]] = {}
        self._statuses: dict[str, tuple[int, Mapping[str, CopyStatus]]] = {}

    def _value(self, key: str, kind: type) -> tuple[object, int] | None:
        entry = self._get(key)
        if entry is None:
            return None
        known = self._decoded.get(key)
        if known is None or known[0] != entry.revision:
            try:
                known = (entry.revision, decode(kind, entry.value))
            except msgspec.MsgspecError as error:
                log.error("the document at %s cannot be read: %s", key, error)
                return None
            self._decoded[key] = known
        return known[1], entry.revision

    def tenure(self, server: str) -> tuple[TenureRecord, int] | None:
        """A server's tenure and its revision."""
        return self._value(keys.tenure(server), TenureRecord)  # type: ignore[return-value]

    def fence(self, server: str) -> tuple[FencingRecord, int] | None:
        """A server's fence and its revision."""
        return self._value(keys.fence(server), FencingRecord)  # type: ignore[return-value]

    def pam(self, dag: str) -> tuple[PamRecord, int] | None:
        """The DAG's PAM and the revision of that record."""
        return self._value(keys.pam(dag), PamRecord)  # type: ignore[return-value]

    def progress(self, database: str) -> Progress | None:
        """The last progress seen."""
        found = self._value(keys.progress(database), Progress)
        return None if found is None else found[0]  # type: ignore[return-value]

    def status(self, server: str) -> Mapping[str, CopyStatus]:
        """What the server last said of its copies, by database."""
        found = self._value(keys.status(server), list[CopyStatus])
        if found is None:
            return {}
        rows, revision = found
        known = self._statuses.get(server)
        if known is None or known[0] != revision:
            known = self._statuses[server] = (revision, {row.database: row for row in rows})  # type: ignore[attr-defined]
        return known[1]


class Gatherer:
    """Keeps for how long each location revision has been seen, by this host's clock."""

    def __init__(self, me: str, live: Live) -> None:
        self._me = me
        self._live = live
        self._first_seen: dict[str, tuple[int, float]] = {}

    def view(
        self,
        now: float,
        dag: DatabaseAvailabilityGroup | None,
        databases: Mapping[str, MailboxDatabase],
        locations: Mapping[str, tuple[Location, int]],
        expired: Callable[[str], bool],
        documents: Mapping[str, Server] | None = None,
        maintenance: Collection[str] = (),
    ) -> View:
        """The view of this server's DAG, or of itself alone when it is in none. `documents`: the servers' settings,
        `maintenance`: who is in it."""
        members = dag.members if dag is not None else (self._me,)
        rows = []
        for name, database in databases.items():
            found = locations.get(name)
            if found is None or found[0].active not in members:
                continue
            location, revision = found
            first = self._first_seen.get(name)
            if first is None or first[0] != revision:
                first = self._first_seen[name] = (revision, now)
            rows.append(
                DatabaseView(
                    database=database,
                    location=location,
                    revision=revision,
                    seen_for=now - first[1],
                    progress=self._live.progress(name),
                    copies={
                        server: status[name]
                        for server in database.servers
                        if name in (status := self._live.status(server))
                    },
                )
            )
        pam = self._live.pam(dag.name) if dag is not None else None
        return View(
            me=self._me,
            dag=dag.name if dag is not None else None,
            pam=pam[0].holder if pam is not None else None,
            pam_revision=pam[1] if pam is not None else 0,
            servers={
                name: settled(self._server(name, expired), (documents or {}).get(name), name in maintenance)
                for name in members
            },
            databases=tuple(rows),
        )

    def _server(self, name: str, expired: Callable[[str], bool]) -> ServerView:
        tenure = self._live.tenure(name)
        fence = self._live.fence(name)
        if tenure is None or fence is None:
            return ServerView(name=name, tenure=None)
        return ServerView(
            name=name,
            tenure=fence[0].state,
            tenure_revision=tenure[1],
            fence_revision=fence[1],
            epoch=fence[0].epoch,
            expired=expired(name),
        )


def settled(server: ServerView, document: Server | None, maintenance: bool) -> ServerView:
    """The server's view with what an administrator set for it."""
    if document is None:
        return server
    return msgspec.structs.replace(
        server,
        site=document.site,
        mount_dial=document.mount_dial,
        activation_policy=document.activation_policy,
        maximum_active=document.maximum_active_databases,
        maximum_preferred=document.maximum_preferred_active_databases,
        maintenance=maintenance,
    )
