"""The live picture of the demonstration: a time line, and below it, on a terminal, the copies and the traffic now.

Without a terminal only the time line: plain lines."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

COLUMNS = (
    ("Name", "Name"), ("Status", "Status"), ("CopyQueueLength", "CopyQueue"), ("ReplayQueueLength", "ReplayQueue"),
    ("Epoch", "Epoch"), ("Resilience", "Resilience"),
)  # fmt: skip
EVERY = 1.0
_UP_AND_CLEAR = "\x1b[{}F\x1b[J"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Copies as lines; what is unknown is empty."""
    cells = [[title for _, title in COLUMNS]]
    cells += [["" if row.get(name) is None else str(row[name]) for name, _ in COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    cells.insert(1, ["-" * width for width in widths])
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


class Screen:
    """Say lines; keep a panel below them."""

    def __init__(self, output: TextIO = sys.stdout, *, live: bool | None = None) -> None:
        self._output = output
        self.live = output.isatty() if live is None else live
        self._began = time.monotonic()
        self._panel: list[str] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def say(self, text: str) -> None:
        """A line of the time line."""
        self.lines([f"{time.monotonic() - self._began:7.1f} s  {text}"])

    def lines(self, lines: Sequence[str]) -> None:
        """Lines as they are."""
        with self._lock:
            self._clear()
            self._output.write("".join(line + "\n" for line in lines))
            self._draw()

    def picture(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The copies now, in the time line."""
        self.lines([" " * 11 + line for line in table(rows)])

    def watch(self, look: Callable[[], Sequence[str]]) -> None:
        """On a terminal: show what `look` gives below the time line, anew each second. It may raise."""
        if self.live:
            self._thread = threading.Thread(target=self._loop, args=(look,), daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Leave the time line alone on the terminal."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)
        with self._lock:
            self._clear()
            self._panel = []
            self._output.flush()

    def _loop(self, look: Callable[[], Sequence[str]]) -> None:
        while not self._stop.wait(EVERY):
            try:
                panel = list(look())
            except Exception as error:  # a picture that fails must not end the story
                panel = [f"(no picture: {error})"]
            with self._lock:
                if self._stop.is_set():
                    return
                self._clear()
                self._panel = panel
                self._draw()

    def _clear(self) -> None:
        if self._panel and self.live:
            self._output.write(_UP_AND_CLEAR.format(len(self._panel)))

    def _draw(self) -> None:
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            self._output.write("".join(line[:width] + "\n" for line in self._panel))
        self._output.flush()
