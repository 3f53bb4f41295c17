"""All connections of one HTTP server, and the memory that their requests hold.

At the limit of connections or memory, those go first that make the least use of their place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

from syncer.process import limits


class Use(IntEnum):
    """How a connection uses its place. The lower, the sooner it is evicted."""

    REFUSED = 0
    IDLE = 1
    SENDING_SLOWLY = 2
    ACTIVE = 3


class Connection(Protocol):
    """What the pool needs of a connection."""

    #: whether the app knows who sends the request under way
    known: bool
    #: the bytes that its unanswered requests hold
    held: int
    #: since when a request is being received (loop time), None between requests
    receiving_since: float | None

    def now(self) -> float: ...

    def use(self, now: float) -> tuple[Use, float]:
        """Return how it uses its place, and since when."""

    def refuse(self, code: str) -> None: ...

    def evict(self) -> None: ...

    def enforce_timeouts(self, now: float) -> None: ...


class Pool:
    """The connections of a server; `on_refused` gets the code of each refused request."""

    def __init__(self, limit: int, on_refused: Callable[[str], None]) -> None:
        self.limit, self.on_refused = limit, on_refused
        self.members: set[Connection] = set()
        #: the bytes that all unanswered requests hold
        self.held = 0
        self._freeing = False

    def admit(self, connection: Connection) -> bool:
        """Add a connection if there is a place; others may be evicted for it."""
        if len(self.members) >= self.limit:
            self._evict(connection.now())
        if len(self.members) >= self.limit:
            return False
        self.members.add(connection)
        return True

    def _evict(self, now: float) -> None:
        """Evict a twentieth of all connections (a search looks at all): the least used, oldest."""
        ranked = [
            (*connection.use(now), number, connection)
            for number, connection in enumerate(self.members)
        ]
        candidates = sorted(entry for entry in ranked if entry[0] < Use.ACTIVE)
        for *_, connection in candidates[: self.limit // 20 + 1]:
            connection.evict()

    def hold(self, size: int, loop: asyncio.AbstractEventLoop) -> bool:
        """Count memory of a request; return whether there is room for it.

        Else room is made soon: when the app has seen whose requests have just arrived.
        """
        self.held += size
        if self.held <= limits.MAX_HELD:
            return True
        if not self._freeing:
            self._freeing = True
            loop.call_soon(self._free)
        return False

    def _free(self) -> None:
        """Refuse requests that are being received until the rest fits.

        Those of unknown callers go first, the oldest first.
        """
        self._freeing = False
        receiving = [
            (connection.known, connection.receiving_since, number, connection)
            for number, connection in enumerate(self.members)
            if connection.receiving_since is not None and connection.held
        ]
        for *_, connection in sorted(receiving):
            if self.held <= limits.MAX_HELD * 0.9:
                return
            connection.refuse(limits.BUSY)

    def enforce_timeouts(self, now: float) -> None:
        """Close what took too long. Call it several times a second while there are members."""
        for connection in list(self.members):
            connection.enforce_timeouts(now)
