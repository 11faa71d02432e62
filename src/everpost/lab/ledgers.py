"""The ledgers as the lab reads them while they grow: every line once."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from everpost.lab.history import Fact


class LedgerFile:
    """One growing ledger."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: list[Fact] = []
        self.acknowledged: dict[str, list[float]] = defaultdict(list)
        """Times of `ack` by user."""
        self._offset = 0

    def read(self) -> None:
        """Take what was added. A half-written last line is left for later: it acknowledges nothing."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            fact: dict[str, Any] = json.loads(line)
            self.facts.append(fact)
            if fact["kind"] == "ack":
                self.acknowledged[fact["user"]].append(fact["at"])


class Ledgers:
    """All ledgers of a lab, by the name of their writer."""

    def __init__(self) -> None:
        self.files: dict[str, LedgerFile] = {}

    def add(self, name: str, path: Path) -> None:
        """A writer that is about to start."""
        self.files[name] = LedgerFile(path)

    def _named(self, *words: str) -> Iterator[LedgerFile]:
        for name, file in self.files.items():
            if all(word in name for word in words):
                file.read()
                yield file

    def facts(self, *words: str) -> list[Fact]:
        """All facts of the writers whose names contain all `words`."""
        return [fact for file in self._named(*words) for fact in file.facts]

    def acknowledged(self, *words: str) -> list[float]:
        """When those writers' messages were acknowledged."""
        return [at for file in self._named(*words) for times in file.acknowledged.values() for at in times]

    def count(self) -> int:
        """Messages acknowledged so far."""
        return sum(len(times) for file in self._named() for times in file.acknowledged.values())
