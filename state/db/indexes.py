"""The indexes of the tables, as migrations.py makes them; a test holds the two equal.

Only what reads or makes indexes imports this: an index with a condition has SQLAlchemy import the
dialects of all databases, a tenth of the time in which a command on SQLite starts.
"""

from __future__ import annotations

from sqlalchemy import Index, Table, literal_column

from state.db.tables import (
    AUDIENCE_SIZE_HOUR,
    CHANGE,
    CUSTOMER,
    EARLY_CALL,
    EARLY_EXIT,
    ERASED,
    EVENT,
    FAILURE,
    HELD_CHANGE,
    HOLD,
    INBOX,
    SEAL,
)


def of(table: Table) -> list[Index]:
    """Return the indexes of a table, by name."""
    return sorted(table.indexes, key=lambda index: str(index.name))


Index(
    "customer_due",
    *(CUSTOMER.c.line, CUSTOMER.c.due_at, CUSTOMER.c.customer_id),
    sqlite_where=CUSTOMER.c.due_at.is_not(None),
    postgresql_where=CUSTOMER.c.due_at.is_not(None),
)
Index("change_customer", CHANGE.c.customer_id, CHANGE.c.id)
#: What a delivery marks. The many older changes of a customer are not looked at for it.
Index(
    "change_undelivered",
    CHANGE.c.customer_id,
    CHANGE.c.id,
    sqlite_where=CHANGE.c.delivered_at.is_(None),
    postgresql_where=CHANGE.c.delivered_at.is_(None),
)
Index(
    "change_run",
    *(CHANGE.c.run, CHANGE.c.key, CHANGE.c.id, CHANGE.c.delta),
    sqlite_where=CHANGE.c.run.is_not(None),
    postgresql_where=CHANGE.c.run.is_not(None),
)
#: These two hold all that a sum or a list of members needs, so that the rows are not looked up.
Index("change_time", CHANGE.c.key, CHANGE.c.recorded_at, CHANGE.c.id, CHANGE.c.delta)
Index(
    "change_member",
    *(CHANGE.c.key, CHANGE.c.customer_id, CHANGE.c.id, CHANGE.c.recorded_at, CHANGE.c.delta),
    sqlite_where=CHANGE.c.delta != 0,
    postgresql_where=CHANGE.c.delta != 0,
)
Index("audience_size_hour_highest", AUDIENCE_SIZE_HOUR.c.highest)
Index(
    "held_change_customer",
    HELD_CHANGE.c.customer_id,
    sqlite_where=HELD_CHANGE.c.ended_at.is_(None),
    postgresql_where=HELD_CHANGE.c.ended_at.is_(None),
)
#: However many runs find it at once, a trait has one open hold.
Index(
    "hold_open",
    HOLD.c.trait,
    unique=True,
    sqlite_where=HOLD.c.decision.is_(None),
    postgresql_where=HOLD.c.decision.is_(None),
)
Index("failure_customer", FAILURE.c.customer_id, FAILURE.c.id)
#: The calls that could not be taken, which were never sent: there is a bound of them.
Index(
    "failure_call",
    FAILURE.c.id,
    sqlite_where=FAILURE.c.attempts == literal_column("0"),
    postgresql_where=FAILURE.c.attempts == literal_column("0"),
)
Index("seal_kind", SEAL.c.kind, SEAL.c.number)
Index("erased_seal", ERASED.c.seal, ERASED.c.id)
Index("failure_ref", FAILURE.c.ref, unique=True)
Index("early_call_customer", EARLY_CALL.c.customer_id)
Index("early_call_received", EARLY_CALL.c.received_at)
Index("early_exit_noted", EARLY_EXIT.c.noted_at)
Index("inbox_key", INBOX.c.key, INBOX.c.id, INBOX.c.events)
Index("event_message", EVENT.c.message_id, EVENT.c.key, unique=True)
Index(
    "event_due",
    *(EVENT.c.key, EVENT.c.due_at, EVENT.c.id),
    sqlite_where=EVENT.c.due_at.is_not(None),
    postgresql_where=EVENT.c.due_at.is_not(None),
)
Index("event_received", EVENT.c.received_at)
