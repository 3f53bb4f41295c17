"""How the state opens and grows with the program, on SQLite and on PostgreSQL."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from sqlmodel import Session, SQLModel, select

from state import failures, outbox, runs, snapshot
from state.db import migrations
from state.db.database import Database
from state.db.models import Customer
from state.db.schema import PARTS
from state.errors import StateError
from state.history.record import add_changes
from state.snapshot import TraitRow
from tests.contract.state.helpers import change, names, record_of
from tests.support import processes, tables
from tests.support.state import NOW, ask, put, records, row


def contents(engine: Engine) -> dict[str, list[Any]]:
    """Everything in a database, by table."""
    with engine.connect() as connection:
        return {
            name: sorted(connection.execute(text(f'SELECT * FROM "{name}"')).all(), key=repr)
            for name in inspect(connection).get_table_names()
        }


def one_line(caught: pytest.ExceptionInfo[StateError]) -> str:
    said = str(caught.value)
    assert "\n" not in said
    assert "hunter2" not in said
    return said


# migrations


@pytest.fixture
def url(empty_url: str) -> str:
    """A place without even a table."""
    return empty_url


@pytest.fixture
def place(url: str, part: str) -> Iterator[Engine]:
    """Where a part is, past the product; nothing is in it."""
    with closing(Database.peek(url, part)), closing(Database.open(url, part)) as database:
        address = database.engine.url
    engine = create_engine(address)
    if engine.dialect.name == "sqlite":
        for path in Path(str(address.database)).parent.iterdir():
            path.unlink()
    else:
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
    yield engine
    engine.dispose()


def versions(place: Engine, part: str) -> list[int]:
    return [int(version) for version, _ in contents(place)[record_of(part)]]


def newest(part: str) -> list[int]:
    return [migrations.newest(part)]


def test_nothing_becomes_the_newest_schema(url: str, part: str, place: Engine) -> None:
    Database.open(url, part).close()
    assert contents(place).keys() == names(part)
    assert versions(place, part) == newest(part)
    assert not any(contents(place)[table.name] for table in PARTS[part])


def test_opening_again_changes_nothing(url: str, engine: Engine) -> None:
    with closing(Database.open(url)) as database:
        put(database, row("u1", vip=True))
    before = contents(engine)
    Database.open(url).close()
    assert contents(engine) == before


def described(engine: Engine, schema: str | None = None) -> dict[str, Any]:
    """Tables as the database has them: columns, keys and indexes."""
    description = {}
    inspector = inspect(engine)
    for name in inspector.get_table_names(schema):
        columns = inspector.get_columns(name, schema)
        indexes = inspector.get_indexes(name, schema)
        description[name] = {
            "columns": {
                column["name"]: (
                    str(column["type"]),
                    column["nullable"],
                    str(column["default"]).strip("'"),
                )
                # How numbers are given out is each way's own; it is a key, so never null.
                if column["name"] != "id"
                else str(column["type"])
                for column in columns
            },
            "key": inspector.get_pk_constraint(name, schema)["constrained_columns"],
            "indexes": {
                index["name"]: (index["column_names"], bool(index["unique"]), _where(index))
                for index in indexes
            },
        }
    return description


def _where(index: Any) -> str:
    options = index.get("dialect_options", {})
    where = options.get("sqlite_where", options.get("postgresql_where", ""))
    return str(where).strip("()")


def test_the_migrations_make_what_the_models_say(
    url: str, part: str, place: Engine, tmp_path: Path
) -> None:
    Database.open(url, part).close()
    if place.dialect.name == "sqlite":
        schema, other = None, create_engine(f"sqlite:///{tmp_path / 'models.db'}")
    else:
        schema = "models"
        other = create_engine(url, execution_options={"schema_translate_map": {None: schema}})
        with other.begin() as connection:
            connection.execute(text("CREATE SCHEMA models"))
    SQLModel.metadata.create_all(other, tables=PARTS[part])
    migrated, modelled = described(place), described(other, schema)
    other.dispose()
    del migrated[record_of(part)]
    assert migrated == modelled
    assert migrated.keys() == {table.name for table in PARTS[part]}
    if part == "state":
        where = migrated["customer"]["indexes"]["customer_due"]
        assert where == (["line", "due_at", "customer_id"], False, "due_at IS NOT NULL")


def test_every_model_is_in_a_part() -> None:
    known = [table.name for part in PARTS.values() for table in part]
    assert sorted(known) == sorted(SQLModel.metadata.tables)
    assert migrations.MIGRATIONS.keys() == PARTS.keys()


def test_the_tables_of_statements_are_those_of_the_models() -> None:
    assert tables.FILE.read_text(encoding="utf-8") == tables.text(), (
        "run `python -m tests.support.tables`"
    )


def test_the_models_read_what_statements_wrote(database: Database) -> None:
    put(database, row("u-1", vip=True))
    with Session(database.engine) as session:
        (customer,) = session.exec(select(Customer))
    assert (customer.customer_id, customer.traits, customer.line) == ("u-1", '{"vip": true}', "2")


def test_customer_ids_are_ordered_by_bytes_on_postgresql(empty_postgres: str) -> None:
    """Whatever the locale of the database is: here it may be "C" anyway, elsewhere it is not."""
    Database.open(empty_postgres).close()
    engine = create_engine(empty_postgres)
    with engine.connect() as connection:
        collations = connection.execute(
            text(
                "SELECT table_name, collation_name FROM information_schema.columns "
                "WHERE column_name = 'customer_id' AND table_schema = 'public' "
                "AND table_name IN ('customer', 'change')"
            )
        ).all()
    engine.dispose()
    assert sorted(collations) == [("change", "C"), ("customer", "C")]


def test_a_newer_database_is_refused(url: str, part: str, place: Engine) -> None:
    Database.open(url, part).close()
    newer = migrations.newest(part) + 1
    with place.begin() as connection:
        connection.execute(text(f"INSERT INTO {record_of(part)} VALUES ({newer}, 0)"))
    before = contents(place)
    for way in (Database.open, Database.peek):
        with pytest.raises(StateError, match="run the newer syncer") as caught:
            way(url, part)
        assert f"version {newer}, this program knows up to {newer - 1}" in one_line(caught)
    assert contents(place) == before


def and_then(monkeypatch: pytest.MonkeyPatch, migration: str) -> int:
    """A program with one more migration of the state; gives its schema version."""
    version = migrations.newest("state") + 1
    more = {**migrations.MIGRATIONS["state"], version: migration}
    monkeypatch.setitem(migrations.MIGRATIONS, "state", more)
    return version


def test_an_older_database_is_brought_up_with_all_that_is_in_it(
    url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Database.open(url)) as database:
        put(database, row("u1", vip=True))
    before = contents(engine)
    more = "ALTER TABLE customer ADD COLUMN more TEXT; CREATE TABLE t (a INTEGER)"
    version = and_then(monkeypatch, more)

    with pytest.raises(StateError, match="the next `syncer sync` brings it to") as caught:
        Database.peek(url)
    one_line(caught)
    assert contents(engine) == before

    Database.open(url).close()
    after = contents(engine)
    assert after.keys() == before.keys() | {"t"}
    assert after["customer"] == [(*before["customer"][0], None)]
    assert set(versions(engine, "state")) == {version - 1, version}


def test_a_database_that_is_too_old_is_refused(url: str, part: str, place: Engine) -> None:
    Database.open(url, part).close()
    too_old = migrations.BASELINES[part].oldest - 1
    with place.begin() as connection:
        connection.execute(text(f"UPDATE {record_of(part)} SET version = {too_old}"))
    before = contents(place)
    for way in (Database.open, Database.peek):
        with pytest.raises(StateError, match=r"open it with syncer 0\.1\.0 first") as caught:
            way(url, part)
        assert f"the {part} database has schema version {too_old}" in one_line(caught)
    assert contents(place) == before


def test_a_migration_that_fails_leaves_nothing_of_itself(
    url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = "CREATE TABLE half (a INTEGER); CREATE TABLE customer (a INTEGER)"
    version = and_then(monkeypatch, bad)
    for _ in range(2):
        with pytest.raises(StateError, match="customer") as caught:
            Database.open(url)
        one_line(caught)
        assert contents(engine).keys() == names("state")
        assert versions(engine, "state") == [version - 1]


OPEN = """
import sys, time
from state.db.database import Database
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
Database.open(sys.argv[1]).close()
"""


def test_processes_may_migrate_at_once(url: str, engine: Engine) -> None:
    start = time.time() + 0.5
    opening = [
        processes.start("-c", OPEN, url, start, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[1] for process in opening]
    assert [process.returncode for process in opening] == [0, 0, 0], said
    assert versions(engine, "state") == newest("state")


def test_threads_may_migrate_at_once(url: str, part: str, place: Engine) -> None:
    together = threading.Barrier(6)

    def open_it(_number: int) -> None:
        together.wait(30)
        Database.open(url, part).close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(open_it, range(6)))
    assert versions(place, part) == newest(part)


def test_opening_waits_for_another_that_is_just_making_the_file(tmp_path: Path) -> None:
    """SQLite does not wait by itself when it is to go over to WAL."""
    path = tmp_path / "syncer.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE something (a INTEGER)")
        timer = threading.Timer(0.3, other.execute, ["COMMIT"])
        timer.start()
        try:
            Database.open(f"sqlite:///{path}").close()
        finally:
            timer.join()


# peek


def test_peek_makes_nothing_and_reads_as_empty(url: str, engine: Engine, tmp_path: Path) -> None:
    with closing(Database.peek(url)) as database, database.read() as connection:
        assert snapshot.size(connection) == 0
        assert snapshot.traits(connection) == []
        assert list(snapshot.customers(connection)) == []
        assert outbox.backlog(connection) == 0
        assert outbox.oldest_due(connection) is None
        assert runs.newest(connection) == []
        assert runs.last_whole(connection) is None
        assert failures.count(connection) == 0
        assert snapshot.get(connection, "u1") is None
    if engine.dialect.name == "sqlite":
        assert list(tmp_path.iterdir()) == []
        assert Database.peek(f"sqlite:///{tmp_path / 'no' / 'folder.db'}")
        assert list(tmp_path.iterdir()) == []
    else:
        assert contents(engine) == {}


def test_peek_at_an_empty_file_leaves_it_empty(tmp_path: Path) -> None:
    path = tmp_path / "syncer.db"
    path.touch()
    with closing(Database.peek(f"sqlite:///{path}")) as database:
        assert ask(database, snapshot.size) == 0
    assert path.stat().st_size == 0
    assert list(tmp_path.iterdir()) == [path]


def test_peek_sees_what_is_there_and_cannot_write(url: str, database: Database) -> None:
    put(database, row("u1", vip=True))
    with closing(Database.peek(url)) as looking:
        assert ask(looking, snapshot.size) == 1
        with pytest.raises(StateError) as caught:
            put(looking, row("u2"))
        assert "read" in one_line(caught)
        put(database, row("u3"))
        assert ask(looking, lambda c: [customer[0] for customer in snapshot.customers(c)]) == [
            "u1",
            "u3",
        ]


# what cannot be opened


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="does not exist") as caught:
        Database.open(f"sqlite:///{tmp_path / 'no' / 'syncer.db'}")
    one_line(caught)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_said_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "syncer.db"
    path.write_text("Dear diary, today I was mistaken for a database. " * 50, encoding="utf-8")
    before = path.read_bytes()
    for way in (Database.open, Database.peek):
        with pytest.raises(StateError, match="not a database") as caught:
            way(f"sqlite:///{path}")
        assert str(path) in one_line(caught)
    assert path.read_bytes() == before


def test_a_server_that_is_not_there_is_said_without_the_password() -> None:
    for way in (Database.open, Database.peek):
        with pytest.raises(StateError, match=r"127\.0\.0\.1") as caught:
            way("postgresql://me:hunter2@127.0.0.1:9/state")
        one_line(caught)


def test_an_engine_that_cannot_hold_the_state_is_said() -> None:
    with pytest.raises(StateError, match="use sqlite or postgresql") as caught:
        Database.open("mysql+pymysql://me:hunter2@127.0.0.1/state")
    one_line(caught)


# transactions


def test_a_transaction_that_raises_leaves_nothing(database: Database, engine: Engine) -> None:
    put(database, row("u1", vip=True))
    before = contents(engine)

    def fail() -> None:
        with database.write() as connection:
            snapshot.insert_customers(connection, [row("u2")], NOW)
            snapshot.update_customers(connection, [row("u1", vip=False)], NOW)
            add_changes(connection, [change("u1", "vip", True, False)], 1, NOW)
            snapshot.put_traits(connection, [TraitRow("vip", "vip", "audience", 3)])
            runs.start(connection, "initial", NOW, "{}")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert contents(engine) == before
    with pytest.raises(StateError) as caught:
        put(database, row("u3"), row("u1"))
    one_line(caught)
    assert contents(engine) == before


def test_a_reader_sees_one_state(database: Database) -> None:
    put(database, row("u1"))
    with database.read() as connection:
        assert snapshot.size(connection) == 1
        put(database, row("u2"))
        assert snapshot.size(connection) == 1
    assert ask(database, snapshot.size) == 2


def test_writers_wait_for_each_other(database: Database) -> None:
    put(database, row("u1"))

    def write(_number: int) -> None:
        with database.write() as connection:
            snapshot.update_customers(connection, [row("u1", vip=True)], NOW)
            time.sleep(0.03)

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(write, range(5)))
    assert records(database)["u1"]["rev"] == 6
