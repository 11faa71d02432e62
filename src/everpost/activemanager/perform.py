"""Carries out what `decide` decided: each action one compare-and-swap, guarded by all that the decision relied on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from everpost.activemanager.decide import Action, Activate, Settle, TakePam, TakeServer
from everpost.activemanager.record import Held, LocationWriter, Superseded
from everpost.activemanager.view import View
from everpost.clock import Clock
from everpost.directory import keys
from everpost.directory.interface import Directory
from everpost.directory.schema import encode
from everpost.errors import OutcomeUnknown, Unavailable
from everpost.log import fact
from everpost.model.tenure import PamRecord

log = logging.getLogger(__name__)


class Taker(Protocol):
    """Takes the tenure of a server that was silent for TAKE seconds (`directory.tenure.Challengers`)."""

    async def take(self, server: str, extra_guards: Mapping[str, int], extra_puts: Mapping[str, bytes | None]) -> bool:
        """Whether this server won; raises OutcomeUnknown."""


class Performer:
    """Performs actions for this server. `own_guard` is this server's fence at its revision."""

    def __init__(
        self,
        me: str,
        directory: Directory,
        writer: LocationWriter,
        taker: Taker,
        clock: Clock,
        own_guard: Callable[[], Mapping[str, int]],
    ) -> None:
        self._me = me
        self._directory = directory
        self._writer = writer
        self._taker = taker
        self._clock = clock
        self._own_guard = own_guard

    async def perform_all(self, actions: Sequence[Action], view: View) -> None:
        """What one look decided: tenures first, as each changes what may be done; then all databases at once, each by
        a compare-and-swap of its own record. The limits of a server were counted when it was decided."""
        for action in actions:
            if isinstance(action, TakeServer | TakePam):
                await self.perform(action, view)
        databases = [action for action in actions if isinstance(action, Activate | Settle)]
        await asyncio.gather(*(self.perform(action, view) for action in databases))

    async def perform(self, action: Action, view: View) -> bool:
        """Whether the action was confirmed. False: it lost a race or its outcome is unknown; decide anew on a newer
        view, where it either shows or is decided again (every action is harmless when repeated)."""
        try:
            match action:
                case TakeServer():
                    return await self._take_server(action, view)
                case TakePam():
                    return await self._take_pam(action, view)
                case Activate() | Settle():
                    return await self._write(action, view)
        except (OutcomeUnknown, Unavailable, Superseded) as error:
            fact(log, "action not confirmed", action=type(action).__name__, why=str(error))
            return False

    async def _take_server(self, action: TakeServer, view: View) -> bool:
        guards: dict[str, int] = {}
        puts: dict[str, bytes | None] = {}
        if action.with_pam and view.dag is not None:
            guards[keys.pam(view.dag)] = view.pam_revision
            puts[keys.pam(view.dag)] = self._pam(view.dag, view.pam_revision)
        won = await self._taker.take(action.server, guards, puts)
        if won:
            fact(
                log,
                "tenure taken",
                level=logging.WARNING,
                server=action.server,
                with_pam=action.with_pam,
                at=self._clock.boottime(),
            )
        return won

    def _pam(self, dag: str, revision: int) -> bytes:
        # The record's epoch is the revision it replaces: it grows with every change and needs no counter of its own.
        return encode(PamRecord(dag=dag, holder=self._me, epoch=revision + 1))

    async def _take_pam(self, action: TakePam, view: View) -> bool:
        key = keys.pam(action.dag)
        guards = {key: view.pam_revision, **self._own_guard()}
        holder = view.servers.get(view.pam) if view.pam is not None else None
        if holder is not None:
            guards[keys.fence(holder.name)] = holder.fence_revision
        result = await self._directory.txn(guards, {key: self._pam(action.dag, view.pam_revision)})
        if result.succeeded:
            fact(log, "primary active manager", dag=action.dag, why=action.reason)
        return result.succeeded

    async def _write(self, action: Activate | Settle, view: View) -> bool:
        row = next(row for row in view.databases if row.location.database == action.database)
        fences = {keys.fence(server): revision for server, revision in action.fences.items()}
        if view.dag is not None:
            fences[keys.pam(view.dag)] = view.pam_revision
        await self._writer.change(
            Held(row.location, row.revision), lambda _: action.after, fences=fences, give_up=lambda: True
        )
        fact(
            log,
            "activation decided" if isinstance(action, Activate) else "dismount finished",
            level=logging.WARNING if action.after.lossy else logging.INFO,
            database=action.database,
            active=action.after.active,
            token=str(action.after.token),
            why=action.reason,
            at=self._clock.boottime(),
        )
        return True
