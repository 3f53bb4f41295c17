"""Forward-only migrations: numbered, each in one transaction with its own record.

To change the schema, append to MIGRATIONS; never edit one that was released. A program refuses a
database with more migrations than it knows.
"""

from __future__ import annotations

import time

from sqlalchemy import Connection, Engine, inspect

from state.errors import StateError

_INITIAL = """
CREATE TABLE customer (
    customer_id {ordered} NOT NULL PRIMARY KEY,
    traits TEXT NOT NULL,
    name TEXT,
    email TEXT,
    called TEXT,
    stamps TEXT,
    rev BIGINT NOT NULL,
    acked_rev BIGINT DEFAULT 0 NOT NULL,
    acked_at BIGINT,
    due_at BIGINT,
    attempts INTEGER DEFAULT 0 NOT NULL
);
CREATE INDEX customer_due ON customer (due_at, customer_id) WHERE due_at IS NOT NULL;
CREATE TABLE trait (
    key TEXT NOT NULL PRIMARY KEY,
    trait TEXT NOT NULL,
    kind VARCHAR(16) NOT NULL,
    members BIGINT DEFAULT 0 NOT NULL
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
    delivered_at BIGINT
);
CREATE INDEX change_customer ON change (customer_id, id);
CREATE INDEX change_key ON change (key, id);
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
    held BIGINT DEFAULT 0 NOT NULL
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
    PRIMARY KEY (run, key)
);
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
    failed_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX failure_ref ON failure (ref);
"""

#: Entries and exits told apart once, when they are written (those there by the change before them),
#: and the indexes that history.py asks by.
_STEPS = """
ALTER TABLE change ADD COLUMN step SMALLINT DEFAULT 0 NOT NULL;
UPDATE change SET step = found.step FROM (
    SELECT id, inside - coalesce(
        lag(inside) OVER (PARTITION BY customer_id, key ORDER BY id), 0
    ) AS step
    FROM (
        SELECT id, customer_id, key, CASE WHEN after = 'true' THEN 1 ELSE 0 END AS inside
        FROM change
    ) AS told
) AS found WHERE found.id = change.id AND found.step <> 0;
DROP INDEX change_key;
CREATE INDEX change_undelivered ON change (customer_id, id) WHERE delivered_at IS NULL;
CREATE INDEX change_run ON change (run, key, id, step) WHERE run IS NOT NULL;
CREATE INDEX change_time ON change (key, recorded_at, id, step);
CREATE INDEX change_member ON change (key, customer_id, id, recorded_at, step) WHERE step != 0;
"""

#: What the page asks for: sizes by the hour, and the failures of a customer.
_PAGE = """
CREATE TABLE size (
    key TEXT NOT NULL,
    hour BIGINT NOT NULL,
    entered BIGINT NOT NULL,
    exited BIGINT NOT NULL,
    other BIGINT NOT NULL,
    lowest BIGINT NOT NULL,
    highest BIGINT NOT NULL,
    PRIMARY KEY (key, hour)
);
CREATE INDEX size_highest ON size (highest);
CREATE INDEX failure_customer ON failure (customer_id, id);
"""

_QUEUE = """
CREATE TABLE inbox (
    id {serial},
    body {bytes} NOT NULL,
    events INTEGER NOT NULL,
    received_at BIGINT NOT NULL
);
CREATE TABLE event (
    id {serial},
    message_id TEXT NOT NULL,
    record {bytes},
    received_at BIGINT NOT NULL,
    due_at BIGINT,
    attempts INTEGER DEFAULT 0 NOT NULL
);
CREATE UNIQUE INDEX event_message ON event (message_id);
CREATE INDEX event_due ON event (due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX event_received ON event (received_at);
CREATE TABLE counter (
    name VARCHAR(32) NOT NULL,
    reason TEXT NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (name, reason)
);
"""

# Several processes deliver side by side: who has a customer in work, and which run waits for it.
_WORKERS = """
ALTER TABLE customer ADD COLUMN run BIGINT;
ALTER TABLE customer ADD COLUMN claimed_by BIGINT;
ALTER TABLE run ADD COLUMN doing TEXT;
CREATE TABLE worker (
    id {serial},
    kind VARCHAR(16) NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started_at BIGINT NOT NULL,
    doing TEXT
);
CREATE TABLE alert (
    name TEXT NOT NULL PRIMARY KEY,
    text TEXT NOT NULL,
    since BIGINT NOT NULL,
    ended_at BIGINT,
    told_at BIGINT
);
"""

_CLAIMS = "ALTER TABLE event ADD COLUMN claimed_by BIGINT;"

#: By which key a call came: keys share the queue, and a messageId is known per key.
_KEYS = """
ALTER TABLE inbox ADD COLUMN key {ordered} DEFAULT '' NOT NULL;
ALTER TABLE event ADD COLUMN key {ordered} DEFAULT '' NOT NULL;
CREATE INDEX inbox_key ON inbox (key, id, events);
DROP INDEX event_message;
CREATE UNIQUE INDEX event_message ON event (message_id, key);
DROP INDEX event_due;
CREATE INDEX event_due ON event (key, due_at, id) WHERE due_at IS NOT NULL;
"""

#: What the Public API lists of a trait, and the changes of a run that wait for it.
_COMPUTATIONS = """
ALTER TABLE trait ADD COLUMN name TEXT;
ALTER TABLE trait ADD COLUMN status TEXT;
ALTER TABLE trait ADD COLUMN size BIGINT;
ALTER TABLE run_trait ADD COLUMN waiting BIGINT DEFAULT 0 NOT NULL;
"""

#: The hash chain over the history, what is erased, and who must not come back.
_SEALS = """
ALTER TABLE change ADD COLUMN salt TEXT;
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
    asked_at BIGINT NOT NULL
);
CREATE TABLE forgotten (
    hash TEXT NOT NULL PRIMARY KEY,
    forgotten_at BIGINT NOT NULL
);
CREATE TABLE memo (
    name VARCHAR(32) NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
"""

#: Holds that last until they are decided, where a change of the history comes from, which key a
#: call came by and the line that a customer waits in, and what waits for a word or a trait. What an
#: older program held without keeping what, is found again by the next comparison. Older programs
#: stored the query of the source's URL, which may hold secrets, with the settings of a run.
_HOLDS = """
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
ALTER TABLE change ADD COLUMN source VARCHAR(16);
ALTER TABLE customer ADD COLUMN given_back TEXT;
ALTER TABLE customer ADD COLUMN compared BIGINT;
UPDATE customer SET compared = 0;
ALTER TABLE trait ADD COLUMN released_at BIGINT;
ALTER TABLE erasure ADD COLUMN run BIGINT;
ALTER TABLE run ADD COLUMN deleted BIGINT DEFAULT 0 NOT NULL;
ALTER TABLE run ADD COLUMN hold BIGINT;
ALTER TABLE run ADD COLUMN first_contact BIGINT DEFAULT 0 NOT NULL;
ALTER TABLE run_trait ADD COLUMN left_by_itself BIGINT DEFAULT 0 NOT NULL;
ALTER TABLE run_trait ADD COLUMN hold BIGINT;
ALTER TABLE change ADD COLUMN via TEXT;
ALTER TABLE failure ADD COLUMN via TEXT;
ALTER TABLE erasure ADD COLUMN waits_since BIGINT;
ALTER TABLE customer ADD COLUMN line {ordered} DEFAULT '2' NOT NULL;
DROP INDEX customer_due;
CREATE INDEX customer_due ON customer (line, due_at, customer_id) WHERE due_at IS NOT NULL;
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
UPDATE run SET settings = NULL WHERE settings <> replace(settings, '?', '');
CREATE INDEX failure_call ON failure (id) WHERE attempts = 0;
"""

#: By part (see tables.PARTS), in order; the position (from 1) is the part's schema version.
MIGRATIONS: dict[str, list[str]] = {
    "state": [_INITIAL, _WORKERS, _STEPS, _COMPUTATIONS, _SEALS, _PAGE, _HOLDS],
    "queue": [_QUEUE, _CLAIMS, _KEYS],
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


def version(connection: Connection, part: str) -> int:
    """The schema version of a part of a database; 0 when it is not there."""
    record = _record(part)
    if not inspect(connection).has_table(record):
        return 0
    found = connection.exec_driver_sql(f"SELECT max(version) FROM {record}").scalar()
    return int(found or 0)


def check(connection: Connection, part: str) -> int:
    """The version, or `StateError` where a newer program has written the database."""
    found, known = version(connection, part), len(MIGRATIONS[part])
    if found > known:
        raise StateError(
            f"the {part} database has schema version {found}, this program knows up to {known}: "
            "run the newer syncer that wrote it"
        )
    return found


def migrate(engine: Engine, part: str) -> None:
    """Bring a part to the newest version; safe when several processes start at once."""
    words = _WORDS[engine.dialect.name]
    with engine.connect() as connection:
        if check(connection, part) == len(MIGRATIONS[part]):
            return
    for number, script in enumerate(MIGRATIONS[part], start=1):
        with engine.execution_options(writes=True).begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7130514602)")
            if check(connection, part) >= number:
                continue
            record = _record(part)
            connection.exec_driver_sql(
                f"CREATE TABLE IF NOT EXISTS {record} "
                "(version INTEGER NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)"
            )
            for statement in script.format(**words).split(";"):
                if statement.strip():
                    connection.exec_driver_sql(statement)
            connection.exec_driver_sql(
                f"INSERT INTO {record} VALUES ({number}, {int(time.time() * 1000)})"
            )


def _record(part: str) -> str:
    """The table that says which migrations a part has."""
    return "schema_version" if part == "state" else f"{part}_schema_version"
