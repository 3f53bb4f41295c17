"""What the pages are made from: the databases, the work under way, the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from state import failures, holds
from state.db.database import Database
from syncer.web.messages import Answer, Visit
from syncer.web.tasks import Work

#: A page of the desk.
Handler = Callable[["Desk", Visit], Answer]


@dataclass
class Desk:
    """`clock` is epoch milliseconds."""

    state: Database
    calls: Database
    work: Work
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000

    def bound(self, handlers: Mapping[str, Handler]) -> dict[str, Callable[[Visit], Answer]]:
        return {path: partial(handler, self) for path, handler in handlers.items()}

    def around(self) -> dict[str, Any]:
        """What every page shows around its own: what is asked for, and what needs somebody."""
        with self.state.read() as connection:
            failed = failures.count(connection)
            held = len(holds.open_keys(connection))
        return {"tasks": self.work.recent(), "needs": {"refused": failed, "held": held}}
