"""The tables, as SQLModel classes. Times are epoch milliseconds UTC; values are JSON text.

One row per customer, not per customer and trait (docs/design.md §6: a factor of ten). The DDL that
makes them is in migrations.py, and tables.py has them for the statements of the program; tests hold
the three equal. The queue of calls is in queue_models.py.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, SmallInteger, String, Text, text
from sqlmodel import Field, SQLModel

from state.db.columns import big, ordered_text, serial


class Customer(SQLModel, table=True):
    """What Amberflo should hold of ours for a customer, and whether it does.

    `traits` are Engage's; `identify_traits` are those of identify calls, each with its Segment
    time: {name: [value, time]}, a null value is one that a call took away. `event_times` say of
    Engage traits, name and email that came by a call when it happened and when it came:
    {name: [time, received]}.
    (An older program wrote the time alone.) No time is later than its receipt.
    `rev` goes up with each change of traits, name or email; `acked_rev` is the one that Amberflo
    acknowledged last (0: never). `due_at` is set while there is something to send; `run` is the run
    that waits for it to be delivered, `claimed_by` the worker that has it in work. `given_back` are
    values (JSON, by name) that the next write puts back for others: traits that are ours no more.
    `line` is what it waits in while it is due; see `lines.py`.
    `compared` is the first run that compared everything and pulled the customer (null: none did).
    """

    customer_id: str = Field(sa_column=ordered_text(primary_key=True))
    traits: str = Field(sa_column=Column(Text, nullable=False))
    name: str | None = Field(default=None, sa_column=Column(Text))
    email: str | None = Field(default=None, sa_column=Column(Text))
    identify_traits: str | None = Field(default=None, sa_column=Column(Text))
    event_times: str | None = Field(default=None, sa_column=Column(Text))
    rev: int = Field(sa_column=big())
    acked_rev: int = Field(sa_column=big(default="0"))
    acked_at: int | None = Field(default=None, sa_column=big(nullable=True))
    due_at: int | None = Field(default=None, sa_column=big(nullable=True))
    attempts: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default="0"))
    run: int | None = Field(default=None, sa_column=big(nullable=True))
    claimed_by: int | None = Field(default=None, sa_column=big(nullable=True))
    given_back: str | None = Field(default=None, sa_column=Column(Text))
    line: str = Field(default="2", sa_column=ordered_text(default="2"))
    compared: int | None = Field(default=None, sa_column=big(nullable=True))


class Trait(SQLModel, table=True):
    """A trait that we own at Amberflo: its Segment key, its name there, its kind, its members.

    `name`, `status` and `size` are what Segment's Public API said of it last, where it is asked.
    One that was given back has `released_at`: it is ours no more.
    """

    key: str = Field(sa_column=Column(Text, primary_key=True))
    trait: str = Field(sa_column=Column(Text, nullable=False))
    kind: str = Field(sa_column=Column(String(16), nullable=False))
    members: int = Field(default=0, sa_column=big(default="0"))
    name: str | None = Field(default=None, sa_column=Column(Text))
    status: str | None = Field(default=None, sa_column=Column(Text))
    size: int | None = Field(default=None, sa_column=big(nullable=True))
    released_at: int | None = Field(default=None, sa_column=big(nullable=True))


class Change(SQLModel, table=True):
    """History, append-only: one trait of one customer went from `before` to `after`.

    `run` found it; null is a change by a call. `observed_at` is Segment's time of it, `recorded_at`
    ours, `delivered_at` Amberflo's answer. `source` says where a change comes from that is neither
    of a run's rows nor of an Engage call: see SOURCES. `delta` is 1 where the customer entered an
    audience by it, -1 where it left, else 0. `via` is the short name of the key that a call came
    by. `salt` is random, so that the hash of an erased row (seal.py) cannot be tried against
    guesses.
    """

    id: int | None = Field(default=None, sa_column=serial())
    run: int | None = Field(default=None, sa_column=big(nullable=True))
    customer_id: str = Field(sa_column=ordered_text())
    rev: int = Field(sa_column=big())
    key: str = Field(sa_column=Column(Text, nullable=False))
    trait: str = Field(sa_column=Column(Text, nullable=False))
    before: str | None = Field(default=None, sa_column=Column(Text))
    after: str | None = Field(default=None, sa_column=Column(Text))
    observed_at: int | None = Field(default=None, sa_column=big(nullable=True))
    recorded_at: int = Field(sa_column=big())
    delivered_at: int | None = Field(default=None, sa_column=big(nullable=True))
    delta: int = Field(
        default=0, sa_column=Column(SmallInteger, nullable=False, server_default=text("0"))
    )
    salt: str | None = Field(default=None, sa_column=Column(Text))
    source: str | None = Field(default=None, sa_column=Column(String(16)))
    via: str | None = Field(default=None, sa_column=Column(Text))


class AudienceSizeHour(SQLModel, table=True):
    """How many customers entered and left an audience in an hour; see sizes.py.

    `lowest` and `highest` are the ids of the first and the last change.
    """

    __tablename__ = "audience_size_hour"

    key: str = Field(sa_column=Column(Text, primary_key=True))
    hour: int = Field(sa_column=Column(BigInteger, primary_key=True))
    entered: int = Field(sa_column=big())
    exited: int = Field(sa_column=big())
    other: int = Field(sa_column=big())
    lowest: int = Field(sa_column=big())
    highest: int = Field(sa_column=big())


class Run(SQLModel, table=True):
    """One run: pull, compare, commit, deliver. Its sums must close (docs/design.md §3.8).

    `progress` is JSON of how far it is while it goes on. `deleted` customers were deleted in
    Segment, and `hold` is the one that has more of them; `first_contact` values were found at
    Amberflo. Of the `delivered` customers, Amberflo held `already_right` as they should be, so that
    nothing was written.
    """

    id: int | None = Field(default=None, sa_column=serial())
    kind: str = Field(sa_column=Column(String(16), nullable=False))
    state: str = Field(sa_column=Column(String(16), nullable=False))
    started_at: int = Field(sa_column=big())
    committed_at: int | None = Field(default=None, sa_column=big(nullable=True))
    ended_at: int | None = Field(default=None, sa_column=big(nullable=True))
    watermark: str | None = Field(default=None, sa_column=Column(Text))
    settings: str | None = Field(default=None, sa_column=Column(Text))
    error: str | None = Field(default=None, sa_column=Column(Text))
    pulled: int = Field(default=0, sa_column=big(default="0"))
    entered: int = Field(default=0, sa_column=big(default="0"))
    exited: int = Field(default=0, sa_column=big(default="0"))
    changed: int = Field(default=0, sa_column=big(default="0"))
    unchanged: int = Field(default=0, sa_column=big(default="0"))
    skipped: int = Field(default=0, sa_column=big(default="0"))
    without_customer_id: int = Field(default=0, sa_column=big(default="0"))
    due: int = Field(default=0, sa_column=big(default="0"))
    delivered: int = Field(default=0, sa_column=big(default="0"))
    failed: int = Field(default=0, sa_column=big(default="0"))
    held: int = Field(default=0, sa_column=big(default="0"))
    progress: str | None = Field(default=None, sa_column=Column(Text))
    deleted: int = Field(default=0, sa_column=big(default="0"))
    hold: int | None = Field(default=None, sa_column=big(nullable=True))
    first_contact: int = Field(default=0, sa_column=big(default="0"))
    already_right: int = Field(default=0, sa_column=big(default="0"))


class RunTrait(SQLModel, table=True):
    """A run's sums of one trait: pulled = unchanged + entered + exited + changed + skipped.

    `held` of its changes were not applied; `waiting` of these need nobody's word, only that
    Segment has computed the trait. `left_by_itself` members left by the run, applied without an
    approval: the guard adds them up over a day. `hold` is the hold that has what was held.
    """

    __tablename__ = "run_trait"

    run: int = Field(sa_column=Column(BigInteger, primary_key=True))
    key: str = Field(sa_column=Column(Text, primary_key=True))
    trait: str = Field(sa_column=Column(Text, nullable=False))
    kind: str = Field(sa_column=Column(String(16), nullable=False))
    pulled: int = Field(sa_column=big())
    entered: int = Field(sa_column=big())
    exited: int = Field(sa_column=big())
    changed: int = Field(sa_column=big())
    unchanged: int = Field(sa_column=big())
    skipped: int = Field(sa_column=big())
    held: int = Field(sa_column=big())
    reasons: str = Field(sa_column=Column(Text, nullable=False))
    waiting: int = Field(default=0, sa_column=big(default="0"))
    left_by_itself: int = Field(default=0, sa_column=big(default="0"))
    hold: int | None = Field(default=None, sa_column=big(nullable=True))


class Hold(SQLModel, table=True):
    """Changes of one trait that the guard does not let through until somebody decides.

    `trait` is the name at Amberflo, or `holds.DELETED`. There is one open hold a trait: `decision`
    is null while it is open, else one of `holds.DECISIONS`. `since_run` found it, `last_run` is the
    newest that found some of it. `members` is the size before, `leaving` how many would leave.
    """

    id: int | None = Field(default=None, sa_column=serial())
    trait: str = Field(sa_column=Column(Text, nullable=False))
    key: str = Field(sa_column=Column(Text, nullable=False))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    since_run: int = Field(sa_column=big())
    since: int = Field(sa_column=big())
    last_run: int = Field(sa_column=big())
    members: int = Field(sa_column=big())
    leaving: int = Field(sa_column=big())
    decision: str | None = Field(default=None, sa_column=Column(String(16)))
    decided_at: int | None = Field(default=None, sa_column=big(nullable=True))
    decided_by: str | None = Field(default=None, sa_column=Column(Text))
    because: str | None = Field(default=None, sa_column=Column(Text))
    decided_run: int | None = Field(default=None, sa_column=big(nullable=True))


class HeldChange(SQLModel, table=True):
    """One customer's part of a hold: Engage says `after` (JSON, null is absent), not `before`.

    `since_run` found it first, `run` last. It is in force until `ended_at`: decided and done, or
    not said by Engage any more.
    """

    __tablename__ = "held_change"

    hold: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    customer_id: str = Field(sa_column=ordered_text(primary_key=True))
    trait: str = Field(sa_column=Column(Text, nullable=False))
    before: str | None = Field(default=None, sa_column=Column(Text))
    after: str | None = Field(default=None, sa_column=Column(Text))
    observed_at: int | None = Field(default=None, sa_column=big(nullable=True))
    run: int = Field(sa_column=big())
    since_run: int = Field(sa_column=big())
    ended_at: int | None = Field(default=None, sa_column=big(nullable=True))


class Seal(SQLModel, table=True):
    """A link of the hash chain over the history (seal.py says what is hashed and how).

    A seal of kind `changes` is about the changes `first_id` to `last_id`; `compaction` and
    `compacted` say what of the changes up to `last_id` is kept (retention.py), `erasure` which were
    erased. `changes` is how many, `digest` is over their leaf hashes, `until` is when the newest of
    them was recorded. `marks` are two bytes of each leaf hash, to name the one that is wrong.
    """

    number: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    kind: str = Field(sa_column=Column(String(16), nullable=False))
    run: int | None = Field(default=None, sa_column=big(nullable=True))
    first_id: int = Field(sa_column=big())
    last_id: int = Field(sa_column=big())
    changes: int = Field(sa_column=big())
    digest: str = Field(sa_column=Column(Text, nullable=False))
    until: int | None = Field(default=None, sa_column=big(nullable=True))
    previous: str = Field(sa_column=Column(Text, nullable=False))
    hash: str = Field(sa_column=Column(Text, nullable=False))
    sealed_at: int = Field(sa_column=big())
    marks: bytes | None = Field(default=None, sa_column=Column(LargeBinary))


class Erased(SQLModel, table=True):
    """What is left of an erased change: its leaf hash, and the seal (`erasure`) that says so."""

    id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    leaf: str = Field(sa_column=Column(Text, nullable=False))
    seal: int = Field(sa_column=big())


class Erasure(SQLModel, table=True):
    """A customer that is erased as soon as Amberflo has taken its last write.

    `run` found that Segment has it no more; null: a delete call or a person asked for it. With
    `waits_since` it waits for a person's approval, because calls asked for too many in a day.
    """

    customer_id: str = Field(sa_column=ordered_text(primary_key=True))
    asked_at: int = Field(sa_column=big())
    run: int | None = Field(default=None, sa_column=big(nullable=True))
    waits_since: int | None = Field(default=None, sa_column=big(nullable=True))


class EarlyCall(SQLModel, table=True):
    """What a call of Engage said of a trait that no pull knows yet: the newest of a customer.

    `value` is JSON, null is absent; `at` and `received_at` are the call's, `via` is its key.
    """

    __tablename__ = "early_call"

    key: str = Field(sa_column=Column(Text, primary_key=True))
    customer_id: str = Field(sa_column=ordered_text(primary_key=True))
    kind: str = Field(sa_column=Column(String(16), nullable=False))
    value: str | None = Field(default=None, sa_column=Column(Text))
    at: int = Field(sa_column=big())
    received_at: int = Field(sa_column=big())
    via: str = Field(sa_column=Column(Text, nullable=False))


class EarlyExit(SQLModel, table=True):
    """When calls of Engage said exits of a customer who is not known yet.

    `event_times` are those that the customer would have (as in `Customer`).
    """

    __tablename__ = "early_exit"

    customer_id: str = Field(sa_column=ordered_text(primary_key=True))
    event_times: str = Field(sa_column=Column(Text, nullable=False))
    noted_at: int = Field(sa_column=big())


class FingerprintTable(SQLModel, table=True):
    """A table of fingerprints that a run makes in the warehouse (docs/explanation/push-down.md).

    Of the one that the next run may compare by, the baseline, `basis` says on what the comparison
    depends beside the rows, and `customers` and `trait_rows` how large it is. The others are to be
    dropped in the warehouse.
    """

    __tablename__ = "fingerprint_table"

    name: str = Field(sa_column=Column(Text, primary_key=True))
    run: int = Field(sa_column=big())
    customers: int = Field(default=0, sa_column=big(default="0"))
    trait_rows: int = Field(default=0, sa_column=big(default="0"))
    basis: str | None = Field(default=None, sa_column=Column(Text))


class Revisit(SQLModel, table=True):
    """A customer that the next comparison by fingerprints reads, whatever these say.

    The newest note of a customer has the highest `id`.
    """

    id: int | None = Field(default=None, sa_column=serial())
    customer_id: str = Field(sa_column=ordered_text())


class Forgotten(SQLModel, table=True):
    """A customer that was erased and must not come back: SHA-256 of the salt and its id."""

    hash: str = Field(sa_column=Column(Text, primary_key=True))
    forgotten_at: int = Field(sa_column=big())


class Metadata(SQLModel, table=True):
    """Single values of the state by name."""

    name: str = Field(sa_column=Column(String(32), primary_key=True))
    value: str = Field(sa_column=Column(Text, nullable=False))


class Failure(SQLModel, table=True):
    """What Amberflo, or we before it, refused for good, with the request and the answer.

    `ref` names what failed, so that the same failure twice is one row. `via` is the short name of
    the key that a call came by, `event` the name of a track's event, else the type of the call.
    """

    id: int | None = Field(default=None, sa_column=serial())
    ref: str = Field(sa_column=Column(Text, nullable=False))
    kind: str = Field(sa_column=Column(String(16), nullable=False))
    customer_id: str | None = Field(default=None, sa_column=Column(Text))
    message_id: str | None = Field(default=None, sa_column=Column(Text))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    status: int | None = Field(default=None, sa_column=Column(Integer))
    request: str | None = Field(default=None, sa_column=Column(Text))
    body: str | None = Field(default=None, sa_column=Column(Text))
    attempts: int = Field(default=1, sa_column=Column(Integer, nullable=False, server_default="1"))
    failed_at: int = Field(sa_column=big())
    via: str | None = Field(default=None, sa_column=Column(Text))
    event: str | None = Field(default=None, sa_column=Column(Text))


class Worker(SQLModel, table=True):
    """A process that delivers, for as long as it lives.

    `schedule` is JSON of when a daemon makes its next run.
    """

    id: int | None = Field(default=None, sa_column=serial())
    kind: str = Field(sa_column=Column(String(16), nullable=False))
    host: str = Field(sa_column=Column(Text, nullable=False))
    pid: int = Field(sa_column=Column(Integer, nullable=False))
    started_at: int = Field(sa_column=big())
    schedule: str | None = Field(default=None, sa_column=Column(Text))


class Alert(SQLModel, table=True):
    """A condition that needs a person, from `since` until `ended_at`.

    `notified_at` is when all channels had the news of it (null: not yet). `told` is a JSON list of
    the marks of those that know of it, while others do not (null: all do).
    """

    name: str = Field(sa_column=Column(Text, primary_key=True))
    text: str = Field(sa_column=Column(Text, nullable=False))
    since: int = Field(sa_column=big())
    ended_at: int | None = Field(default=None, sa_column=big(nullable=True))
    notified_at: int | None = Field(default=None, sa_column=big(nullable=True))
    told: str | None = Field(default=None, sa_column=Column(Text, nullable=True))


class Problem(SQLModel, table=True):
    """What keeps a part of the service from its work, from `since` until `ended_at`.

    `times` counts how often it began since then; `last_at` is when it was seen last.
    """

    part: str = Field(sa_column=Column(String(32), primary_key=True))
    text: str = Field(sa_column=Column(Text, nullable=False))
    since: int = Field(sa_column=big())
    last_at: int = Field(sa_column=big())
    times: int = Field(sa_column=big())
    ended_at: int | None = Field(default=None, sa_column=big(nullable=True))
