"""The main job, end to end: `everpost demo` with real servers, a cut, a rejoin, a switchover and the audit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from everpost.lab.report import ZERO


@pytest.mark.fault
@pytest.mark.netns
@pytest.mark.timeout(400)
def test_the_demonstration_loses_nothing(tmp_path: Path) -> None:
    """Times are for bench/failover; here counts decide. The exit status is 1 only for what the report names."""
    report = tmp_path / "report.json"
    argv = [sys.executable, "-m", "everpost", "demo", "--no-keep", "--json", str(report)]
    argv += ["--least", "1500", "--seconds", "16"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=380, cwd="/")
    assert report.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(report.read_text())
    print(json.dumps(found, indent=2))
    for name in ZERO:
        assert found[name] == 0, done.stdout[-3000:]
    assert found["copies_identical"] is True, done.stdout[-3000:]
    assert found["acknowledged"] >= 1500
    assert found["flags_acknowledged"] > 50
    assert found["sessions_survived"] == found["sessions_total"] == 8, done.stdout[-3000:]
    assert found["waiting_message_s"] < 30.0
    kept = "Nothing acknowledged was lost." in done.stdout
    assert done.returncode == (0 if kept else 1)
