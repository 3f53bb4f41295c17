"""The schema as a whole, from the models: the tables of each part, with their indexes.

What copies and checks a whole database works on it, and takes its tables from here alone: those of
tables.py are not the same objects. They are for statements about a few tables; they have no
indexes, and load neither SQLModel nor a dialect.
"""

from __future__ import annotations

from sqlalchemy import Index, Table, literal_column
from sqlmodel import SQLModel

from state.db import models, queue_models


def _table(model: type[SQLModel]) -> Table:
    """Return the table of a model."""
    table = model.__table__  # type: ignore[attr-defined]
    assert isinstance(table, Table)
    return table


CUSTOMER = _table(models.Customer)
TRAIT = _table(models.Trait)
CHANGE = _table(models.Change)
AUDIENCE_SIZE_HOUR = _table(models.AudienceSizeHour)
RUN = _table(models.Run)
RUN_TRAIT = _table(models.RunTrait)
HOLD = _table(models.Hold)
HELD_CHANGE = _table(models.HeldChange)
FAILURE = _table(models.Failure)
WORKER = _table(models.Worker)
ALERT = _table(models.Alert)
PROBLEM = _table(models.Problem)
SEAL = _table(models.Seal)
ERASED = _table(models.Erased)
ERASURE = _table(models.Erasure)
EARLY_CALL = _table(models.EarlyCall)
EARLY_EXIT = _table(models.EarlyExit)
FINGERPRINT_TABLE = _table(models.FingerprintTable)
REVISIT = _table(models.Revisit)
FORGOTTEN = _table(models.Forgotten)
METADATA = _table(models.Metadata)
INBOX = _table(queue_models.Inbox)
EVENT = _table(queue_models.Event)
COUNTER = _table(queue_models.Counter)

#: The queue of calls is a part of its own: on SQLite it is another file, so that a long commit of
#: a run never keeps a call waiting.
PARTS = {
    "state": [
        *(CUSTOMER, TRAIT, CHANGE, AUDIENCE_SIZE_HOUR, RUN, RUN_TRAIT, HOLD, HELD_CHANGE),
        *(FAILURE, WORKER, ALERT, PROBLEM),
        *(SEAL, ERASED, ERASURE, FORGOTTEN, METADATA, EARLY_CALL, EARLY_EXIT),
        *(FINGERPRINT_TABLE, REVISIT),
    ],
    "queue": [INBOX, EVENT, COUNTER],
}

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
Index("revisit_customer", REVISIT.c.customer_id, unique=True)
Index("inbox_key", INBOX.c.key, INBOX.c.id, INBOX.c.events)
Index("event_message", EVENT.c.message_id, EVENT.c.key, unique=True)
Index(
    "event_due",
    *(EVENT.c.key, EVENT.c.due_at, EVENT.c.id),
    sqlite_where=EVENT.c.due_at.is_not(None),
    postgresql_where=EVENT.c.due_at.is_not(None),
)
Index("event_received", EVENT.c.received_at)
