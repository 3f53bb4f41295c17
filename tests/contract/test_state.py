"""The state database: one suite, run on SQLite and on PostgreSQL."""

from __future__ import annotations

import gc
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from sqlmodel import SQLModel

from state import failures, lanes, outbox, queue, runs, snapshot
from state.db import migrations, tables
from state.db.batches import ROWS
from state.db.database import Database
from state.errors import NotKept, StateError
from state.history import listings, past
from state.history.record import ChangeRow, add_changes, last_observed
from state.queue import DueEvent, EventRow
from state.snapshot import CustomerRow, TraitRow
from tests.support.state import NOW, as_claimed, ask, due, due_ids, put, records, row


def known(state: CustomerRow, rev: int = 1) -> snapshot.Known:
    """What a comparison reads of it."""
    return (state.customer_id, state.traits, state.name, state.email, state.stamps, rev, None)


def to_send(
    state: CustomerRow, rev: int, attempts: int, run: int | None = None, acked_rev: int = 0
) -> CustomerRow:
    """The row that a delivery claims, less when it became due and who claims it."""
    return state._replace(rev=rev, attempts=attempts, run=run, acked_rev=acked_rev)


def claimed_rows(database: Database, now: int) -> list[CustomerRow]:
    return [one._replace(due_at=None, claimed_by=None, acked_at=None) for one in due(database, now)]


def desired(database: Database, *ids: str) -> list[CustomerRow]:
    """The desired states of customers."""
    rows = ask(database, lambda c: snapshot.find(c, ids))
    return sorted(CustomerRow(*one[:6]) for one in rows)


def change(customer_id: str, key: str, before: Any, after: Any, at: int | None = 7) -> ChangeRow:
    texts = [None if value is None else json.dumps(value) for value in (before, after)]
    return ChangeRow(customer_id, key, key.lower(), texts[0], texts[1], at)


def delivered(database: Database, customer_id: str) -> list[int | None]:
    """`delivered_at` of the customer's history, oldest first."""
    found = ask(database, lambda c: list(listings.of_customer(c, customer_id)))
    return [change.delivered_at for change in found]


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


# -- migrations


@pytest.fixture(params=sorted(tables.PARTS))
def part(request: pytest.FixtureRequest) -> str:
    """The parts of the state; on SQLite each is a file of its own."""
    return str(request.param)


@pytest.fixture
def place(url: str, part: str) -> Iterator[Engine]:
    """Where a part is, past the product; nothing is in it."""
    with closing(Database.peek(url, part)), closing(Database.open(url, part)) as database:
        found = database.engine.url
    engine = create_engine(found)
    if engine.dialect.name == "sqlite":
        for path in Path(str(found.database)).parent.iterdir():
            path.unlink()
    else:
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
    yield engine
    engine.dispose()


def names(part: str) -> set[str]:
    """The tables of a part, with the one that records its migrations."""
    return {one.name for one in tables.PARTS[part]} | {record_of(part)}


def record_of(part: str) -> str:
    return "schema_version" if part == "state" else f"{part}_schema_version"


def versions(place: Engine, part: str) -> list[int]:
    return [int(version) for version, _ in contents(place)[record_of(part)]]


def newest(part: str) -> list[int]:
    return list(range(1, len(migrations.MIGRATIONS[part]) + 1))


def test_nothing_becomes_the_newest_schema(url: str, part: str, place: Engine) -> None:
    Database.open(url, part).close()
    assert contents(place).keys() == names(part)
    assert versions(place, part) == newest(part)
    assert not any(contents(place)[one.name] for one in tables.PARTS[part])


def test_opening_again_changes_nothing(url: str, engine: Engine) -> None:
    with closing(Database.open(url)) as database:
        put(database, row("u1", vip=True))
    before = contents(engine)
    Database.open(url).close()
    assert contents(engine) == before


def described(engine: Engine, schema: str | None = None) -> dict[str, Any]:
    """Tables as the database has them: columns, keys and indexes."""
    found = {}
    there = inspect(engine)
    for name in there.get_table_names(schema):
        columns = there.get_columns(name, schema)
        indexes = there.get_indexes(name, schema)
        found[name] = {
            "columns": {
                one["name"]: (str(one["type"]), one["nullable"], str(one["default"]).strip("'"))
                # How numbers are given out is each way's own; it is a key, so never null.
                if one["name"] != "id"
                else str(one["type"])
                for one in columns
            },
            "key": there.get_pk_constraint(name, schema)["constrained_columns"],
            "indexes": {
                one["name"]: (one["column_names"], bool(one["unique"]), _where(one))
                for one in indexes
            },
        }
    return found


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
    SQLModel.metadata.create_all(other, tables=tables.PARTS[part])
    migrated, modelled = described(place), described(other, schema)
    other.dispose()
    del migrated[record_of(part)]
    assert migrated == modelled
    assert migrated.keys() == {one.name for one in tables.PARTS[part]}
    if part == "state":
        where = migrated["customer"]["indexes"]["customer_due"]
        assert where == (["line", "due_at", "customer_id"], False, "due_at IS NOT NULL")


def test_every_model_is_in_a_part() -> None:
    known = [one.name for part in tables.PARTS.values() for one in part]
    assert sorted(known) == sorted(SQLModel.metadata.tables)
    assert migrations.MIGRATIONS.keys() == tables.PARTS.keys()


def test_customer_ids_are_ordered_by_bytes_on_postgresql(empty_postgres: str) -> None:
    """Whatever the locale of the database is: here it may be "C" anyway, elsewhere it is not."""
    Database.open(empty_postgres).close()
    engine = create_engine(empty_postgres)
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT table_name, collation_name FROM information_schema.columns "
                "WHERE column_name = 'customer_id' AND table_schema = 'public' "
                "AND table_name IN ('customer', 'change')"
            )
        ).all()
    engine.dispose()
    assert sorted(found) == [("change", "C"), ("customer", "C")]


def test_a_newer_database_is_refused(url: str, part: str, place: Engine) -> None:
    Database.open(url, part).close()
    newer = len(newest(part)) + 1
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
    more = [*migrations.MIGRATIONS["state"], migration]
    monkeypatch.setitem(migrations.MIGRATIONS, "state", more)
    return len(more)


def test_an_older_database_is_brought_up_with_all_that_is_in_it(
    url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Database.open(url)) as database:
        put(database, row("u1", vip=True))
    before = contents(engine)
    and_then(monkeypatch, "ALTER TABLE customer ADD COLUMN more TEXT; CREATE TABLE t (a INTEGER)")

    with pytest.raises(StateError, match="the next `syncer sync` brings it to") as caught:
        Database.peek(url)
    one_line(caught)
    assert contents(engine) == before

    Database.open(url).close()
    after = contents(engine)
    assert after.keys() == before.keys() | {"t"}
    assert after["customer"] == [(*before["customer"][0], None)]
    assert versions(engine, "state") == newest("state")


def test_the_first_version_is_brought_up(
    url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traits and sums of runs of before nobody asked the Public API."""
    with monkeypatch.context() as older:
        older.setitem(migrations.MIGRATIONS, "state", migrations.MIGRATIONS["state"][:1])
        Database.open(url).close()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO trait VALUES ('Vip', 'vip', 'audience', 3)"))
        connection.execute(
            text("INSERT INTO run_trait VALUES (1, 'Vip', 'vip', 'audience', 9,1,2,3,3,0, 2, '{}')")
        )
    with closing(Database.open(url)) as database:
        assert ask(database, snapshot.traits) == [TraitRow("Vip", "vip", "audience", 3)]
        (found,) = ask(database, lambda c: runs.traits(c, 1))
        assert (found["held"], found["waiting"]) == (2, 0)


def test_a_secret_that_an_older_program_stored_is_taken_out(
    url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings of a run had the query of the source's URL, which may hold one."""
    with monkeypatch.context() as older:
        older.setitem(migrations.MIGRATIONS, "state", migrations.MIGRATIONS["state"][:6])
        Database.open(url).close()
    kept, secret = '["sqlite:///x.db"]', '["postgresql://h/d?password=hunter2"]'
    with engine.begin() as connection:
        for settings in (kept, secret):
            connection.execute(
                text("INSERT INTO run (kind, state, started_at, settings) VALUES ('a','b',1,:one)"),
                {"one": settings},
            )
    Database.open(url).close()
    with engine.begin() as connection:
        found = connection.execute(text("SELECT settings FROM run ORDER BY id")).scalars().all()
    assert found == [kept, None]


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
        assert versions(engine, "state") == list(range(1, version))


OPEN = """
import sys, time
from state.db.database import Database
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
Database.open(sys.argv[1]).close()
"""


def test_processes_may_migrate_at_once(url: str, engine: Engine) -> None:
    root = str(Path(__file__).parents[2])
    start = str(time.time() + 1.0)
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OPEN, url, start],
            env={**os.environ, "PYTHONPATH": root},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
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


# -- peek


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
        assert ask(looking, lambda c: [one[0] for one in snapshot.customers(c)]) == ["u1", "u3"]


# -- what cannot be opened


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


# -- transactions


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


# -- the snapshot


def test_customers_come_in_utf8_byte_order(database: Database) -> None:
    """Not in the order of a language, nor of UTF-16 (which has 🦊 before ～)."""
    ids = ["a", "B", "b", "A", "Z", "_", "é", "z", "zz", "ß", "10", "9", " 9", "a b", "a-b", "ab"]
    ids += ["用户", "🦊", "～", "ä", "a\u0301", "o'neil", 'say "hi"', "back\\slash", "%", "u/1"]
    mixed = random.Random(1).sample(ids, len(ids))
    put(database, *map(row, mixed))
    with database.write() as connection:
        changes = [change(one, "vip", None, True) for one in mixed]
        add_changes(connection, changes, 1, NOW)
    expected = sorted(ids, key=str.encode)
    assert ask(database, lambda c: [one[0] for one in snapshot.customers(c)]) == expected
    assert due_ids(database) == expected
    assert ask(database, lambda c: list(past.members_at(c, "vip", NOW))) == expected


def test_rows_come_back_as_they_went_in(database: Database) -> None:
    rows = [
        row("u1", "Zoë 🦊", "a@b.c", vip=True, tags=["é", 1, False]),
        row("u2", None, None)._replace(called='{"a": [1, 2]}', stamps='{"vip": 3}'),
        row("u3", "", "", spent=12.5),
    ]
    put(database, *rows)
    assert ask(database, lambda c: list(snapshot.customers(c))) == list(map(known, rows))
    assert desired(database, "u3", "u2", "u1", "u9") == rows
    assert ask(database, lambda c: snapshot.find(c, [])) == []
    assert ask(database, snapshot.size) == 3


def test_find_gives_the_known_ones(database: Database) -> None:
    rows = [row("u1", vip=True), row("U1"), row("🦊")]
    put(database, *rows)
    found = ask(database, lambda c: snapshot.known(c, ["🦊", "u1", "u9", "' OR 1=1 --"]))
    assert sorted(found) == [known(rows[0]), known(rows[2])]
    assert ask(database, lambda c: snapshot.known(c, [])) == []


def test_a_new_customer_is_due_at_once(database: Database) -> None:
    new = row("u1", "Name", "a@b.c", vip=True)._replace(called="{}")
    put(database, new)
    assert claimed_rows(database, NOW) == [to_send(new, 1, 0)]
    (found,) = records(database).values()
    assert (found["acked_rev"], found["acked_at"], found["due_at"]) == (0, None, NOW)


def test_an_update_is_a_new_revision_due_at_once(database: Database) -> None:
    put(database, row("u1", "Name", "a@b.c", vip=True), row("u2"))
    new = row("u1", None, "new@b.c", vip=False)
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u1", 1), as_claimed("u2", 1)], NOW)
        snapshot.update_customers(connection, [new], NOW + 5)
    assert claimed_rows(database, NOW + 5) == [to_send(new, 2, 0, acked_rev=1)]
    found = records(database)["u1"]
    assert (found["acked_rev"], found["due_at"]) == (1, NOW + 5)
    with database.write() as connection:
        outbox.postpone(connection, [("u1", 3, NOW + 900)])
        snapshot.update_customers(connection, [row("u1", vip=True)], NOW + 6)
    found = records(database)["u1"]
    assert (found["rev"], found["attempts"], found["due_at"]) == (3, 0, NOW + 6)


def test_a_note_changes_what_is_known_and_sends_nothing(database: Database) -> None:
    put(database, row("u1", vip=True), row("u2"), row("u3"))
    noted = row("u1", "Name", "a@b.c", vip=True)._replace(called='{"a": 1}', stamps='{"b": 2}')
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u1", 1)], NOW + 1)
        outbox.postpone(connection, [("u2", 2, NOW + 50)])
        snapshot.touch_customers(connection, [noted, row("u2")])
    assert desired(database, "u1") == [noted]
    found = records(database)
    assert (found["u1"]["rev"], found["u1"]["due_at"]) == (1, None)
    assert (found["u2"]["rev"], found["u2"]["due_at"], found["u2"]["attempts"]) == (1, NOW + 50, 2)


def test_more_rows_than_one_statement_takes(database: Database) -> None:
    ids = [f"u{n:05d}" for n in range(2 * ROWS + 7)]
    put(database, *(row(one, vip=False) for one in ids))
    with database.write() as connection:
        snapshot.update_customers(connection, [row(one, vip=True) for one in ids], NOW)
        changes = [change(one, "vip", False, True) for one in ids]
        add_changes(connection, changes, 1, NOW)
    found = ask(database, lambda c: list(snapshot.customers(c)))
    assert found == [known(row(one, vip=True), rev=2) for one in ids]
    assert len(ask(database, lambda c: snapshot.find(c, ids))) == len(ids)
    assert ask(database, lambda c: list(past.members_at(c, "vip", NOW))) == ids
    assert {one["rev"] for one in records(database).values()} == {2}
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed(one, 2) for one in ids], NOW + 1)
    assert ask(database, outbox.backlog) == 0


def test_traits_are_recorded_and_members_added(database: Database) -> None:
    with database.write() as connection:
        first = [
            TraitRow("Vip", "vip", "audience", 3),
            TraitRow("spent", "spent", "computed_trait", 1),
        ]
        snapshot.put_traits(connection, first)
        second = [TraitRow("Vip", "vip_2", "computed_trait", -2), TraitRow("a", "a", "audience", 0)]
        snapshot.put_traits(connection, second)
        snapshot.put_traits(connection, [])
    found = ask(database, snapshot.traits)
    assert sorted(found) == [
        TraitRow("Vip", "vip_2", "computed_trait", 1),
        TraitRow("a", "a", "audience", 0),
        TraitRow("spent", "spent", "computed_trait", 1),
    ]


def test_what_is_said_of_traits_stays_when_members_are_added(database: Database) -> None:
    rows = [TraitRow("Vip", "vip", "audience", 3), TraitRow("b", "b", "audience", 1)]
    said = rows[0]._replace(name="Very important", status="Live", size=2**40, members=99)
    with database.write() as connection:
        snapshot.put_traits(connection, rows)
        snapshot.describe_traits(connection, [said, TraitRow("no", "no", "audience", 0)])
        snapshot.put_traits(connection, [rows[0]._replace(members=-1)])
    assert ask(database, snapshot.traits) == [said._replace(members=2), rows[1]]
    with database.write() as connection:
        snapshot.describe_traits(connection, [said._replace(status="Unlisted", size=None)])
    assert ask(database, snapshot.traits)[0] == said._replace(
        status="Unlisted", size=None, members=2
    )


def test_a_change_belongs_to_the_revision_it_made(database: Database) -> None:
    put(database, row("u1"), row("u2"))
    with database.write() as connection:
        add_changes(connection, [change("u1", "Vip", None, True, 41)], 1, NOW)
        snapshot.update_customers(connection, [row("u1")], NOW + 1)
        changes = [change("u1", "Vip", True, False, None), change("u1", "spent", None, 2.5)]
        add_changes(connection, [*changes, change("u2", "Vip", None, 1, 9)], None, NOW + 1)
    found = ask(database, lambda c: [one._asdict() for one in listings.of_customer(c, "u1")])
    numbers = [one.pop("id") for one in found]
    assert numbers == sorted(set(numbers))
    assert [one.pop("step") for one in found] == [1, -1, 0]
    assert {one.pop("via") for one in found} == {None}
    salts = ask(database, lambda c: c.execute(text("SELECT salt FROM change")).scalars().all())
    assert len(set(salts)) == len(salts) == 4
    assert all(salts)
    common = {"customer_id": "u1", "delivered_at": None, "source": None}
    second = common | {"run": None, "rev": 2, "recorded_at": NOW + 1}
    assert found == [
        common
        | {"run": 1, "rev": 1, "key": "Vip", "trait": "vip", "before": None, "after": "true"}
        | {"observed_at": 41, "recorded_at": NOW},
        second
        | {"key": "Vip", "trait": "vip", "before": "true", "after": "false", "observed_at": None},
        second
        | {"key": "spent", "trait": "spent", "before": None, "after": "2.5", "observed_at": 7},
    ]


def test_the_time_of_the_row_that_told_the_newest_change(database: Database) -> None:
    put(database, row("u1"), row("u2"))

    def last(customer_id: str, key: str) -> Any:
        return ask(database, lambda connection: last_observed(connection, customer_id, key))

    def add(key: str, at: int | None, run: int | None = 1) -> None:
        with database.write() as connection:
            changes = [change("u1", key, None, at, at), change("u2", key, None, at, 99)]
            add_changes(connection, changes, run, NOW)

    for at in (50, 70, 60):
        add("vip", at)
        add("churn", 98)
    assert last("u1", "vip") == 60
    assert last("u1", "no such") is None
    assert last("u3", "vip") is None
    for gone in (None, NOW, NOW + 5):  # a row that vanished, or of the future
        add("vip", gone)
        assert last("u1", "vip") is None
    add("vip", NOW - 1)
    assert last("u1", "vip") == NOW - 1
    add("vip", 80, run=None)  # a call said it
    assert last("u1", "vip") is None


def test_a_change_that_is_no_membership_enters_nobody(database: Database) -> None:
    put(database, row("u1"))
    said = change("u1", "beta", None, True)._replace(source="identify", step=0)
    with database.write() as connection:
        add_changes(connection, [said, change("u1", "vip", None, True)], None, NOW)
    found = records(database, "change").values()
    assert [(one["key"], one["source"], one["step"]) for one in found] == [
        ("beta", "identify", 0),
        ("vip", None, 1),
    ]
    assert ask(database, lambda c: past.count_at(c, "beta")) == 0


def test_what_was_given_back(database: Database) -> None:
    with database.write() as connection:
        rows = [TraitRow(key, key.lower(), "audience", 0) for key in ("Vip", "beta")]
        snapshot.put_traits(connection, rows)
        assert snapshot.released(connection) == set()
        connection.execute(text("UPDATE trait SET released_at = 1 WHERE key = 'Vip'"))
        assert snapshot.released(connection) == {"Vip", "vip"}


@pytest.mark.parametrize("engine_name", ["sqlite", "postgresql"])
def test_customers_are_streamed_not_collected(
    request: pytest.FixtureRequest, tmp_path: Path, engine_name: str
) -> None:
    if engine_name == "postgresql":
        url = request.getfixturevalue("empty_postgres")
    else:
        url = f"sqlite:///{tmp_path / 'syncer.db'}"
    with closing(Database.open(url)) as database:
        put(database, *(row(f"u{n:05d}", text="x" * 2000) for n in range(6000)))
        with database.read() as connection:
            tracemalloc.start()
            stream = snapshot.customers(connection)
            try:
                first = next(stream)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert first[0] == "u00000"
            # All are 12 MB, and what one fetch brings is 0.4 MB.
            assert 200_000 < peak < 3_000_000
            if engine_name == "postgresql":
                cursors = connection.execute(text("SELECT statement FROM pg_cursors")).all()
                assert any("FROM customer ORDER" in str(one).replace("\\n", "") for one in cursors)
            assert sum(1 for _ in stream) == 5999


def test_a_stream_that_nobody_reads_to_its_end_is_closed(database: Database) -> None:
    """A cursor left open warns when it is collected, and here a warning is an error."""
    put(database, *(row(f"u{n:05d}") for n in range(3 * ROWS)))
    with database.write() as connection:
        changes = [change(f"u{n:05d}", "vip", None, True) for n in range(3 * ROWS)]
        add_changes(connection, changes, 1, NOW)
    with database.read() as connection:
        streams: list[Any] = [snapshot.customers(connection)]
        streams.append(listings.of_key(connection, "vip", None, None))
        for stream in streams:
            next(stream)
            stream.close()
        del stream, streams
    gc.collect()


# -- what is due


def test_those_that_wait_longest_come_first(database: Database) -> None:
    put(database, row("b"), row("a"), now=NOW + 2)
    put(database, row("d"), now=NOW + 1)
    put(database, row("c"), now=NOW + 3)
    assert due_ids(database, NOW + 3) == ["d", "a", "b", "c"]
    assert due_ids(database, NOW + 2) == ["d", "a", "b"]
    assert due_ids(database, NOW) == []
    assert [one[0] for one in due(database, NOW + 3, 2)] == ["d", "a"]
    assert ask(database, outbox.oldest_due) == NOW + 1
    assert ask(database, outbox.backlog) == 4


def test_a_postponed_customer_waits_until_a_run_takes_it_over(database: Database) -> None:
    put(database, row("u1"), row("u2"))
    with database.write() as connection:
        outbox.postpone(connection, [("u1", 4, NOW + 900)])
    assert due_ids(database) == ["u2"]
    assert ask(database, outbox.backlog) == 2
    (later,) = due(database, NOW + 900)[1:]
    assert (later.customer_id, later.attempts) == ("u1", 4)

    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u2", 1)], NOW)
        assert outbox.adopt(connection, 7, NOW + 5) == 1
    assert claimed_rows(database, NOW + 5) == [to_send(row("u1"), 1, 0, run=7)]
    assert (records(database)["u2"]["due_at"], records(database)["u2"]["run"]) == (None, None)


def test_what_a_clock_put_off_that_was_set_back_since_waits_no_longer(
    database: Database, calls: Database
) -> None:
    """Nothing is put off for more than ten minutes; half an hour is a wrong clock's."""
    longest, half_hour = 600_000, 1_800_000
    put(database, row("honest"), now=NOW + longest)
    queued(calls, "honest", at=NOW + longest)
    assert not ask(database, lambda c: outbox.any_due(c, NOW))
    assert not ask(calls, lambda c: queue.any_due(c, NOW))
    assert (due_ids(database), claimed(calls, 1)) == ([], [])
    put(database, row("later"), now=NOW + 9 * half_hour)
    put(database, row("late"), now=NOW + half_hour)
    queued(calls, "late", at=NOW + half_hour)
    assert ask(database, lambda c: outbox.any_due(c, NOW))
    assert ask(calls, lambda c: queue.any_due(c, NOW))
    assert due_ids(database) == ["late", "later"]
    assert claimed(calls, 1) == ["late"]
    put(database, row("now"))
    assert due_ids(database) == ["now"]  # what is due comes first
    assert not ask(calls, lambda c: queue.any_due(c, NOW))


def test_a_customer_is_due_also_while_it_is_in_work(database: Database) -> None:
    """Whoever begins to deliver frees what a delivery of its own that broke had claimed."""
    put(database, row("u1"))
    with database.write() as connection:
        assert len(outbox.claim(connection, 1, NOW, 10)) == 1
    assert ask(database, lambda c: outbox.any_due(c, NOW))
    assert not ask(database, lambda c: outbox.any_due(c, NOW - 1))


def test_what_is_taken_over_keeps_its_place(database: Database) -> None:
    put(database, row("late"), now=NOW - 100)
    put(database, row("soon"), now=NOW + 100)
    with database.write() as connection:
        assert outbox.adopt(connection, 7, NOW) == 2
    assert due_ids(database) == ["late", "soon"]
    assert ask(database, outbox.oldest_due) == NOW - 100


def test_a_run_takes_over_what_waits_for_another_and_for_none(database: Database) -> None:
    put(database, row("older"), run=3)
    put(database, row("own"), run=7)
    put(database, row("called"), row("sent"), row("parked"))
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("sent", 1)], NOW)
        outbox.dead_letter(connection, [as_claimed("parked", 1)])
        assert outbox.claim(connection, 5, NOW, 1)[0].customer_id == "called"
        assert outbox.adopt(connection, 7, NOW) == 3
    found = records(database)
    assert {one: found[one]["run"] for one in found} == {
        **dict.fromkeys(("older", "own", "called"), 7),
        **dict.fromkeys(("sent", "parked")),
    }
    assert found["called"]["claimed_by"] == 5  # whoever has it in work delivers it


def test_what_waits_for_a_run_is_counted_by_itself(database: Database) -> None:
    put(database, row("u1"), row("u2"), now=NOW + 2, run=3)
    put(database, row("u3"), now=NOW + 1)
    assert [ask(database, lambda c, run=run: outbox.backlog(c, run)) for run in (None, 3, 4)] == [
        3, 2, 0,
    ]  # fmt: skip
    oldest = [ask(database, lambda c, run=run: outbox.oldest_due(c, run)) for run in (None, 3, 4)]
    assert oldest == [NOW + 1, NOW + 2, None]
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u1", 1)], NOW)
    assert ask(database, lambda c: outbox.backlog(c, 3)) == 1


def test_a_run_waits_for_what_it_wrote(database: Database) -> None:
    put(database, row("u1", vip=True), run=3)
    put(database, row("u2"), run=3)
    with database.write() as connection:
        snapshot.update_customers(connection, [row("u1")], NOW, 4)
        snapshot.update_customers(connection, [row("u2", vip=True)], NOW)  # a call, not a run
    assert {one: found["run"] for one, found in records(database).items()} == {"u1": 4, "u2": 3}


def test_since_when_the_oldest_waits(database: Database) -> None:
    """Where it was tried before, the time of the next attempt says nothing of that."""
    assert ask(database, outbox.waits_since) is None
    put(database, row("u1"), row("u2"), now=NOW)
    with database.write() as connection:
        add_changes(connection, [change("u1", "vip", None, True)], 1, NOW - 5)
        add_changes(connection, [change("u2", "vip", None, True)], 1, NOW - 9)
        outbox.acknowledge(connection, [as_claimed("u2", 1)], NOW)
    assert ask(database, outbox.waits_since) == NOW
    with database.write() as connection:
        outbox.postpone(connection, [("u1", 3, NOW + 900)])
    assert ask(database, outbox.waits_since) == NOW - 5
    put(database, row("u3"), now=NOW - 7)
    assert ask(database, outbox.waits_since) == NOW - 7
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u1", 1), as_claimed("u3", 1)], NOW)
    assert ask(database, outbox.waits_since) is None


def test_an_acknowledged_customer_is_not_due(database: Database) -> None:
    put(database, row("u1"), row("u2"))
    with database.write() as connection:
        add_changes(connection, [change(one, "vip", None, True) for one in ("u1", "u2")], 1, NOW)
        outbox.postpone(connection, [("u1", 2, NOW)])
        outbox.acknowledge(connection, [as_claimed("u1", 1)], NOW + 9)
    found = records(database)["u1"]
    assert (found["acked_rev"], found["acked_at"], found["due_at"]) == (1, NOW + 9, None)
    assert found["attempts"] == 0
    assert due_ids(database) == ["u2"]
    assert (delivered(database, "u1"), delivered(database, "u2")) == ([NOW + 9], [None])


def test_a_customer_that_changed_since_stays_due(database: Database) -> None:
    put(database, row("u1", vip=True))
    with database.write() as connection:
        add_changes(connection, [change("u1", "vip", None, True)], 1, NOW)
        snapshot.update_customers(connection, [row("u1", vip=False)], NOW + 1)
        add_changes(connection, [change("u1", "vip", True, False)], 2, NOW + 1)
        outbox.acknowledge(connection, [as_claimed("u1", 1)], NOW + 2)
    (left,) = due(database, NOW + 1)
    assert (left.rev, left.traits) == (2, '{"vip": false}')
    assert records(database)["u1"]["acked_rev"] == 1
    assert delivered(database, "u1") == [NOW + 2, None]

    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u1", 2)], NOW + 3)
    assert due_ids(database, NOW + 9) == []
    assert delivered(database, "u1") == [NOW + 2, NOW + 3]


def test_one_acknowledgement_delivers_all_changes_up_to_it(database: Database) -> None:
    put(database, row("u1"))
    with database.write() as connection:
        for number in range(3):
            if number:
                snapshot.update_customers(connection, [row("u1")], NOW)
            add_changes(connection, [change("u1", "vip", None, number)], number, NOW)
        outbox.acknowledge(connection, [as_claimed("u1", 3)], NOW + 3)
    assert delivered(database, "u1") == [NOW + 3] * 3


def test_a_parked_customer_waits_for_a_change(database: Database) -> None:
    put(database, row("u1"), row("u2"))
    with database.write() as connection:
        add_changes(connection, [change("u1", "vip", None, True)], 1, NOW)
        outbox.postpone(connection, [("u1", 3, NOW)])
        outbox.dead_letter(connection, [as_claimed("u1", 1)])
    assert due_ids(database) == ["u2"]
    assert records(database)["u1"]["attempts"] == 0
    assert delivered(database, "u1") == [None]
    with database.write() as connection:
        assert outbox.adopt(connection, 7, NOW) == 1
        snapshot.update_customers(connection, [row("u2")], NOW)
        outbox.dead_letter(connection, [as_claimed("u2", 1)])
    assert due_ids(database) == ["u2"]
    with database.write() as connection:
        snapshot.update_customers(connection, [row("u1")], NOW)
        outbox.acknowledge(connection, [as_claimed("u1", 2), as_claimed("u2", 2)], NOW + 1)
    assert delivered(database, "u1") == [NOW + 1]


def sent_again(database: Database, **whom: Any) -> int:
    with database.write() as connection:
        return outbox.send_again(connection, NOW + 50, **whom)


def test_customers_can_be_sent_again(database: Database) -> None:
    put(database, row("u1"), row("u2"), row("u3"))
    with database.write() as connection:
        changes = [change("u1", "vip", None, True), change("u2", "churn", None, True)]
        changes += [change("u1", "vip", True, False), change("u3", "vip", None, True)]
        add_changes(connection, changes, 1, NOW)
        outbox.acknowledge(connection, [as_claimed(one, 1) for one in ("u1", "u2")], NOW + 1)
        outbox.dead_letter(connection, [as_claimed("u3", 1)])
    assert due_ids(database, NOW + 99) == []

    assert sent_again(database, customer_ids=["u2", "nobody"], run=0) == 1
    assert due_ids(database, NOW + 99) == due_ids(database, NOW + 99, run=0) == ["u2"]
    assert due_ids(database, NOW + 49) == []
    assert sent_again(database, customer_ids=["nobody"]) == 0
    assert sent_again(database, customer_ids=[]) == 0
    assert sent_again(database, key="vip") == 2
    assert due_ids(database, NOW + 99) == ["u1", "u2", "u3"]
    assert sent_again(database, key="no such") == 0

    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed(one, 1) for one in ("u1", "u2", "u3")], NOW + 60)
    assert {one["rev"] for one in records(database).values()} == {1}
    assert delivered(database, "u1") == [NOW + 1, NOW + 1]  # Amberflo knew it by then
    assert delivered(database, "u3") == [NOW + 60]
    assert sent_again(database) == 3
    assert due_ids(database, NOW + 99) == ["u1", "u2", "u3"]
    assert due_ids(database, NOW + 99, run=0) == []
    assert sent_again(database, key="vip", customer_ids=["u1", "u2"], run=4) == 1
    assert due_ids(database, NOW + 99, run=4) == ["u1"]


def test_more_customers_than_one_statement_takes_are_sent_again(database: Database) -> None:
    ids = [f"u{n:05d}" for n in range(2 * ROWS + 7)]
    put(database, *(row(one) for one in ids))
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed(one, 1) for one in ids], NOW)
    assert sent_again(database, customer_ids=ids[1:], run=4) == len(ids) - 1
    assert ask(database, lambda c: outbox.backlog(c, 4)) == len(ids) - 1


# -- the queue of calls


def queued(calls: Database, *message_ids: str, at: int | None = NOW) -> None:
    """Meter records that are due at a time; None: calls that are no meter, or settled."""
    with calls.write() as connection:
        rows = [
            EventRow(one, None if at is None else one.encode(), at or NOW, at)
            for one in message_ids
        ]
        assert queue.store_processed(connection, [], rows) == len(rows)


def claimed(calls: Database, worker: int, now: int = NOW, limit: int = 100) -> list[str]:
    with calls.write() as connection:
        return [one.message_id for one in queue.claim(connection, worker, now, limit)]


def numbers(calls: Database) -> dict[str, int]:
    return {one["message_id"]: one["id"] for one in records(calls, "event").values()}


def test_meter_records_are_claimed_those_that_wait_longest_first(calls: Database) -> None:
    queued(calls, "later", at=NOW + 5)
    queued(calls, "b", "a", "c")
    queued(calls, "first", at=NOW - 5)
    queued(calls, "no meter", at=None)
    assert ask(calls, lambda c: queue.any_due(c, NOW))
    assert not ask(calls, lambda c: queue.any_due(c, NOW - 6))
    assert claimed(calls, 1, NOW - 6) == []
    assert sorted(claimed(calls, 1, limit=3)) == ["a", "b", "first"]
    assert claimed(calls, 2) == ["c"]
    assert claimed(calls, 3) == []
    assert not ask(calls, lambda c: queue.any_due(c, NOW))
    assert claimed(calls, 3, NOW + 5) == ["later"]
    assert {one["claimed_by"] for one in records(calls, "event").values()} == {1, 2, 3, None}
    assert ask(calls, queue.waiting) == (0, 5)  # claimed is not delivered


def test_a_claimed_record_comes_as_it_was_accepted(calls: Database) -> None:
    queued(calls, "m1")
    with calls.write() as connection:
        queue.postpone(connection, numbers(calls).values(), NOW + 5)
        (found,) = queue.claim(connection, 1, NOW + 5, 10)
    assert found == DueEvent(numbers(calls)["m1"], "m1", b"m1", 1)


def test_records_that_are_given_back_settled_or_postponed_are_claimed_no_more(
    calls: Database,
) -> None:
    queued(calls, "back", "sent", "later", "kept")
    claimed(calls, 1)
    ids = numbers(calls)
    with calls.write() as connection:
        queue.release(connection, [ids["back"]])
        queue.release(connection, [])
        queue.settle(connection, [ids["sent"]])
        queue.postpone(connection, [ids["later"], ids["sent"]], NOW + 5)
    found = {one["message_id"]: one for one in records(calls, "event").values()}
    assert {one: row["claimed_by"] for one, row in found.items() if row["claimed_by"]} == {
        "kept": 1
    }
    assert (found["sent"]["due_at"], found["sent"]["record"]) == (None, None)
    assert (found["later"]["due_at"], found["later"]["attempts"]) == (NOW + 5, 1)
    assert (found["back"]["due_at"], found["back"]["attempts"]) == (NOW, 0)
    assert claimed(calls, 2, NOW + 9) == ["back", "later"]


def test_records_are_unsettled_until_amberflo_has_them_or_refused_them(calls: Database) -> None:
    queued(calls, "m1", "m2", "m3")
    names = [("m1", ""), ("m2", ""), ("m3", "another"), ("unknown", "")]
    assert ask(calls, lambda c: queue.unsettled(c, names)) == 2
    assert ask(calls, lambda c: queue.unsettled(c, [])) == 0
    claimed(calls, 1)
    assert ask(calls, lambda c: queue.unsettled(c, names)) == 2
    with calls.write() as connection:
        queue.settle(connection, [numbers(calls)["m1"]])
    assert ask(calls, lambda c: queue.unsettled(c, names)) == 1
    with calls.write() as connection:
        queue.send_again(connection, "m1", b"m1", NOW + 7)
    assert ask(calls, lambda c: queue.unsettled(c, names)) == 2
    assert claimed(calls, 2, NOW + 9) == ["m1"]


def test_a_repeat_changes_nothing_of_a_claimed_record(calls: Database) -> None:
    queued(calls, "m1")
    claimed(calls, 1)
    before = records(calls, "event")
    with calls.write() as connection:
        again = [EventRow("m1", b"other", NOW + 9, NOW + 9), EventRow("m2", None, NOW, None)]
        assert queue.store_processed(connection, [], again) == 1
    after = records(calls, "event")
    assert [after[number] for number in before] == list(before.values())


# -- runs


def start(database: Database, kind: str = "initial", **values: Any) -> int:
    with database.write() as connection:
        run = runs.start(connection, kind, NOW, '{"a": 1}')
        if values:
            runs.set_values(connection, run, values)
    return run


def states(database: Database) -> dict[int, str]:
    return {one["id"]: one["state"] for one in ask(database, runs.newest)}


def test_a_run_is_recorded(database: Database) -> None:
    first, second = start(database), start(database, "incremental", pulled=7, error="x")
    assert second > first
    found = ask(database, lambda c: runs.get(c, first))
    assert (found["kind"], found["state"], found["started_at"]) == ("initial", "running", NOW)
    assert (found["settings"], found["ended_at"], found["watermark"]) == ('{"a": 1}', None, None)
    assert {found[name] for name in ("pulled", "entered", "due", "delivered", "held")} == {0}
    assert ask(database, lambda c: runs.get(c, second))["pulled"] == 7
    assert ask(database, lambda c: runs.get(c, second + 1)) is None
    assert [one["id"] for one in ask(database, runs.newest)] == [second, first]
    assert [one["id"] for one in ask(database, lambda c: runs.newest(c, 1))] == [second]


def test_numbers_of_runs_are_not_given_twice(database: Database) -> None:
    first = start(database)
    with database.write() as connection:
        connection.execute(text("DELETE FROM run"))
    assert start(database) > first


def test_runs_that_were_cut_off_are_found(database: Database) -> None:
    done, first, second = start(database, state="done"), start(database), start(database)
    with database.write() as connection:
        assert sorted(runs.take_up(connection, NOW + 5)) == [first, second]
        assert runs.take_up(connection, NOW + 6) == []
    assert states(database) == {done: "done", first: "interrupted", second: "interrupted"}
    found = ask(database, lambda c: runs.get(c, first))
    assert found["ended_at"] == NOW + 5
    assert "in the middle" in found["error"]
    assert ask(database, lambda c: runs.get(c, done))["ended_at"] is None


def sums(key: str, held: int, waiting: int = 0) -> dict[str, Any]:
    numbers = dict.fromkeys(("pulled", "entered", "exited", "changed", "unchanged", "skipped"), 3)
    return numbers | {
        **{"key": key, "trait": key.lower(), "kind": "audience", "held": held, "reasons": "{}"},
        **{"waiting": waiting, "left_by_itself": 0, "hold": None},
    }


def test_the_sums_of_a_run_by_trait(database: Database) -> None:
    run, other = start(database), start(database)
    with database.write() as connection:
        runs.add_traits(connection, run, [sums("b", 0), sums("A", 2)])
        runs.add_traits(connection, other, [sums("b", 1)])
        runs.add_traits(connection, other, [])
    found = ask(database, lambda c: runs.traits(c, run))
    assert [(one["key"], one["trait"], one["held"]) for one in found] == [
        ("A", "a", 2),
        ("b", "b", 0),
    ]
    assert found[0] == {"run": run} | sums("A", 2)


def test_the_last_whole_run_is_the_newest_committed_one_with_a_watermark(
    database: Database,
) -> None:
    assert ask(database, runs.last_whole) is None
    start(database, watermark="1")
    assert ask(database, runs.last_whole) is None
    start(database, watermark="2", committed_at=NOW, state="failed")
    expected = start(database, watermark="", committed_at=NOW, state="interrupted")
    start(database, watermark=None, committed_at=NOW, state="done")
    start(database, watermark="5", state="failed")
    found = ask(database, runs.last_whole)
    assert (found["id"], found["watermark"], found["settings"]) == (expected, "", '{"a": 1}')


# -- failures


def failure(customer_id: str, reason: str = "no", **more: Any) -> dict[str, Any]:
    return {
        "ref": failures.customer_ref(customer_id),
        "kind": failures.CUSTOMER,
        "customer_id": customer_id,
        "reason": reason,
        "status": 400,
        "request": "PUT …",
        "body": '{"errorMessage": "no 🦊"}',
        "attempts": 3,
        "failed_at": NOW,
        **more,
    }


def test_what_fails_again_is_one_failure_the_newest(database: Database) -> None:
    with database.write() as connection:
        failures.put(connection, [failure("u1", "first"), failure("u2")])
        failures.put(connection, [failure("u1", "second", status=None)])
    found = ask(database, failures.find)
    assert [(one["customer_id"], one["reason"]) for one in found] == [
        ("u2", "no"),
        ("u1", "second"),
    ]
    assert {key: found[0][key] for key in failure("u2")} == failure("u2")
    assert (found[0]["message_id"], found[1]["status"]) == (None, None)
    assert ask(database, failures.count) == 2


def test_failures_are_found_cleared_and_removed(database: Database) -> None:
    meter = failure("u1", ref="message:m1", kind=failures.METER, message_id="m1")
    with database.write() as connection:
        failures.put(connection, [failure(one) for one in ("u1", "u2", "u3")])
        failures.put(connection, [meter])
    ids = {(one["kind"], one["customer_id"]): one["id"] for one in ask(database, failures.find)}
    chosen = [ids["customer", "u3"], ids["customer", "u1"], 999]
    found = ask(database, lambda c: failures.find(c, chosen))
    assert [one["customer_id"] for one in found] == ["u1", "u3"]
    assert ask(database, lambda c: failures.find(c, [])) == []

    with database.write() as connection:
        refs = [failures.customer_ref(one) for one in ("u1", "u9")]
        failures.clear(connection, refs)
        assert failures.remove(connection, [ids["customer", "u2"], 999]) == 1
        assert failures.remove(connection, []) == 0
    left = [(one["kind"], one["customer_id"]) for one in ask(database, failures.find)]
    assert left == [("customer", "u3"), ("meter", "u1")]
    assert ask(database, failures.count) == 2


# -- history


def test_history_says_what_is_present(database: Database) -> None:
    put(database, row("u1", vip=True))
    assert ask(database, lambda c: snapshot.get(c, "u1").traits) == '{"vip": true}'
    assert ask(database, lambda c: snapshot.get(c, "U1")) is None
    assert ask(database, lambda c: list(listings.of_customer(c, "u1"))) == []


def test_a_trait_is_found_by_its_key_or_its_name(database: Database) -> None:
    with database.write() as connection:
        rows = [TraitRow("Big Spender", "big_spender", "audience", 0)]
        rows += [TraitRow("old", "new", "audience", 0), TraitRow("new", "old", "audience", 0)]
        snapshot.put_traits(connection, rows)
    for asked, expected in (
        ("Big Spender", "Big Spender"),
        ("big_spender", "Big Spender"),
        ("new", "new"),
        ("old", "old"),
        ("nothing", None),
    ):
        with database.read() as connection:
            assert listings.key_of(connection, asked) == expected


class Story:
    """Runs that let customers enter and leave at random, and who was in by what was written."""

    KEYS = ("vip", "churn", "spent")

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        ids = [f"u{n:02d}" for n in range(25)] + ["🦊", "～", "Z", "é"]
        self.runs: list[tuple[int, list[ChangeRow]]] = []
        now: dict[tuple[str, str], Any] = {}
        moment = NOW
        for _ in range(12):
            moment += rng.choice([0, 1, 3_600_000])  # two runs may be of one millisecond
            changes = []
            for customer in rng.sample(ids, 9):
                for key in rng.sample(self.KEYS, rng.randrange(1, 3)):
                    before = now.get((customer, key))
                    values = [None, 1.5, 2.5] if key == "spent" else [None, True, False]
                    after = rng.choice([value for value in values if value != before])
                    now[customer, key] = after
                    changes.append(change(customer, key, before, after))
            self.runs.append((moment, changes))

    def write(self, database: Database) -> None:
        with database.write() as connection:
            for run, (moment, changes) in enumerate(self.runs):
                ids = {one.customer_id for one in changes}
                old = {one.customer_id for one in snapshot.find(connection, ids)}
                snapshot.insert_customers(connection, [row(one) for one in ids - old], moment)
                snapshot.update_customers(connection, [row(one) for one in old], moment)
                add_changes(connection, changes, run, moment)

    def members(self, key: str, at: int) -> list[str]:
        inside: set[str] = set()
        for moment, changes in self.runs:
            for one in changes:
                if moment <= at and one.key == key:
                    (inside.add if one.after == "true" else inside.discard)(one.customer_id)
        return sorted(inside, key=str.encode)


@pytest.mark.parametrize("seed", range(3))
def test_who_was_in_at_any_moment_is_what_a_replay_says(database: Database, seed: int) -> None:
    story = Story(seed)
    story.write(database)
    moments = sorted({moment + delta for moment, _ in story.runs for delta in (-1, 0, 1)})
    seen = set()
    begins = story.runs[0][0]
    for key in Story.KEYS:
        for at in moments:
            with database.read() as connection:
                if at < begins:
                    with pytest.raises(NotKept):
                        list(past.members_at(connection, key, at))
                    continue
                found = list(past.members_at(connection, key, at))
            assert found == story.members(key, at), (key, at)
            seen.add(len(found))
    assert len(seen) > 5


def test_the_changes_of_an_audience_in_a_span_of_time(database: Database) -> None:
    story = Story(7)
    story.write(database)
    written = [
        (moment, one.customer_id, one.before, one.after)
        for moment, changes in story.runs
        for one in changes
        if one.key == "vip"
    ]
    first, last = story.runs[0][0], story.runs[-1][0]
    middle = story.runs[6][0]
    for since, until in (
        (None, None),
        (middle, None),
        (None, middle),
        (middle, middle + 1),
        (middle, last),
        (last + 1, None),
        (None, first),
    ):
        with database.read() as connection:
            found = [
                (one.recorded_at, one.customer_id, one.before, one.after)
                for one in listings.of_key(connection, "vip", since, until)
            ]
        assert found == [
            one
            for one in written
            if (since is None or one[0] >= since) and (until is None or one[0] < until)
        ]
    assert ask(database, lambda c: list(listings.of_key(c, "no such", None, None))) == []


def test_the_history_of_a_customer_is_told_in_order(database: Database) -> None:
    story = Story(8)
    story.write(database)
    for customer in ("u01", "🦊", "nobody"):
        expected = [
            (moment, one.key, one.before, one.after)
            for moment, changes in story.runs
            for one in changes
            if one.customer_id == customer
        ]
        with database.read() as connection:
            found = list(listings.of_customer(connection, customer))
        told = [(one.recorded_at, one.key, one.before, one.after) for one in found]
        assert told == expected
        assert bool(told) == (customer != "nobody")


# What is put off, and what is sent to see


def test_what_is_put_off_waits_by_itself(database: Database) -> None:
    put(database, row("u1"), row("u2"), run=3)
    with database.write() as connection:
        rows = {one.customer_id: one for one in outbox.claim(connection, 1, NOW, 9)}
        assert outbox.put_off(connection, [(rows["u1"], NOW + 900)]) == {3: 1}
        outbox.release(connection, ["u2"])
    assert records(database)["u1"]["line"] == lanes.PUT_OFF
    assert ask(database, lambda c: outbox.backlog(c, 3)) == 1
    assert ask(database, outbox.oldest_due) == NOW  # that of the other one
    assert due_ids(database, NOW + 899) == ["u2"]
    assert due_ids(database, NOW + 900) == ["u2", "u1"]
    with database.write() as connection:
        assert outbox.adopt(connection, 4, NOW + 1) == 1  # no run waits for it
    assert due_ids(database, NOW + 1, run=4) == ["u2", "u1"]  # but it is tried
    with database.write() as connection:
        snapshot.update_customers(connection, [row("u1", vip=True)], NOW + 2)
    found = records(database)["u1"]
    assert (found["line"], found["attempts"]) == (lanes.RUN, 0)


def test_what_changed_in_work_is_not_put_off(database: Database) -> None:
    put(database, row("u1"))
    with database.write() as connection:
        (claimed,) = outbox.claim(connection, 1, NOW, 9)
        snapshot.update_customers(connection, [row("u1", vip=True)], NOW + 1)
        outbox.put_off(connection, [(claimed, NOW + 900)])
    assert due_ids(database, NOW + 1) == ["u1"]


def test_who_is_sent_to_see_is_acknowledged_and_due_until_then(database: Database) -> None:
    put(database, row("u1"), row("u2"), row("u3"))
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u1", 1)], NOW)
        outbox.acknowledge(connection, [as_claimed("u2", 1)], NOW + 1)
        found = outbox.claim_acknowledged(connection, 1, NOW + 2, 1)
        assert [one.customer_id for one in found] == ["u2"]
        assert found[0].again
    assert due_ids(database, NOW + 2) == ["u3"]
    with database.write() as connection:
        outbox.dead_letter(connection, found)
    assert due_ids(database, NOW + 2) == ["u3"]
    assert records(database)["u2"]["acked_rev"] == 1


def test_a_failure_keeps_the_time_when_it_failed_first(database: Database) -> None:
    failure = {"ref": "customer:u1", "kind": failures.CUSTOMER, "customer_id": "u1"}
    failure |= {"reason": "no", "request": "", "body": "", "attempts": 1}
    with database.write() as connection:
        failures.put(connection, [{**failure, "failed_at": NOW}])
        failures.put(connection, [{**failure, "failed_at": NOW + 5, "attempts": 2}])
        (found,) = failures.find(connection)
        assert (found["failed_at"], found["attempts"]) == (NOW, 2)
        assert failures.customers_since(connection, NOW + 1) == 0
