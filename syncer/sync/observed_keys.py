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
        keys[new.key] = _together(keys.get(new.key, new), new)
    return keys


def _together(old: ObservedKey, new: ObservedKey) -> ObservedKey:
    """Return the forms of a key's values, of which `new` were loaded since.

    A new row replaces an old one, is one of the old ones that is seen again, or is of another
    profile: nobody knows. What reads as no boolean is never forgotten, so that a mixed key becomes
    no audience. Booleans are as many as there were, as far as the new rows leave room for them.
    """
    room = max(old.rows - new.rows, 0)
    words = min(max(old.words - new.words, 0), room)
    digits = min(max(old.digits - new.digits, 0), room - words)
    forms = (new.words + words, new.digits + digits, max(old.others, new.others))
    return ObservedKey(new.key, max(old.rows, new.rows, sum(forms)), *forms)


def _usual(row: TraitRow) -> tuple[int, int, int]:
    return (1, 0, 0) if known_trait(row).kind == AUDIENCE else (0, 0, 1)
