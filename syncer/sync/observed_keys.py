"""The trait keys of the source: those of the last full run, and those that turned up since.

Only a full run reads the whole population. What it saw of each key decides in the runs that follow
whether the key is ours, together with the rows that came since (docs/design.md §3.12).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import orjson
from sqlalchemy import Connection

from state.db import metadata
from state.snapshot import TraitRow
from syncer.engage.computations import AUDIENCE
from syncer.engage.source import ObservedKey
from syncer.ids import MAX_KEY, storable
from syncer.json_text import to_json
from syncer.sync.trait_selection import known_trait


def keep_keys(connection: Connection, observed: Iterable[ObservedKey]) -> None:
    """Keep what a run saw, or knows of since the last full run.

    Keys that a database cannot keep are never ours, and left out.
    """
    rows = [
        (key.key, key.rows, key.words, key.digits, key.others)
        for key in observed
        if storable(key.key, MAX_KEY)
    ]
    kept = to_json(rows)
    if kept != metadata.get(connection, metadata.OBSERVED_KEYS):
        metadata.put(connection, metadata.OBSERVED_KEYS, kept)


def known_keys(connection: Connection, traits: Sequence[TraitRow]) -> dict[str, ObservedKey]:
    """Return the keys of the last full run and of the runs since.

    A state of an earlier version kept none: then they are those of its `traits`.
    """
    kept = metadata.get(connection, metadata.OBSERVED_KEYS)
    if kept is None:
        rows = [ObservedKey(row.key, 1, *_usual(row)) for row in traits]
    else:
        rows = [ObservedKey(*row) for row in orjson.loads(kept)]
    return {row.key: row for row in rows}


def with_new(
    known: Mapping[str, ObservedKey], since: Iterable[ObservedKey]
) -> dict[str, ObservedKey]:
    """Return the keys that are known with those of rows that came `since`."""
    keys = dict(known)
    for new in since:
        old = keys.get(new.key, new)
        # A row of these may be in both, so the sums would count it twice.
        numbers = zip(_numbers(old), _numbers(new), strict=True)
        keys[new.key] = ObservedKey(new.key, *(max(pair) for pair in numbers))
    return keys


def _usual(row: TraitRow) -> tuple[int, int, int]:
    return (1, 0, 0) if known_trait(row).kind == AUDIENCE else (0, 0, 1)


def _numbers(key: ObservedKey) -> tuple[int, int, int, int]:
    return key.rows, key.words, key.digits, key.others
