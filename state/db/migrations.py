"""Forward-only migrations: numbered, each in one transaction with its own record.

An empty database gets the baseline, which makes the whole schema at once. To change the schema,
append to MIGRATIONS and change tables.py; never edit a script that was released. A program refuses
a database with more migrations than it knows, and one that is older than what it can migrate.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, inspect

from state.errors import StateError

_STATE = """
CREATE TABLE customer (
    customer_id {ordered} NOT NULL PRIMARY KEY,
    traits TEXT NOT NULL,
    name TEXT,
    email TEXT,
    identify_traits TEXT,
    event_times TEXT,
    rev BIGINT NOT NULL,
    acked_rev BIGINT DEFAULT 0 NOT NULL,
    acked_at BIGINT,
    due_at BIGINT,
    attempts INTEGER DEFAULT 0 NOT NULL,
    run BIGINT,
    claimed_by BIGINT,
    given_back TEXT,
    line {ordered} DEFAULT '2' NOT NULL,
    compared BIGINT
);
CREATE INDEX customer_due ON customer (line, due_at, customer_id) WHERE due_at IS NOT NULL;
CREATE TABLE trait (
    key TEXT NOT NULL PRIMARY KEY,
    trait TEXT NOT NULL,
    kind VARCHAR(16) NOT NULL,
    members BIGINT DEFAULT 0 NOT NULL,
    name TEXT,
    status TEXT,
    size BIGINT,
    released_at BIGINT
);
CREATE TABLE change (
    id {serial},
    run BIGINT,
    customer_id {ordered} NOT NULL,
    rev BIGINT NOT NULL,
    key TEXT NOT NULL,
    trait TEXT NOT NULL,
    before TEXT,
    after TEXT,
    observed_at BIGINT,
    recorded_at BIGINT NOT NULL,
    delivered_at BIGINT,
    delta SMALLINT DEFAULT 0 NOT NULL,
    salt TEXT,
    source VARCHAR(16),
    via TEXT
);
CREATE INDEX change_customer ON change (customer_id, id);
CREATE INDEX change_undelivered ON change (customer_id, id) WHERE delivered_at IS NULL;
CREATE INDEX change_run ON change (run, key, id, delta) WHERE run IS NOT NULL;
CREATE INDEX change_time ON change (key, recorded_at, id, delta);
CREATE INDEX change_member ON change (key, customer_id, id, recorded_at, delta) WHERE delta != 0;
CREATE TABLE audience_size_hour (
    key TEXT NOT NULL,
    hour BIGINT NOT NULL,
    entered BIGINT NOT NULL,
    exited BIGINT NOT NULL,
    other BIGINT NOT NULL,
    lowest BIGINT NOT NULL,
    highest BIGINT NOT NULL,
    PRIMARY KEY (key, hour)
);
CREATE INDEX audience_size_hour_highest ON audience_size_hour (highest);
CREATE TABLE run (
    id {serial},
    kind VARCHAR(16) NOT NULL,
    state VARCHAR(16) NOT NULL,
    started_at BIGINT NOT NULL,
    committed_at BIGINT,
    ended_at BIGINT,
    watermark TEXT,
    settings TEXT,
    error TEXT,
    pulled BIGINT DEFAULT 0 NOT NULL,
    entered BIGINT DEFAULT 0 NOT NULL,
    exited BIGINT DEFAULT 0 NOT NULL,
    changed BIGINT DEFAULT 0 NOT NULL,
    unchanged BIGINT DEFAULT 0 NOT NULL,
    skipped BIGINT DEFAULT 0 NOT NULL,
    without_customer_id BIGINT DEFAULT 0 NOT NULL,
    due BIGINT DEFAULT 0 NOT NULL,
    delivered BIGINT DEFAULT 0 NOT NULL,
    failed BIGINT DEFAULT 0 NOT NULL,
    held BIGINT DEFAULT 0 NOT NULL,
    progress TEXT,
    deleted BIGINT DEFAULT 0 NOT NULL,
    hold BIGINT,
    first_contact BIGINT DEFAULT 0 NOT NULL,
    already_right BIGINT DEFAULT 0 NOT NULL
);
CREATE TABLE run_trait (
    run BIGINT NOT NULL,
    key TEXT NOT NULL,
    trait TEXT NOT NULL,
    kind VARCHAR(16) NOT NULL,
    pulled BIGINT NOT NULL,
    entered BIGINT NOT NULL,
    exited BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    unchanged BIGINT NOT NULL,
    skipped BIGINT NOT NULL,
    held BIGINT NOT NULL,
    reasons TEXT NOT NULL,
    waiting BIGINT DEFAULT 0 NOT NULL,
    left_by_itself BIGINT DEFAULT 0 NOT NULL,
    hold BIGINT,
    PRIMARY KEY (run, key)
);
CREATE TABLE hold (
    id {serial},
    trait TEXT NOT NULL,
    key TEXT NOT NULL,
    reason TEXT NOT NULL,
    since_run BIGINT NOT NULL,
    since BIGINT NOT NULL,
    last_run BIGINT NOT NULL,
    members BIGINT NOT NULL,
    leaving BIGINT NOT NULL,
    decision VARCHAR(16),
    decided_at BIGINT,
    decided_by TEXT,
    because TEXT,
    decided_run BIGINT
);
CREATE UNIQUE INDEX hold_open ON hold (trait) WHERE decision IS NULL;
CREATE TABLE held_change (
    hold BIGINT NOT NULL,
    customer_id {ordered} NOT NULL,
    trait TEXT NOT NULL,
    before TEXT,
    after TEXT,
    observed_at BIGINT,
    run BIGINT NOT NULL,
    since_run BIGINT NOT NULL,
    ended_at BIGINT,
    PRIMARY KEY (hold, customer_id)
);
CREATE INDEX held_change_customer ON held_change (customer_id) WHERE ended_at IS NULL;
CREATE TABLE failure (
    id {serial},
    ref TEXT NOT NULL,
    kind VARCHAR(16) NOT NULL,
    customer_id TEXT,
    message_id TEXT,
    reason TEXT NOT NULL,
    status INTEGER,
    request TEXT,
    body TEXT,
    attempts INTEGER DEFAULT 1 NOT NULL,
    failed_at BIGINT NOT NULL,
    via TEXT,
    event TEXT
);
CREATE UNIQUE INDEX failure_ref ON failure (ref);
CREATE INDEX failure_customer ON failure (customer_id, id);
CREATE INDEX failure_call ON failure (id) WHERE attempts = 0;
CREATE TABLE worker (
    id {serial},
    kind VARCHAR(16) NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started_at BIGINT NOT NULL,
    schedule TEXT
);
CREATE TABLE alert (
    name TEXT NOT NULL PRIMARY KEY,
    text TEXT NOT NULL,
    since BIGINT NOT NULL,
    ended_at BIGINT,
    notified_at BIGINT
);
CREATE TABLE seal (
    number BIGINT NOT NULL PRIMARY KEY,
    kind VARCHAR(16) NOT NULL,
    run BIGINT,
    first_id BIGINT NOT NULL,
    last_id BIGINT NOT NULL,
    changes BIGINT NOT NULL,
    digest TEXT NOT NULL,
    until BIGINT,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL,
    sealed_at BIGINT NOT NULL,
    marks {bytes}
);
CREATE TABLE erased (
    id BIGINT NOT NULL PRIMARY KEY,
    leaf TEXT NOT NULL,
    seal BIGINT NOT NULL
);
CREATE INDEX seal_kind ON seal (kind, number);
CREATE INDEX erased_seal ON erased (seal, id);
CREATE TABLE erasure (
    customer_id {ordered} NOT NULL PRIMARY KEY,
    asked_at BIGINT NOT NULL,
    run BIGINT,
    waits_since BIGINT
);
CREATE TABLE forgotten (
    hash TEXT NOT NULL PRIMARY KEY,
    forgotten_at BIGINT NOT NULL
);
CREATE TABLE metadata (
    name VARCHAR(32) NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
CREATE TABLE early_call (
    key TEXT NOT NULL,
    customer_id {ordered} NOT NULL,
    kind VARCHAR(16) NOT NULL,
    value TEXT,
    at BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    via TEXT NOT NULL,
    PRIMARY KEY (key, customer_id)
);
CREATE INDEX early_call_customer ON early_call (customer_id);
CREATE INDEX early_call_received ON early_call (received_at);
"""

#: From the schema that every program before 0.2.0 wrote last to the names of the baseline. What a
#: seal vouches for is values in their order, so the names are free to change (history/seal.py).
_RENAMES = """
ALTER TABLE customer RENAME COLUMN called TO identify_traits;
ALTER TABLE customer RENAME COLUMN stamps TO event_times;
ALTER TABLE change RENAME COLUMN step TO delta;
ALTER TABLE run RENAME COLUMN doing TO progress;
ALTER TABLE worker RENAME COLUMN doing TO schedule;
ALTER TABLE alert RENAME COLUMN told_at TO notified_at;
CREATE TABLE audience_size_hour (
    key TEXT NOT NULL,
    hour BIGINT NOT NULL,
    entered BIGINT NOT NULL,
    exited BIGINT NOT NULL,
    other BIGINT NOT NULL,
    lowest BIGINT NOT NULL,
    highest BIGINT NOT NULL,
    PRIMARY KEY (key, hour)
);
CREATE INDEX audience_size_hour_highest ON audience_size_hour (highest);
INSERT INTO audience_size_hour (key, hour, entered, exited, other, lowest, highest)
    SELECT key, hour, entered, exited, other, lowest, highest FROM size;
DROP TABLE size;
ALTER TABLE memo RENAME TO metadata;
"""

_PROBLEMS = """
CREATE TABLE problem (
    part VARCHAR(32) NOT NULL PRIMARY KEY,
    text TEXT NOT NULL,
    since BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    times BIGINT NOT NULL,
    ended_at BIGINT
);
"""

_FAILURE_EVENT = """
ALTER TABLE failure ADD COLUMN event TEXT;
"""

_QUEUE = """
CREATE TABLE inbox (
    id {serial},
    body {bytes} NOT NULL,
    events INTEGER NOT NULL,
    received_at BIGINT NOT NULL,
    key {ordered} DEFAULT '' NOT NULL
);
CREATE INDEX inbox_key ON inbox (key, id, events);
CREATE TABLE event (
    id {serial},
    message_id TEXT NOT NULL,
    record {bytes},
    received_at BIGINT NOT NULL,
    due_at BIGINT,
    attempts INTEGER DEFAULT 0 NOT NULL,
    claimed_by BIGINT,
    key {ordered} DEFAULT '' NOT NULL
);
CREATE UNIQUE INDEX event_message ON event (message_id, key);
CREATE INDEX event_due ON event (key, due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX event_received ON event (received_at);
CREATE TABLE counter (
    name VARCHAR(32) NOT NULL,
    reason TEXT NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (name, reason)
);
"""


_ALREADY_RIGHT = """
ALTER TABLE run ADD COLUMN already_right BIGINT DEFAULT 0 NOT NULL;
"""

_EARLY_EXITS = """
CREATE TABLE early_exit (
    customer_id {ordered} NOT NULL PRIMARY KEY,
    event_times TEXT NOT NULL,
    noted_at BIGINT NOT NULL
);
CREATE INDEX early_exit_noted ON early_exit (noted_at);
"""

_ALERT_TOLD = """
ALTER TABLE alert ADD COLUMN told TEXT;
UPDATE alert SET told = '[]' WHERE notified_at IS NULL AND ended_at IS NULL;
"""

_PUSH_DOWN = """
CREATE TABLE fingerprint_table (
    name TEXT NOT NULL PRIMARY KEY,
    run BIGINT NOT NULL,
    customers BIGINT DEFAULT 0 NOT NULL,
    trait_rows BIGINT DEFAULT 0 NOT NULL,
    basis TEXT
);
CREATE TABLE revisit (
    id {serial},
    customer_id {ordered} NOT NULL
);
CREATE UNIQUE INDEX revisit_customer ON revisit (customer_id);
"""


@dataclass(frozen=True)
class Baseline:
    """A script that makes the whole schema of a version.

    `oldest` is the oldest version from which the migrations lead on.
    """

    version: int
    script: str
    oldest: int


#: By part (see schema.PARTS).
BASELINES = {
    "state": Baseline(14, _STATE + _PROBLEMS + _EARLY_EXITS + _ALERT_TOLD + _PUSH_DOWN, oldest=7),
    "queue": Baseline(3, _QUEUE, oldest=3),
}

#: By part: the scripts that lead from one version to the next, by the version that they make.
MIGRATIONS: dict[str, dict[int, str]] = {
    "state": {
        **{8: _RENAMES, 9: _PROBLEMS, 10: _FAILURE_EVENT, 11: _ALREADY_RIGHT},
        **{12: _EARLY_EXITS, 13: _ALERT_TOLD, 14: _PUSH_DOWN},
    },
    "queue": {},
}

_WORDS = {
    "sqlite": {
        "ordered": "TEXT",
        "serial": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "bytes": "BLOB",
    },
    "postgresql": {
        "ordered": 'TEXT COLLATE "C"',
        "serial": "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        "bytes": "BYTEA",
    },
}


def newest(part: str) -> int:
    """Return the schema version of a part that this program writes."""
    return max(MIGRATIONS[part], default=BASELINES[part].version)


def version(connection: Connection, part: str) -> int:
    """Return the schema version of a part of a database; 0 where the part is not there."""
    record = record_of(part)
    if not inspect(connection).has_table(record):
        return 0
    number = connection.exec_driver_sql(f"SELECT max(version) FROM {record}").scalar()
    return int(number or 0)


def check(connection: Connection, part: str) -> int:
    """Return the version of a part.

    Raise `StateError` where a newer program wrote the database, or one so old that its schema
    cannot be migrated.
    """
    number, known = version(connection, part), newest(part)
    if number > known:
        raise StateError(
            f"the {part} database has schema version {number}, this program knows up to {known}: "
            "run the newer syncer that wrote it"
        )
    if 0 < number < BASELINES[part].oldest:
        raise StateError(
            f"the {part} database has schema version {number}, this program migrates from "
            f"{BASELINES[part].oldest} on: open it with syncer 0.1.0 first, then with this one"
        )
    return number


def migrate(engine: Engine, part: str) -> None:
    """Bring a part to the newest version; safe when several processes start at once."""
    with engine.connect() as connection:
        if check(connection, part) == newest(part):
            return
    while not _migrate_once(engine, part):
        pass


def _migrate_once(engine: Engine, part: str) -> bool:
    """Apply the baseline or the next migration, in one transaction with its record.

    Return whether the part is of the newest version now.
    """
    with engine.execution_options(writes=True).begin() as connection:
        return _step(connection, part)


def create(connection: Connection, part: str) -> None:
    """Make a part of the newest version in the caller's transaction.

    Another process that would make or migrate it waits until that ends.
    """
    while not _step(connection, part):
        pass


def _step(connection: Connection, part: str) -> bool:
    dialect = connection.dialect.name
    if dialect == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7130514602)")
    at = check(connection, part)
    if at == newest(part):
        return True
    if at == 0:
        made, script = BASELINES[part].version, BASELINES[part].script
    else:
        made, script = at + 1, MIGRATIONS[part][at + 1]
    record = record_of(part)
    connection.exec_driver_sql(
        f"CREATE TABLE IF NOT EXISTS {record} "
        "(version INTEGER NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)"
    )
    for statement in script.format(**_WORDS[dialect]).split(";"):
        if statement.strip():
            connection.exec_driver_sql(statement)
    connection.exec_driver_sql(f"INSERT INTO {record} VALUES ({made}, {int(time.time() * 1000)})")
    return made == newest(part)


def record_of(part: str) -> str:
    """Name the table that says which migrations a part has."""
    return "schema_version" if part == "state" else f"{part}_schema_version"
