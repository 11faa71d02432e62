"""Rows as tables, lists or JSON. The only place that knows how objects look."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, list | tuple):
        return "{" + ", ".join(_text(one) for one in value) + "}"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Columns as wide as their widest cell."""
    if not rows:
        return ""
    names = list(columns) or list(rows[0])
    cells = [[_text(row.get(name)) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    numeric = [
        all(isinstance(row.get(name), int) and not isinstance(row.get(name), bool) for row in rows) for name in names
    ]

    def line(words: Sequence[str]) -> str:
        parts = [word.rjust(widths[i]) if numeric[i] else word.ljust(widths[i]) for i, word in enumerate(words)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(names), line(["-" * width for width in widths]), *(line(row) for row in cells)])


def listing(rows: Sequence[Row], names: Sequence[str] = ()) -> str:
    """Every property on a line of its own, objects divided by an empty line."""
    blocks = []
    for row in rows:
        shown = list(names) or list(row)
        width = max((len(name) for name in shown), default=0)
        blocks.append("\n".join(f"{name.ljust(width)} : {_text(row.get(name))}".rstrip() for name in shown))
    return "\n\n".join(blocks)


def as_json(rows: Sequence[Row]) -> str:
    """An array, for programs."""
    return json.dumps(list(rows), indent=2, ensure_ascii=False)
