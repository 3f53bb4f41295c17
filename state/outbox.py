"""The outbox: which customers are due to be sent, who has them in work, what became of them.

A customer is due while its `due_at` is set. A worker claims it (claim.py), sends it, and then
acknowledges it, postpones it, puts it off, or takes it out as a dead letter. Functions take a
connection, so that the caller says what is one transaction. Times are epoch milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.types import TypeEngine

from state import claim as claims
from state import delivered, identify_traits, lanes
from state.db import metadata
from state.db.batches import ROWS, batches, execute_many
from state.db.row_statement import NUMBER, TEXT, RowStatement
from state.db.tables import CHANGE, CUSTOMER
from state.snapshot import CUSTOMER_COLUMNS, CustomerRow

_DUE = CUSTOMER.c.due_at.is_not(None)
_NOT_PUT_OFF = CUSTOMER.c.line != lanes.PUT_OFF
_THIS = CUSTOMER.c.customer_id == bindparam("which")

# The outcome of a customer; its parameters are the row that was claimed (`_claimed`). SQLAlchemy
# takes longer to make a statement than the database to execute it, so these are made once.

_UNCHANGED = CUSTOMER.c.rev == bindparam("was")
#: The run that waits for the customer now. None waits for one that did not change since its claim,
#: and a run that waited then waits no more.
_RUN = case((or_(_UNCHANGED, CUSTOMER.c.run == bindparam("waited")), None), else_=CUSTOMER.c.run)
#: The values of a customer that is due no more, unless it changed since its claim.
_DUE_NO_MORE: dict[str, Any] = {
    "due_at": case((_UNCHANGED, None), else_=CUSTOMER.c.due_at),
    "line": case((_UNCHANGED, lanes.RUN), else_=CUSTOMER.c.line),
}
_CLAIMED: dict[str, TypeEngine[Any]] = {
    "which": TEXT,
    "was": NUMBER,
    "waited": NUMBER,
    "gave": TEXT,
    "at": NUMBER,
}
_ACKNOWLEDGE = RowStatement(
    update(CUSTOMER)
    .where(_THIS)
    .values(
        acked_rev=bindparam("was"),
        acked_at=bindparam("at"),
        attempts=0,
        run=_RUN,
        claimed_by=None,
        **_DUE_NO_MORE,
        given_back=case(
            (CUSTOMER.c.given_back == bindparam("gave"), None), else_=CUSTOMER.c.given_back
        ),
    ),
    **_CLAIMED,
)
#: The run of each customer for which one waits, where it does no more.
_AWAITED = RowStatement(
    select(CUSTOMER.c.run).where(
        _THIS, or_(_UNCHANGED, CUSTOMER.c.run == bindparam("waited")), CUSTOMER.c.run.is_not(None)
    ),
    **_CLAIMED,
)
_ACKNOWLEDGE_IDENTIFY_TRAITS = (
    update(CUSTOMER)
    .where(_THIS, CUSTOMER.c.identify_traits == bindparam("sent_text"))
    .values(identify_traits=bindparam("new_text"))
)


# What waits


def backlog(connection: Connection, run: int | None = None) -> int:
    """Count the customers that are due: all, or those that a run waits for."""
    return _count(connection, _due(run))


def backlog_unknown(connection: Connection, run: int | None = None) -> int:
    """Count those of `backlog` that Amberflo has never acknowledged."""
    never = CUSTOMER.c.acked_rev == 0
    return _count(connection, _due(run), never)


def _count(connection: Connection, *which: ColumnElement[bool]) -> int:
    statement = select(func.count()).select_from(CUSTOMER).where(*which)
    return int(connection.execute(statement).scalar_one())


def backlog_by_key(connection: Connection) -> dict[str, int]:
    """Count the customers that calls made due, by the short name of the calls' key."""
    rows = connection.execute(
        select(CUSTOMER.c.line, func.count()).where(_DUE).group_by(CUSTOMER.c.line)
    )
    counts: dict[str, int] = {}
    for line, count in rows:
        if key := lanes.key_of(line):
            counts[key] = counts.get(key, 0) + int(count)
    return counts


def oldest_due(connection: Connection, run: int | None = None) -> int | None:
    """Return when the customer that waits longest became due or is tried next.

    Those that were put off do not count; None where none waits.
    """
    return _oldest_due(connection, _due(run))


def _oldest_due(connection: Connection, which: ColumnElement[bool]) -> int | None:
    """Return the oldest `due_at`: lane by lane, each in the order of the index."""
    oldest = [
        connection.execute(
            select(func.min(CUSTOMER.c.due_at)).where(_DUE, CUSTOMER.c.line == line, which)
        ).scalar()
        for line in lanes.present(connection, CUSTOMER.c.line, _DUE, _NOT_PUT_OFF)
    ]
    return min((int(due_at) for due_at in oldest if due_at is not None), default=None)


def waits_since(connection: Connection) -> int | None:
    """Return since when the customer that waits longest does, less those that were put off.

    One that was tried before waits since its oldest change that is not delivered.
    """
    tried = connection.execute(
        select(func.min(CHANGE.c.recorded_at))
        .select_from(CUSTOMER)
        .join(CHANGE, CHANGE.c.customer_id == CUSTOMER.c.customer_id)
        .where(_DUE, _NOT_PUT_OFF, CUSTOMER.c.attempts > 0, CHANGE.c.delivered_at.is_(None))
    ).scalar()
    fresh = _oldest_due(connection, CUSTOMER.c.attempts == 0)
    return min((int(since) for since in (tried, fresh) if since is not None), default=None)


def any_due(connection: Connection, now: int) -> bool:
    """Whether a customer is due at `now`, be it in work."""
    return claims.CUSTOMERS.any_due(connection, now)


def _due(run: int | None) -> ColumnElement[bool]:
    return _DUE if run is None else and_(_DUE, CUSTOMER.c.run == run)


# Claiming


def claim(
    connection: Connection,
    worker: int,
    now: int,
    limit: int,
    run: int | None = None,
    began: int | None = None,
    *,
    retried_since: int | None = None,
) -> list[CustomerRow]:
    """Claim customers that are due at `now` and that no worker has in work.

    Each lane (lanes.py) gets its part, and those that wait longest come first. With `run` only
    those that it waits for, and those that were put off: the run tries each of them once, if it
    was due when the delivery `began`, and does not go on for them. With `retried_since` pages bring
    what runs made due: in their lane only those are claimed that are tried again since then.
    """

    def may(lane: str) -> ColumnElement[bool]:
        if lane == lanes.RUN and retried_since is not None:
            return and_(_due(run), CUSTOMER.c.due_at > retried_since, CUSTOMER.c.attempts > 0)
        if lane != lanes.PUT_OFF:
            return _due(run)
        return true() if run is None or began is None else CUSTOMER.c.due_at <= began

    lines = claims.CUSTOMERS.lanes(connection)
    rows = claims.CUSTOMERS.claim_due(
        connection,
        worker,
        now,
        limit,
        order=lanes.of_customers(lines),
        columns=CUSTOMER_COLUMNS,
        where=may,
    )
    return [CustomerRow._make(row) for row in rows]


def release(connection: Connection, customer_ids: Collection[str]) -> None:
    """Let others have customers that were claimed and not begun."""
    execute_many(
        connection,
        update(CUSTOMER).where(_THIS).values(claimed_by=None),
        [{"which": customer_id} for customer_id in customer_ids],
    )


# Making due


def adopt(connection: Connection, run: int, now: int) -> int:
    """Let a run wait for all that is due, and try it at once; return for how many it waits.

    Those that were put off are tried too, but no run waits for them.
    """
    connection.execute(
        update(CUSTOMER).where(CUSTOMER.c.due_at > now, _NOT_PUT_OFF).values(due_at=now, attempts=0)
    )
    connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.due_at > now, CUSTOMER.c.line == lanes.PUT_OFF)
        .values(due_at=now)
    )
    connection.execute(
        update(CUSTOMER)
        .where(_DUE, _NOT_PUT_OFF, CUSTOMER.c.run.is_distinct_from(run))
        .values(run=run)
    )
    return backlog(connection, run)


def send_again(
    connection: Connection,
    now: int,
    *,
    key: str | None = None,
    customer_ids: Collection[str] | None = None,
    run: int | None = None,
) -> int:
    """Make known customers due though nothing changed; return how many.

    These are all, those with a change of `key` in their history, or the named ones; the run `run`
    waits for them.
    """
    statement = update(CUSTOMER).values(due_at=now, attempts=0, run=run, line=_line_of_a_run())
    if key is not None:
        statement = statement.where(
            CUSTOMER.c.customer_id.in_(select(CHANGE.c.customer_id).where(CHANGE.c.key == key))
        )
    if customer_ids is None:
        return connection.execute(statement).rowcount
    return sum(
        connection.execute(statement.where(CUSTOMER.c.customer_id.in_(ids))).rowcount
        for ids in batches(customer_ids, ROWS)
    )


def unacknowledge(connection: Connection, now: int) -> None:
    """Make all customers due as if Amberflo had never had one, nor any change up to now.

    Their `rev` goes up, so that a delivery that is under way and acknowledged later leaves them
    due.
    """
    last = connection.execute(select(func.max(CHANGE.c.id))).scalar()
    metadata.put(connection, metadata.LAST_CHANGE_ELSEWHERE, str(last or 0))
    connection.execute(
        update(CUSTOMER).values(
            rev=CUSTOMER.c.rev + 1,
            acked_rev=0,
            acked_at=None,
            due_at=now,
            attempts=0,
            line=_line_of_a_run(),
        )
    )


def _line_of_a_run() -> Any:
    return lanes.earlier(CUSTOMER.c.line, CUSTOMER.c.due_at, lanes.RUN)


# The outcomes. All but `postpone` return for how many customers a run waits no more, by run.


def acknowledge(connection: Connection, sent: Sequence[CustomerRow], at: int) -> dict[int, int]:
    """Note that Amberflo has taken these customers, as they were claimed, and their changes.

    A customer that was changed since stays due; the run that waited for it when it was claimed does
    not wait for that. A value that was given back is not given back twice.
    """
    finished = _finished(connection, sent)
    rows = _claimed(sent, at)
    _ACKNOWLEDGE.execute(connection, rows)
    _acknowledge_identify_traits(connection, sent)
    delivered.mark(connection, [(row.customer_id, row.rev) for row in sent], at)
    return finished


def _acknowledge_identify_traits(connection: Connection, sent: Sequence[CustomerRow]) -> None:
    """Note that Amberflo has what identify calls said, where they have said nothing since."""
    acknowledged = [
        (row, identify_traits.acknowledged(row.identify_traits))
        for row in sent
        if row.identify_traits
    ]
    execute_many(
        connection,
        _ACKNOWLEDGE_IDENTIFY_TRAITS,
        [
            {"which": row.customer_id, "sent_text": row.identify_traits, "new_text": text}
            for row, text in acknowledged
            if text != row.identify_traits
        ],
    )


def dead_letter(connection: Connection, refused: Sequence[CustomerRow]) -> dict[int, int]:
    """Take customers out of the outbox: Amberflo refused them for good.

    They stay out until they change or somebody retries them.
    """
    finished = _finished(connection, refused)
    connection.execute(
        update(CUSTOMER)
        .where(_THIS)
        .values(
            run=_RUN,
            claimed_by=None,
            attempts=0,
            **_DUE_NO_MORE,
        ),
        _claimed(refused, 0),
    )
    return finished


def put_off(connection: Connection, failed: Sequence[tuple[CustomerRow, int]]) -> dict[int, int]:
    """Try each of these customers again at its own time (the second item), by itself.

    No run waits for it any more. A customer that changed since it was claimed is tried as ever.
    """
    rows = [row for row, _ in failed]
    finished = _finished(connection, rows)
    connection.execute(
        update(CUSTOMER)
        .where(_THIS)
        .values(
            run=_RUN,
            claimed_by=None,
            attempts=CUSTOMER.c.attempts + 1,
            due_at=case((_UNCHANGED, bindparam("again_at")), else_=CUSTOMER.c.due_at),
            line=case((_UNCHANGED, lanes.PUT_OFF), else_=CUSTOMER.c.line),
        ),
        [
            {**values, "again_at": due_at}
            for values, (_, due_at) in zip(_claimed(rows, 0), failed, strict=True)
        ],
    )
    return finished


def postpone(connection: Connection, later: Sequence[tuple[str, int, int]]) -> None:
    """Try customers again later: each as (customer_id, attempts so far, due_at)."""
    connection.execute(
        update(CUSTOMER)
        .where(_THIS)
        .values(attempts=bindparam("tried"), due_at=bindparam("at"), claimed_by=None),
        [{"which": who, "tried": attempts, "at": due_at} for who, attempts, due_at in later],
    )


def _claimed(rows: Sequence[CustomerRow], at: int) -> list[dict[str, Any]]:
    return [
        {
            "which": row.customer_id,
            "was": row.rev,
            "waited": row.run,
            "gave": row.given_back,
            "at": at,
        }
        for row in rows
    ]


def _finished(connection: Connection, rows: Sequence[CustomerRow]) -> dict[int, int]:
    """Count for how many of these customers a run waits no more now, by run."""
    return Counter(run for (run,) in _AWAITED.select(connection, _claimed(rows, 0)))


# What Amberflo has


def acknowledged_count(connection: Connection) -> int:
    """Count the customers that Amberflo has acknowledged at least once."""
    return _count(connection, CUSTOMER.c.acked_rev > 0)


def acknowledged(connection: Connection, after: str, limit: int) -> list[str]:
    """Return the ids of customers that Amberflo has, in UTF-8 byte order, those after `after`.

    Page by page and no stream: to look at each may take hours, too long for a transaction.
    """
    rows = connection.execute(
        select(CUSTOMER.c.customer_id)
        .where(CUSTOMER.c.acked_rev > 0, CUSTOMER.c.customer_id > after)
        .order_by(CUSTOMER.c.customer_id)
        .limit(limit)
    )
    return [str(customer_id) for customer_id in rows.scalars()]


def never_acknowledged(connection: Connection) -> Iterator[str]:
    """Yield the ids of the customers that Amberflo has never acknowledged."""
    never = select(CUSTOMER.c.customer_id).where(CUSTOMER.c.acked_rev == 0)
    yield from connection.execute(never, execution_options={"yield_per": 1000}).scalars()


def newest_acknowledged(connection: Connection, limit: int) -> list[str]:
    """Return the ids of the customers that Amberflo acknowledged last, the newest first."""
    rows = connection.execute(
        select(CUSTOMER.c.customer_id)
        .where(CUSTOMER.c.acked_rev > 0)
        .order_by(CUSTOMER.c.acked_at.desc(), CUSTOMER.c.customer_id)
        .limit(limit)
    )
    return [str(customer_id) for customer_id in rows.scalars()]


def last_acknowledged(connection: Connection) -> int | None:
    """Return when Amberflo acknowledged a customer last."""
    acked_at = connection.execute(select(func.max(CUSTOMER.c.acked_at))).scalar()
    return None if acked_at is None else int(acked_at)
