"""The log: one event a line, ids beside the text, JSON where it is wanted."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.log import Json, Line

ROOT = Path(__file__).parents[2]
FORMATS = [Line(), Json()]
#: Whatever somebody may call a customer.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def record(message: str, *args: object, **ids: object) -> logging.LogRecord:
    entry = logging.LogRecord("syncer.run", logging.WARNING, "f.py", 1, message, args, None)
    entry.created = 1_790_000_000.1239
    vars(entry).update(ids)
    return entry


def broken(message: str) -> logging.LogRecord:
    try:
        raise ZeroDivisionError("by nought")
    except ZeroDivisionError:
        info = sys.exc_info()
    return logging.LogRecord("syncer", logging.ERROR, "f.py", 1, message, (), info)


def test_a_line_of_text() -> None:
    line = Line().format(record("run ended: %s of %d", "1,000", 7, run=7, audience="vip"))
    assert line == (
        "2026-09-21T14:13:20.123Z WARNING syncer.run: run ended: 1,000 of 7 run=7 audience=vip"
    )


def test_a_line_of_json() -> None:
    line = Json().format(record("run ended: %s", "1,000", run=7, at=None, url=Path("/x")))
    assert json.loads(line) == {
        "time": "2026-09-21T14:13:20.123Z",
        "level": "warning",
        "logger": "syncer.run",
        "message": "run ended: 1,000",
        "run": 7,
        "at": None,
        "url": "/x",
    }


@pytest.mark.parametrize("form", FORMATS)
def test_without_ids_there_are_none(form: logging.Formatter) -> None:
    line = form.format(record("hello"))
    assert line.endswith(("syncer.run: hello", '"message":"hello"}'))


@given(TEXTS, TEXTS)
def test_whatever_is_said_is_one_line(message: str, customer_id: str) -> None:
    said = record("%s", message, customer_id=customer_id)
    assert len(Line().format(said).splitlines()) == 1
    line = Json().format(said)
    assert not {"\n", "\r"} & set(line)
    entry = json.loads(line)
    assert (entry["message"], entry["customer_id"]) == (message, customer_id)


def test_an_exception_in_json_is_in_its_line() -> None:
    line = Json().format(broken("it broke"))
    assert "\n" not in line
    entry = json.loads(line)
    assert entry["message"] == "it broke"
    assert "Traceback" in entry["exception"]
    assert "ZeroDivisionError: by nought" in entry["exception"]


def test_an_exception_in_text_follows_its_line() -> None:
    first, *rest = Line().format(broken("it broke")).splitlines()
    assert first.endswith("ERROR syncer: it broke")
    assert rest[0].startswith("Traceback")
    assert rest[-1] == "ZeroDivisionError: by nought"


SAY = """
import logging, sys, warnings
from syncer import log
log.set_up(*sys.argv[1:])
log.set_up(*sys.argv[1:])
for level in ("debug", "info", "warning", "error"):
    getattr(logging.getLogger("syncer.run"), level)("said %s", level, extra={"run": 7})
logging.getLogger("apscheduler.scheduler").info("chatter")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("syncer").exception("it broke")
"""


def said(*settings: str) -> list[str]:
    """What a process with these settings writes to stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SAY, *settings],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_process_logs_to_stderr_as_json_from_a_level_on() -> None:
    entries: list[dict[str, Any]] = [json.loads(line) for line in said("json", "warning")]
    assert [entry["message"] for entry in entries] == ["said warning", "said error", "it broke"]
    assert [entry.get("run") for entry in entries] == [7, 7, None]
    assert "exception" in entries[2]


def test_a_process_logs_as_text_from_info_on() -> None:
    lines = said()
    assert [line.partition(" ")[2] for line in lines[:4]] == [
        "INFO syncer.run: said info run=7",
        "WARNING syncer.run: said warning run=7",
        "ERROR syncer.run: said error run=7",
        "ERROR syncer: it broke",
    ]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line) for line in lines[:4])
    assert lines[4].startswith("Traceback")
