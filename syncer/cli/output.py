"""What the user sees: progress, tables, JSON documents and CSV.

Results go to stdout, everything else to stderr. Times are ISO-8601 UTC with milliseconds. What came
from outside is shown so that it steers no terminal and is no formula of a spreadsheet.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from syncer.display import visible, visible_json
from syncer.progress import LineProgress

#: How a cell of CSV begins that a spreadsheet may take for a formula; and one that is a number.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(_dumped(document, orjson.OPT_INDENT_2) + "\n")
    sys.stdout.flush()


def print_json_list(items: Iterable[object]) -> None:
    """A list as one JSON document: it may be long, and is written as it comes."""
    empty = True
    for item in items:
        sys.stdout.write("[\n  " if empty else ",\n  ")
        sys.stdout.write(_dumped(item))
        empty = False
    sys.stdout.write("[]\n" if empty else "\n]\n")
    sys.stdout.flush()


def print_json_with_lists(document: object, lists: Mapping[str, Iterable[object]]) -> None:
    """The same of an object with some members that are lists: these may be long, and are written
    as they come."""
    sys.stdout.write(_dumped(document, orjson.OPT_INDENT_2).removesuffix("\n}"))
    for name, items in lists.items():
        sys.stdout.write(f',\n  "{name}": [')
        for number, item in enumerate(items):
            sys.stdout.write(("," if number else "") + "\n    " + _dumped(item))
        sys.stdout.write("]")
    sys.stdout.write("\n}\n")
    sys.stdout.flush()


def _dumped(document: object, option: int | None = None) -> str:
    return visible_json(orjson.dumps(document, option=option).decode())


#: Characters that a cell of a table shows: an address with a long id in it would fill the screen.
CELL = 400


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """A table on stdout; numbers stand right, and what is very long is cut."""
    table = Table(title=visible(title) or None, title_justify="left", header_style="bold")
    found = [list(row) for row in rows]
    for number, column in enumerate(columns):
        numbers = bool(found) and all(isinstance(row[number], int | float) for row in found)
        table.add_column(visible(column), justify="right" if numbers else "left", overflow="fold")
    for row in found:
        table.add_row(*(_cell(value) for value in row))
    stdout().print(table)


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """The same as CSV. What begins like a formula has a ' before it; take one away from what begins
    with '= and the like to have the text itself."""
    plain = csv.writer(sys.stdout, lineterminator="\n")
    quoted = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writerow(columns)
    shown = visible if sys.stdout.isatty() else str
    for row in rows:
        cells = [shown(_harmless(one)) if isinstance(one, str) else one for one in row]
        returns = any(isinstance(one, str) and "\r" in one for one in cells)
        (quoted if returns else plain).writerow(cells)  # by itself it quotes a line feed only


def _harmless(text: str) -> str:
    formula = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


class _Console(Console):
    """Prints texts so that they are visible."""

    def print(self, *objects: Any, **how: Any) -> None:
        super().print(*(visible(one) if isinstance(one, str) else one for one in objects), **how)


def stdout() -> Console:
    """The console for results; off a terminal lines are not folded at 80 columns."""
    console = _Console(highlight=False, markup=False)
    return console if console.is_terminal else _Console(width=160, highlight=False, markup=False)


def print_line(text: str) -> None:
    """One line on stdout, however long."""
    print(visible(text))


def trait_rows(traits: Iterable[Mapping[str, Any]]) -> list[list[object]]:
    """Rows of the table of a run's or a diff's sums by trait."""
    return [[row[name] for name in TRAIT_COLUMNS] for row in traits]


TRAIT_COLUMNS = (
    "trait",
    "kind",
    "pulled",
    "entered",
    "exited",
    "changed",
    "unchanged",
    "skipped",
    "held",
)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    return visible(text if len(text) <= CELL else f"{text[: CELL - 1]}…")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f}/s", style="dim")


class BarProgress:
    """A bar with rate and time left, for terminals."""

    def __init__(self) -> None:
        self._console = _Console(stderr=True, highlight=False, markup=False)
        self._bar: Progress | None = None

    def say(self, text: str) -> None:
        self._console.print(text)

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        self._bar = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task(stage, total=total, completed=done)
        self._bar.start()

    def at(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def end(self) -> None:
        if self._bar is not None:
            task = self._bar.tasks[0]
            if not task.finished and task.description == "comparing":
                self._bar.update(self._task, completed=task.total)
            self._bar.stop()
            self._bar = None


def progress() -> BarProgress | LineProgress:
    """What fits where stderr goes."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()
