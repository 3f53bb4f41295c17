"""Where the state and the queue of calls are, by the settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from state.database import Database, sqlite_path
from syncer.config import Config
from syncer.errors import ConfigError


@contextmanager
def opened(config: Config, part: str = "state", *, writes: bool) -> Iterator[Database]:
    """A part of the state for the block; without `writes` nothing is made where nothing is."""
    url = config.state.url
    path = sqlite_path(url)
    if path is not None and not path.parent.is_dir():
        raise ConfigError(
            f"state.url: the folder {path.parent} does not exist; make it, or name another"
        )
    database = Database.open(url, part) if writes else Database.peek(url, part)
    try:
        yield database
    finally:
        database.close()
