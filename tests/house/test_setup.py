"""Set-up itself: scripts parse, locks are whole, nothing is started by accident."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / "scripts").iterdir(), ROOT / ".ci/run", ROOT / "packaging/install"])


def _locked(name: str) -> dict[str, str]:
    """Package to version and marker."""
    text = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"^([\w.-]+)==(.+?) \\$", text, re.M))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_may_be_run(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert subprocess.run(["bash", "-n", script], capture_output=True).stderr == b""


def test_every_locked_package_has_hashes_and_no_address() -> None:
    for name in ("runtime.txt", "dev.txt"):
        text = (ROOT / "requirements" / name).read_text()
        assert len(re.findall(r"^[\w.-]+==", text, re.M)) == len(
            re.findall(r"^[\w.-]+==.* \\\n    --hash=sha256:", text, re.M)
        )
        assert "://" not in text and "index-url" not in text


def test_the_development_lock_holds_the_runtime_lock() -> None:
    development = _locked("dev.txt")
    for package, version in _locked("runtime.txt").items():
        assert development[package].split(" ;")[0] == version.split(" ;")[0], package


def test_every_dependency_is_locked() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    development = project["optional-dependencies"]["dev"]
    for wanted, lock in ((project["dependencies"], "runtime.txt"), (development, "dev.txt")):
        assert {re.split(r"[<>=!~ ;\[]", entry)[0].lower() for entry in wanted} <= _locked(lock).keys()


def test_setup_twice_has_nothing_to_say() -> None:
    """These tests run inside the environment that set-up made, so a further run must find nothing to do."""
    again = subprocess.run([ROOT / "scripts/packages", "demo"], capture_output=True, text=True, timeout=60)
    assert (again.returncode, again.stdout) == (0, "")


def test_the_unit_supervises_as_the_unprivileged_user() -> None:
    unit = (ROOT / "packaging/everpost.service").read_text().splitlines()
    for line in (
        "User=everpost",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE CAP_NET_ADMIN CAP_NET_RAW",
        "KillMode=mixed",
        "Restart=always",
    ):
        assert line in unit
