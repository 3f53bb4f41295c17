"""What the contract tests share: an empty place for the state on each database, and short ways to
fill it and to look at it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url

from state import outbox, snapshot
from state.db.database import Database
from state.snapshot import CustomerRow

NOW = 1_790_000_000_000


@pytest.fixture(scope="module")
def postgres_database(_postgres_server: str) -> Iterator[str]:
    """A database for a whole file: making one per test would take longer than the tests."""
    server = make_url(_postgres_server).set(drivername="postgresql+psycopg")
    name = f"test_{uuid.uuid4().hex[:12]}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
    yield server.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def empty_postgres(postgres_database: str) -> str:
    """Its URL, with nothing in it."""
    engine = create_engine(postgres_database)
    with engine.begin() as connection:
        schemas = connection.execute(
            text(
                "SELECT nspname FROM pg_namespace "
                "WHERE nspname NOT LIKE 'pg_%' AND nspname <> 'information_schema'"
            )
        ).scalars()
        for schema in list(schemas):
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return postgres_database


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for the state."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'syncer.db'}"
    return str(request.getfixturevalue("empty_postgres"))


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with closing(Database.open(url)) as database:
        yield database


@pytest.fixture
def calls(url: str) -> Iterator[Database]:
    """The queue beside it."""
    with closing(Database.open(url, "queue")) as calls:
        yield calls


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """The same place past the product."""
    engine = create_engine(url)
    yield engine
    engine.dispose()


def row(
    customer_id: str, name: str | None = None, email: str | None = None, **traits: Any
) -> CustomerRow:
    text = json.dumps(traits, sort_keys=True)
    return CustomerRow(customer_id, text, name, email, called=None, stamps=None)


def put(database: Database, *rows: CustomerRow, now: int = NOW, run: int | None = None) -> None:
    with database.write() as connection:
        snapshot.insert_customers(connection, rows, now, run)


def ask(database: Database, question: Callable[[Connection], Any]) -> Any:
    with database.read() as connection:
        return question(connection)


def due(
    database: Database, now: int = NOW, limit: int = 100, run: int | None = None
) -> list[CustomerRow]:
    """What a delivery would get; it is given back."""
    with database.write() as connection:
        found = outbox.claim(connection, 1, now, limit, run)
        if found:
            outbox.release(connection, [one.customer_id for one in found])
    return found


def due_ids(
    database: Database, now: int = NOW, limit: int = 100, run: int | None = None
) -> list[str]:
    return [one.customer_id for one in due(database, now, limit, run)]


def records(database: Database, table: str = "customer") -> dict[Any, dict[str, Any]]:
    """The rows of a table, whole, by their key."""
    with database.read() as connection:
        rows = connection.execute(text(f"SELECT * FROM {table}")).mappings().all()
    key = "customer_id" if table == "customer" else "id"
    return {found[key]: dict(found) for found in rows}


def end_others(engine: Engine) -> int:
    """End every other connection to a database of PostgreSQL, as a restart of the server does;
    gives how many there were."""
    with engine.connect() as connection:
        ended = connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND backend_type = 'client backend'"
            )
        ).all()
    return len(ended)


def as_claimed(customer_id: str, rev: int, run: int | None = None) -> CustomerRow:
    """A customer as a worker claimed it."""
    return CustomerRow(customer_id, "{}", rev=rev, run=run)
