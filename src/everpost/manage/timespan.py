"""Time spans as the shell writes them: `hh:mm:ss` or `d.hh:mm:ss` (spec 2.8). Pure."""

from __future__ import annotations

import re

from everpost.errors import Refused

_SPAN = re.compile(r"(?:(\d{1,5})\.)?(\d{1,2}):([0-5]?\d)(?::([0-5]?\d))?")


def seconds(text: str, parameter: str, most_days: int = 14) -> float:
    """Seconds of a span between 0 and `most_days`. Raises Refused, naming the parameter."""
    found = _SPAN.fullmatch(text.strip())
    remedy = "Type d.hh:mm:ss or hh:mm:ss, such as 1.00:00:00 for a day or 02:00:00 for two hours."
    if found is None or int(found[2]) > 23:
        raise Refused(f"-{parameter} {text!r} is not a time span.", remedy=remedy)
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if total > most_days * 86400:
        raise Refused(
            f"-{parameter} {text} is longer than {most_days} days.", remedy=f"Type 0 to {most_days}.00:00:00."
        )
    return float(total)


def text(span: float) -> str:
    """The inverse, always with days."""
    whole = int(span)
    minutes, left = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}.{hours:02}:{minutes:02}:{left:02}"
