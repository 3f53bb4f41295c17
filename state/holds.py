"""Holds: changes that the guard keeps back until somebody decides, trait by trait.

A hold outlives the run that found it: it is open until it is decided, or until Engage does not say
any of it any more. What it keeps back is on record by customer. A rejection lasts likewise: its
rows stay in force until Engage says something else of that customer, or somebody lifts it.

Functions take a connection, so that the caller says what is one transaction. Times are epoch
milliseconds; values are JSON, None is absent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from state import revisits, runs
from state.db.tables import HELD_CHANGE, HOLD, RUN, RUN_TRAIT

#: Stands for the trait where a hold keeps back whole customers that were deleted in Segment. No
#: trait has this name.
DELETED = "*deleted*"
#: How the reason of a hold begins that waits since others have values under a name of ours.
FIRST_CONTACT = "first contact"
#: How a hold ends: by somebody's word, or because Engage says nothing of it any more.
APPROVED, REJECTED, WITHDRAWN = "approved", "rejected", "withdrawn"
DECISIONS = (APPROVED, REJECTED, WITHDRAWN)

#: Customers that one statement names.
CHUNK = 500

T = TypeVar("T")


class Hold(NamedTuple):
    """A row of the table; see `models.Hold`."""

    id: int
    trait: str
    key: str
    reason: str
    since_run: int
    since: int
    last_run: int
    members: int
    leaving: int
    decision: str | None
    decided_at: int | None
    decided_by: str | None
    because: str | None
    decided_run: int | None


class Kept(NamedTuple):
    """A change of one customer that a hold keeps back."""

    customer_id: str
    before: str | None
    after: str | None
    observed_at: int | None


class InForce(NamedTuple):
    """A change that must not be applied.

    It waits for a decision (`decision` is None), or was rejected at `decided_at`. `since_run` found
    it first.
    """

    hold: int
    customer_id: str
    trait: str
    before: str | None
    after: str | None
    observed_at: int | None
    since_run: int
    decision: str | None
    decided_at: int | None


#: The columns of a hold, in the order of `Hold`.
COLUMNS = [HOLD.c[name] for name in Hold._fields]
_OPEN = HOLD.c.decision.is_(None)
#: Of these holds, rows that have not ended are in force.
IN_FORCE = and_(HELD_CHANGE.c.ended_at.is_(None), or_(_OPEN, HOLD.c.decision == REJECTED))


# Looking


def open_holds(connection: Connection) -> dict[str, Hold]:
    """Return the holds that wait for a decision, by trait."""
    rows = connection.execute(select(*COLUMNS).where(_OPEN).order_by(HOLD.c.id))
    return {row.trait: Hold._make(row) for row in rows}


def newest(connection: Connection, limit: int | None = None) -> list[Hold]:
    """Return all holds, the newest first."""
    rows = connection.execute(select(*COLUMNS).order_by(HOLD.c.id.desc()).limit(limit))
    return [Hold._make(row) for row in rows]


def of_run(connection: Connection, run: int) -> list[Hold]:
    """Return the holds that keep back something that a run found."""
    of_traits = select(RUN_TRAIT.c.hold).where(RUN_TRAIT.c.run == run)
    of_deleted = select(RUN.c.hold).where(RUN.c.id == run)
    either = or_(HOLD.c.id.in_(of_traits), HOLD.c.id.in_(of_deleted))
    rows = connection.execute(select(*COLUMNS).where(either).order_by(HOLD.c.id))
    return [Hold._make(row) for row in rows]


def undecided(connection: Connection, run: int) -> list[Hold]:
    """Return the holds of a run on which there is something to decide.

    These are open ones, and rejected ones that are in force.
    """
    return [
        hold
        for hold in of_run(connection, run)
        if hold.decision is None or (hold.decision == REJECTED and count(connection, hold.id))
    ]


def open_keys(connection: Connection) -> dict[str, int]:
    """Return the keys with an open hold, each with the run that found it first."""
    return {hold.key: hold.since_run for hold in open_holds(connection).values()}


def traits_in_force(connection: Connection) -> set[str]:
    """Return the traits of which something is kept back or rejected."""
    rows = connection.execute(
        select(HOLD.c.trait)
        .where(or_(_OPEN, HOLD.c.decision == REJECTED))
        .where(exists().where(HELD_CHANGE.c.hold == HOLD.c.id, HELD_CHANGE.c.ended_at.is_(None)))
    )
    return {str(row[0]) for row in rows}


def in_force(
    connection: Connection, customer_ids: Collection[str]
) -> dict[tuple[str, str], InForce]:
    """Return what is kept back or rejected of customers, by (customer_id, trait)."""
    columns = [HELD_CHANGE.c[name] for name in InForce._fields if name in HELD_CHANGE.c]
    statement = (
        select(*columns, HOLD.c.decision, HOLD.c.decided_at)
        .join(HOLD, HOLD.c.id == HELD_CHANGE.c.hold)
        .where(IN_FORCE)
    )
    changes: dict[tuple[str, str], InForce] = {}
    for ids in _chunks(customer_ids):
        for row in connection.execute(statement.where(HELD_CHANGE.c.customer_id.in_(ids))):
            changes[row.customer_id, row.trait] = InForce._make(row)
    return changes


def count(connection: Connection, hold: int) -> int:
    """Count the customers of which a hold keeps something back now."""
    theirs = and_(HELD_CHANGE.c.hold == hold, HELD_CHANGE.c.ended_at.is_(None))
    return int(
        connection.execute(select(func.count()).select_from(HELD_CHANGE).where(theirs)).scalar_one()
    )


def customers_in_force(connection: Connection) -> Iterator[str]:
    """Yield the customers of whom something is kept back or rejected."""
    after = ""
    statement = select(HELD_CHANGE.c.customer_id).join(HOLD, HOLD.c.id == HELD_CHANGE.c.hold)
    statement = statement.where(IN_FORCE).distinct().order_by(HELD_CHANGE.c.customer_id)
    while ids := list(
        connection.execute(
            statement.where(HELD_CHANGE.c.customer_id > after).limit(CHUNK)
        ).scalars()
    ):
        yield from ids
        after = ids[-1]


def deleted_since(connection: Connection, moment: int) -> int:
    """Count the customers deleted in Segment that runs took out since a moment, unapproved."""
    by_approval = select(HOLD.c.decided_run).where(
        HOLD.c.trait == DELETED, HOLD.c.decision == APPROVED, HOLD.c.decided_run.is_not(None)
    )
    statement = select(func.coalesce(func.sum(RUN.c.deleted), 0)).where(
        RUN.c.committed_at > moment, RUN.c.id.not_in(by_approval)
    )
    return int(connection.execute(statement).scalar_one())


# Holding


def hold(
    connection: Connection,
    trait: str,
    key: str,
    reason: str,
    *,
    run: int,
    now: int,
    members: int,
    leaving: int,
) -> int:
    """Return the number of a trait's open hold; make one where there is none.

    A run that finds the hold again leaves its reason and sizes as they were at first.
    """
    known = open_holds(connection).get(trait)
    if known is not None:
        connection.execute(update(HOLD).where(HOLD.c.id == known.id).values(last_run=run, key=key))
        return known.id
    values = {"trait": trait, "key": key, "reason": reason, "since_run": run, "since": now}
    result = connection.execute(
        insert(HOLD).values(**values, last_run=run, members=members, leaving=leaving)
    )
    number = result.inserted_primary_key
    assert number is not None
    return int(number[0])


def keep(
    connection: Connection, hold: int, trait: str, rows: Sequence[Kept], run: int, now: int
) -> None:
    """Put changes under a hold, or note that a run found them again.

    A rejection of the same customers and trait gives way: Engage says something new.
    """
    for part in _chunks(rows):
        theirs = HELD_CHANGE.c.customer_id.in_([row.customer_id for row in part])
        others = and_(HELD_CHANGE.c.trait == trait, HELD_CHANGE.c.hold != hold)
        _end(connection, and_(theirs, others), now)
        recorded = set(
            connection.execute(
                select(HELD_CHANGE.c.customer_id).where(HELD_CHANGE.c.hold == hold, theirs)
            ).scalars()
        )
        new = [row for row in part if row.customer_id not in recorded]
        if new:
            values = {"hold": hold, "trait": trait, "run": run, "since_run": run}
            connection.execute(insert(HELD_CHANGE), [{**row._asdict(), **values} for row in new])
        again = [row for row in part if row.customer_id in recorded]
        if again:
            connection.execute(
                update(HELD_CHANGE)
                .where(HELD_CHANGE.c.hold == hold, HELD_CHANGE.c.customer_id == bindparam("which"))
                .values(
                    before=bindparam("was"),
                    after=bindparam("said"),
                    observed_at=bindparam("at"),
                    run=run,
                    # What Engage said before is not what it says now, or said again.
                    since_run=case((_says(bindparam("said")), HELD_CHANGE.c.since_run), else_=run),
                    ended_at=None,
                ),
                [dict(zip(("which", "was", "said", "at"), row, strict=True)) for row in again],
            )


def find_again(connection: Connection, trait: str, customer_ids: Collection[str], run: int) -> None:
    """Note that a run found again what was rejected of this trait of these customers."""
    for ids in _chunks(customer_ids):
        connection.execute(
            update(HELD_CHANGE)
            .where(
                HELD_CHANGE.c.customer_id.in_(ids),
                HELD_CHANGE.c.trait == trait,
                HELD_CHANGE.c.ended_at.is_(None),
            )
            .values(run=run)
        )


def stay(connection: Connection, customer_ids: Collection[str], run: int) -> None:
    """Keep what is held or rejected of customers of which a run could not tell."""
    for ids in _chunks(customer_ids):
        these = and_(HELD_CHANGE.c.customer_id.in_(ids), HELD_CHANGE.c.ended_at.is_(None))
        connection.execute(update(HELD_CHANGE).where(these).values(run=run))


def end(connection: Connection, rows: Sequence[InForce], now: int) -> None:
    """End changes that Engage no longer says, or that were applied: they are evidence only."""
    revisits.note(connection, (row.customer_id for row in rows))
    named: list[dict[str, Any]] = [{"one": row.hold, "which": row.customer_id} for row in rows]
    if named:
        these = and_(
            HELD_CHANGE.c.hold == bindparam("one"), HELD_CHANGE.c.customer_id == bindparam("which")
        )
        connection.execute(update(HELD_CHANGE).where(these).values(ended_at=now), named)


def end_unsaid(
    connection: Connection, trait: str, customer_ids: Collection[str], run: int, now: int
) -> None:
    """End what a run did not find again of a trait of customers that it pulled."""
    for ids in _chunks(customer_ids):
        theirs = and_(HELD_CHANGE.c.customer_id.in_(ids), HELD_CHANGE.c.trait == trait)
        _end(connection, and_(theirs, HELD_CHANGE.c.run < run), now)


def end_unseen(connection: Connection, traits: Collection[str], run: int, now: int) -> None:
    """End what a run that compared all of these traits has not found again."""
    rows = connection.execute(
        select(HOLD.c.id, HOLD.c.trait).where(or_(_OPEN, HOLD.c.decision == REJECTED))
    )
    looked_at = [number for number, trait in rows if trait in traits]
    for ids in _chunks(looked_at):
        _end(connection, and_(HELD_CHANGE.c.hold.in_(ids), HELD_CHANGE.c.run < run), now)


def close_empty(connection: Connection, run: int, now: int) -> list[Hold]:
    """End the open holds of which nothing is in force any more, and return them."""
    some = exists().where(HELD_CHANGE.c.hold == HOLD.c.id, HELD_CHANGE.c.ended_at.is_(None))
    empty = [Hold._make(row) for row in connection.execute(select(*COLUMNS).where(_OPEN, ~some))]
    decide(connection, [hold.id for hold in empty], WITHDRAWN, now, run=run)
    return empty


# Deciding


def decide(
    connection: Connection,
    ids: Collection[int],
    decision: str,
    now: int,
    *,
    by: str | None = None,
    because: str | None = None,
    run: int | None = None,
) -> None:
    """Decide on holds; `run` is the one that carries it out.

    An approved or withdrawn hold has nothing in force any more. Runs that held nothing else have
    the decision as their state from then on.
    """
    if not ids:
        return
    values = {"decision": decision, "decided_at": now, "decided_by": by, "because": because}
    these = HOLD.c.id.in_(list(ids))
    connection.execute(update(HOLD).where(these).values(**values, decided_run=run))
    if decision != REJECTED:
        _end(connection, HELD_CHANGE.c.hold.in_(list(ids)), now)
    _settle_runs(connection, ids, decision)


def lift(connection: Connection, ids: Collection[int], now: int) -> None:
    """Take rejections back: the next run judges anew what Engage says."""
    _end(connection, HELD_CHANGE.c.hold.in_(list(ids)), now)


def _settle_runs(connection: Connection, ids: Collection[int], decision: str) -> None:
    """Set the state of runs that ended well but for these holds to the decision.

    A run keeps its state while one of its holds is still open.
    """
    others = RUN_TRAIT.alias("others")
    of_a_trait = exists().where(
        others.c.run == RUN.c.id, others.c.hold == HOLD.c.id, HOLD.c.decision.is_(None)
    )
    of_deleted = exists().where(HOLD.c.id == RUN.c.hold, HOLD.c.decision.is_(None))
    theirs = or_(
        RUN.c.id.in_(select(RUN_TRAIT.c.run).where(RUN_TRAIT.c.hold.in_(list(ids)))),
        RUN.c.hold.in_(list(ids)),
    )
    states = {APPROVED: runs.APPROVED, REJECTED: runs.REJECTED, WITHDRAWN: runs.SUPERSEDED}
    connection.execute(
        update(RUN)
        .where(theirs, ~of_a_trait, ~of_deleted)
        .where(RUN.c.state.in_((runs.HELD, runs.REJECTED)))
        .values(state=states[decision])
    )


# Helpers


def _says(after: ColumnElement[str | None]) -> ColumnElement[bool]:
    return and_(HELD_CHANGE.c.ended_at.is_(None), HELD_CHANGE.c.after.is_not_distinct_from(after))


def _end(connection: Connection, which: ColumnElement[bool], now: int) -> None:
    """End changes; the next run judges anew what Engage says of these customers."""
    these = and_(which, HELD_CHANGE.c.ended_at.is_(None))
    revisits.note(connection, _customers(connection, these))
    connection.execute(update(HELD_CHANGE).where(these).values(ended_at=now))


def _customers(connection: Connection, which: ColumnElement[bool]) -> Iterator[str]:
    """Yield the customers of changes; they are looked up when the first is asked for."""
    yield from connection.execute(select(HELD_CHANGE.c.customer_id).where(which)).scalars().all()


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk
