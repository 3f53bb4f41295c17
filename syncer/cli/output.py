"""Print results to stdout: lines, JSON documents and CSV; tables are in console.py.

Text from outside is escaped, so that it neither steers a terminal nor is a formula in a
spreadsheet.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

import orjson

from syncer.display import visible, visible_json

#: The beginning of a cell that a spreadsheet may take for a formula, and a cell that is a number.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")


def print_json(document: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(_dumped(document, orjson.OPT_INDENT_2) + "\n")
    sys.stdout.flush()


def print_json_list(items: Iterable[object]) -> None:
    """Print a list as one JSON document, item by item: it may be long."""
    empty = True
    for item in items:
        sys.stdout.write("[\n  " if empty else ",\n  ")
        sys.stdout.write(_dumped(item))
        empty = False
    sys.stdout.write("[]\n" if empty else "\n]\n")
    sys.stdout.flush()


def print_json_with_lists(document: object, lists: Mapping[str, Iterable[object]]) -> None:
    """Print an object as one JSON document, with further members that are long lists."""
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


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print CSV.

    A cell that begins like a formula has a ' before it. To read the text itself, remove one ' from
    cells that begin with '= and the like.
    """
    plain = csv.writer(sys.stdout, lineterminator="\n")
    quoted = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writerow(columns)
    escape = visible if sys.stdout.isatty() else str
    for row in rows:
        cells = [escape(_harmless(value)) if isinstance(value, str) else value for value in row]
        returns = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        (quoted if returns else plain).writerow(cells)  # csv quotes a line feed by itself only


def _harmless(text: str) -> str:
    formula = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


def print_line(text: str) -> None:
    """Print one line, however long."""
    print(visible(text))


def print_text(text: str) -> None:
    """Print a line of text. On a terminal it folds between words."""
    if sys.stdout.isatty():
        from syncer.cli import console  # not at the top: `status` in a script does not load it

        console.stdout().print(text)
    else:
        print_line(text)


#: The columns of a table of sums by trait.
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
