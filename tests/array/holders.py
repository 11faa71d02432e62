"""Whether a capture shows two holders of an address: pure.

Two holders means: a host answers for the address after another one has taken it over, and before it took it again. Who
took it over when is known by the epochs: each acquisition is one compare-and-swap in the directory, and raises it. Two
rules, each of which is enough to convict:

1. By order alone, without any clock: the hosts that answer, in the order of their frames, follow the order of the
   epochs. A, B, A needs three acquisitions, by A, by B, and by A again.
2. By the time: a frame comes from the host that acquired the address at the highest epoch that anybody knew of when the
   frame arrived. The kernel of the client's host stamped the frame; the acquirer noted the time before it put the
   address on its card.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple


class Answer(NamedTuple):
    """A frame: when it arrived (CLOCK_BOOTTIME seconds), from whom, by what."""

    at: float
    host: str
    how: str


class Acquisition(NamedTuple):
    """One epoch: when its holder knew of it. One that was frozen meanwhile may know it when the next one has it."""

    epoch: int
    at: float
    host: str


def two_holders(answers: Sequence[Answer], acquisitions: Sequence[Acquisition]) -> list[str]:
    """What is wrong, one line each; [] if there was one holder at any time. `answers` in the order of the capture."""
    ordered = sorted(acquisitions)
    return [*_by_order(answers, ordered), *_by_time(answers, ordered)]


def _by_order(answers: Sequence[Answer], ordered: Sequence[Acquisition]) -> list[str]:
    place = 0
    for host, frames in itertools.groupby(answers, key=lambda one: one.host):
        following = [index for index in range(place, len(ordered)) if ordered[index].host == host]
        if not following:
            first = next(frames)
            return [f"{host} answers ({first.how}) at {first.at:.3f} and did not take the address again: order"]
        place = following[0]
    return []


def _by_time(answers: Sequence[Answer], ordered: Sequence[Acquisition]) -> list[str]:
    wrong = []
    for one in answers:
        known = [each for each in ordered if each.at < one.at]
        if not known or known[-1].host != one.host:
            last = (
                f"{known[-1].host} has epoch {known[-1].epoch} since {known[-1].at:.3f}" if known else "nobody has it"
            )
            wrong.append(f"{one.host} answers ({one.how}) at {one.at:.3f}: {last}")
    return wrong[:10]
