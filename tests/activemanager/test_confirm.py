"""Confirmation of a commit (3.1): with an empty set only a renewal that was sent after it counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from everpost.activemanager.service import ActiveManager
from everpost.directory.page import SharedPage
from everpost.model.database import MailboxDatabase

from .fakes import StepClock


class FakeTenure:
    """Counts the renewals that were asked for."""

    def __init__(self) -> None:
        self.holds = True
        self.asked: list[float] = []
        self.epoch = 1
        self.fence_revision = 1
        self.on_ask = lambda: None

    def valid(self) -> bool:
        return self.holds

    async def confirmed_after(self, boottime: float) -> None:
        self.asked.append(boottime)
        self.on_ask()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[SharedPage]:
    made = SharedPage(tmp_path / "page", writable=True)
    yield made
    made.close()


def manager(page: SharedPage, tenure: FakeTenure) -> ActiveManager:
    made = ActiveManager.__new__(ActiveManager)
    database = MailboxDatabase(name="MB01", guid="g", number=4, servers=("EX01",))
    made.clock = StepClock()
    made._page = page
    made._tenure = tenure
    made._organization = SimpleNamespace(databases={"MB01": database})  # type: ignore[assignment]
    return made


async def test_a_commit_under_a_set_is_confirmed_without_a_renewal(page: SharedPage) -> None:
    tenure = FakeTenure()
    page.set_database(4, epoch=7, single=False)
    assert await manager(page, tenure).confirm("MB01", 7)
    assert tenure.asked == []


async def test_a_commit_under_the_empty_set_needs_a_renewal_sent_after_it(page: SharedPage) -> None:
    tenure = FakeTenure()
    page.set_database(4, epoch=7, single=True)
    assert await manager(page, tenure).confirm("MB01", 7)
    assert tenure.asked == [1000.0]


async def test_a_commit_of_another_epoch_or_of_a_closed_copy_is_not_confirmed(page: SharedPage) -> None:
    tenure = FakeTenure()
    page.set_database(4, epoch=8, single=False)
    assert not await manager(page, tenure).confirm("MB01", 7)
    page.set_database(4, epoch=0, single=True)
    assert not await manager(page, tenure).confirm("MB01", 7)


async def test_what_closes_while_the_renewal_is_awaited_is_not_confirmed(page: SharedPage) -> None:
    tenure = FakeTenure()
    page.set_database(4, epoch=7, single=True)
    tenure.on_ask = lambda: page.set_database(4, epoch=0, single=True)
    assert not await manager(page, tenure).confirm("MB01", 7)


async def test_nothing_is_confirmed_without_tenure(page: SharedPage) -> None:
    tenure = FakeTenure()
    tenure.holds = False
    page.set_database(4, epoch=7, single=False)
    assert not await manager(page, tenure).confirm("MB01", 7)


async def test_sabotage_an_empty_set_taken_for_a_full_one_asks_nobody(page: SharedPage) -> None:
    """If the page were lowered before the grow is recorded, a commit alone would be confirmed: the test above sees it
    by the renewal that was not asked for."""
    tenure = FakeTenure()
    page.set_database(4, epoch=7, single=True)
    page.set_database(4, epoch=7, single=False)
    assert await manager(page, tenure).confirm("MB01", 7)
    assert tenure.asked == []
