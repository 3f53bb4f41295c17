"""Ways to make a history and to look at its proof."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from state import erasure, snapshot
from state.db.database import Database
from state.db.schema import PARTS
from state.history import compaction, seal
from state.history.proof import Proof, prove
from state.history.record import ChangeRow, add_changes
from state.snapshot import CustomerRow

NOW = 1_790_000_000_000


def empty(database: Database) -> None:
    with database.write() as connection:
        for table in PARTS["state"]:
            connection.execute(table.delete())


def run_sql(database: Database, statement: str, **values: Any) -> int:
    """Past the product."""
    with database.write() as connection:
        return connection.execute(text(statement), values).rowcount


def rows(database: Database, statement: str, **values: Any) -> list[dict[str, Any]]:
    with database.read() as connection:
        return [dict(row) for row in connection.execute(text(statement), values).mappings()]


def proof(database: Database, **options: Any) -> Proof:
    with database.read() as connection:
        return prove(connection, **options)


def broken(database: Database, **options: Any) -> tuple[str, int | None, int | None, int | None]:
    """What is wrong, and at which seal, run and change."""
    finding = proof(database, **options).broken
    assert finding is not None
    return finding.what, finding.seal, finding.run, finding.change


CHANGE_COLUMNS = [
    *("id", "run", "customer_id", "rev", "key", "trait", "before", "after", "delta"),
    *("observed_at", "recorded_at", "salt", "source", "via"),
]


@dataclass
class Maker:
    """Makes changes as runs and calls do. `told` is every change that was made, in order."""

    database: Database
    now: int = NOW
    run: int = 0
    traits: dict[str, dict[str, Any]] = field(default_factory=dict)

    def changes(
        self, connection: Connection, told: list[tuple[str, str, Any]], run: int | None, at: int
    ) -> None:
        """(customer, key, value after) each."""
        for customer_id, key, after in told:
            traits = self.traits.setdefault(customer_id, {})
            before = traits.get(key)
            if before == after:
                continue  # no change
            traits[key] = after
            held = {name: value for name, value in traits.items() if value is not None}
            state = CustomerRow(customer_id, json.dumps(held), None, None, None, None)
            if snapshot.known(connection, [customer_id]):
                snapshot.update_customers(connection, [state], at)
            else:
                snapshot.insert_customers(connection, [state], at)
            texts = [None if value is None else json.dumps(value) for value in (before, after)]
            row = ChangeRow(customer_id, key, key.lower(), texts[0], texts[1], at - 1000)
            add_changes(connection, [row], run, at)
            if after is False:
                newest = (
                    "UPDATE change SET source = 'deleted' WHERE id = (SELECT max(id) FROM change)"
                )
                connection.execute(text(newest))

    def call(self, *told: tuple[str, str, Any], at: int | None = None) -> None:
        self.now += 1000
        with self.database.write(alone=True) as connection:
            self.changes(connection, list(told), None, self.now if at is None else at)

    def sync(self, *told: tuple[str, str, Any], at: int | None = None) -> str:
        """A run; gives the head."""
        self.now += 1000
        self.run += 1
        at = self.now if at is None else at
        with self.database.write(alone=True) as connection:
            values = {"id": self.run, "kind": "incremental", "state": "done", "at": at}
            connection.execute(
                text(
                    "INSERT INTO run (id, kind, state, started_at, committed_at)"
                    " VALUES (:id, :kind, :state, :at, :at)"
                ),
                values,
            )
            self.changes(connection, list(told), self.run, at)
            head = seal.seal(connection, self.run, at)
        assert head is not None
        return head

    def deliver(self) -> None:
        """Amberflo has acknowledged all."""
        self.now += 1000
        run_sql(
            self.database,
            "UPDATE change SET delivered_at = :at WHERE delivered_at IS NULL",
            at=self.now,
        )

    def compact(self, before: int | None = None) -> compaction.Compacted:
        return compaction.compact(
            self.database, self.now + 1 if before is None else before, lambda: self.now
        )

    def erase(self, customer_id: str) -> erasure.Erased:
        self.now += 1000
        self.traits.pop(customer_id, None)
        with self.database.write(alone=True) as connection:
            return erasure.erase(connection, customer_id, self.now)


def some(*customers: str, value: Any = True) -> list[tuple[str, str, Any]]:
    return [(customer, key, value) for customer in customers for key in ("vip", "Churn")]


SEAL_COLUMNS = [
    *("number", "kind", "run", "first_id", "last_id", "changes", "digest", "until"),
    *("previous", "hash", "sealed_at", "marks"),
]


COLUMNS = {"change": CHANGE_COLUMNS, "seal": SEAL_COLUMNS, "erased": ["id", "leaf", "seal"]}


#: What may stand where nothing stands.
SOMETHING = {
    **{"run": 1, "until": 1, "observed_at": 1},
    **{"before": "x", "after": "x", "salt": "x", "source": "x", "via": "x", "marks": b"x"},
}


def edit(connection: Connection, rng: random.Random) -> str | None:
    """Edit a sealed row somewhere; gives what was done, None where there was nothing to do."""
    table = rng.choice(["change", "change", "seal", "erased"])
    columns, key = COLUMNS[table], "number" if table == "seal" else "id"
    where = f"WHERE id <= {seal.sealed_to(connection)}" if table == "change" else ""
    statement = text(f'SELECT * FROM "{table}" {where} ORDER BY {key}')
    candidates = [dict(row) for row in connection.execute(statement).mappings()]
    if not candidates:
        return None
    row, other = rng.choice(candidates), rng.choice(candidates)
    taken = set(connection.execute(text(f'SELECT {key} FROM "{table}"')).scalars())
    free = rng.choice([-1, 0, max(taken) + 1, max(taken) + 1000])

    def put(which: Any, values: dict[str, Any]) -> None:
        sets = ", ".join(f"{name} = :{name}" for name in values)
        statement = text(f'UPDATE "{table}" SET {sets} WHERE {key} = {which}')
        connection.execute(statement, values)

    how = rng.choice(["column", "column", "delete", "copy", "swap", "move"])
    if how == "column":
        column = rng.choice(columns)
        new = another(row[column], column, rng)
        if column == key and new in taken:
            return None
        put(row[key], {column: new})
        how = f"{column} is {new!r}"
    elif how == "delete":
        connection.execute(text(f'DELETE FROM "{table}" WHERE {key} = {row[key]}'))
    elif how == "move":
        put(row[key], {key: free})
    elif how == "copy":
        # A change that looks like one of a call after the last seal is one: that is counted.
        copy = {**row, key: free} | ({"run": 1} if table == "change" else {})
        names, values = ", ".join(copy), ", ".join(f":{name}" for name in copy)
        connection.execute(text(f'INSERT INTO "{table}" ({names}) VALUES ({values})'), copy)
    else:
        rest = [name for name in columns if name != key]
        if all(row[name] == other[name] for name in rest):
            return None
        put(row[key], {name: other[name] for name in rest})
        put(other[key], {name: row[name] for name in rest})
    return f"{how}: {table} {row}"


def another(value: Any, column: str, rng: random.Random) -> Any:
    """A value that differs, often by little."""
    if value is None:
        return SOMETHING[column]
    if isinstance(value, int):
        return value ^ (1 << rng.randrange(3))
    place = rng.randrange(len(value) + 1)
    if not isinstance(value, str):
        return bytes(value[:place]) + b"x" + bytes(value[place:])
    if len(value) > 5 and rng.random() < 0.5:
        return value[1:]
    return value[:place] + "0" + value[place:]


def first_id(maker: Maker) -> int:
    return int(rows(maker.database, "SELECT min(id) AS id FROM change")[0]["id"])


def all_seals(maker: Maker) -> list[dict[str, Any]]:
    return rows(maker.database, "SELECT * FROM seal ORDER BY number")


def told(database: Database) -> list[dict[str, Any]]:
    return rows(database, "SELECT * FROM change ORDER BY id")


def everything(database: Database) -> str:
    """All that the tables hold, as one text."""
    with database.read() as connection:
        return repr([connection.execute(table.select()).all() for table in PARTS["state"]])
