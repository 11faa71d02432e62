"""Commands, one module per noun. `load` registers them all."""

from __future__ import annotations


def load() -> None:
    """Import every module; importing registers."""
    from everpost.manage.cmdlets import copies, dag, dagservers, databases, general, mailboxes  # noqa: F401
