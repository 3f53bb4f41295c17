"""The tables in SQLAlchemy Core; what reads rows types them. Times are epoch milliseconds UTC.

Values are JSON text. One row per customer, not per customer and trait (docs/design.md §6: a factor
of ten). The DDL that makes them and their indexes (indexes.py) is in migrations.py; a test holds
the two equal.
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

#: Where all tables stand.
SCHEMA = MetaData()


def _ordered_text(name: str, primary_key: bool = False, default: str | None = None) -> Column[str]:
    """Return a text column that sorts in UTF-8 byte order on every engine, for the merge."""
    kind = Text().with_variant(Text(collation="C"), "postgresql")
    return Column(name, kind, primary_key=primary_key, nullable=False, server_default=default)


def _serial() -> Column[int]:
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


def _big(name: str, nullable: bool = False, default: str | None = None) -> Column[int]:
    return Column(
        name, BigInteger, nullable=nullable, server_default=text(default) if default else None
    )


#: What Amberflo should hold of ours for a customer, and whether it does.
#:
#: `traits` are Engage's; `identify_traits` are those of identify calls, each with its Segment
#: time: {name: [value, time]}, a null value is one that a call took away. `event_times` say of
#: Engage traits, name and email that came by a call when it happened and when it came:
#: {name: [time, received]}.
#: (An older program wrote the time alone.) No time is later than its receipt.
#: `rev` goes up with each change of traits, name or email; `acked_rev` is the one that Amberflo
#: acknowledged last (0: never). `due_at` is set while there is something to send; `run` is the run
#: that waits for it to be delivered, `claimed_by` the worker that has it in work. `given_back` are
#: values (JSON, by name) that the next write puts back for others: traits that are ours no more.
#: `line` is what it waits in while it is due; see `lanes.py`.
#: `compared` is the first run that compared everything and pulled the customer (null: none did).
CUSTOMER = Table(
    "customer",
    SCHEMA,
    _ordered_text("customer_id", primary_key=True),
    Column("traits", Text, nullable=False),
    Column("name", Text),
    Column("email", Text),
    Column("identify_traits", Text),
    Column("event_times", Text),
    _big("rev"),
    _big("acked_rev", default="0"),
    _big("acked_at", nullable=True),
    _big("due_at", nullable=True),
    Column("attempts", Integer, nullable=False, server_default="0"),
    _big("run", nullable=True),
    _big("claimed_by", nullable=True),
    Column("given_back", Text),
    _ordered_text("line", default="2"),
    _big("compared", nullable=True),
)

#: A trait that we own at Amberflo: its Segment key, its name there, its kind, its members.
#:
#: `name`, `status` and `size` are what Segment's Public API said of it last, where it is asked.
#: One that was given back has `released_at`: it is ours no more.
TRAIT = Table(
    "trait",
    SCHEMA,
    Column("key", Text, primary_key=True),
    Column("trait", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    _big("members", default="0"),
    Column("name", Text),
    Column("status", Text),
    _big("size", nullable=True),
    _big("released_at", nullable=True),
)

#: History, append-only: one trait of one customer went from `before` to `after`.
#:
#: `run` found it; null is a change by a call. `observed_at` is Segment's time of it, `recorded_at`
#: ours, `delivered_at` Amberflo's answer. `source` says where a change comes from that is neither
#: of a run's rows nor of an Engage call: see SOURCES. `delta` is 1 where the customer entered an
#: audience by it, -1 where it left, else 0. `via` is the short name of the key that a call came
#: by. `salt` is random, so that the hash of an erased row (seal.py) cannot be tried against
#: guesses.
CHANGE = Table(
    "change",
    SCHEMA,
    _serial(),
    _big("run", nullable=True),
    _ordered_text("customer_id"),
    _big("rev"),
    Column("key", Text, nullable=False),
    Column("trait", Text, nullable=False),
    Column("before", Text),
    Column("after", Text),
    _big("observed_at", nullable=True),
    _big("recorded_at"),
    _big("delivered_at", nullable=True),
    Column("delta", SmallInteger, nullable=False, server_default=text("0")),
    Column("salt", Text),
    Column("source", String(16)),
    Column("via", Text),
)

#: How many customers entered and left an audience in an hour; see sizes.py.
#:
#: `lowest` and `highest` are the ids of the first and the last change.
AUDIENCE_SIZE_HOUR = Table(
    "audience_size_hour",
    SCHEMA,
    Column("key", Text, primary_key=True),
    Column("hour", BigInteger, primary_key=True),
    _big("entered"),
    _big("exited"),
    _big("other"),
    _big("lowest"),
    _big("highest"),
)

#: One run: pull, compare, commit, deliver. Its sums must close (docs/design.md §3.8).
#:
#: `progress` is JSON of how far it is while it goes on. `deleted` customers were deleted in
#: Segment, and `hold` is the one that has more of them; `first_contact` values were found at
#: Amberflo. Of the `delivered` customers, Amberflo held `already_right` as they should be, so that
#: nothing was written.
RUN = Table(
    "run",
    SCHEMA,
    _serial(),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    _big("started_at"),
    _big("committed_at", nullable=True),
    _big("ended_at", nullable=True),
    Column("watermark", Text),
    Column("settings", Text),
    Column("error", Text),
    _big("pulled", default="0"),
    _big("entered", default="0"),
    _big("exited", default="0"),
    _big("changed", default="0"),
    _big("unchanged", default="0"),
    _big("skipped", default="0"),
    _big("without_customer_id", default="0"),
    _big("due", default="0"),
    _big("delivered", default="0"),
    _big("failed", default="0"),
    _big("held", default="0"),
    Column("progress", Text),
    _big("deleted", default="0"),
    _big("hold", nullable=True),
    _big("first_contact", default="0"),
    _big("already_right", default="0"),
)

#: A run's sums of one trait: pulled = unchanged + entered + exited + changed + skipped.
#:
#: `held` of its changes were not applied; `waiting` of these need nobody's word, only that
#: Segment has computed the trait. `left_by_itself` members left by the run, applied without an
#: approval: the guard adds them up over a day. `hold` is the hold that has what was held.
RUN_TRAIT = Table(
    "run_trait",
    SCHEMA,
    Column("run", BigInteger, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("trait", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    _big("pulled"),
    _big("entered"),
    _big("exited"),
    _big("changed"),
    _big("unchanged"),
    _big("skipped"),
    _big("held"),
    Column("reasons", Text, nullable=False),
    _big("waiting", default="0"),
    _big("left_by_itself", default="0"),
    _big("hold", nullable=True),
)

#: Changes of one trait that the guard does not let through until somebody decides.
#:
#: `trait` is the name at Amberflo, or `holds.DELETED`. There is one open hold a trait: `decision`
#: is null while it is open, else one of `holds.DECISIONS`. `since_run` found it, `last_run` is the
#: newest that found some of it. `members` is the size before, `leaving` how many would leave.
HOLD = Table(
    "hold",
    SCHEMA,
    _serial(),
    Column("trait", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("reason", Text, nullable=False),
    _big("since_run"),
    _big("since"),
    _big("last_run"),
    _big("members"),
    _big("leaving"),
    Column("decision", String(16)),
    _big("decided_at", nullable=True),
    Column("decided_by", Text),
    Column("because", Text),
    _big("decided_run", nullable=True),
)

#: One customer's part of a hold: Engage says `after` (JSON, null is absent), not `before`.
#:
#: `since_run` found it first, `run` last. It is in force until `ended_at`: decided and done, or
#: not said by Engage any more.
HELD_CHANGE = Table(
    "held_change",
    SCHEMA,
    Column("hold", BigInteger, primary_key=True, autoincrement=False),
    _ordered_text("customer_id", primary_key=True),
    Column("trait", Text, nullable=False),
    Column("before", Text),
    Column("after", Text),
    _big("observed_at", nullable=True),
    _big("run"),
    _big("since_run"),
    _big("ended_at", nullable=True),
)

#: A link of the hash chain over the history (seal.py says what is hashed and how).
#:
#: A seal of kind `changes` is about the changes `first_id` to `last_id`; `compaction` and
#: `compacted` say what of the changes up to `last_id` is kept (retention.py), `erasure` which were
#: erased. `changes` is how many, `digest` is over their leaf hashes, `until` is when the newest of
#: them was recorded. `marks` are two bytes of each leaf hash, to name the one that is wrong.
SEAL = Table(
    "seal",
    SCHEMA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    _big("run", nullable=True),
    _big("first_id"),
    _big("last_id"),
    _big("changes"),
    Column("digest", Text, nullable=False),
    _big("until", nullable=True),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
    _big("sealed_at"),
    Column("marks", LargeBinary),
)

#: What is left of an erased change: its leaf hash, and the seal (`erasure`) that says so.
ERASED = Table(
    "erased",
    SCHEMA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("leaf", Text, nullable=False),
    _big("seal"),
)

#: A customer that is erased as soon as Amberflo has taken its last write.
#:
#: `run` found that Segment has it no more; null: a delete call or a person asked for it. With
#: `waits_since` it waits for a person's approval, because calls asked for too many in a day.
ERASURE = Table(
    "erasure",
    SCHEMA,
    _ordered_text("customer_id", primary_key=True),
    _big("asked_at"),
    _big("run", nullable=True),
    _big("waits_since", nullable=True),
)

#: What a call of Engage said of a trait that no pull knows yet: the newest of a customer.
#:
#: `value` is JSON, null is absent; `at` and `received_at` are the call's, `via` is its key.
EARLY_CALL = Table(
    "early_call",
    SCHEMA,
    Column("key", Text, primary_key=True),
    _ordered_text("customer_id", primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("value", Text),
    _big("at"),
    _big("received_at"),
    Column("via", Text, nullable=False),
)

#: When calls of Engage said exits of a customer who is not known yet.
#:
#: `event_times` are those that the customer would have (as in `CUSTOMER`).
EARLY_EXIT = Table(
    "early_exit",
    SCHEMA,
    _ordered_text("customer_id", primary_key=True),
    Column("event_times", Text, nullable=False),
    _big("noted_at"),
)

#: A customer that was erased and must not come back: SHA-256 of the salt and its id.
FORGOTTEN = Table(
    "forgotten",
    SCHEMA,
    Column("hash", Text, primary_key=True),
    _big("forgotten_at"),
)

#: Single values of the state by name.
METADATA = Table(
    "metadata",
    SCHEMA,
    Column("name", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)

#: What Amberflo, or we before it, refused for good, with the request and the answer.
#:
#: `ref` names what failed, so that the same failure twice is one row. `via` is the short name of
#: the key that a call came by, `event` the name of a track's event, else the type of the call.
FAILURE = Table(
    "failure",
    SCHEMA,
    _serial(),
    Column("ref", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("customer_id", Text),
    Column("message_id", Text),
    Column("reason", Text, nullable=False),
    Column("status", Integer),
    Column("request", Text),
    Column("body", Text),
    Column("attempts", Integer, nullable=False, server_default="1"),
    _big("failed_at"),
    Column("via", Text),
    Column("event", Text),
)

#: A process that delivers, for as long as it lives.
#:
#: `schedule` is JSON of when a daemon makes its next run.
WORKER = Table(
    "worker",
    SCHEMA,
    _serial(),
    Column("kind", String(16), nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    _big("started_at"),
    Column("schedule", Text),
)

#: A condition that needs a person, from `since` until `ended_at`.
#:
#: `notified_at` is when the webhook last took the news of it (null: not yet).
ALERT = Table(
    "alert",
    SCHEMA,
    Column("name", Text, primary_key=True),
    Column("text", Text, nullable=False),
    _big("since"),
    _big("ended_at", nullable=True),
    _big("notified_at", nullable=True),
)

#: What keeps a part of the service from its work, from `since` until `ended_at`.
#:
#: `times` counts how often it began since then; `last_at` is when it was seen last.
PROBLEM = Table(
    "problem",
    SCHEMA,
    Column("part", String(32), primary_key=True),
    Column("text", Text, nullable=False),
    _big("since"),
    _big("last_at"),
    _big("times"),
    _big("ended_at", nullable=True),
)

#: Accepted requests as they came, until they are processed.
#:
#: The requests of one commit by one key are in one row.
INBOX = Table(
    "inbox",
    SCHEMA,
    _serial(),
    Column("body", LargeBinary, nullable=False),
    Column("events", Integer, nullable=False),
    _big("received_at"),
    _ordered_text("key", default=""),
)

#: A meter call that was accepted, by its messageId and its key.
#:
#: It is kept for a day, so that a repeat is recognized, and longer while its meter record waits.
#: `record` is the frozen record; null once Amberflo has or refused it.
EVENT = Table(
    "event",
    SCHEMA,
    _serial(),
    Column("message_id", Text, nullable=False),
    Column("record", LargeBinary),
    _big("received_at"),
    _big("due_at", nullable=True),
    Column("attempts", Integer, nullable=False, server_default="0"),
    _big("claimed_by", nullable=True),
    _ordered_text("key", default=""),
)

#: How many calls ended how, for the metrics: counted in the transaction that ended them.
COUNTER = Table(
    "counter",
    SCHEMA,
    Column("name", String(32), primary_key=True),
    Column("reason", Text, primary_key=True),
    _big("value"),
)


#: What `change.source` says; null is a row that a run pulled, or a membership that a call told.
#: `amberflo`: `before` is what Amberflo had, and not what was recorded here; `deleted`: Segment has
#: no identifier of the customer left; `identify`: an identify call said this trait, name or email;
#: `renamed`: the key gave its name to another one; `released`: the trait was given back; `adopted`:
#: as `amberflo`, and Amberflo had the customer as it should be, so nothing was sent.
SOURCES = ("amberflo", "deleted", "identify", "renamed", "released", "adopted")
AMBERFLO, DELETED, IDENTIFY, RENAMED, RELEASED, ADOPTED = SOURCES
#: The sources of changes whose `before` is what Amberflo had.
MET = (AMBERFLO, ADOPTED)


#: The queue of calls is a part of its own: on SQLite it is another file, so that a long commit of
#: a run never keeps a call waiting.
PARTS = {
    "state": [
        *(CUSTOMER, TRAIT, CHANGE, AUDIENCE_SIZE_HOUR, RUN, RUN_TRAIT, HOLD, HELD_CHANGE),
        *(FAILURE, WORKER, ALERT, PROBLEM),
        *(SEAL, ERASED, ERASURE, FORGOTTEN, METADATA, EARLY_CALL, EARLY_EXIT),
    ],
    "queue": [INBOX, EVENT, COUNTER],
}
