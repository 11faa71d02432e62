"""Finding PostgreSQL's programs: named in the settings, else the newest installed; never by PATH."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from everpost.errors import EverpostError

LEAST = {15: 13, 16: 9, 17: 5}
"""Lowest minor release by major: earlier ones may skip the wait for the set just after start."""
NEWEST_MAJOR = 18


class Binaries:
    """The folder with postgres, initdb, pg_basebackup, pg_rewind, pg_controldata and pg_waldump, checked once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, program: str) -> str:
        """The absolute path of a program."""
        return str(self.folder / program)


def _version(folder: Path) -> tuple[int, int] | None:
    try:
        text = subprocess.run(
            [str(folder / "postgres"), "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def find(named: str = "") -> Binaries:
    """The programs to use. Raises EverpostError, with what to install, when none is good enough."""
    folders = (
        [Path(named)]
        if named
        else sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    )
    seen = []
    for folder in folders:
        version = _version(folder)
        if version is None:
            continue
        seen.append(f"{version[0]}.{version[1]}")
        if min(LEAST) <= version[0] <= NEWEST_MAJOR and version[1] >= LEAST.get(version[0], 0):
            return Binaries(folder)
    raise EverpostError(
        f"No usable PostgreSQL was found (seen: {', '.join(seen) or 'none'}).",
        remedy="Install postgresql-15 of at least 15.13, or name its folder as postgres_bin in the settings.",
    )
