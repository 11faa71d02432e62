"""What the checker of the torture would find, without a torture."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from everpost.lab.history import Verdict
from tests.torture.nemesis import TortureNemesis
from tests.torture.resync import resynced
from tests.torture.torture import MUST_BE_ZERO, Torture

SAVED = {"validity": 1, "highest": 10, "flags": {"1": ["\\Seen"], "2": []}}


def test_a_resync_from_a_saved_state_equals_a_full_sync() -> None:
    assert resynced(SAVED, {"2": ["$x"], "3": []}, {"1", "2", "3"}) == {"1": ["\\Seen"], "2": ["$x"], "3": []}


def test_a_change_that_the_server_does_not_tell_is_seen() -> None:
    assert resynced(SAVED, {}, {"1", "2"})["2"] != ["$x"], "the flag is not among the changes"
    assert resynced(SAVED, {}, {"1", "2", "3"})["3"] is None, "a message that no change told of"
    assert "1" not in resynced(SAVED, {}, {"2"}), "expunged meanwhile"


def test_everything_that_must_be_zero_is_counted() -> None:
    assert all(hasattr(Verdict(), name) for name in MUST_BE_ZERO)


def nemesis(chance: random.Random) -> TortureNemesis:
    organisation: Any = SimpleNamespace(servers=[], all=[])
    return TortureNemesis(organisation, chance, print, {}, {})


def test_a_seed_fixes_the_order_and_no_kind_is_left_out() -> None:
    kinds = nemesis(random.Random(1)).kinds
    orders = []
    for _ in range(2):
        one = Torture.__new__(Torture)
        one._chance, one._kinds = random.Random(5), kinds
        orders.append(one._order(2 * len(kinds)))
    assert orders[0] == orders[1]
    assert all(orders[0].count(kind) == 2 for kind in kinds)
