"""The runs: when they were, what they found, what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from state.tables import RUN, RUN_TRAIT

#: States of a run. A `held` run ended well and has changes that wait for `runs approve`.
RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"
HELD, APPROVED, REJECTED, SUPERSEDED = "held", "approved", "rejected", "superseded"


def start(connection: Connection, kind: str, now: int, settings: str) -> int:
    """Record a run as running; gives its number."""
    result = connection.execute(
        insert(RUN).values(kind=kind, state=RUNNING, started_at=now, settings=settings)
    )
    number = result.inserted_primary_key
    assert number is not None
    return int(number[0])


def set_values(connection: Connection, run: int, values: Mapping[str, Any]) -> None:
    connection.execute(update(RUN).where(RUN.c.id == run).values(**values))


def add_traits(connection: Connection, run: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """The run's sums by trait."""
    found = [{"run": run, **row} for row in rows]
    if found:
        connection.execute(insert(RUN_TRAIT), found)


def take_up(connection: Connection, now: int) -> list[int]:
    """Mark runs that were cut off (their process is gone: the caller holds the run lock)."""
    cut_off = list(connection.execute(select(RUN.c.id).where(RUN.c.state == RUNNING)).scalars())
    if cut_off:
        connection.execute(
            update(RUN)
            .where(RUN.c.id.in_(cut_off))
            .values(state=INTERRUPTED, ended_at=now, error="the process ended in the middle")
        )
    return cut_off


def held_keys(connection: Connection) -> dict[str, int]:
    """Keys whose changes are held and not decided on yet, each with its newest run; changes that
    only wait for Segment need no decision."""
    rows = connection.execute(
        select(RUN_TRAIT.c.key, func.max(RUN_TRAIT.c.run))
        .join(RUN, RUN.c.id == RUN_TRAIT.c.run)
        .where(RUN.c.state == HELD, RUN_TRAIT.c.held > RUN_TRAIT.c.waiting)
        .group_by(RUN_TRAIT.c.key)
    )
    return {row[0]: int(row[1]) for row in rows}


def supersede(connection: Connection, before: int) -> None:
    """A run that compared everything decides anew on what earlier ones held."""
    connection.execute(
        update(RUN).where(RUN.c.state == HELD, RUN.c.id < before).values(state=SUPERSEDED)
    )


def last_whole(connection: Connection) -> Mapping[str, Any] | None:
    """The newest committed run after which nothing older than its watermark is unseen. (Runs of
    one customer have no watermark; a source that has none gives "".)"""
    row = (
        connection.execute(
            select(RUN)
            .where(RUN.c.committed_at.is_not(None), RUN.c.watermark.is_not(None))
            .order_by(RUN.c.id.desc())
            .limit(1)
        )
        .mappings()
        .first()
    )
    return dict(row) if row else None


def get(connection: Connection, run: int) -> Mapping[str, Any] | None:
    row = connection.execute(select(RUN).where(RUN.c.id == run)).mappings().first()
    return dict(row) if row else None


def newest(connection: Connection, limit: int | None = None) -> list[Mapping[str, Any]]:
    """Runs, the newest first."""
    rows = connection.execute(select(RUN).order_by(RUN.c.id.desc()).limit(limit)).mappings()
    return [dict(row) for row in rows]


def traits(connection: Connection, run: int) -> list[Mapping[str, Any]]:
    """The sums by trait of a run."""
    rows = connection.execute(
        select(RUN_TRAIT).where(RUN_TRAIT.c.run == run).order_by(RUN_TRAIT.c.trait)
    ).mappings()
    return [dict(row) for row in rows]
