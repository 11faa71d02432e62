"""Lets a benchmark be called by its name on a fresh clone: what it needs is installed, and it begins anew with it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path


def enter() -> None:
    """Returns when Everpost can be imported; else sets up and starts the program again. Call before its imports."""
    if importlib.util.find_spec("everpost") is not None and importlib.util.find_spec("aiohttp") is not None:
        return
    scripts = Path(__file__).resolve().parent.parent / "scripts"
    if os.environ.get("EVERPOST_BENCH_AGAIN"):
        sys.exit("Everpost cannot be imported even after set-up; run make setup and look at what it says.")
    os.environ["EVERPOST_BENCH_AGAIN"] = "yes"
    subprocess.run([str(scripts / "setup"), "demo"], check=True, stdout=sys.stderr)
    place = subprocess.run([str(scripts / "place")], check=True, capture_output=True, text=True).stdout.strip()
    python = f"{place}/venv/bin/python"
    os.execv(python, [python, *sys.argv])
