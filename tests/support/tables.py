"""The tables in SQLAlchemy Core, from the SQLModel classes.

    python -m tests.support.tables

writes state/db/tables.py.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Integer, Text
from sqlalchemy.schema import DefaultClause
from sqlalchemy.types import TypeEngine

from state.db.schema import PARTS

FILE = Path(__file__).parents[2] / "state/db/tables.py"
HEAD = '''\
"""The tables in SQLAlchemy Core, for the statements of the program.

Written by `python -m tests.support.tables` from models.py and queue_models.py; a test holds
the two equal. To import SQLModel with its ORM, and to build the classes, takes each process 7 to 10
MB and `status` a third of its start (docs/benchmarks.md); a statement needs neither.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

_SCHEMA = MetaData()
#: Text that sorts in UTF-8 byte order on every engine, for the merge.
_ORDERED = Text().with_variant(Text(collation="C"), "postgresql")
_SERIAL = BigInteger().with_variant(Integer, "sqlite")
'''


def text() -> str:
    """The module, as the file has it."""
    lines = [HEAD]
    for table in (table for tables in PARTS.values() for table in tables):
        columns = "".join(f"    {_column(column)},\n" for column in table.columns)
        name = f'    "{table.name}",\n    _SCHEMA,\n'
        lines.append(f"{table.name.upper()} = Table(\n{name}{columns})\n")
    return "".join(lines)


def _column(column: Column[object]) -> str:
    parts = [f'"{column.name}"', _type(column.type)]
    if column.primary_key:
        parts.append("primary_key=True")
        if column.autoincrement is False:
            parts.append("autoincrement=False")
    elif not column.nullable:
        parts.append("nullable=False")
    if column.server_default is not None:
        assert isinstance(column.server_default, DefaultClause)
        default = column.server_default.arg
        quoted = f'"{default}"'
        parts.append(f"server_default={quoted if isinstance(default, str) else f'text({quoted})'}")
    return f"Column({', '.join(parts)})"


def _type(kind: TypeEngine[object]) -> str:
    variants = kind._variant_mapping
    if isinstance(variants.get("postgresql"), Text):
        return "_ORDERED"
    if isinstance(variants.get("sqlite"), Integer):
        return "_SERIAL"
    assert not variants
    length = getattr(kind, "length", None)
    return type(kind).__name__ + (f"({length})" if length else "")


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
