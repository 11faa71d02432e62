"""When stale records, a silent updater and records of others become events."""

from __future__ import annotations

from everpost.model.dns import DnsUpdater, ZoneStatus
from everpost.monitoring import catalogue
from everpost.monitoring.alarms import Change
from everpost.monitoring.catalogue import Kind
from everpost.monitoring.dns import SILENT, STALE_RED, DnsAlarms


class Book:
    def __init__(self) -> None:
        self.alarms = DnsAlarms()
        self.lines: list[tuple[int, str]] = []

    def look(self, now: float, status: ZoneStatus | None = None, *, held: bool = True) -> list[tuple[int, str]]:
        """What is new."""
        self.lines = []
        if status is not None:
            record = DnsUpdater(server="EX01", instance="1", epoch=1, held=held, zones=(status,))
            self.alarms.saw(record, now)
        self.alarms.look(now, ["contoso.com"], self._tell)
        return self.lines

    def _tell(self, changes: dict[str, Change], red: Kind, green: Kind, over: str) -> None:
        for name, change in changes.items():
            kind, text = (red, change.text) if change.red else (green, over.format(name))
            self.lines.append((kind.id, text))


WELL = ZoneStatus(zone="contoso.com")
STALE = ZoneStatus(zone="contoso.com", stale_since="2026-01-01T00:00:00+00:00", error="192.0.2.53 does not answer.")


def test_records_that_stay_stale_are_an_alarm_one_failure_is_none() -> None:
    book = Book()
    assert book.look(0, WELL) == [] == book.look(1, STALE) == book.look(2, WELL) == book.look(3, STALE)
    [(number, text)] = book.look(3 + STALE_RED, STALE)
    assert number == catalogue.DNS_STALE.id and "since 2026" in text and "192.0.2.53 does not answer" in text
    assert list(book.alarms.standing) == ["DNS zone contoso.com"]
    assert book.look(4 + STALE_RED, WELL)[0][0] == catalogue.DNS_CURRENT.id
    assert not book.alarms.standing


def test_an_updater_that_falls_silent_or_gave_up_is_an_alarm() -> None:
    book = Book()
    book.look(0, WELL)
    assert book.look(SILENT - 1) == []
    book.look(SILENT)
    [(number, text)] = book.look(SILENT + STALE_RED)
    assert number == catalogue.DNS_STALE.id and "no server keeps" in text
    assert book.alarms.writer(SILENT) is None
    gone = Book()
    gone.look(0, STALE, held=False)
    assert "192.0.2.53" in gone.look(STALE_RED, STALE, held=False)[0][1]


def test_a_zone_that_nobody_ever_kept_is_an_alarm() -> None:
    book = Book()
    book.look(0)
    assert book.look(STALE_RED)[0][0] == catalogue.DNS_STALE.id


def test_a_record_of_somebody_else_is_told_once_and_when_it_is_gone() -> None:
    book = Book()
    taken = ZoneStatus(zone="contoso.com", conflicts={"mail.contoso.com": "It is theirs. Set-DnsUpdate -Adopt"})
    assert book.look(0, taken) == [(catalogue.DNS_CONFLICT.id, "It is theirs. Set-DnsUpdate -Adopt")]
    assert book.look(1, taken) == []
    assert book.look(2, WELL)[0][0] == catalogue.DNS_CONFLICT_OVER.id
