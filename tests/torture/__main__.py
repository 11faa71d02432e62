"""make torture RUNS=20 SEED=1: so many rounds, a new organisation with the next seed after every 25 of them.

    python -m tests.torture --runs N --seed S [--json FILE]

A failing round prints its seed and leaves its histories. The seed fixes the faults and their order; when exactly each
one meets the load is chance.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

from tests.torture.torture import RATE, Outcome, seeds, torture

EACH = 25


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=RATE, help="messages a second of each of the four generators")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs is at least 1")
    if os.geteuid() != 0:
        sys.exit("Torture cuts cables and fills disks: it needs root, for network namespaces and mounts.")
    began = time.monotonic()
    outcomes: list[Outcome] = []
    left = arguments.runs
    for seed in seeds(arguments.seed):
        rounds = min(EACH, left)
        outcome = torture(seed, rounds, lambda text: print(text, flush=True), arguments.rate)
        outcomes.append(outcome)
        print(f"seed {seed}: {json.dumps(outcome.counts)}", flush=True)
        for line in outcome.wrong:
            print(f"WRONG at seed {seed} after {len(outcome.rounds)} rounds: {line}", flush=True)
        left -= rounds
        if left <= 0 or outcome.wrong:
            break
    report = {"seconds": round(time.monotonic() - began, 1), "outcomes": [dataclasses.asdict(one) for one in outcomes]}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    done = sum(len(one.rounds) for one in outcomes)
    wrong = any(one.wrong for one in outcomes)
    print(f"{done} rounds in {report['seconds']} s: {'FAILED' if wrong else 'nothing acknowledged was lost'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
