"""A DAG under one seed: production code, and a world in which everything fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.sabotage import FOUND, PAST, SABOTAGES, broken
from tests.simulation.world import Setting, Shape, run, shape_of

STEPS = 400
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(24))
def test_nothing_is_lost_and_all_opens_again(seed: int) -> None:
    report = run(seed, STEPS)
    assert report.violation is None, f"python -m tests.simulation --seed {seed} --steps {STEPS} --trace"
    assert report.steps == STEPS
    assert report.counts["acknowledged"] >= report.shape.databases


@pytest.mark.parametrize("first", range(0, 30, 10))
def test_a_lagged_copy_is_opened_as_it_was_at_a_point_in_time(first: int) -> None:
    opened = 0
    for seed in range(first, first + 10):
        report = run(seed, STEPS, PAST)
        line = f"python -m tests.simulation --seed {seed} --steps {STEPS} --shape 3,1,3 --favour past,administrator"
        assert report.violation is None, f"{line} --trace"
        opened += report.counts.get("in the past", 0)
    assert opened > 0, "nothing was opened so"


def test_16_servers_with_32_databases() -> None:
    report = run(99, 60)
    assert report.shape == Shape(16, 32, 2)
    assert report.violation is None


def test_the_seeds_have_dags_of_all_sizes() -> None:
    assert {shape_of(seed).servers for seed in range(100)} == {2, 3, 4, 5, 8, 16}


def test_every_fault_and_every_command_occurs() -> None:
    seen: set[str] = set()
    for seed in range(6):
        seen |= set(run(seed, STEPS, Setting(Shape(2, 1, 2))).counts)
    assert {"acknowledged", "administrator", "files", "read"} <= seen
    assert len([kind for kind in seen if kind.startswith("fault: ")]) == 19


def test_one_seed_gives_one_trace() -> None:
    assert run(3, 150).trace == run(3, 150).trace
    assert run(3, 150).trace != run(4, 150).trace


def test_one_seed_gives_one_trace_whatever_strings_hash_to() -> None:
    program = "from tests.simulation.world import run; print(run(5, 150).trace)"
    traces = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        traces.add(done.stdout)
    assert len(traces) == 1


@pytest.mark.parametrize("rule", [*SABOTAGES, *FOUND])
def test_sabotage_is_found(rule: str) -> None:
    """Each broken rule, and each bug that was found so before, turns some seed red."""
    with broken(rule) as setting:
        for seed in range(120):
            if run(seed, STEPS, setting).violation is not None:
                return
    pytest.fail(f"nothing noticed that this rule is broken: {rule}")
