"""One line per fact: JSON in production, plain text on a terminal. Never a password, key or message body."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "source": record.name,
            "text": record.getMessage(),
        }
        fields.update(getattr(record, "facts", {}))
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        tail = "".join(f" {key}={value}" for key, value in facts.items())
        line = f"{self.formatTime(record, '%H:%M:%S')}.{int(record.msecs):03d} {record.levelname[:4].lower()} "
        line += f"{record.name.removeprefix('everpost.')}: {record.getMessage()}{tail}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(log_format: str = "auto", level: int = logging.INFO) -> None:
    """Log to standard error: `json`, `plain`, or `auto` (plain on a terminal)."""
    handler = logging.StreamHandler(sys.stderr)
    plain = log_format == "plain" or (log_format == "auto" and sys.stderr.isatty())
    handler.setFormatter(_Plain() if plain else _Json())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("asyncio", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def fact(logger: logging.Logger, text: str, /, *, level: int = logging.INFO, **facts: object) -> None:
    """Log one fact with its named values, such as `fact(log, "opened", database="MB01", epoch=12)`."""
    logger.log(level, text, extra={"facts": facts})
