"""Everpost and a peer, one after the other on the same machine, and the table that compares them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

from everpost.lab.hosts import NamespaceLab, open_lab

from .contest import Contest, Contestant, Result
from .everpost_sql import Everpost
from .pair import Say
from .patroni import Patroni

ROWS = (
    ("active server cut off", "outages"),
    ("planned switchover", "switchovers"),
    ("passive restarted cleanly", "restarts"),
    ("passive crashed (kill -9)", "crashes"),
    ("passive cut off", "passive_cuts"),
    ("(the cut server back in the set)", "rejoins"),
)


def _lab(name: str) -> NamespaceLab:
    lab = open_lab(name, "netns")
    assert isinstance(lab, NamespaceLab)
    return lab


def place() -> Path:
    """Where this checkout keeps what it installs."""
    script = Path(__file__).resolve().parents[2] / "scripts" / "place"
    return Path(subprocess.run([str(script)], check=True, capture_output=True, text=True).stdout.strip())


def side_by_side(rounds: int, say: Say) -> dict[str, Any]:
    """`rounds` of every fault against each; the `peers` of the report. Never both at once: neither disturbs the
    other."""
    results: dict[str, Result] = {}
    load: dict[str, list[float]] = {}
    makers = {
        "everpost": lambda: Everpost(_lab("bench-everpost"), say),
        "patroni": lambda: Patroni(_lab("bench-patroni"), say, place()),
    }
    for name, make in makers.items():
        before = os.getloadavg()[0]
        contestant: Contestant = make()
        results[name] = Contest(contestant).run(rounds)
        load[name] = [round(before, 1), round(os.getloadavg()[0], 1)]
    say("\n" + "\n".join(table(results["everpost"], results["patroni"], "Patroni")))
    return {
        "rounds": rounds,
        "client": "the same SQL client for both, 4 connections",
        "load_average_before_and_after": load,
        "everpost": results["everpost"].report(),
        "patroni": results["patroni"].report(),
        "ratio_of_median_outages": round(median(results["patroni"].outages) / median(results["everpost"].outages), 1),
    }


def table(ours: Result, theirs: Result, name: str) -> list[str]:
    """Markdown; seconds without an acknowledged row, median and worst."""
    lines = [
        f"| seconds without an acknowledged row, median / worst | Everpost | {name} | ratio of medians |",
        "|---|---|---|---|",
    ]
    for title, field in ROWS:
        mine, other = (getattr(result, field) for result in (ours, theirs))
        ratio = median(other) / max(median(mine), 0.001)
        figures = [f"{median(values):.2f} / {max(values):.2f}" for values in (mine, other)]
        lines.append(f"| {title} | {figures[0]} | {figures[1]} | {ratio:.{1 if ratio >= 1 else 2}f} |")
    lines.append(
        f"| acknowledged rows missing afterwards | {ours.missing} of {ours.acknowledged}"
        f" | {theirs.missing} of {theirs.acknowledged} | |"
    )
    return lines
