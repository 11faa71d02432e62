"""The seams of the directory in memory, on which other tests build."""

from __future__ import annotations

import pytest

from everpost.directory.memory import MemoryDirectory
from everpost.errors import OutcomeUnknown, Unavailable


@pytest.mark.parametrize("effect", [True, False])
async def test_a_lost_answer_may_have_had_its_effect(effect: bool) -> None:
    directory = MemoryDirectory()
    directory.lose_answers(1, effect=effect)
    with pytest.raises(OutcomeUnknown):
        await directory.txn({"a": 0}, {"a": b"1"})
    assert (await directory.get("a") is not None) is effect
    assert (await directory.txn({"b": 0}, {"b": b"1"})).succeeded


async def test_a_late_request_is_guarded_when_it_arrives() -> None:
    directory = MemoryDirectory()
    directory.delay_effects(2)
    for value in (b"first", b"second"):
        with pytest.raises(OutcomeUnknown):
            await directory.txn({"a": 0}, {"a": value})
    assert await directory.get("a") is None
    assert [result.succeeded for result in directory.deliver_late()] == [True, False]
    entry = await directory.get("a")
    assert entry is not None and entry.value == b"first"


async def test_nobody_can_be_asked() -> None:
    directory = MemoryDirectory()
    directory.available = False
    with pytest.raises(Unavailable):
        await directory.get("a")
    with pytest.raises(Unavailable):
        await directory.txn({}, {"a": b"1"})
    directory.available = True
    assert await directory.get("a") is None
