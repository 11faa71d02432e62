"""Timing and records of tenure: ownership by compare-and-swap renewals, each host by its own clock (3.8)."""

from __future__ import annotations

import enum

import msgspec


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. Safe while TAKE (1 - drift) >= (HOLD + STOP)(1 + drift); `refusal` says so."""

    renew: float = 0.3
    attempt: float = 0.2
    hold: float = 1.8
    stop: float = 0.4
    take: float = 2.3
    drift: float = 0.001

    def refusal(self) -> str | None:
        """Why these values would let two servers serve at once, or None."""
        if self.take * (1 - self.drift) < (self.hold + self.stop) * (1 + self.drift):
            return f"take {self.take} s must be at least hold + stop ({self.hold + self.stop} s) plus clock drift"
        return None


class TenureState(enum.StrEnum):
    """Whether the server holds its tenure, gave it back, or was taken."""

    UP = "up"
    RELEASED = "released"
    TAKEN = "taken"


class TenureRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record that a server rewrites every `renew` seconds. `instance` is the warden's life; `taker` who took it."""

    server: str
    instance: str
    epoch: int
    counter: int
    state: TenureState
    taker: str | None = None
    boot_id: str = ""


class FencingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Changed only when tenure is acquired or taken: its mod-revision guards every write of the holder."""

    server: str
    instance: str
    epoch: int
    state: TenureState


class PamRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Which member is the Primary Active Manager of a DAG; valid while that server holds its tenure."""

    dag: str
    holder: str
    epoch: int
