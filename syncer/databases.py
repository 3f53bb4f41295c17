"""Where the state and the queue of calls are, by the settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from state.db import locks
from state.db.database import Database, resolved, sqlite_path
from syncer.config import Config
from syncer.errors import ConfigError


def settled(config: Config) -> Config:
    """The settings with the one true path of the state: looked up once, so that all processes of a
    daemon have the same one, whatever becomes of a symbolic link meanwhile."""
    state = config.state.model_copy(update={"url": resolved(config.state.url)})
    return config.model_copy(update={"state": state})


@contextmanager
def opened(config: Config, part: str = "state", *, writes: bool) -> Iterator[Database]:
    """A part of the state for the block; without `writes` nothing is made where nothing is."""
    url = config.state.url
    path = sqlite_path(url)
    if path is not None:
        _check_place(path)
    database = Database.open(url, part) if writes else Database.peek(url, part)
    try:
        yield database
    finally:
        database.close()


def try_out(config: Config) -> None:
    """Raises what would keep a run from working on the state; makes nothing and leaves nothing."""
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
            f"state.url: the folder {folder} does not exist; make it, or name another"
        ) from None
    if path.exists() and not path.is_file():
        raise ConfigError(
            f"state.url: {path} is there, and is no file; name a file, or one that is not there yet"
        )
