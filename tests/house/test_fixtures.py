"""The shared fixtures themselves: what they promise to the other tests."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import USER, Spawn


def test_ports_are_different(free_ports: Callable[[int], list[int]]) -> None:
    assert len(set(free_ports(20))) == 20


def test_the_everpost_user_can_use_the_folder_and_import_the_package(shared_dir: Path, as_everpost: Spawn) -> None:
    code = f"import everpost, os, pathlib; pathlib.Path({str(shared_dir)!r}, 'who').write_text(str(os.geteuid()))"
    assert as_everpost([sys.executable, "-c", code]).wait(30) == 0
    who = int((shared_dir / "who").read_text())
    assert (who == os.geteuid()) == (USER is None)


def test_etcd_is_real(etcd: str) -> None:
    with urllib.request.urlopen(f"{etcd}/version", timeout=5) as answer:
        assert b"etcdserver" in answer.read()


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_a_skip_fails_in_ci_and_is_accounted_for_elsewhere(tmp_path: Path, ci: str, status: int) -> None:
    root = Path(__file__).parents[2]
    (tmp_path / "conftest.py").write_text((root / "tests/conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
            import pytest
            def test_good(): pass
            def test_absent(): pytest.skip("needs a volcano")
        """)
    )
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            "/dev/null",
            "--rootdir",
            tmp_path,
            tmp_path,
        ],
        env=os.environ | {"CI": ci},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == status, run.stdout
    assert "1 test(s): needs a volcano" in run.stdout
