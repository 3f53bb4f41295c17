"""Print to stdout what fits the screen: texts that fold, and tables.

It loads `rich`, which takes a command that prints a few lines a tenth of its start.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from syncer.cli.widths import FRAME, column_widths, fitted, without_repeats
from syncer.display import visible

#: The characters of a cell that a table shows: an address with a long id would fill the screen.
CELL = 400
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
#: The columns of a table where nothing says how wide the screen is.
WIDTH = 160


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print a table, with numbers to the right; very long cells are cut.

    One that is wider than the screen loses its frame, and long texts fold. If that does not help,
    it loses the columns that say the same in every row, which a line below names; if that does not
    help either, each row is a block of lines.
    """
    lines = [list(row) for row in rows]
    numeric = [
        bool(lines) and all(isinstance(line[number], int | float) for line in lines)
        for number in range(len(columns))
    ]
    columns = [visible(column) for column in columns]
    cells = [[_cell(value) for value in line] for line in lines]
    console = stdout()
    widths = column_widths(columns, cells)
    if sum(widths) + FRAME * len(widths) + 1 <= console.width:
        console.print(_table(title, columns, cells, numeric))
        return
    same = ""
    cells = [list(map(_foldable, line)) for line in cells]
    narrow = fitted(columns, cells, numeric, console.width)
    if narrow is None:
        kept, same = without_repeats(columns, cells)
        columns = [columns[number] for number in kept]
        cells = [[line[number] for number in kept] for line in cells]
        numeric = [numeric[number] for number in kept]
        narrow = fitted(columns, cells, numeric, console.width)
    if narrow is None:
        _print_blocks(console, title, columns, cells)
    else:
        console.print(_table(title, columns, cells, numeric, narrow))
    if same:
        console.print(Text(f"in every row: {same}"))


def _table(
    title: str,
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    widths: Sequence[int] | None = None,
) -> Table:
    """Return a table; with `widths` one without a frame, whose columns have these widths."""
    table = Table(
        title=visible(title) or None,
        title_justify="left",
        header_style="bold",
        box=box.HEAVY_HEAD if widths is None else box.SIMPLE_HEAD,
        show_edge=widths is None,
        padding=(0, 1) if widths is None else (0, 1, 0, 0),
    )
    for number, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if numeric[number] else "left",
            overflow="fold",
            width=None if widths is None else widths[number],
        )
    for line in cells:
        table.add_row(*line)
    return table


def _print_blocks(
    console: Console, title: str, columns: Sequence[str], cells: Iterable[Sequence[str]]
) -> None:
    """Print a block of lines for each row: the name of a column, and the cell."""
    table = Table(title=visible(title) or None, title_justify="left", box=None, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for line in cells:
        for column, cell in zip(columns, line, strict=True):
            table.add_row(column, cell)
        table.add_row()
    console.print(table)


def _foldable(cell: str) -> str:
    """Return a time with a blank at which it folds: the day, and the time of day."""
    return cell.replace("T", " ") if _TIME.fullmatch(cell) else cell


class VisibleConsole(Console):
    """A console that escapes control characters."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects, escaping texts; off a terminal a line of text stays one line."""
        escaped = (visible(item) if isinstance(item, str) else item for item in objects)
        texts = all(isinstance(item, str) for item in objects)
        super().print(*escaped, soft_wrap=texts and not self.is_terminal, **options)


def stdout() -> Console:
    """Return the console for results.

    Tables fit its width: that of $COLUMNS or of a terminal, else `WIDTH`.
    """
    known = os.environ.get("COLUMNS", "").isdecimal() or any(
        stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)
    )
    return VisibleConsole(width=None if known else WIDTH, highlight=False, markup=False)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    return visible(text if len(text) <= CELL else f"{text[: CELL - 1]}…")
