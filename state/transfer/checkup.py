"""Whether a state is whole: its pages, its versions, what refers to what, its history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from state import outbox, queue, restored
from state.db import migrations
from state.db.database import sqlite_path
from state.db.driver_errors import shown, translated
from state.db.schema import PARTS
from state.errors import StateError
from state.history.proof import Proof, prove
from state.restored import Restored
from state.transfer import facts
from state.transfer.backup import Steps
from state.transfer.moment import Contents, Moment


@dataclass(frozen=True)
class Checkup:
    """What was found, in the order in which it is told.

    `problems` are lines; without any the state is whole. `versions` are 0 where a part is not there
    yet. `due` counts what waits to be sent, and
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


def check(pair: Moment, steps: Steps = Steps()) -> Checkup:  # noqa: B008
    """Check both parts, which may be in one database; it writes nothing.

    Raise where it is no state of this version, or where tables of it are missing.
    """
    _check_tables(pair)
    with steps.stage("checking the pages"):
        problems = _pages(pair, steps.check)
    with steps.stage("checking the history"), translated(pair.state.engine.url):
        proof = prove(pair.state, check=steps.check)
        if proof.broken is not None:
            problems.append(f"the history is not as it was sealed: {proof.broken.what}")
    with steps.stage("checking the rows"):
        with translated(pair.state.engine.url):
            problems += facts.untrue(pair.state)
        for part in PARTS:
            with translated(pair.part(part).engine.url):
                problems += facts.missing(pair.part(part), part)[1]
                problems += facts.odd_rows(pair.part(part), part, steps.check)
    since = (outbox.waits_since(pair.state), queue.oldest_waiting(pair.queue))
    return Checkup(
        versions={part: _version(pair.part(part), part) for part in PARTS},
        contents=pair.contents(),
        proof=proof,
        customers_due=outbox.backlog(pair.state),
        calls_due=sum(queue.waiting(pair.queue)),
        due_since=min((at for at in since if at is not None), default=None),
        sizes=_sizes(pair),
        restored=restored.pending(pair.state),
        problems=problems,
    )


def _check_tables(pair: Moment) -> None:
    """Raise where there is not all that a state consists of."""
    lacks = []
    for part in PARTS:
        connection = pair.part(part)
        number, newest = migrations.check(connection, part), migrations.newest(part)
        if 0 < number < newest:
            raise StateError(
                f"{_place(connection)}: the {part} has schema version {number}, and this program "
                f"checks version {newest}: check it with the syncer that wrote it, or restore it"
            )
        with translated(connection.engine.url):
            lacks += facts.missing(connection, part)[0]
        if number == 0:
            lacks.append(f"the version of the {part} is not there")
    if lacks:
        raise StateError(f"{_place(pair.state)} is not a whole state: {'; '.join(lacks)}")


def _version(connection: Connection, part: str) -> int:
    """Return the version of a part; 0 where no call came yet, so that there is no queue."""
    where = sqlite_path(connection.engine.url)
    is_empty = connection.dialect.name == "sqlite" and where is None
    return 0 if is_empty else migrations.version(connection, part)


def _place(connection: Connection) -> object:
    return sqlite_path(connection.engine.url) or shown(connection.engine.url)


def _pages(pair: Moment, stop: Callable[[], None]) -> list[str]:
    """Return what SQLite says of damaged pages, a line each."""
    problems: list[str] = []
    for connection in {id(database): database for database in (pair.state, pair.queue)}.values():
        if connection.dialect.name == "sqlite":
            stop()
            lines = connection.exec_driver_sql("PRAGMA integrity_check(3)").scalars().all()
            where = _place(connection)
            problems += [
                f"{where} is damaged: {' '.join(str(line).split())}"
                for line in lines
                if line != "ok"
            ]
    return problems


def _sizes(pair: Moment) -> dict[str, int]:
    if pair.state.dialect.name == "sqlite":
        paths = [sqlite_path(database.engine.url) for database in (pair.state, pair.queue)]
        files = [path.with_name(path.name + end) for path in paths if path for end in ("", "-wal")]
        return {str(file): file.stat().st_size for file in files if file.exists()}
    sizes: dict[str, int] = {}
    for part in PARTS:
        for table in PARTS[part]:
            names: Any = (f'"{table.name}"',)
            statement = "SELECT pg_total_relation_size(%s::regclass)"
            sizes[str(table.name)] = int(pair.state.exec_driver_sql(statement, names).scalar_one())
    return sizes
