"""The tables in SQLAlchemy Core, for the statements of the program.

Written by `python -m tests.support.tables` from models.py and queue_models.py; a test holds
the two equal. To import SQLModel with its ORM, and to build the classes, takes each process 7 to 10
MB and `status` a third of its start (docs/benchmarks.md); a statement needs neither.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

_SCHEMA = MetaData()
#: Text that sorts in UTF-8 byte order on every engine, for the merge.
_ORDERED = Text().with_variant(Text(collation="C"), "postgresql")
_SERIAL = BigInteger().with_variant(Integer, "sqlite")
CUSTOMER = Table(
    "customer",
    _SCHEMA,
    Column("customer_id", _ORDERED, primary_key=True),
    Column("traits", Text, nullable=False),
    Column("name", Text),
    Column("email", Text),
    Column("identify_traits", Text),
    Column("event_times", Text),
    Column("rev", BigInteger, nullable=False),
    Column("acked_rev", BigInteger, nullable=False, server_default=text("0")),
    Column("acked_at", BigInteger),
    Column("due_at", BigInteger),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("run", BigInteger),
    Column("claimed_by", BigInteger),
    Column("given_back", Text),
    Column("line", _ORDERED, nullable=False, server_default="2"),
    Column("compared", BigInteger),
)
TRAIT = Table(
    "trait",
    _SCHEMA,
    Column("key", Text, primary_key=True),
    Column("trait", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("members", BigInteger, nullable=False, server_default=text("0")),
    Column("name", Text),
    Column("status", Text),
    Column("size", BigInteger),
    Column("released_at", BigInteger),
)
CHANGE = Table(
    "change",
    _SCHEMA,
    Column("id", _SERIAL, primary_key=True),
    Column("run", BigInteger),
    Column("customer_id", _ORDERED, nullable=False),
    Column("rev", BigInteger, nullable=False),
    Column("key", Text, nullable=False),
    Column("trait", Text, nullable=False),
    Column("before", Text),
    Column("after", Text),
    Column("observed_at", BigInteger),
    Column("recorded_at", BigInteger, nullable=False),
    Column("delivered_at", BigInteger),
    Column("delta", SmallInteger, nullable=False, server_default=text("0")),
    Column("salt", Text),
    Column("source", String(16)),
    Column("via", Text),
)
AUDIENCE_SIZE_HOUR = Table(
    "audience_size_hour",
    _SCHEMA,
    Column("key", Text, primary_key=True),
    Column("hour", BigInteger, primary_key=True),
    Column("entered", BigInteger, nullable=False),
    Column("exited", BigInteger, nullable=False),
    Column("other", BigInteger, nullable=False),
    Column("lowest", BigInteger, nullable=False),
    Column("highest", BigInteger, nullable=False),
)
RUN = Table(
    "run",
    _SCHEMA,
    Column("id", _SERIAL, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("committed_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("watermark", Text),
    Column("settings", Text),
    Column("error", Text),
    Column("pulled", BigInteger, nullable=False, server_default=text("0")),
    Column("entered", BigInteger, nullable=False, server_default=text("0")),
    Column("exited", BigInteger, nullable=False, server_default=text("0")),
    Column("changed", BigInteger, nullable=False, server_default=text("0")),
    Column("unchanged", BigInteger, nullable=False, server_default=text("0")),
    Column("skipped", BigInteger, nullable=False, server_default=text("0")),
    Column("without_customer_id", BigInteger, nullable=False, server_default=text("0")),
    Column("due", BigInteger, nullable=False, server_default=text("0")),
    Column("delivered", BigInteger, nullable=False, server_default=text("0")),
    Column("failed", BigInteger, nullable=False, server_default=text("0")),
    Column("held", BigInteger, nullable=False, server_default=text("0")),
    Column("progress", Text),
    Column("deleted", BigInteger, nullable=False, server_default=text("0")),
    Column("hold", BigInteger),
    Column("first_contact", BigInteger, nullable=False, server_default=text("0")),
    Column("already_right", BigInteger, nullable=False, server_default=text("0")),
)
RUN_TRAIT = Table(
    "run_trait",
    _SCHEMA,
    Column("run", BigInteger, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("trait", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("pulled", BigInteger, nullable=False),
    Column("entered", BigInteger, nullable=False),
    Column("exited", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("unchanged", BigInteger, nullable=False),
    Column("skipped", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("reasons", Text, nullable=False),
    Column("waiting", BigInteger, nullable=False, server_default=text("0")),
    Column("left_by_itself", BigInteger, nullable=False, server_default=text("0")),
    Column("hold", BigInteger),
)
HOLD = Table(
    "hold",
    _SCHEMA,
    Column("id", _SERIAL, primary_key=True),
    Column("trait", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("since_run", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("last_run", BigInteger, nullable=False),
    Column("members", BigInteger, nullable=False),
    Column("leaving", BigInteger, nullable=False),
    Column("decision", String(16)),
    Column("decided_at", BigInteger),
    Column("decided_by", Text),
    Column("because", Text),
    Column("decided_run", BigInteger),
)
HELD_CHANGE = Table(
    "held_change",
    _SCHEMA,
    Column("hold", BigInteger, primary_key=True, autoincrement=False),
    Column("customer_id", _ORDERED, primary_key=True),
    Column("trait", Text, nullable=False),
    Column("before", Text),
    Column("after", Text),
    Column("observed_at", BigInteger),
    Column("run", BigInteger, nullable=False),
    Column("since_run", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
)
FAILURE = Table(
    "failure",
    _SCHEMA,
    Column("id", _SERIAL, primary_key=True),
    Column("ref", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("customer_id", Text),
    Column("message_id", Text),
    Column("reason", Text, nullable=False),
    Column("status", Integer),
    Column("request", Text),
    Column("body", Text),
    Column("attempts", Integer, nullable=False, server_default="1"),
    Column("failed_at", BigInteger, nullable=False),
    Column("via", Text),
    Column("event", Text),
)
WORKER = Table(
    "worker",
    _SCHEMA,
    Column("id", _SERIAL, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("schedule", Text),
)
ALERT = Table(
    "alert",
    _SCHEMA,
    Column("name", Text, primary_key=True),
    Column("text", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("notified_at", BigInteger),
    Column("told", Text),
)
PROBLEM = Table(
    "problem",
    _SCHEMA,
    Column("part", String(32), primary_key=True),
    Column("text", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("times", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
)
SEAL = Table(
    "seal",
    _SCHEMA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("run", BigInteger),
    Column("first_id", BigInteger, nullable=False),
    Column("last_id", BigInteger, nullable=False),
    Column("changes", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("until", BigInteger),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("sealed_at", BigInteger, nullable=False),
    Column("marks", LargeBinary),
)
ERASED = Table(
    "erased",
    _SCHEMA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("leaf", Text, nullable=False),
    Column("seal", BigInteger, nullable=False),
)
ERASURE = Table(
    "erasure",
    _SCHEMA,
    Column("customer_id", _ORDERED, primary_key=True),
    Column("asked_at", BigInteger, nullable=False),
    Column("run", BigInteger),
    Column("waits_since", BigInteger),
)
FORGOTTEN = Table(
    "forgotten",
    _SCHEMA,
    Column("hash", Text, primary_key=True),
    Column("forgotten_at", BigInteger, nullable=False),
)
METADATA = Table(
    "metadata",
    _SCHEMA,
    Column("name", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)
EARLY_CALL = Table(
    "early_call",
    _SCHEMA,
    Column("key", Text, primary_key=True),
    Column("customer_id", _ORDERED, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("value", Text),
    Column("at", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("via", Text, nullable=False),
)
EARLY_EXIT = Table(
    "early_exit",
    _SCHEMA,
    Column("customer_id", _ORDERED, primary_key=True),
    Column("event_times", Text, nullable=False),
    Column("noted_at", BigInteger, nullable=False),
)
FINGERPRINT_TABLE = Table(
    "fingerprint_table",
    _SCHEMA,
    Column("name", Text, primary_key=True),
    Column("run", BigInteger, nullable=False),
    Column("customers", BigInteger, nullable=False, server_default=text("0")),
    Column("trait_rows", BigInteger, nullable=False, server_default=text("0")),
    Column("basis", Text),
)
REVISIT = Table(
    "revisit",
    _SCHEMA,
    Column("id", _SERIAL, primary_key=True),
    Column("customer_id", _ORDERED, nullable=False),
)
INBOX = Table(
    "inbox",
    _SCHEMA,
    Column("id", _SERIAL, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("events", Integer, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("key", _ORDERED, nullable=False, server_default=""),
)
EVENT = Table(
    "event",
    _SCHEMA,
    Column("id", _SERIAL, primary_key=True),
    Column("message_id", Text, nullable=False),
    Column("record", LargeBinary),
    Column("received_at", BigInteger, nullable=False),
    Column("due_at", BigInteger),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("claimed_by", BigInteger),
    Column("key", _ORDERED, nullable=False, server_default=""),
)
COUNTER = Table(
    "counter",
    _SCHEMA,
    Column("name", String(32), primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
