"""Sessions that were ended before they expired: a copy of their cookie is worth nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import orjson

from state.db import metadata
from state.db.database import Database
from syncer.json_text import to_json

#: The metadata entry of the revoked sessions: the expiry of each, by its name.
ENTRY = "ended sessions"


class RevokedSessions:
    """Keeps them in this process until they expire. Times are epoch seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def add(self, session: str, until: float) -> None:
        self._until = self._unexpired(self._until) | {session: until}

    def has(self, session: str) -> bool:
        return session in self._until

    def _unexpired(self, until: Mapping[str, float]) -> dict[str, float]:
        now = self._clock()
        return {session: end for session, end in until.items() if end > now}


class StoredRevocations(RevokedSessions):
    """Keeps them in the state: for the pages of all daemons on it, and across restarts."""

    def __init__(self, state: Database, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        self._state = state

    def add(self, session: str, until: float) -> None:
        with self._state.write(alone=True) as connection:
            revoked = self._unexpired(orjson.loads(metadata.get(connection, ENTRY) or "{}"))
            metadata.put(connection, ENTRY, to_json(revoked | {session: until}))

    def has(self, session: str) -> bool:
        with self._state.read() as connection:
            return session in orjson.loads(metadata.get(connection, ENTRY) or "{}")
