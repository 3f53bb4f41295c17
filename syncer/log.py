"""Logging to stderr: one event a line, as text or JSON, with ids and without secrets."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Literal

import orjson

from syncer.display import visible, visible_json, visible_lines

#: The attributes of every record; the others are `extra`: ids such as run or customer_id.
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def set_up(form: Literal["text", "json"] = "text", level: str = "info") -> None:
    """Log to stderr from now on."""
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if form == "json" else Line())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in ("apscheduler", "httpx"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _ids(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class Line(logging.Formatter):
    """2026-11-24T06:51:04.123Z INFO syncer: run ended run=7 state=done"""

    def format(self, record: logging.LogRecord) -> str:
        ids = "".join(f" {name}={value}" for name, value in _ids(record).items())
        text = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}{ids}"
        text = visible(" ".join(text.splitlines()))  # an id may have line breaks
        if record.exc_info:
            text += f"\n{visible_lines(self.formatException(record.exc_info))}"
        return text


class Json(logging.Formatter):
    """{"time": …, "level": …, "logger": …, "message": …, "run": 7}"""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_ids(record),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return visible_json(orjson.dumps(document, default=str).decode())
