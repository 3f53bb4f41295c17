"""What handlers work with: the databases, the tasks under way, the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from state import failures, holds
from state.db.database import Database
from syncer.web.messages import Request, Response
from syncer.web.tasks import Tasks

#: Answers a request in a context.
Handler = Callable[["Context", Request], Response]


@dataclass
class Context:
    """`clock` returns epoch milliseconds."""

    state: Database
    calls: Database
    tasks: Tasks
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000

    def bind(self, handlers: Mapping[str, Handler]) -> dict[str, Callable[[Request], Response]]:
        """Return the handlers by their path, each with this context."""
        return {path: partial(handler, self) for path, handler in handlers.items()}

    def layout(self) -> dict[str, Any]:
        """Return the data that every page shows: recent tasks, and how much needs a person."""
        with self.state.read() as connection:
            failed = failures.count(connection)
            held = len(holds.open_keys(connection))
        return {"tasks": self.tasks.recent(), "needs": {"to resolve": failed, "held": held}}
