"""The runs: when they were, what they found, what became of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, func, insert, select, update

from state.db.database import Database
from state.db.locks import lock_holder
from state.db.tables import RUN, RUN_TRAIT

#: States of a run. A `held` run ended well and has changes that wait for `runs approve`; once its
#: holds are decided, it says how (holds.py).
RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"
HELD, APPROVED, REJECTED, SUPERSEDED = "held", "approved", "rejected", "superseded"
#: The error of a run whose process ended before it could say how the run ended.
CUT_OFF = "the process ended in the middle"


class RunRow(NamedTuple):
    """A run, as the table `run` has it; see `models.Run`. Times are epoch milliseconds.

    `progress` is how far it is while it goes on, None before it says so and once it ended.
    """

    id: int
    kind: str
    state: str
    started_at: int
    committed_at: int | None
    ended_at: int | None
    watermark: str | None
    settings: str | None
    error: str | None
    pulled: int
    entered: int
    exited: int
    changed: int
    unchanged: int
    skipped: int
    without_customer_id: int
    due: int
    delivered: int
    failed: int
    held: int
    progress: Mapping[str, Any] | None
    deleted: int
    hold: int | None
    first_contact: int
    already_right: int


class RunTraitRow(NamedTuple):
    """A run's sums of one trait; see `models.RunTrait`.

    `reasons` counts what was skipped, by the reason. `run` is 0 for sums that are not on record.
    """

    key: str
    trait: str
    kind: str
    pulled: int
    entered: int
    exited: int
    changed: int
    unchanged: int
    skipped: int
    held: int
    reasons: Mapping[str, int]
    waiting: int = 0
    left_by_itself: int = 0
    hold: int | None = None
    run: int = 0


_RUNS = select(*(RUN.c[name] for name in RunRow._fields))
_TRAITS = select(*(RUN_TRAIT.c[name] for name in RunTraitRow._fields))


def start(connection: Connection, kind: str, now: int, settings: str) -> int:
    """Record a run as running; return its number."""
    result = connection.execute(
        insert(RUN).values(kind=kind, state=RUNNING, started_at=now, settings=settings)
    )
    number = result.inserted_primary_key
    assert number is not None
    return int(number[0])


def set_values(connection: Connection, run: int, values: Mapping[str, Any]) -> None:
    """Write values of a run."""
    connection.execute(update(RUN).where(RUN.c.id == run).values(**values))


def add_traits(connection: Connection, run: int, rows: Iterable[RunTraitRow]) -> None:
    """Record a run's sums by trait."""
    values = [{**row._asdict(), "run": run, "reasons": _json(row.reasons)} for row in rows]
    if values:
        connection.execute(insert(RUN_TRAIT), values)


def take_up(connection: Connection, now: int) -> list[int]:
    """Mark runs that were cut off; return their numbers.

    Their process is gone, as the caller holds the run lock.
    """
    return _cut_off(connection, now, 0, INTERRUPTED, CUT_OFF)


def fail_cut_off(connection: Connection, now: int, after: int, error: str) -> list[int]:
    """Mark runs after run `after` that were cut off as failed; return their numbers.

    Their process is gone, as the caller holds the run lock.
    """
    return _cut_off(connection, now, after, FAILED, error)


def as_they_are(database: Database, rows: Sequence[RunRow]) -> list[RunRow]:
    """Return runs that were read; one that is on record as running without a process is cut off.

    The next run writes that down (`take_up`).
    """
    running = [row.id for row in rows if row.state == RUNNING]
    # A run lets go of the lock when its end is on record. So what still has none is cut off.
    if not running or lock_holder(database, "run") is not None:
        return list(rows)
    with database.read() as connection:
        now = {run: get(connection, run) for run in running}
    return [_ended(now.get(row.id) or row) for row in rows]


def _ended(row: RunRow) -> RunRow:
    return (
        row._replace(state=INTERRUPTED, error=CUT_OFF, progress=None)
        if row.state == RUNNING
        else row
    )


def _cut_off(connection: Connection, now: int, after: int, state: str, error: str) -> list[int]:
    running = (RUN.c.state == RUNNING) & (RUN.c.id > after)
    numbers = list(connection.execute(select(RUN.c.id).where(running)).scalars())
    if numbers:
        connection.execute(
            update(RUN).where(RUN.c.id.in_(numbers)).values(state=state, ended_at=now, error=error)
        )
    return numbers


def done_before(connection: Connection, run: int) -> int:
    """Count the customers that the interrupted runs right before this one had finished."""
    rows = connection.execute(
        select(RUN.c.state, RUN.c.delivered, RUN.c.failed)
        .where(RUN.c.id < run)
        .order_by(RUN.c.id.desc())
        .limit(100)
    )
    return sum(
        int(row.delivered + row.failed)
        for row in takewhile(lambda row: row.state == INTERRUPTED, rows)
    )


def add_outcomes(
    connection: Connection, run: int, *, delivered: int = 0, failed: int = 0, already_right: int = 0
) -> None:
    """Count more customers of a run as delivered, or refused for good.

    `already_right` of the delivered ones needed no write.
    """
    connection.execute(
        update(RUN)
        .where(RUN.c.id == run)
        .values(
            delivered=RUN.c.delivered + delivered,
            failed=RUN.c.failed + failed,
            already_right=RUN.c.already_right + already_right,
        )
    )


def left_since(connection: Connection, moment: int) -> dict[str, int]:
    """Count how many left each trait (by its name) by runs since a moment, unapproved."""
    rows = connection.execute(
        select(RUN_TRAIT.c.trait, func.sum(RUN_TRAIT.c.left_by_itself))
        .join(RUN, RUN.c.id == RUN_TRAIT.c.run)
        .where(RUN.c.committed_at > moment)
        .group_by(RUN_TRAIT.c.trait)
    )
    return {str(trait): int(exits) for trait, exits in rows if exits}


def last_whole(connection: Connection) -> RunRow | None:
    """Return the newest committed run after which nothing older than its watermark is unseen.

    Runs of one customer have no watermark; a source that has none returns "".
    """
    row = connection.execute(
        _RUNS.where(RUN.c.committed_at.is_not(None), RUN.c.watermark.is_not(None))
        .order_by(RUN.c.id.desc())
        .limit(1)
    ).first()
    return None if row is None else _run(row)


def last_committed(connection: Connection) -> int | None:
    """Return the number of the newest run that wrote to the history or the snapshot."""
    number = connection.execute(
        select(func.max(RUN.c.id)).where(RUN.c.committed_at.is_not(None))
    ).scalar()
    return None if number is None else int(number)


#: Kinds of runs that compare everything.
FULL = ("initial", "reconcile", "resync", "adopt")


def last_good(connection: Connection, kinds: Collection[str]) -> int | None:
    """Return when the newest good run began, of these kinds or of any.

    A good run pulled for all customers and did not fail.
    """
    statement = select(RUN.c.started_at).where(
        RUN.c.committed_at.is_not(None),
        RUN.c.watermark.is_not(None),
        RUN.c.state.not_in((RUNNING, FAILED, INTERRUPTED)),
    )
    if kinds:
        statement = statement.where(RUN.c.kind.in_(kinds))
    statement = statement.order_by(RUN.c.id.desc()).limit(1)
    watermark = connection.execute(statement).scalar()
    return None if watermark is None else int(watermark)


def errors_in_a_row(connection: Connection) -> list[str]:
    """Return the errors of the newest runs, newest first, back to the last that did not fail.

    A run that was cut off, as by a stop of the daemon, says nothing about the others.
    """
    rows = connection.execute(
        select(RUN.c.state, RUN.c.error)
        .where(RUN.c.state.not_in((RUNNING, INTERRUPTED)))
        .order_by(RUN.c.id.desc())
        .limit(100)
    )
    return [str(row.error) for row in takewhile(lambda row: row.state == FAILED, rows)]


def unchanged_since(connection: Connection) -> int | None:
    """Return when the first of the newest runs began that found the same newest source row."""
    newest = last_whole(connection)
    if newest is None or not newest.watermark:
        return None
    return int(
        connection.execute(
            select(func.min(RUN.c.started_at)).where(
                RUN.c.watermark == newest.watermark, RUN.c.committed_at.is_not(None)
            )
        ).scalar_one()
    )


def counts(connection: Connection) -> dict[tuple[str, str], int]:
    """Count the runs by kind and state."""
    rows = connection.execute(
        select(RUN.c.kind, RUN.c.state, func.count()).group_by(RUN.c.kind, RUN.c.state)
    )
    return {(kind, state): int(number) for kind, state, number in rows}


def totals(connection: Connection) -> dict[str, int]:
    """Return the sums of what all runs found and did."""
    names = (
        *("pulled", "entered", "exited", "changed", "skipped"),
        *("delivered", "already_right", "failed", "held"),
    )
    row = connection.execute(select(*(func.coalesce(func.sum(RUN.c[name]), 0) for name in names)))
    return dict(zip(names, map(int, row.one()), strict=True))


def set_progress(connection: Connection, progress: Mapping[str, Any] | None) -> None:
    """Write down how far the run is that goes on, for `status`."""
    text = None if progress is None else _json(progress)
    connection.execute(update(RUN).where(RUN.c.state == RUNNING).values(progress=text))


def get(connection: Connection, run: int) -> RunRow | None:
    """Return a run by its number; None where there is none."""
    row = connection.execute(_RUNS.where(RUN.c.id == run)).first()
    return None if row is None else _run(row)


def get_alone(connection: Connection, run: int) -> RunRow:
    """Return a run that is on record, and let nobody count outcomes of it until the commit."""
    return _run(connection.execute(_RUNS.where(RUN.c.id == run).with_for_update()).one())


def newest(
    connection: Connection, limit: int | None = None, *, before: int | None = None
) -> list[RunRow]:
    """Return runs, the newest first; with `before` the page of those before this run."""
    statement = _RUNS.order_by(RUN.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(RUN.c.id < before)
    return [_run(row) for row in connection.execute(statement)]


def traits(connection: Connection, run: int) -> list[RunTraitRow]:
    """Return the sums by trait of a run."""
    rows = connection.execute(_TRAITS.where(RUN_TRAIT.c.run == run).order_by(RUN_TRAIT.c.trait))
    return [RunTraitRow._make(row)._replace(reasons=orjson.loads(row.reasons)) for row in rows]


def _run(row: Row[Any]) -> RunRow:
    return RunRow._make(row)._replace(
        progress=None if row.progress is None else orjson.loads(row.progress)
    )


def _json(value: Mapping[str, Any]) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
