"""A few of the rounds of `python -m tests.array.rounds`, and the sabotage that shows that their capture sees a second
holder. Stands behind test_t_vip.py: it leaves the synchronous set shrunk."""

from __future__ import annotations

import os
import random
import signal
import subprocess

import pytest

from everpost.lab.load.ledger import boottime
from everpost.lab.organisation import Server
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


def test_sabotage_an_address_without_a_life(world: World) -> None:
    """The kernel of a frozen holder keeps the address for ever. Nobody takes it over then, since it is looked for on
    the network before (duplicate address detection; a busy host may be too slow to answer); put there behind that
    look, the capture convicts. Stands last."""
    world.o.wait(world.net.well, 90, "all is well before")
    assert world.net.wrong() == []
    holder = world.net.holder()
    assert holder is not None
    place, other = next((place, one) for place, one in enumerate(world.o.servers) if one is not holder)
    frozen = tree(holder, "array")
    world.o.signal(frozen, signal.SIGSTOP)
    try:
        _address(holder, "change", "valid_lft", "forever")
        log = other.data / "log" / "array.log"

        def seen() -> bool:
            return '"duplicate address"' in log.read_text() or world.net.wrong() != []

        world.o.wait(seen, 20, "a duplicate address is seen, or was used")
        if world.net.wrong() == []:
            _address(holder, "del")
            world.o.wait(
                lambda: world.holder(place) == other.name and world.net.answered(boottime() - 1), 30, "a new holder"
            )
            _address(holder, "add")
        world.o.wait(lambda: world.net.wrong() != [], 10, "a verdict")
        assert any(line.startswith(holder.name) for line in world.net.wrong()), world.net.acquisitions()
    finally:
        world.o.signal(frozen, signal.SIGCONT)


def _address(server: Server, verb: str, *words: str) -> None:
    space = server.host.space  # type: ignore[attr-defined]
    subprocess.run(["ip", "-n", space, "addr", verb, f"{ADDRESS}/32", "dev", "mapi", *words], check=True)
