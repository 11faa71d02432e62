"""Hosts of a lab find their processes."""

from __future__ import annotations

import subprocess
import sys

from everpost.lab import hosts


def test_a_process_that_is_just_being_executed_belongs_to_its_host() -> None:
    """Its environment is empty for a moment: a cut would have missed it."""
    argv = [sys.executable, "-c", "import time; time.sleep(1000)"]
    for _ in range(50):
        with subprocess.Popen(argv, env={"EVERPOST_LAB_HOST": "lab-EX01"}) as process:
            try:
                assert b"EVERPOST_LAB_HOST=lab-EX01" in hosts._environment_of(process.pid)
            finally:
                process.kill()


def test_a_process_without_environment_belongs_to_nobody() -> None:
    with subprocess.Popen(["sleep", "1000"], env={}) as process:
        try:
            assert hosts._environment_of(process.pid) == [b""]
        finally:
            process.kill()
