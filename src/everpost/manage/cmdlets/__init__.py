"""Commands, one module per noun. `load` registers them all."""

from __future__ import annotations

import importlib
import pkgutil


def load() -> None:
    """Import every module; importing registers."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
