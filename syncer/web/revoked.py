"""Sessions that were ended before their time: whoever has a copy of the cookie stays out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import orjson

from state.db import metadata
from state.db.database import Database

#: The memo of the sessions: when each would have been over, by its name.
MEMO = "ended sessions"


class Ended:
    """Remembers them in this process, until they would be over anyway (epoch seconds)."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def add(self, session: str, until: float) -> None:
        self._until = self._living(self._until) | {session: until}

    def has(self, session: str) -> bool:
        return session in self._until

    def _living(self, until: Mapping[str, float]) -> dict[str, float]:
        now = self._clock()
        return {session: end for session, end in until.items() if end > now}


class EndedInState(Ended):
    """Remembers them in the state: for the pages of all daemons on it, and after a new start."""

    def __init__(self, state: Database, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        self._state = state

    def add(self, session: str, until: float) -> None:
        with self._state.write(alone=True) as connection:
            ended = self._living(orjson.loads(metadata.get(connection, MEMO) or "{}"))
            metadata.put(connection, MEMO, orjson.dumps(ended | {session: until}).decode())

    def has(self, session: str) -> bool:
        with self._state.read() as connection:
            return session in orjson.loads(metadata.get(connection, MEMO) or "{}")
