"""A few of the rounds of `python -m tests.array.rounds`, and the sabotage that shows that their capture sees a second
holder. Stands behind test_t_vip.py: it leaves the synchronous set shrunk."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest

from tests.array.conftest import World
from tests.array.rounds import ADDRESS, ArrayNemesis, tree

pytestmark = [
    pytest.mark.netns,
    pytest.mark.fault,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.timeout(240),
]
ROUNDS = ("freeze everything", "cut the link one way", "stutter array", "kill the etcd leader")


@pytest.mark.parametrize("kind", ROUNDS)
def test_never_two_holders(world: World, kind: str) -> None:
    nemesis = ArrayNemesis(world.net, world.gateway, random.Random(kind))
    nemesis.kinds = {kind: nemesis.kinds[kind]}
    nemesis.meanwhile = ("move", "kill array")
    world.o.wait(world.net.well, 90, "all is well before")
    nemesis.one(1)
    assert world.net.wrong() == []


def test_sabotage_an_address_without_a_life_makes_two_holders(world: World) -> None:
    """The kernel of a frozen holder keeps the address: whoever never looks at LIFE again has this. Stands last."""
    world.o.wait(world.net.well, 90, "all is well before")
    assert world.net.wrong() == []
    holder = world.net.holder()
    assert holder is not None
    space = holder.host.space  # type: ignore[attr-defined]
    frozen = tree(holder, "array")
    world.o.signal(frozen, signal.SIGSTOP)
    try:
        change = ["ip", "-n", space, "addr", "change", f"{ADDRESS}/32", "dev", "mapi", "valid_lft", "forever"]
        subprocess.run(change, check=True)
        place = next(place for place, one in enumerate(world.o.servers) if one is not holder)
        world.o.wait(lambda: world.holder(place) not in (None, holder.name), 10, "another holder")
        end = time.monotonic() + 10
        while not world.net.wrong() and time.monotonic() < end:
            time.sleep(0.2)
        assert any(line.startswith(holder.name) for line in world.net.wrong()), world.net.acquisitions()
    finally:
        world.o.signal(frozen, signal.SIGCONT)
