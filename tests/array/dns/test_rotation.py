"""The round robin's rules: dead ones leave at once, nobody comes back too early, and the last one stays."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from everpost.array.dns.rotation import BACK, BACK_AT_MOST, FRESH, QUIET, Look, Rotation

ADDRESSES = {"EX01": "192.0.2.11", "EX02": "192.0.2.12", "EX03": "192.0.2.13"}
A, B, C = ADDRESSES.values()


def look(
    rotation: Rotation, now: float, *servers: str, dead: Mapping[str, str] | None = None, planned: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], dict[str, str]]:
    gone = dead or {}
    found = [Look(one, ADDRESSES[one], gone.get(one, ""), "is drained" if one in planned else "") for one in servers]
    return rotation.look(now, found)


def test_a_dead_server_leaves_at_once_and_comes_back_after_a_while() -> None:
    r = Rotation()
    assert look(r, 0, "EX01", "EX02")[0] == (A, B)
    addresses, reasons = look(r, 1, "EX01", "EX02", dead={"EX01": "IMAP does not answer"})
    assert addresses == (B,) and reasons == {"EX01": "IMAP does not answer", "EX02": ""}
    assert look(r, 2, "EX01", "EX02") == ((B,), {"EX01": FRESH, "EX02": ""})
    assert look(r, 2 + BACK - 0.1, "EX01", "EX02")[0] == (B,)
    assert look(r, 2 + BACK, "EX01", "EX02")[0] == (A, B)


def test_it_must_be_well_without_a_break() -> None:
    r = Rotation()
    look(r, 0, "EX01", "EX02")
    look(r, 1, "EX01", "EX02", dead={"EX01": "x"})
    look(r, 2, "EX01", "EX02")
    look(r, 4, "EX01", "EX02", dead={"EX01": "x"})
    look(r, 5, "EX01", "EX02")
    assert look(r, 5 + BACK - 0.1, "EX01", "EX02")[0] == (B,)
    assert look(r, 5 + BACK, "EX01", "EX02")[0] == (A, B)


def test_one_that_keeps_falling_waits_longer_each_time_until_it_was_quiet() -> None:
    r = Rotation()
    now, waits = 0.0, []
    look(r, now, "EX01", "EX02")
    for _ in range(9):
        look(r, now, "EX01", "EX02", dead={"EX01": "x"})
        began = now
        while look(r, now, "EX01", "EX02")[0] != (A, B):
            now += 0.5
        waits.append(now - began)
    assert waits[:4] == [BACK, 2 * BACK, 4 * BACK, 8 * BACK] and waits[-1] == BACK_AT_MOST
    now += QUIET
    look(r, now, "EX01", "EX02", dead={"EX01": "x"})
    look(r, now, "EX01", "EX02")
    assert look(r, now + BACK, "EX01", "EX02")[0] == (A, B)


def test_an_administrators_word_is_no_relapse() -> None:
    r = Rotation()
    look(r, 0, "EX01", "EX02")
    for begin in (10.0, 20.0, 30.0):
        assert look(r, begin, "EX01", "EX02", planned=("EX01",)) == ((B,), {"EX01": "is drained", "EX02": ""})
        look(r, begin + 1, "EX01", "EX02")
        assert look(r, begin + 1 + BACK, "EX01", "EX02")[0] == (A, B)


def test_the_last_one_stays_the_best_of_those_that_are_left() -> None:
    r = Rotation()
    look(r, 0, "EX01", "EX02", "EX03")
    look(r, 1, "EX01", "EX02", "EX03", dead={"EX01": "x"})
    both = {"EX02": "x", "EX03": "x"}
    # EX01 has just come back: better than two dead ones, though it should wait.
    assert look(r, 2, "EX01", "EX02", "EX03", dead=both) == ((A,), {"EX01": "", "EX02": "x", "EX03": "x"})
    # A drained one that lives is better than a dead one.
    assert look(r, 3, "EX01", "EX02", "EX03", dead=both, planned=("EX01",))[0] == (A,)
    # All dead, as seen from here: what was published stays.
    assert look(r, 4, "EX01", "EX02", "EX03", dead={**both, "EX01": "x"})[0] == (A,)


def test_a_new_updater_goes_on_where_the_former_was() -> None:
    r = Rotation({"EX01": "IMAP does not answer", "EX02": ""})
    assert look(r, 0, "EX01", "EX02")[0] == (B,)
    assert look(r, BACK, "EX01", "EX02")[0] == (A, B)
    blind = Rotation({"EX01": "", "EX02": "x"})
    assert look(blind, 0, "EX01", "EX02", dead={"EX01": "x", "EX02": "x"})[0] == (A,)


def test_a_server_that_joins_later_waits_too() -> None:
    r = Rotation()
    look(r, 0, "EX01")
    assert look(r, 1, "EX01", "EX02")[0] in ((A,), (A, B))
    assert look(r, 1 + BACK, "EX01", "EX02")[0] == (A, B)
    assert look(r, 2 + BACK, "EX02")[0] == (B,), "one that was removed from the organisation is gone"


_state = st.sampled_from(["", "dead", "planned"])


@given(st.lists(st.tuples(st.floats(0.1, 30.0), _state, _state, _state), min_size=1, max_size=40), st.booleans())
def test_whatever_happens_somebody_is_published_and_no_dead_one_beside_a_living_one(
    steps: list[tuple[float, str, str, str]], fresh: bool
) -> None:
    r = Rotation(None if fresh else {"EX02": ""})
    now = 0.0
    for pause, *states in steps:
        now += pause
        looks = [
            Look(name, address, "x" if state == "dead" else "", "x" if state == "planned" else "")
            for (name, address), state in zip(ADDRESSES.items(), states, strict=True)
        ]
        addresses, reasons = r.look(now, looks)
        assert addresses and addresses == tuple(sorted(ADDRESSES[name] for name, why in reasons.items() if not why))
        by_address = {one.address: one for one in looks}
        if any(not one.dead for one in looks):
            assert not any(by_address[address].dead for address in addresses)
        if any(not one.dead and not one.planned for one in looks):
            assert not any(by_address[address].planned for address in addresses)
