"""The two clocks of tenure, pure: for how long a holder may serve, and for how long a challenger must have waited.

Each side compares instants of its own host's clock only (CLOCK_BOOTTIME seconds); no instant is ever sent.
"""

from __future__ import annotations

from everpost.model.tenure import Timing


class Validity:
    """Until when the holder may serve: HOLD after the send time of the newest confirmed renewal."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self.until = 0.0
        self.sent = 0.0

    def deadline(self, sent: float) -> float:
        """What a renewal that was sent at `sent` is worth once it is confirmed. `sent` was read before sending."""
        return sent + self._timing.hold

    def confirmed(self, sent: float) -> None:
        """A renewal sent at `sent` was confirmed. Only this extends the validity: an unknown outcome never does."""
        self.sent = max(self.sent, sent)
        self.until = max(self.until, self.deadline(sent))

    def drop(self) -> None:
        """Taken, or given back."""
        self.until = 0.0

    def valid(self, now: float) -> bool:
        """Whether the holder may act now."""
        return now < self.until


class Timers:
    """For how long each server's newest tenure revision has been seen.

    The wait for a revision begins when it was first received; a reconnect that shows the same revision changes
    nothing, as whoever wrote it sent it before that. Learning a newer one begins a full wait.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._seen: dict[str, tuple[int, float]] = {}

    def saw(self, server: str, revision: int, now: float) -> None:
        """A revision of the server's tenure was received."""
        known = self._seen.get(server)
        if known is None or revision > known[0]:
            self._seen[server] = (revision, now)

    def forget(self, server: str) -> None:
        """The server's tenure was deleted."""
        self._seen.pop(server, None)

    def expired(self, server: str, now: float) -> bool:
        """Whether nothing new came for TAKE seconds."""
        known = self._seen.get(server)
        return known is not None and now - known[1] >= self._timing.take

    def revision(self, server: str) -> int:
        """The revision that the wait is about; 0: none was seen."""
        known = self._seen.get(server)
        return known[0] if known is not None else 0

    def waited_for(self, server: str, now: float) -> int | None:
        """The revision that may be taken now, or None. Whoever takes asks this, not an older answer of `expired`: in
        between a renewal may have come, and its revision has not been waited for."""
        return self.revision(server) if self.expired(server, now) else None
