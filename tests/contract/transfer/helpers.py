"""A state with awkward rows in every table, and ways to look at all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sqlalchemy import Connection, Integer, LargeBinary, SmallInteger, Table, insert
from sqlalchemy.engine import URL, make_url

from state import erasure
from state.db.database import Database
from state.db.schema import CHANGE, ERASED, METADATA, PARTS, REVISIT, SEAL
from state.history import seal
from state.transfer.moment import Contents, Moment, contents, moment
from state.transfer.rows import position

NOW = 1_790_000_000_000
#: Texts that a way through a file, a statement or a protocol might not leave as they are.
TEXTS = [
    *("", " ", "plain", "it's", 'a "quoted" one', "tab\tline\nreturn\r", "\\N", "\\", "\\.", "é"),
    *("NULL", "ﬀ ✓ 𝔘 👩‍👩‍👧", "0", "1e5", "true", "x" * 10_000, "\x01\x7f", "\ufeffbom"),
]
LARGE = [0, 1, -1, 2**63 - 1, -(2**63)]
SMALL = [0, 1, -1, 2**15 - 1, -(2**15)]
MIDDLE = [0, 1, -1, 2**31 - 1, -(2**31)]
BYTES = [b"", bytes(range(256)), b"\\x00", b"\x00" * 1000]
#: Tables whose rows vouch for one another: they are made by those who make them.
MADE = (CHANGE, SEAL, ERASED, METADATA)


def fill(database: Database, calls: Database, rows: int = 40) -> None:
    """Put rows into every table of both parts, and take some away again."""
    for part, place in (("state", database), ("queue", calls)):
        with place.write() as connection:
            for table in PARTS[part]:
                if table not in MADE:
                    _put(connection, table, range(rows))
    for run in range(1, 4):
        with database.write(alone=True) as connection:
            _put(connection, CHANGE, range(run * rows, run * rows + rows), run)
            seal.seal(connection, run, NOW)
            if run == 2:
                erasure.erase(connection, "plain", NOW)
    with database.write(alone=True) as connection:
        _put(connection, CHANGE, range(4 * rows, 5 * rows))  # not sealed
    for part, place in (("state", database), ("queue", calls)):
        with place.write() as connection:  # so that the next number is not the highest and one
            for table in PARTS[part]:
                if position(connection, table) and table not in MADE:
                    (key,) = table.primary_key.columns
                    connection.execute(table.delete().where(key > rows - 3))


def _put(
    connection: Connection, table: Table, numbers: Iterable[int], run: int | None = None
) -> None:
    given = table.autoincrement_column
    rows = []
    for number in numbers:
        row: dict[str, Any] = {}
        for place, column in enumerate(table.columns):
            if column is given:
                continue
            unique = column.primary_key or (column.name in ("ref", "message_id"))
            unique = unique or table is REVISIT
            row[column.name] = _value(column, number, place, unique)
        if table.name == "hold":
            row["decision"] = "approved"  # of a trait one may be open
        if table.name == "run":
            row["committed_at"] = None  # such a run has a seal
        if table is CHANGE:
            row |= {"customer_id": ("plain", "u1", "é")[number % 3], "delta": number % 3 - 1}
            row["run"] = run
        rows.append(row)
    connection.execute(insert(table), rows)


def _value(column: Any, number: int, place: int, unique: bool) -> Any:
    if column.nullable and (number + place) % 4 == 0:
        return None
    if isinstance(column.type, LargeBinary):
        return BYTES[number % len(BYTES)]
    if isinstance(column.type, SmallInteger):
        return SMALL[(number + place) % len(SMALL)]
    if isinstance(column.type, Integer):
        values = LARGE if "BIG" in str(column.type) else MIDDLE
        return number if unique else values[(number + place) % len(values)]
    text = TEXTS[(number + place) % len(TEXTS)]
    if unique:
        # A server indexes a part of its page at most.
        text = f"{number} {text[:300]}"
    length = getattr(column.type, "length", None)
    return text[:length] if length else text


def everything(database: Database, calls: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, and the last number that each gave out."""
    by_table: dict[str, list[tuple[Any, ...]]] = {}
    for part, place in (("state", database), ("queue", calls)):
        with place.read() as connection:
            for table in PARTS[part]:
                rows = [tuple(row) for row in connection.execute(table.select())]
                by_table[table.name] = sorted(rows, key=repr)
                by_table[f"number of {table.name}"] = [(position(connection, table),)]
    return by_table


@contextmanager
def opened(url: URL | str) -> Iterator[tuple[Database, Database]]:
    """Both parts of a state."""
    with ExitStack() as stack:
        parts = [Database.open(url, part) for part in PARTS]
        for part in parts:
            stack.callback(part.close)
        yield parts[0], parts[1]


@contextmanager
def at_once(url: URL | str) -> Iterator[Moment]:
    with opened(url) as parts, moment(*parts) as pair:
        yield pair


def held(url: URL | str) -> Contents:
    with at_once(url) as pair:
        return contents(pair.state, pair.queue)


def url_of(path: object) -> URL:
    return make_url(f"sqlite:///{path}")
