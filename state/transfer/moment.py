"""Both parts of a state, as they are at one moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection

from state.db.database import Database
from state.db.schema import PARTS
from state.errors import Busy
from state.history import seal
from state.transfer import rows


@dataclass(frozen=True)
class Moment:
    """A connection to each part, in a transaction that reads."""

    state: Connection
    queue: Connection

    def part(self, name: str) -> Connection:
        """Return the connection to a part."""
        return self.state if name == "state" else self.queue

    def contents(self) -> Contents:
        """Count all rows."""
        return contents(self.state, self.queue)


@dataclass(frozen=True)
class Contents:
    """What two copies of a state must agree in.

    These are the rows of each table, the last number that a table gave out, where it does, and the
    head of the history's chain.
    """

    rows: dict[str, int]
    numbers: dict[str, int]
    head: str | None

    @property
    def total(self) -> int:
        """All rows."""
        return sum(self.rows.values())

    def differences(self, other: Contents) -> list[str]:
        """Name what is not the same in another one, a line each."""
        lines = [
            f"{name}: {self.rows.get(name, 0):,} rows and {other.rows.get(name, 0):,}"
            for name in {**self.rows, **other.rows}
            if self.rows.get(name) != other.rows.get(name)
        ]
        lines += [
            f"{name}: the last number is {self.numbers.get(name)} and {other.numbers.get(name)}"
            for name in {**self.numbers, **other.numbers}
            if self.numbers.get(name) != other.numbers.get(name)
        ]
        if self.head != other.head:
            lines.append(f"the head of the history is {self.head} and {other.head}")
        return lines


def contents(state: Connection, queue: Connection) -> Contents:
    """Count all rows of both parts, which may be in one database."""
    counted: dict[str, int] = {}
    numbers: dict[str, int] = {}
    for connection, part in ((state, "state"), (queue, "queue")):
        counted |= rows.count(connection, PARTS[part])
        for table in PARTS[part]:
            if (number := rows.position(connection, table)) is not None:
                numbers[str(table.name)] = number
    return Contents(counted, numbers, seal.head(state))


@contextmanager
def moment(
    state: Database, queue: Database, check: Callable[[], None] = lambda: None
) -> Iterator[Moment]:
    """Open both parts for reading, as they are at one moment.

    The pair is what a crash at this moment would have left, and of such a pair nothing is lost or
    doubled. Two copies one after the other would not do, in either order. A call is in the state
    before it is taken out of the queue, so a state that is older than its queue may lack it; a
    meter record that is sent again is in the queue before it is taken out of the state's failures,
    so a queue that is older than its state may lack that. On PostgreSQL both are in one snapshot.
    On SQLite writers to either wait for the instant that it takes to begin reading both; `check` is
    called while another one's long transaction has to end first.
    """
    with ExitStack() as reading:
        if state.engine.dialect.name == "postgresql":
            connection = reading.enter_context(state.read())
            connection.exec_driver_sql("SELECT 1")
            yield Moment(connection, connection)
            return
        pair = Moment(reading.enter_context(state.read()), reading.enter_context(queue.read()))
        while not _begin(pair, state, queue):
            check()
        yield pair


def _begin(pair: Moment, state: Database, queue: Database) -> bool:
    try:
        # The state first: its transactions are the long ones, and calls must not wait for them.
        with state.write(), queue.write():
            for connection in (pair.state, pair.queue):
                connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
    except Busy:
        return False
    return True
