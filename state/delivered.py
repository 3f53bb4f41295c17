"""The changes in the history that Amberflo has: marked when it acknowledges their customers.

PostgreSQL looks up the changes of each customer by themselves. Joined with the history they would
be found by its statistics of what is undelivered: there are none after a first run, and old ones
after a mass change, and then it reads all that is undelivered for each commit.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from sqlalchemy import Connection, bindparam, text, update

from state.db.batches import ROWS, batches
from state.db.row_statement import NUMBER, TEXT, RowStatement
from state.db.tables import CHANGE

_MARK = RowStatement(
    update(CHANGE)
    .where(
        CHANGE.c.customer_id == bindparam("which"),
        CHANGE.c.rev <= bindparam("was"),
        CHANGE.c.delivered_at.is_(None),
    )
    .values(delivered_at=bindparam("at")),
    which=TEXT,
    was=NUMBER,
    at=NUMBER,
)
#: OFFSET keeps the inner query from being joined, an array the outer one.
_MARK_ON_POSTGRESQL = text("""
    UPDATE change SET delivered_at = :at WHERE id = ANY (ARRAY(
        SELECT undelivered.id
        FROM json_to_recordset(CAST(:customers AS JSON)) AS sent (which TEXT, was BIGINT),
        LATERAL (
            SELECT id FROM change
            WHERE customer_id = sent.which AND rev <= sent.was AND delivered_at IS NULL
            OFFSET 0
        ) AS undelivered
    ))
""")


def mark(connection: Connection, customers: Sequence[tuple[str, int]], at: int) -> None:
    """Note that Amberflo has all changes of customers up to a `rev` of each, since `at` (epoch ms).

    What was marked before keeps its time.
    """
    if connection.dialect.name != "postgresql":
        _MARK.execute(connection, [{"which": who, "was": rev, "at": at} for who, rev in customers])
        return
    for batch in batches(customers, ROWS):
        rows = orjson.dumps([{"which": who, "was": rev} for who, rev in batch]).decode()
        connection.execute(_MARK_ON_POSTGRESQL, {"customers": rows, "at": at})
