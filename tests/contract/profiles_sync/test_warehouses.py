"""What a warehouse may look like, what can go wrong, and a connection that dies."""

from __future__ import annotations

import gc
import re
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from state import runs as run_records
from state import snapshot
from state.db.database import Database
from syncer.cli import main
from syncer.engage.profiles_sync import ProfilesSync
from syncer.engage.source import (
    Counted,
    Everything,
)
from syncer.engage.warehouse import snapshot as opened
from syncer.engage.warehouses import WAREHOUSES
from syncer.engage.warehouses.postgresql import PostgreSQL
from syncer.engage.warehouses.sqlite import SQLite
from syncer.engage.warehouses.warehouse import query_tag
from syncer.errors import SourceError
from tests.contract.profiles_sync.helpers import assert_watermark, on_duckdb_too
from tests.support.postgres import end_others
from tests.support.space import (
    KEYS,
    T0,
    TABLES,
    TWO_LATER,
    Quiet,
    Warehouse,
    runs_on,
)

# what a warehouse may look like


@on_duckdb_too
def test_the_singular_spelling_is_known(empty: Warehouse) -> None:
    empty.create(identifiers="user_identifier")
    empty.run(
        f"INSERT INTO {empty.table('user_identifier')} "
        f"VALUES ('p1', 'user_id', 'u1', 1, '{T0}', '{T0}', '{T0}')"
    )
    empty.trait("p1", "vip", "true")
    assert empty.wanted() == {"u1": {"vip": True}}


@on_duckdb_too
def test_views_and_further_columns_are_fine(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1")
    traits = warehouse.table("user_traits")
    warehouse.run(f"ALTER TABLE {traits} ADD COLUMN etl_ts TEXT")
    warehouse.run(f"ALTER TABLE {traits} RENAME TO all_traits")
    warehouse.run(f"CREATE VIEW {traits} AS SELECT * FROM {warehouse.table('all_traits')}")
    assert warehouse.wanted() == {"u1": {"vip": True}}


def test_the_schema_decides(postgres_warehouse: Warehouse) -> None:
    postgres_warehouse.create()
    postgres_warehouse.member("p1", "in public")
    other = Warehouse(postgres_warehouse.url, "my_space")
    other.create()
    other.member("p1", "in my_space")
    try:
        assert list(postgres_warehouse.wanted()) == ["in public"]
        assert list(other.wanted()) == ["in my_space"]
    finally:
        other.engine.dispose()


def test_a_pull_writes_nothing(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1")

    def everything() -> list[list[Any]]:
        with warehouse.engine.connect() as connection:
            return [
                list(connection.execute(text(f"SELECT * FROM {warehouse.table(name)}")))
                for name in TABLES
            ]

    warehouse.flush()
    before = everything()
    warehouse.wanted()
    assert everything() == before
    if not warehouse.sqlite:
        with warehouse.source().pull(Everything()) as pull:
            connection = pull._connection
            with pytest.raises(Exception, match="read-only transaction"):
                connection.execute(text("CREATE TABLE nonsense (one INTEGER)"))


def test_what_others_change_during_a_pull_is_not_seen(warehouse: Warehouse) -> None:
    if warehouse.sqlite:
        warehouse.run("PRAGMA journal_mode = WAL")
    for number in range(3):
        warehouse.member(f"p{number}", f"u{number}")
    with warehouse.source().pull(Everything()) as pull:
        warehouse.member("p9", "u9", at=TWO_LATER)
        warehouse.run(
            f"DELETE FROM {warehouse.table('user_traits')} WHERE canonical_segment_id='p1'"
        )
        warehouse.run(f"UPDATE {warehouse.table('user_traits')} SET value = 'false'")
        assert {key.key: key.rows for key in pull.observed()} == {"vip": 3}
        assert_watermark(pull, "2026-03-04T10:00:00.000+00:00")
        assert pull.count(KEYS) == Counted(3, 3)
        values = {customer.customer_id: customer.values for customer in pull.customers(KEYS)}
        assert values == dict.fromkeys(("u0", "u1", "u2"), '["true"]')
    assert [customer.customer_id for customer in warehouse.pulled()] == ["u0", "u2", "u9"]


def test_sqlite_without_wal_makes_a_writer_wait(sqlite_warehouse: Warehouse) -> None:
    sqlite_warehouse.create()
    sqlite_warehouse.member("p1", "u1")
    path = str(make_url(sqlite_warehouse.url).database)
    with (
        sqlite_warehouse.source().pull(Everything()),
        closing(sqlite3.connect(path, timeout=0)) as writer,
    ):
        writer.execute("DELETE FROM user_traits")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            writer.commit()


# what can go wrong


def one_line(caught: pytest.ExceptionInfo[SourceError]) -> str:
    said = str(caught.value)
    assert "\n" not in said
    assert "hunter2" not in said
    return said


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_table_is_named(warehouse: Warehouse, table: str) -> None:
    warehouse.run(f"DROP TABLE {warehouse.table(table)}")
    with pytest.raises(SourceError) as caught:
        warehouse.wanted()
    said = one_line(caught)
    assert f"the table {table} is missing" in said
    assert "Selective Sync" in said
    if warehouse.schema:
        assert "'my_space'" in said


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("user_traits", "value"),
        ("user_traits", "uuid_ts"),
        ("user_identifiers", "type"),
        ("profile_merges", "segment_id"),
        ("profile_merges", "timestamp"),
    ],
)
def test_a_missing_column_is_named(warehouse: Warehouse, table: str, column: str) -> None:
    warehouse.run(f"ALTER TABLE {warehouse.table(table)} DROP COLUMN {column}")
    with pytest.raises(SourceError) as caught:
        warehouse.wanted()
    assert re.search(f"the table {table} in .* has no column {column};", one_line(caught))


def test_a_wrong_schema_is_named(postgres_warehouse: Warehouse) -> None:
    postgres_warehouse.create()
    wrong = ProfilesSync(make_url(postgres_warehouse.url), schema="your_space")
    with pytest.raises(SourceError) as caught, wrong.pull(Everything()):
        pass
    assert "the table user_traits is missing in the schema 'your_space'" in one_line(caught)


def test_a_sqlite_file_that_is_none(sqlite_warehouse: Warehouse, tmp_path: Path) -> None:
    path = tmp_path / "engage.db"
    path.write_bytes(b"This is a text file, and a long one at that. " * 40)
    with pytest.raises(SourceError, match="not a database") as caught:
        sqlite_warehouse.wanted()
    one_line(caught)
    path.unlink()
    with pytest.raises(SourceError, match="unable to open") as caught:
        sqlite_warehouse.wanted()
    one_line(caught)
    assert not path.exists()


def settings(path: Path, source: str, **profiles_sync: str) -> Path:
    """A config file with this source; nothing listens at its Amberflo."""
    more = "".join(f'{key} = "{value}"\n' for key, value in profiles_sync.items())
    path.write_text(
        f"""
[amberflo]
api_key = "key"
customers_url = "http://127.0.0.1:9/customers"
[engage.profiles_sync]
url = "{source}"
{more}
[state]
url = "sqlite:///{path.parent / "syncer.db"}"
""",
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize(
    ("trouble", "status", "said"),
    [
        ("no file", 2, "engage.db does not exist"),
        ("no table", 1, "the table profile_merges is missing"),
        ("no column", 1, "has no column value"),
        ("no schema", 1, "the table user_traits is missing in the schema 'your_space'"),
        ("no role", 1, "nobody_here"),
        ("no host", 1, "127.0.0.1"),
    ],
)
def test_the_command_line_says_it_in_one_line_and_takes_nothing(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trouble: str,
    status: int,
    said: str,
) -> None:
    more = {}
    source = f"sqlite:///{tmp_path / 'engage.db'}"
    if trouble in ("no table", "no column"):
        warehouse = Warehouse(source)
        warehouse.create()
        warehouse.member("p1", "u1")
        if trouble == "no table":
            warehouse.run("DROP TABLE profile_merges")
        else:
            warehouse.run("ALTER TABLE user_traits DROP COLUMN value")
        warehouse.engine.dispose()
    elif trouble != "no file":
        url = make_url(request.getfixturevalue("empty_postgres"))
        if trouble == "no schema":
            more = {"schema": "your_space"}
        elif trouble == "no role":
            url = url.set(username="nobody_here", password="hunter2")
        else:
            url = url.set(host="127.0.0.1", port=9, query={}, password="hunter2")
        source = url.render_as_string(hide_password=False)

    config = settings(tmp_path / "config.toml", source, **more)
    monkeypatch.setattr(sys, "argv", ["syncer", "sync", "--config", str(config)])
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as exited:
            main()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)

    out, err = capsys.readouterr()
    assert (exited.value.code, out) == (status, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert "hunter2" not in err
    if trouble == "no file":
        assert not (tmp_path / "engage.db").exists()
    with (
        closing(Database.peek(f"sqlite:///{tmp_path / 'syncer.db'}")) as database,
        database.read() as connection,
    ):
        assert snapshot.size(connection) == 0
        assert snapshot.traits(connection) == []
        assert run_records.last_whole(connection) is None
        records = run_records.newest(connection)
    if status == 1:
        assert [record.state for record in records] == ["failed"]
        assert said in records[0].error
        assert "hunter2" not in records[0].error


# a connection that dies in the middle


POPULATION = 6000


@pytest.fixture
def crowd(postgres_warehouse: Warehouse) -> Warehouse:
    """More customers than one fetch brings."""
    postgres_warehouse.create()
    rest = f"n, '{T0}', '{T0}', '{T0}' FROM generate_series(1, {POPULATION}) n"
    postgres_warehouse.run(
        f"INSERT INTO user_identifiers SELECT 'p' || n, 'user_id', 'u' || n, {rest}"
    )
    postgres_warehouse.run(f"INSERT INTO user_traits SELECT 'p' || n, 'vip', 'true', {rest}")
    return postgres_warehouse


def test_a_connection_that_dies_in_the_stream_ends_the_pull(crowd: Warehouse) -> None:
    seen = []

    def pull_and_kill() -> None:
        with crowd.source().pull(Everything()) as pull:
            for customer in pull.customers(KEYS):
                seen.append(customer.customer_id)
                if len(seen) == 10:
                    assert end_others(crowd.engine) == 1

    with pytest.raises(SourceError) as caught:
        pull_and_kill()
    assert 10 <= len(seen) < POPULATION
    assert "broke off" in one_line(caught)


def test_a_stream_that_nobody_reads_to_its_end_is_closed(crowd: Warehouse) -> None:
    """A cursor left open warns when it is collected, and here a warning is an error."""
    with crowd.source().pull(Everything()) as pull:
        stream: Any = pull.customers(KEYS)
        next(stream)
        stream.close()
        assert pull.count(KEYS) == Counted(POPULATION, POPULATION)
    del stream
    gc.collect()


def test_nothing_of_a_pull_that_died_is_taken(crowd: Warehouse, tmp_path: Path) -> None:
    killed: list[int] = []

    class Killing(Quiet):
        def at(self, done: int) -> None:
            if done and not killed:
                killed.append(end_others(crowd.engine))

    sent: list[int] = []
    with closing(Database.open(f"sqlite:///{tmp_path / 'syncer.db'}")) as database:
        with pytest.raises(SourceError):
            runs_on(database, crowd.source(), Killing(), sent).sync()
        assert (killed, sent) == ([1], [])
        with database.read() as connection:
            assert snapshot.size(connection) == 0
            assert snapshot.traits(connection) == []
            assert run_records.last_whole(connection) is None
            (record,) = run_records.newest(connection)
        assert record.state == "failed"
        assert "broke off" in record.error

        result = runs_on(database, crowd.source(), sent=sent).sync()
        with database.read() as connection:
            assert snapshot.size(connection) == POPULATION
    assert (result.kind, result.problems, sent) == ("initial", [], [POPULATION])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mssql+pyodbc://me:hush@host/db", "Azure Synapse is not read, as nobody has run it"),
        ("mysql://me:hush@host/db", "mysql is no warehouse that is read; these are: PostgreSQL"),
    ],
)
def test_a_database_that_nobody_has_run_is_refused_in_one_line(url: str, words: str) -> None:
    source = ProfilesSync(make_url(url))
    with pytest.raises(SourceError) as caught, source.pull(Everything()):
        pass
    assert words in one_line(caught)


def test_tables_that_change_while_they_are_read_are_refused(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a warehouse has no state of one moment, it is counted before and after."""
    for kind in WAREHOUSES.values():
        monkeypatch.setattr(type(kind), "one_state", lambda *_: None)
    for begin in (SQLite, PostgreSQL):
        monkeypatch.setattr(begin, "begin", lambda *_: None)
    warehouse.member("p1", "u1")
    assert [row.customer_id for row in warehouse.pulled()] == ["u1"]

    def read_while_it_changes() -> None:
        with warehouse.source().pull(Everything()) as pull:
            list(pull.customers(["vip"]))
            warehouse.member("p2", "u2", at=TWO_LATER)
            warehouse.flush()

    with pytest.raises(SourceError) as caught:
        read_while_it_changes()
    assert "changed while it was read" in one_line(caught)


def test_the_warehouse_shows_which_run_asks(postgres_warehouse: Warehouse) -> None:
    postgres_warehouse.create()
    tag = query_tag.set("engage-amberflo-sync run 42")
    try:
        with opened(postgres_warehouse.source().url) as connection:
            shown = connection.exec_driver_sql("SHOW application_name").scalar()
    finally:
        query_tag.reset(tag)
    assert shown == "engage-amberflo-sync run 42"
