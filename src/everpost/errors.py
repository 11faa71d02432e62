"""Errors that say what happened, why, and what to do about it."""

from __future__ import annotations


class EverpostError(Exception):
    """An error with its remedy.

    `what` is one sentence for the person who typed or called; `remedy` is what to type or do next;
    `retry` says whether the same request may succeed later without anybody changing anything.
    """

    def __init__(self, what: str, *, remedy: str = "", retry: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.retry = retry

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}".rstrip()


class OutcomeUnknown(EverpostError):
    """A write was sent and its answer lost: it may have happened, may still happen, or never will."""


class Unavailable(EverpostError):
    """Nobody could be asked; nothing was written."""

    def __init__(self, what: str, *, remedy: str = "", retry: bool = True) -> None:
        super().__init__(what, remedy=remedy, retry=retry)


class Refused(EverpostError):
    """The request is understood and declined, for a stated reason."""


class NotFound(Refused):
    """The named object does not exist."""


class AlreadyExists(Refused):
    """An object of that name exists already."""
