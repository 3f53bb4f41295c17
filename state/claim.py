"""The claim rule: how a process takes work that is due, so that no other process takes the same.

Customers and meter records wait in lanes (lanes.py). A row is due when its `due_at` has come
(due.py), and free while its `claimed_by` is null. A worker claims rows by writing its number there,
in one statement that skips rows which another transaction has locked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, Table, func, select, text, update

from state import lanes
from state.db.tables import CUSTOMER, EVENT
from state.due import come_due

#: What a lane holds changes faster than PostgreSQL's statistics: it takes a long lane for a short
#: one, and would sort all of it for each batch. For the rest of the transaction it goes by the
#: order of the index instead.
_IN_ORDER = text("SELECT set_config('enable_sort', 'off', true)")


@dataclass(frozen=True)
class Backlog:
    """A table whose rows wait in lanes until a worker claims them.

    `key` is its primary key and `lane` the column that names the lane.
    """

    table: Table
    key: Column[Any]
    lane: Column[Any]

    @property
    def waits(self) -> ColumnElement[bool]:
        """Whether a row waits, be it for its time."""
        return self.table.c.due_at.is_not(None)

    @property
    def free(self) -> ColumnElement[bool]:
        """Whether no worker has a row in work."""
        return self.table.c.claimed_by.is_(None)

    def lanes(self, connection: Connection) -> list[str]:
        """Return the lanes in which something waits."""
        return lanes.present(connection, self.lane, self.waits)

    def count_in(self, connection: Connection, lane: str) -> int:
        """Count the rows that wait in a lane."""
        statement = select(func.count()).select_from(self.table)
        statement = statement.where(self.waits, self.lane == lane)
        return int(connection.execute(statement).scalar_one())

    def any_due(self, connection: Connection, now: int, *where: ColumnElement[bool]) -> bool:
        """Whether a row that meets the conditions is due at `now` (epoch milliseconds)."""
        row = select(self.key).where(self.waits, *where).limit(1)
        return any(
            connection.execute(row.where(self.lane == lane, is_due)).first()
            for lane in self.lanes(connection)
            for is_due in come_due(self.table.c.due_at, now)
        )

    def claim_due(
        self,
        connection: Connection,
        worker: int,
        now: int,
        limit: int,
        *,
        order: tuple[Sequence[str], Sequence[str]],
        columns: Sequence[ColumnElement[Any]],
        where: Callable[[str], ColumnElement[bool]] | None = None,
    ) -> list[tuple[Any, ...]]:
        """Claim rows that are free and due at `now`, at most `limit`; return their `columns`.

        `now` is in epoch milliseconds. `order` names the lanes that share the limit and the lanes
        that get what is left of it; in each lane the rows that wait longest come first. `where`
        returns a further condition for the rows of a lane.
        """
        if connection.dialect.name == "postgresql":
            connection.execute(_IN_ORDER)
        for is_due in come_due(self.table.c.due_at, now):

            def take(
                lane: str, count: int, is_due: ColumnElement[bool] = is_due
            ) -> list[tuple[Any, ...]]:
                rows = select(self.key).where(self.lane == lane, self.waits, is_due, self.free)
                if where is not None:
                    rows = rows.where(where(lane))
                # The order of the index: a large backlog must not be sorted for every batch.
                rows = rows.order_by(self.table.c.due_at, self.key).limit(count)
                return self.claim(connection, worker, rows, columns)

            if claimed := lanes.shared(*order, limit, take):
                return claimed
        return []

    def claim(
        self,
        connection: Connection,
        worker: int,
        rows: Select[Any],
        columns: Sequence[ColumnElement[Any]],
        **values: Any,
    ) -> list[tuple[Any, ...]]:
        """Claim the rows that a statement selects by their key; return their `columns`.

        Rows that another transaction has locked are left out. `values` are set too. The result is
        in the order of `due_at` and key.
        """
        chosen = rows.with_for_update(skip_locked=True).cte("chosen")
        claimed = connection.execute(
            update(self.table)
            .where(self.key.in_(select(chosen.c[self.key.name])))
            .values(claimed_by=worker, **values)
            .returning(self.table.c.due_at, self.key, *columns)
        )
        return [tuple(row[2:]) for row in sorted(claimed, key=lambda row: row[:2])]


CUSTOMERS = Backlog(CUSTOMER, CUSTOMER.c.customer_id, CUSTOMER.c.line)
METER_RECORDS = Backlog(EVENT, EVENT.c.id, EVENT.c.key)
