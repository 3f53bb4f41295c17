"""A state that the program before 0.2.0 wrote (older_state/, made by commit f469e0c), on both
databases: it opens, it is migrated with all that is in it, and what was sealed holds."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.engine import make_url

from state import alerts, failures, holds, outbox, pending_calls, queue, runs, snapshot, suppression
from state.db import metadata, migrations, workers
from state.db.database import BACKUP_ID, Database
from state.errors import StateError
from state.history import listings, past, seal, sizes
from state.history.proof import Proof, prove
from state.transfer.backup import MADE_AT
from state.transfer.checkup import check
from state.transfer.images import reading
from state.transfer.moment import Moment
from state.transfer.restore import restore
from syncer.cli.export import CHANGES_FILE, MANIFEST, Export
from tests.support.state import NOW, ask

OLDER = Path(__file__).parent / "older_state"
HOUR = 3_600_000
#: The names that 0.2.0 gave to columns and tables.
COLUMNS = {
    ("customer", "called"): "identify_traits",
    ("customer", "stamps"): "event_times",
    ("change", "step"): "delta",
    ("run", "doing"): "progress",
    ("worker", "doing"): "schedule",
    ("alert", "told_at"): "notified_at",
}
TABLES = {"size": "audience_size_hour", "memo": "metadata"}
#: The tables, and the columns of its tables, that came after it.
NEW = ("problem", "early_exit", "fingerprint_table", "revisit")
NEW_COLUMNS: dict[str, dict[str, int | None]] = {
    "failure": {"event": None},
    "run": {"already_right": 0},
    "alert": {"told": None},
}


@pytest.fixture
def url(empty_url: str) -> str:
    """A place without even a table."""
    return empty_url


@pytest.fixture
def older(url: str) -> str:
    """The URL of such a state, with its queue."""
    target = make_url(url)
    if target.get_backend_name() == "postgresql":
        plain = target.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute((OLDER / "postgresql.sql").read_bytes())
        return url
    path = Path(str(target.database))
    for part, name in (("state", path), ("queue", path.with_name("syncer-queue.db"))):
        with closing(sqlite3.connect(name)) as connection:
            connection.executescript((OLDER / f"{part}-sqlite.sql").read_text(encoding="utf-8"))
    return url


def contents(url: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of all tables of both parts, less the records of migrations."""
    target = make_url(url)
    urls = [target]
    if target.get_backend_name() == "sqlite":
        urls.append(target.set(database=str(target.database).replace(".db", "-queue.db")))
    rows: dict[str, list[dict[str, Any]]] = {}
    for place in urls:
        engine = create_engine(place)
        with engine.connect() as connection:
            for name in inspect(connection).get_table_names():
                if not name.endswith("schema_version"):
                    records = connection.execute(text(f'SELECT * FROM "{name}"')).mappings()
                    rows[name] = sorted((dict(row) for row in records), key=repr)
        engine.dispose()
    return rows


def schema(engine: Engine) -> dict[str, Any]:
    """Columns, keys and indexes by table."""
    inspector = inspect(engine)
    return {
        name: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(name)
            },
            "key": inspector.get_pk_constraint(name)["constrained_columns"],
            "indexes": sorted(
                (str(index["name"]), tuple(index["column_names"]), bool(index["unique"]))
                for index in inspector.get_indexes(name)
            ),
        }
        for name in inspector.get_table_names()
    }


def head_of(url: str) -> str:
    """The head that the older program had."""
    name = "state-sqlite.sql" if url.startswith("sqlite") else "postgresql.sql"
    match = re.search(r"'head', ?'\d+ (\w{64})'", (OLDER / name).read_text(encoding="utf-8"))
    assert match is not None
    return match[1]


def open_both(url: str) -> None:
    for part in ("state", "queue"):
        Database.open(url, part).close()


def test_every_table_has_something_to_migrate(older: str) -> None:
    assert all(contents(older).values())


def test_all_that_is_in_it_is_there_under_its_new_name(older: str) -> None:
    before = contents(older)
    open_both(older)
    after = contents(older)
    assert after == {
        TABLES.get(table, table): [
            {COLUMNS.get((table, column), column): value for column, value in row.items()}
            | NEW_COLUMNS.get(table, {})
            for row in rows
        ]
        for table, rows in before.items()
    } | {table: [] for table in NEW}


def test_it_has_the_schema_of_a_new_one(older: str, engine: Engine, tmp_path: Path) -> None:
    open_both(older)
    if engine.dialect.name == "sqlite":
        Database.open(f"sqlite:///{tmp_path / 'new.db'}").close()
        fresh = create_engine(f"sqlite:///{tmp_path / 'new.db'}")
        assert schema(engine) == schema(fresh)
        fresh.dispose()
        return
    migrated = schema(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    open_both(older)
    assert migrated == schema(engine)


def test_it_is_read_only_once_it_is_migrated(older: str) -> None:
    with pytest.raises(StateError, match="has schema version 7; the next `syncer sync` brings it"):
        Database.peek(older)
    open_both(older)
    with closing(Database.peek(older)) as database:
        assert ask(database, snapshot.size) == 3
        version = ask(database, lambda c: migrations.version(c, "state"))
        assert version == migrations.newest("state")


def test_what_it_sealed_holds_and_goes_on(older: str) -> None:
    head = head_of(older)
    with closing(Database.open(older)) as database:
        with database.read() as connection:
            proof = prove(connection, expect=head)
            assert (proof.broken, proof.head, proof.seals) == (None, head, 3)
            assert (proof.changes, proof.erased, proof.erasures) == (9, 1, 1)
            sources = [entry.told_by for entry in listings.of_key(connection, "VIP")]
            assert sources == ["pull", "pull", "amberflo", "call"]
        with database.write(alone=True) as connection:
            connection.execute(
                text(
                    "INSERT INTO change (customer_id, rev, key, trait, recorded_at, source)"
                    f" VALUES ('u1', 3, 'name', 'customerName', {NOW + 9 * HOUR}, 'identify')"
                )
            )
            seal.seal(connection, None, NOW + 9 * HOUR)
        with database.write() as connection:
            proof = prove(connection, expect=head)
            assert (proof.broken, proof.changes, proof.seals) == (None, 10, 4)
            # A source cannot be put on what was sealed without one.
            connection.execute(text("UPDATE change SET source = 'amberflo' WHERE id = 1"))
            broken = prove(connection).broken
            assert broken is not None
            assert broken.what == "change 1 is not as it was sealed"
            connection.rollback()


@pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
def test_its_export_is_what_the_older_program_exported(older: str, tmp_path: Path) -> None:
    """Field by field under the same names, so whoever verified the one verifies the other."""
    with closing(Database.open(older)) as database, database.read() as connection:
        export = Export(tmp_path / "export")
        proof: Proof = prove(connection, witness=export)
        export.finish(proof, tool="f469e0c", at="2026-11-27T00:00:00Z")
    for name in (CHANGES_FILE, MANIFEST):
        assert (tmp_path / "export" / name).read_bytes() == (OLDER / "export" / name).read_bytes()


def test_every_part_of_it_is_understood(older: str) -> None:
    with closing(Database.open(older)) as database, database.read() as connection:
        customer = snapshot.get(connection, "u1")
        assert customer is not None
        assert customer.identify_traits == '{"city":["Bern",1790000001000,["Basel"]]}'
        assert customer.event_times == '{"vip":[1790000001000,1790000001100]}'
        assert (customer.rev, customer.acked_rev, customer.line) == (2, 1, "1:default")
        assert outbox.backlog_by_key(connection) == {"default": 1}
        assert [trait.status for trait in snapshot.traits(connection)] == ["live", None, None]
        third, second, first = runs.newest(connection)
        assert (third.state, second.watermark, first.state) == (runs.RUNNING, "2026-09-22", "held")
        assert third.progress is not None
        assert third.progress["stage"] == "pulling"
        (sums,) = runs.traits(connection, first.id)
        assert (sums.waiting, sums.reasons, sums.hold) == (1, {"unreadable": 2}, 1)
        assert holds.open_keys(connection) == {"VIP": first.id}
        refused, call = failures.find(connection)
        assert (refused.customer_id, refused.status, call.via) == ("u3", 400, "browser")
        assert [alert.notified_at for alert in alerts.active(connection)] == [NOW + 4]
        (daemon,) = workers.all_of(connection)
        assert daemon.schedule == {"next_run": NOW + 4 * HOUR, "full": False}
        assert pending_calls.count(connection) == 1
        assert metadata.get(connection, metadata.ACCOUNT) == "acct"
        assert suppression.forgotten_at(connection, "gone") == NOW + 2 * HOUR + 1
        assert suppression.asked(connection) == ["u3"]
        assert list(past.members_at(connection, "VIP", NOW)) == ["u1", "ü2"]
        assert list(past.members_at(connection, "VIP")) == ["ü2"]
        moments = [NOW + HOUR, NOW + 2 * HOUR]
        by_hour = sizes.by_hour(connection, "VIP", moments, past.count_at(connection, "VIP"))
        assert by_hour == past.sizes(connection, "VIP", *moments, 2)
    with closing(Database.open(older, "queue")) as calls, calls.write() as connection:
        (event,) = queue.claim(connection, 1, NOW, 10)
        assert (event.message_id, event.record, event.key) == (
            "m1",
            b'{"uniqueId":"m1"}',
            "default",
        )
        (request,) = queue.unprocessed(connection, 10)
        assert (request.path, request.body, request.scopes) == ("batch", b'{"batch":[]}', "page")


def test_a_backup_of_an_older_version_is_migrated(tmp_path: Path, empty_postgres: str) -> None:
    """One with both parts in it, as of the first version that made backups."""
    file, place = tmp_path / "backup", tmp_path / "syncer.db"
    with closing(sqlite3.connect(file)) as connection:
        for part in ("state", "queue"):
            connection.executescript((OLDER / f"{part}-sqlite.sql").read_text(encoding="utf-8"))
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as migrated:
        while migrations.version(migrated, "state") < 9:
            migrations._step(migrated, "state")
        metadata.put(migrated, MADE_AT, str(NOW))
        migrated.exec_driver_sql(f"PRAGMA application_id = {BACKUP_ID}")
        rows = migrated.exec_driver_sql("SELECT count(*) FROM change").scalar_one()
    engine.dispose()
    with pytest.raises(StateError, match="is of an older version: restore it to SQLite"):
        restore(make_url(empty_postgres), file, lambda: NOW)
    with reading(file) as moment, pytest.raises(StateError, match="has schema version 9, and this"):
        check(Moment(moment, moment))
    done = restore(make_url(f"sqlite:///{place}"), file, lambda: NOW)
    assert done.contents.rows["change"] == rows
    with closing(Database.open(f"sqlite:///{place}")) as state, state.read() as restored:
        assert migrations.version(restored, "state") == migrations.newest("state")
        assert prove(restored).broken is None
        assert prove(restored).head == done.contents.head
