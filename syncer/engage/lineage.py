"""Which profile a segment id belongs to: `profile_merges`, resolved.

Segment flattens the merges (docs/facts/segment.md §1.3), so a few joins follow any chain. The
newest row of a segment id counts. A circle, and a chain of more than `STEPS` merges, resolves
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import pairwise
from typing import Any

from sqlalchemy import CTE, ColumnElement, FromClause, Select, func, select

from syncer.chunks import chunks
from syncer.engage.warehouse import Among, Space

#: The merges that are followed from one profile to the next.
STEPS = 3
#: The ids that one statement looks up: so many that a warehouse without indexes is not read again
#: and again.
AT_A_TIME = 50_000
#: Segment ids that are looked up at most: memory goes with them.
FEW = 100_000
#: Runs a statement and returns its rows.
Ask = Callable[[Select[Any]], Iterable[Any]]


def merged(space: Space) -> CTE:
    """Select (segment_id, canonical_segment_id) of all profiles that were merged away."""
    step = _newest(space).cte("step")
    steps = [step.alias(f"step_{number}") for number in range(STEPS + 1)]
    path: FromClause = steps[0]
    for before, after in pairwise(steps):
        path = path.outerjoin(after, after.c.segment_id == before.c.canonical_segment_id)
    ends = [each.c.canonical_segment_id for each in steps[-2::-1]]
    return (
        select(steps[0].c.segment_id, func.coalesce(*ends).label("canonical_segment_id"))
        .select_from(path)
        .where(steps[-1].c.segment_id.is_(None))
        .cte("merged")
    )


def _newest(space: Space, among: Among | None = None) -> Select[Any]:
    """Select (segment_id, canonical_segment_id) by the newest row of each segment id."""
    merges = space.rows("profile_merges", among=among)
    ranked = select(
        merges.c.segment_id,
        merges.c.canonical_segment_id,
        func.row_number()
        .over(partition_by=merges.c.segment_id, order_by=_newest_first(space, merges))
        .label("place"),
    ).cte("ranked")
    return select(ranked.c.segment_id, ranked.c.canonical_segment_id).where(
        ranked.c.place == 1, ranked.c.segment_id != ranked.c.canonical_segment_id
    )


def _newest_first(space: Space, merges: FromClause) -> list[ColumnElement[Any]]:
    columns = space.columns
    at = columns.instant(columns.time(merges))
    # The last one, so that each statement chooses the same of rows that are alike.
    last = columns.nulls_first(merges.c.canonical_segment_id)
    order = (*columns.nulls_first(at), *columns.sequence(merges.c.seq), *last)
    return [each.desc() for each in order]


class TooMany(Exception):
    """More segment ids are needed than are looked up."""


class NotPlain(Exception):
    """An id has a NUL, or bytes that are no text: a statement cannot name it."""


def check_plain(text: str) -> str:
    """Return a text that a statement can name; raise `NotPlain` for any other."""
    if "\0" in text or text != text.encode("utf-8", "ignore").decode():
        raise NotPlain
    return text


class FewMerges:
    """The merges of a few profiles, looked up as they are needed."""

    def __init__(self, space: Space, ask: Ask) -> None:
        self._space, self._ask = space, ask
        #: what each segment id was merged into; None: nothing
        self._into: dict[str, str | None] = {}

    def profiles(self, segment_ids: Collection[str]) -> dict[str, str]:
        """Return the profile that each segment id belongs to."""
        level = set(segment_ids)
        for _ in range(STEPS + 1):
            self._look_up(level)
            level = {into for own in level if (into := self._into[own]) is not None}
        return {segment_id: self._end(segment_id) for segment_id in segment_ids}

    def members(self, profiles: Collection[str]) -> dict[str, str]:
        """Return all segment ids that belong to these profiles, each with its profile.

        Raise `TooMany` if they are too many to be looked up.
        """
        reached = level = set(profiles)
        for _ in range(STEPS):
            level = set(self._merged_into(level)) - reached
            reached = reached | level
            if len(reached) > FEW:  # a profile may have any number of ids
                raise TooMany
        chosen = set(profiles)
        return {own: end for own, end in self.profiles(reached).items() if end in chosen}

    def _end(self, segment_id: str) -> str:
        """Return where a chain ends, whose merges were looked up."""
        here = segment_id
        for _ in range(STEPS + 1):
            if (into := self._into[here]) is None:
                return here
            here = into
        return segment_id

    def _look_up(self, segment_ids: set[str]) -> None:
        for part in chunks(iter(segment_ids - self._into.keys()), most=AT_A_TIME):
            self._into.update(dict.fromkeys(part))
            rows = self._ask(_newest(self._space, ("segment_id", part)))
            self._into.update((str(own), check_plain(str(into))) for own, into in rows)

    def _merged_into(self, profiles: Collection[str]) -> Iterator[str]:
        for part in chunks(iter(profiles), most=AT_A_TIME):
            merges = self._space.rows("profile_merges", among=("canonical_segment_id", part))
            for (own,) in self._ask(select(merges.c.segment_id).distinct()):
                if own is not None:
                    yield check_plain(str(own))
