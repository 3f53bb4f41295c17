"""Whether a state is whole: its pages, its versions, what refers to what, its history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select

from state import outbox, queue, restored
from state.db import migrations
from state.db.database import sqlite_path
from state.db.tables import (
    CHANGE,
    CUSTOMER,
    ERASED,
    HELD_CHANGE,
    HOLD,
    PARTS,
    RUN,
    RUN_TRAIT,
    SEAL,
)
from state.history.proof import Proof, prove
from state.restored import Restored
from state.transfer.moment import Contents, Moment

#: What must be true of rows: in words, the table's column that names a row, and the row's own.
_REFERENCES = (
    ("changes of a run that is not there", CHANGE.c.run, RUN.c.id),
    ("sums of a run that is not there", RUN_TRAIT.c.run, RUN.c.id),
    ("held changes of a hold that is not there", HELD_CHANGE.c.hold, HOLD.c.id),
    ("erased changes of a seal that is not there", ERASED.c.seal, SEAL.c.number),
)


@dataclass(frozen=True)
class Checkup:
    """What was found, in the order in which it is told.

    `problems` are lines; without any the state is whole. `due` counts what waits to be sent, and
    `due_since` is when the oldest of it came (epoch milliseconds). `sizes` are bytes, by file or by
    table; `restored` says that no run has compared everything since the state was restored.
    """

    versions: dict[str, int]
    contents: Contents
    proof: Proof
    customers_due: int
    calls_due: int
    due_since: int | None
    sizes: dict[str, int]
    restored: Restored | None
    problems: list[str]


def check(pair: Moment, stop: Callable[[], None] = lambda: None) -> Checkup:
    """Check both parts, which may be in one database; it writes nothing."""
    problems = []
    if pair.state.dialect.name == "sqlite":
        for connection in {id(one): one for one in (pair.state, pair.queue)}.values():
            stop()
            rows = connection.exec_driver_sql("PRAGMA integrity_check(3)").scalars().all()
            path = sqlite_path(connection.engine.url)
            problems += [
                f"{path} is damaged: {' '.join(str(row).split())}" for row in rows if row != "ok"
            ]
    stop()
    proof = prove(pair.state, check=stop)
    if proof.broken is not None:
        problems.append(f"the history is not as it was sealed: {proof.broken.what}")
    problems += _facts(pair.state)
    since = (outbox.waits_since(pair.state), queue.oldest_waiting(pair.queue))
    return Checkup(
        versions={part: migrations.version(pair.part(part), part) for part in PARTS},
        contents=pair.contents(),
        proof=proof,
        customers_due=outbox.backlog(pair.state),
        calls_due=sum(queue.waiting(pair.queue)),
        due_since=min((at for at in since if at is not None), default=None),
        sizes=_sizes(pair),
        restored=restored.pending(pair.state),
        problems=problems,
    )


def _facts(connection: Connection) -> list[str]:
    """Return what is not true of the rows of the state, a line each."""
    wrong: list[tuple[str, ColumnElement[bool]]] = [
        (what, and_(one.is_not(None), one.not_in(select(other))))
        for what, one, other in _REFERENCES
    ]
    wrong.append(
        (
            "customers of whom a later revision is acknowledged",
            CUSTOMER.c.acked_rev > CUSTOMER.c.rev,
        )
    )
    lines = []
    for what, condition in wrong:
        number = connection.execute(select(func.count()).where(condition)).scalar_one()
        if number:
            lines.append(f"{number:,} {what}")
    return lines


def _sizes(pair: Moment) -> dict[str, int]:
    if pair.state.dialect.name == "sqlite":
        paths = [sqlite_path(one.engine.url) for one in (pair.state, pair.queue)]
        files = [path.with_name(path.name + end) for path in paths if path for end in ("", "-wal")]
        return {str(file): file.stat().st_size for file in files if file.exists()}
    sizes: dict[str, int] = {}
    for part in PARTS:
        for table in PARTS[part]:
            names: Any = (f'"{table.name}"',)
            statement = "SELECT pg_total_relation_size(%s::regclass)"
            sizes[str(table.name)] = int(pair.state.exec_driver_sql(statement, names).scalar_one())
    return sizes
