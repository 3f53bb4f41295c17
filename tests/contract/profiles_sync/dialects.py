"""The statements of a warehouse that cannot run here, run elsewhere.

A pull gets a connection that compiles each statement as the vendor's own dialect does, parses the
text strictly as that warehouse's SQL, and runs on DuckDB what sqlglot makes of it. Only the driver
and the server are not the vendor's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
import sqlglot
from sqlalchemy import TIMESTAMP, VARCHAR, BigInteger, column, table
from sqlalchemy.dialects import registry
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.sql import functions
from sqlglot import exp

from syncer.engage.columns import Columns
from syncer.engage.profiles_sync import ProfilesSync, ProfilesSyncPull
from syncer.engage.source import Scope
from syncer.engage.warehouse import TABLES, Space
from syncer.engage.warehouses import WAREHOUSES
from tests.support.space import Warehouse

#: The warehouses that nobody can run without an account.
VENDORS = ("snowflake", "bigquery", "redshift", "databricks")
#: A parameter as the dialects write it: %(name)s, %(name:TYPE)s, :name or :`name`.
_PARAMETER = re.compile(r"%\((?P<a>\w+)(?::[^)]*)?\)s|(?<![\w:]):`?(?P<b>[a-zA-Z_]\w*)`?")
OWN = {
    "user_traits": ("name", "value"),
    "user_identifiers": ("type", "value"),
    "profile_merges": ("segment_id",),
}
REST = ("received_at", "uuid_ts", "timestamp")


def dialect_of(vendor: str) -> Dialect:
    """The vendor's own dialect of SQLAlchemy; the test is skipped where it is not installed."""
    drivername = WAREHOUSES[vendor].drivername
    name = drivername if "+" not in drivername else drivername.replace("+", ".")
    try:
        dialect: Dialect = registry.load(name)()
    except Exception as missing:
        pytest.skip(f"{vendor}: {missing} (the extra dev-warehouses has it)")
    # BigQuery's driver takes a name of PostgreSQL's for all dialects of this process.
    functions._registry["_default"].pop("unnest", None)
    return dialect


@dataclass
class Rows:
    """A result, as far as a pull reads it."""

    rows: list[tuple[Any, ...]]

    def all(self) -> list[tuple[Any, ...]]:
        return self.rows

    def scalar(self) -> Any:
        return self.rows[0][0] if self.rows else None

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None: ...

    def fetchmany(self, number: int) -> list[tuple[Any, ...]]:
        part, self.rows = self.rows[:number], self.rows[number:]
        return part


@dataclass
class Elsewhere:
    """A connection; `run` gets the text of each statement and its parameters."""

    dialect: Dialect
    run: Any
    said: list[str] = field(default_factory=list)

    def execute(self, statement: Any, execution_options: Any = None) -> Rows:
        compiled = statement.compile(
            dialect=self.dialect, compile_kwargs={"render_postcompile": True}
        )
        named = _PARAMETER.sub(lambda match: f":{match['a'] or match['b']}", str(compiled))
        text = named.replace("%%", "%")
        parse(text, self.dialect.name)
        self.said.append(text)
        return Rows([tuple(row) for row in self.run(text, compiled.params)])


def parse(text: str, vendor: str) -> exp.Expression:
    """Parse a statement strictly, in the SQL of a warehouse."""
    (tree,) = sqlglot.parse(text, read=vendor, error_level=sqlglot.ErrorLevel.RAISE)
    assert tree is not None
    unknown = [type(node).__name__ for node in tree.walk() if isinstance(node, exp.Command)]
    assert not unknown, f"{vendor} takes no such statement: {text}"
    return tree


@contextmanager
def pull(
    elsewhere: Elsewhere, scope: Scope, kind: Any = None, times: Any = None, **settings: Any
) -> Iterator[ProfilesSyncPull]:
    """A pull of tables with the types that Segment gives them."""
    vendor, time = elsewhere.dialect.name, times or TIMESTAMP()
    tables = {
        name: table(
            name,
            *(column(each, VARCHAR()) for each in ("canonical_segment_id", *OWN[name])),
            column("seq", kind or BigInteger()),
            *(column(each, time) for each in REST),
        )
        for name in TABLES
    }
    url = make_url("sqlite://")  # named in errors alone
    space = Space("", url, Columns(vendor, WAREHOUSES[vendor]), tables, {}, tables)
    connection: Any = elsewhere
    yield ProfilesSyncPull(ProfilesSync(url, **settings), connection, space, scope)


def on_duckdb(connection: Any, vendor: str) -> Any:
    """Return what runs a statement of a warehouse on DuckDB, by what sqlglot makes of it."""

    number = "(a, b) AS CAST('0x' || a AS BIGINT)"
    for macro in ("btrim(a, b) AS trim(a, b)", f"strtol{number}", f"from_base{number}"):
        connection.execute(f"CREATE MACRO IF NOT EXISTS {macro}")

    def run(text: str, values: Mapping[str, Any]) -> Any:
        tree = parse(text, vendor).transform(_hexadecimal)
        tree = tree.transform(lambda node: _filled(node, values))
        return connection.execute(tree.sql(dialect="duckdb")).fetchall()

    return run


def rows_of(warehouse: Warehouse, name: str) -> list[list[Any]]:
    """The rows of a table, for engines that take no zone in a time."""
    columns = ("canonical_segment_id", *OWN[name], "seq", *REST)
    with warehouse.engine.connect() as connection:
        rows = connection.exec_driver_sql(f"SELECT {', '.join(columns)} FROM {name}").all()
    return [[*row[:-3], *(time and time.replace("Z", "") for time in row[-3:])] for row in rows]


def load_duckdb(connection: Any, warehouse: Warehouse) -> None:
    """Make the tables of a warehouse on DuckDB, with its rows."""
    for name, own in OWN.items():
        texts = ", ".join(f"{each} VARCHAR" for each in ("canonical_segment_id", *own))
        times = ", ".join(f"{each} TIMESTAMP" for each in REST)
        connection.execute(f"CREATE TABLE {name} ({texts}, seq BIGINT, {times})")
        rows = rows_of(warehouse, name)
        connection.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(rows[0]))})", rows)


def load_spark(session: Any, schema: str, warehouse: Warehouse) -> None:
    """Make the tables of a warehouse on Spark, with its rows."""
    session.sql(f"CREATE SCHEMA {schema}").collect()
    for name, own in OWN.items():
        texts = ", ".join(f"{each} STRING" for each in ("canonical_segment_id", *own))
        times = ", ".join(f"{each} TIMESTAMP" for each in REST)
        rows = [(*row[:-3], *map(_in_utc, row[-3:])) for row in rows_of(warehouse, name)]
        table = session.createDataFrame(rows, f"{texts}, seq BIGINT, {times}").coalesce(1)
        table.write.format("parquet").saveAsTable(f"{schema}.{name}")


def _in_utc(time: str | None) -> datetime | None:
    return None if time is None else datetime.fromisoformat(f"{time}+00:00")


def _hexadecimal(node: exp.Expression) -> exp.Expression:
    """Snowflake's TO_NUMBER is of hexadecimal digits here, which sqlglot does not know."""
    if isinstance(node, exp.ToNumber):
        return exp.Anonymous(this="strtol", expressions=[node.this, exp.convert(16)])
    return node


def _filled(node: exp.Expression, values: Mapping[str, Any]) -> exp.Expression:
    if isinstance(node, exp.Placeholder) and node.name in values:
        value = values[node.name]
        if isinstance(value, datetime):
            assert value.tzinfo is None, "a time with a zone, for a column without one"
            return exp.cast(exp.Literal.string(value.isoformat(" ")), "timestamp")
        if isinstance(value, list | tuple):
            return exp.array(*map(exp.convert, value))
        return exp.convert(value)
    return node
