"""Commands, one module per noun. `load` registers them all."""

from __future__ import annotations


def load() -> None:
    """Import every module; importing registers."""
    from everpost.manage.cmdlets import (  # noqa: F401
        copies,
        dag,
        dagservers,
        databases,
        events,
        general,
        health,
        mailboxes,
        networks,
        preflight,
        sites,
    )
