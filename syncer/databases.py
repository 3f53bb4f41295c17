"""Open the databases of the state and of the queue of calls, as configured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from state.db import locks
from state.db.database import Database, resolved, sqlite_path
from syncer.config import Config
from syncer.errors import ConfigError


def with_resolved_state(config: Config) -> Config:
    """Return the settings with the resolved path of the state.

    It is resolved once, so that all processes of a daemon have the same path even if a symbolic
    link changes.
    """
    state = config.state.model_copy(update={"url": resolved(config.state.url)})
    return config.model_copy(update={"state": state})


@contextmanager
def open_database(config: Config, part: str = "state", *, writes: bool) -> Iterator[Database]:
    """Open a part of the state; without `writes` it is read-only and never created."""
    url = config.state.url
    path = sqlite_path(url)
    if path is not None:
        _check_place(path)
    database = Database.open(url, part) if writes else Database.peek(url, part)
    try:
        yield database
    finally:
        database.close()


def check_databases(config: Config) -> None:
    """Raise what would prevent a run on the state; creates nothing."""
    url = config.state.url
    if (path := sqlite_path(url)) is not None:
        _check_place(path)
    locks.check_files(url)
    for part in ("state", "queue"):
        Database.try_out(url, part)


def _check_place(path: Path) -> None:
    folder = path.parent
    try:
        os.stat(os.path.join(folder, "."))
    except PermissionError:
        raise ConfigError(
            f"state.url: this user may not enter the folder {folder}; run as its owner"
        ) from None
    except OSError:
        raise ConfigError(
            f"state.url: the folder {folder} does not exist; create it or name another"
        ) from None
    if path.exists() and not path.is_file():
        raise ConfigError(
            f"state.url: {path} is not a file; name a file, or a path that does not exist yet"
        )
