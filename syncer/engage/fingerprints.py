"""Fingerprints: what an engine says of each customer, as one short text that it computes itself.

A row of a trait is hashed with its name and value; a value that is no text with its type, too, as
the same characters may mean something else there. Where a customer has several rows of one trait,
as after a merge, each is hashed with its time and number, too: which of them is the newest is not
decided here. The hashes of a customer are added up, in four parts of 32 bits, so that no order
counts and no row is too many. Two customers with the same rows have the same fingerprint, and all
engines give the same one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    Column,
    ColumnElement,
    FromClause,
    MetaData,
    Select,
    String,
    Table,
    Text,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    type_coerce,
    union_all,
)

from syncer.engage.columns import Columns
from syncer.engage.warehouses import Warehouse

#: The parts of a hash, and the hexadecimal digits of each.
PARTS, DIGITS = 4, 8


def fingerprints(rows: CTE, ids: FromClause, columns: Columns) -> Select[Any]:
    """Select (customer_id, fingerprint, number) of all customers; `number` counts their rows.

    `rows` are (customer_id, name, value, time, seq) of the trait rows of customers, `ids` has the
    ids of all of them in its column `value`: a customer may have no row.
    """
    warehouse = columns.warehouse
    hashes = _hashes(rows, columns)
    parts = [
        func.sum(warehouse.number(func.substr(hashes.c.hash, 1 + DIGITS * part, DIGITS)))
        for part in range(PARTS)
    ]
    sums = (
        select(
            hashes.c.customer_id,
            *(total.label(f"part_{part}") for part, total in enumerate(parts)),
            func.count().label("number"),
        )
        .group_by(hashes.c.customer_id)
        .cte("sums")
    )
    every = select(ids.c.value.label("customer_id")).distinct().cte("every_id")
    texts = [func.coalesce(cast(sums.c[f"part_{part}"], Text), _text("")) for part in range(PARTS)]
    dashes = [_text("-")] * PARTS
    together = _joined(*(each for pair in zip(dashes, texts, strict=True) for each in pair))
    return select(
        every.c.customer_id,
        warehouse.digest(together).label("fingerprint"),
        cast(func.coalesce(sums.c.number, 0), BigInteger).label("number"),
    ).select_from(every.outerjoin(sums, sums.c.customer_id == every.c.customer_id))


def _hashes(rows: CTE, columns: Columns) -> CTE:
    """Select (customer_id, hash) of each row."""
    of_trait = (rows.c.customer_id, rows.c.name)
    counted = select(rows, func.count().over(partition_by=of_trait).label("alike")).cte("counted")
    value = counted.c.value
    is_text = isinstance(value.type, String)
    text = value if is_text else cast(value, Text)
    begin = ";+" if is_text else f";{value.type.__visit_name__}:"
    time, seq = (
        func.coalesce(cast(column, Text), _text("")) for column in (counted.c.time, counted.c.seq)
    )
    order = _joined(_text("|"), time, _text("|"), seq)
    row = _joined(
        cast(func.length(counted.c.name), Text),
        _text(":"),
        counted.c.name,
        case((counted.c.alike > 1, order), else_=_text("")),
        case((value.is_(None), _text(";-")), else_=_joined(_text(begin), text)),
    )
    return select(counted.c.customer_id, columns.warehouse.digest(row).label("hash")).cte("hashes")


def differing(before: FromClause, now: FromClause) -> Select[Any]:
    """Select (customer_id) of those whose fingerprint differs, is new or is gone, in no order."""
    same = before.c.customer_id == now.c.customer_id
    changed = (
        select(now.c.customer_id)
        .select_from(now.outerjoin(before, same))
        .where(or_(before.c.customer_id.is_(None), before.c.fingerprint != now.c.fingerprint))
    )
    gone = (
        select(before.c.customer_id)
        .select_from(before.outerjoin(now, same))
        .where(now.c.customer_id.is_(None))
    )
    either = union_all(changed, gone).subquery("differing")
    return select(either.c.customer_id)


def table_of(name: str, schema: str, warehouse: Warehouse) -> Table:
    """Return the table that keeps fingerprints."""
    return Table(
        name,
        MetaData(),
        Column("customer_id", warehouse.id_type, nullable=False),
        Column("fingerprint", String(2 * 16), nullable=False),
        Column("number", BigInteger, nullable=False),
        schema=schema or None,
    )


def _text(text: str) -> ColumnElement[str]:
    """Return a text as it stands in a statement: some engines do not know a parameter's type."""
    return literal_column(f"'{text}'", Text())


def _joined(*texts: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return texts one after the other."""
    joined: ColumnElement[Any] = type_coerce(texts[0], Text())
    for text in texts[1:]:
        joined = joined.op("||")(text)
    return type_coerce(joined, Text())
