"""The named points of a process at which a scenario lets something happen.

Only a forked child is patched (child.py); the product has no hook.
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from state import outbox, queue
from state.db import workers
from syncer.amberflo.client import AmberfloClient
from syncer.delivery.claims import Claims
from syncer.delivery.customers import CustomerDelivery
from syncer.delivery.meters import MeterDelivery
from syncer.delivery.outcomes import Outcomes
from syncer.delivery.rate_share import Share
from syncer.engage.profiles_sync import ProfilesSyncPull
from syncer.engage.pushdown import PushDown
from syncer.passthrough.processor import Processor
from syncer.sync import commit
from syncer.sync.commit import Commit
from syncer.sync.comparison import Comparison
from syncer.sync.runs import Runs

#: (owner, attribute, point before it, point after it); inside a transaction where it says so.
_WRAPPED: tuple[tuple[Any, str, str | None, str | None], ...] = (
    (Comparison, "compare", "pull.before", "pull.after"),
    (Commit, "apply", "commit.before", "commit.after"),
    (commit, "add_changes", None, "commit.middle"),
    (commit, "settle", "baseline.before", "baseline.after"),
    (PushDown, "keep", "fingerprints.before", "fingerprints.made"),
    (PushDown, "finish", "fingerprints.finish", "fingerprints.left"),
    (outbox, "adopt", None, "commit.last"),
    (Runs, "_finish", "finish.before", "finish.after"),
    (Share, "begin", "join.after", None),
    (outbox, "claim", None, "claim.inside"),
    (Claims, "next", None, "claim.after"),
    (AmberfloClient, "get_customer", None, "get.after"),
    (AmberfloClient, "put_customer", "put.before", "put.after"),
    (Outcomes, "_write", "outcome.before", "outcome.after"),
    (outbox, "acknowledge", None, "outcome.inside"),
    (CustomerDelivery, "_drain", "drain", None),
    (workers, "_leave", "leave.before", None),
    (Processor, "_apply", None, "process.applied"),
    (queue, "accept", None, "accept.inside"),
    (queue, "store_processed", "process.between", None),
    (Processor, "process", None, "process.after"),
    (AmberfloClient, "ingest", "ingest.before", "ingest.after"),
    (MeterDelivery, "_write_now", "meters.before", "meters.after"),
)


def patch(reached: Callable[[str, int], None]) -> None:
    """From now on `reached(point, hit)` is called at each point, with how often it was reached."""
    hits: Counter[str] = Counter()

    def reach(point: str | None) -> None:
        if point is not None:
            hits[point] += 1
            reached(point, hits[point])

    for owner, name, before, after in _WRAPPED:
        setattr(owner, name, _around(getattr(owner, name), before, after, reach))

    customers = ProfilesSyncPull.customers

    def pulled(self: ProfilesSyncPull, keys: Any) -> Iterator[Any]:
        for row in customers(self, keys):
            reach("pull.row")
            yield row

    ProfilesSyncPull.customers = pulled  # type: ignore[assignment, method-assign]


def _around(
    function: Callable[..., Any],
    before: str | None,
    after: str | None,
    reach: Callable[[str | None], None],
) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def later(*args: Any, **named: Any) -> Any:
            reach(before)
            result = await function(*args, **named)
            reach(after)
            return result

        return later

    @functools.wraps(function)
    def now(*args: Any, **named: Any) -> Any:
        reach(before)
        result = function(*args, **named)
        reach(after)
        return result

    return now
