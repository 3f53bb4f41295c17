"""What a source gets beside its own settings: from the config, and from what this program knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from state.db.database import sqlite_path
from syncer.config import Config
from syncer.databases import open_database
from syncer.engage.events import Called
from syncer.engage.selection import KeySelection
from syncer.engage.source_settings import SourceContext
from syncer.progress import Progress
from syncer.sync.called import called


def source_context(
    config: Config,
    customer_ids: Mapping[str, Callable[[], Iterable[str]]],
    progress: Progress,
    stop: Callable[[], bool],
    answered: Callable[[], None],
) -> SourceContext:
    """Return the context of the configured source; it opens the state only when it is asked."""
    engage, state = config.engage, sqlite_path(config.state.url)
    keys = KeySelection(engage.audiences, engage.computed_traits)

    def what_calls_brought() -> Called:
        with (
            open_database(config, writes=False) as state,
            open_database(config, "queue", writes=False) as calls,
        ):
            return called(state, calls)

    return SourceContext(
        customer_id=engage.customer_id,
        filter=engage.filter,
        named_keys=keys.named_keys,
        selects=keys.selects,
        folder=None if state is None else state.parent,
        customer_ids=customer_ids,
        has_webhook=config.passthrough.webhook_secret is not None,
        called=what_calls_brought,
        progress=progress,
        stop=stop,
        answered=answered,
    )
