"""`python -m tests.simulation --seeds 500 --steps 400`: many runs, or one with its trace (`--seed N --trace`)."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter

from tests.simulation.sabotage import FOUND, SABOTAGES, broken
from tests.simulation.world import Setting, Shape, run


def main() -> int:
    """0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=30, help="how many seeds, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--shape", help="servers,databases,copies instead of the seed's own")
    parser.add_argument("--favour", default="", help="faults by name, administrator, loss, past; by commas")
    parser.add_argument("--trace", action="store_true", help="print what happened")
    parser.add_argument("--log", action="store_true", help="print the servers' own log too")
    parser.add_argument("--verbose", action="store_true", help="a line for each seed")
    parser.add_argument("--break", dest="rule", choices=[*SABOTAGES, *FOUND], help="break a rule, or bring a bug back")
    given = parser.parse_args()
    with broken(given.rule) if given.rule else contextlib.nullcontext(Setting()) as setting:
        if given.shape:
            setting = setting._replace(shape=Shape(*(int(word) for word in given.shape.split(","))))
        if given.favour:
            setting = setting._replace(favour=tuple(given.favour.split(",")))
        return _run(given, setting)


def _run(given: argparse.Namespace, setting: Setting) -> int:
    seeds = [given.seed] if given.seed is not None else range(given.first, given.first + given.seeds)
    if given.log:
        from everpost.log import configure

        configure("plain")
    began, red, counts = time.process_time(), 0, Counter[str]()
    steps, seconds, slowest = 0, 0.0, 0.0
    for seed in seeds:
        at = time.process_time()
        report = run(seed, given.steps, setting, lines=given.trace, verbose=given.log)
        steps, seconds, slowest = steps + report.steps, seconds + report.seconds, max(slowest, report.healed)
        counts.update(report.counts)
        if given.trace:
            print("\n".join(report.lines))
        if given.verbose or report.violation is not None:
            took = time.process_time() - at
            print(
                f"seed {seed} {tuple(report.shape)}: {report.steps} steps, {report.seconds:.0f} s simulated in"
                f" {took:.1f} s, healed after {report.healed:.1f} s, {report.callbacks} callbacks, {report.trace[:8]}"
            )
        if report.violation is not None:
            red += 1
            print(f"RED seed {seed}: {report.violation}")
            rule = f" --break '{given.rule}'" if given.rule else ""
            print(f"    python -m tests.simulation --seed {seed} --steps {given.steps}{rule} --trace")
        sys.stdout.flush()
    took = time.process_time() - began
    print(", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())))
    print(
        f"{len(seeds)} seeds, {steps} steps, {seconds:.0f} s simulated in {took:.0f} s; slowest healing {slowest:.0f} s"
    )
    print(f"{red} red" if red else "nothing was found")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
