"""The benchmarks' own judgement, on ledgers made by hand: what is missing is counted, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from peers.contest import Result, summary  # type: ignore[import-not-found]  # noqa: E402
from peers.loss import missing  # type: ignore[import-not-found]  # noqa: E402
from peers.patroni import DCS, LOCK  # type: ignore[import-not-found]  # noqa: E402
from peers.sql import table  # type: ignore[import-not-found]  # noqa: E402


def _ack(user: str, identity: str) -> dict[str, str]:
    return {"kind": "ack", "user": user, "id": identity}


def _flag(user: str, identity: str, flag: str) -> dict[str, str]:
    return {"kind": "flag", "user": user, "id": identity, "flag": flag}


def test_messages_and_flags_that_were_acknowledged_and_are_gone_are_counted() -> None:
    facts = [_ack("a", "1"), _ack("a", "2"), _ack("b", "3"), _flag("a", "1", "\\Seen"), _flag("a", "1", "$Label1")]
    facts += [_flag("a", "2", "\\Seen"), {"kind": "failed", "why": "the server is dead"}]
    held = {"a": {"1": ["\\Seen"], "9": []}, "b": {"3": []}}
    assert missing(facts, held) == (1, 2)


def test_a_message_in_another_mailbox_is_missing() -> None:
    assert missing([_ack("a", "1")], {"a": {}, "b": {"1": []}}) == (1, 0)


def test_nothing_is_missing_where_everything_is_held() -> None:
    facts = [_ack("a", "1"), _flag("a", "1", "\\Seen")]
    assert missing(facts, {"a": {"1": ["\\Seen", "\\Flagged"]}}) == (0, 0)


def _result(outage: float, lost: int) -> Result:
    return Result(
        outages=[outage, outage, 2 * outage],
        switchovers=[0.1],
        restarts=[0.2],
        crashes=[0.3],
        passive_cuts=[0.4],
        rejoins=[0.5],
        acknowledged=100,
        missing=lost,
    )


def test_the_table_shows_median_worst_ratio_and_what_is_missing() -> None:
    lines = table(_result(2.0, 0), _result(20.0, 7), "Patroni")
    assert "| active server cut off | 2.00 / 4.00 | 20.00 / 40.00 | 10.0 |" in lines
    assert "0 of 100 | 7 of 100" in lines[-1]
    assert summary([1.0, 3.0, 2.0]) == {"median": 2.0, "worst": 3.0}


def test_patroni_is_pinned_with_hashes_at_the_fastest_settings_it_accepts() -> None:
    pinned = [line for line in LOCK.read_text().splitlines() if line.startswith("patroni==4.")]
    assert pinned and pinned[0].endswith("\\")
    assert (DCS["ttl"], DCS["loop_wait"], DCS["retry_timeout"]) == (20, 1, 3)
    assert DCS["synchronous_mode"] and not DCS["synchronous_mode_strict"]


@pytest.mark.parametrize("program", ("failover", "faults", "loss"))
def test_each_benchmark_explains_itself(program: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / program, "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
