"""Which trait rows a pull is about, and whose they are: merges resolved, external ids matched.

A pull of everything reads all rows once. Where an engine has indexes, any other pull looks up what
belongs to a few customers, or to the profiles with new rows, and reads no other row
(docs/design.md §3.12). Where it has none, or where these are many, one statement reads all rows and
leaves those that count.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from sqlalchemy import CTE, ColumnElement, FromClause, Select, false, func, select, true, union

from syncer.chunks import chunks
from syncer.engage.lineage import (
    AT_A_TIME,
    FEW,
    Ask,
    FewMerges,
    NotPlain,
    TooMany,
    check_plain,
    merged,
)
from syncer.engage.source import Everything, OnlyCustomers, Scope
from syncer.engage.warehouse import TABLES, Among, Space


class TraitRows(NamedTuple):
    """Rows of traits, what they are joined with, and two columns of that.

    `customer_id` is None where all rows are of profiles without one.
    """

    traits: FromClause
    joined: FromClause
    profile: ColumnElement[Any]
    customer_id: ColumnElement[Any] | None = None


class People(Protocol):
    """The profiles and customers in the scope of a pull."""

    def traits(self, counted: Collection[str] | None = None) -> TraitRows:
        """Return the trait rows of the customers in scope; of a profile with two ids twice.

        With the names of traits to be `counted`, it is one row for all rows of a segment id. If the
        scope is everything, those of profiles without a customer id are among these.
        """

    def nameless(self, names: Collection[str]) -> TraitRows:
        """Return trait rows, those with these names at least, of profiles without a customer id."""


def identifiers(space: Space, customer_id: str, among: Among | None = None) -> FromClause:
    """Return the rows of identifiers that are customer ids, which are those of a type."""
    rows = space.rows("user_identifiers", among=among)
    is_one = (rows.c.type == customer_id, space.columns.is_id(rows.c.value))
    return select(rows).where(*is_one).subquery()


def people(
    space: Space, customer_id: str, scope: Scope, since: datetime | None, ask: Ask
) -> People:
    """Return the people in a scope; `since` is the moment from which on rows are new to it."""
    if space.columns.indexed and not isinstance(scope, Everything):
        with suppress(TooMany, NotPlain):
            return _LookUp(space, customer_id, ask).people(scope, since)
    return _Many(space, customer_id, scope, since)


def new_ids(space: Space, since: datetime) -> Select[Any]:
    """Select (id) of the profiles that a new row names."""
    tables = [space.rows(name, since=since) for name in TABLES]
    ids = union(*(select(table.c.canonical_segment_id.label("id")) for table in tables)).subquery()
    return select(ids.c.id)


class _Many:
    """Any number of people, by statements over all rows."""

    def __init__(
        self, space: Space, customer_id: str, scope: Scope, since: datetime | None
    ) -> None:
        self._space, self._customer_id, self._merged = space, customer_id, merged(space)
        self._all_ids = self._ids("all_ids")
        self._touched = None if since is None else self._touched_since(since)
        self._in_scope, self._named = self._narrowed(scope), isinstance(scope, OnlyCustomers)
        self._everything = isinstance(scope, Everything)

    def traits(self, counted: Collection[str] | None = None) -> TraitRows:
        traits, joined, profile = self._trait_rows(counted)
        ids, nameless = self._in_scope, counted is not None and self._everything
        joined = joined.join(ids, ids.c.profile == profile, isouter=nameless)
        return TraitRows(traits, joined, profile, ids.c.id)

    def nameless(self, names: Collection[str]) -> TraitRows:
        # The segment ids first: they are fewer than the rows, and often none.
        counts, joined, profile = self._trait_rows(names)
        ids, own = self._all_ids, counts.c.canonical_segment_id
        chosen = select(own.label("own"), profile.label("profile"))
        chosen = chosen.select_from(joined.outerjoin(ids, ids.c.profile == profile))
        chosen = chosen.where(ids.c.profile.is_(None), false() if self._named else true())
        if self._touched is not None:
            chosen = chosen.where(profile.in_(select(self._touched.c.profile)))
        nameless, traits = chosen.cte("nameless"), self._space.rows("user_traits")
        both = traits.join(nameless, nameless.c.own == traits.c.canonical_segment_id)
        return TraitRows(traits, both, nameless.c.profile)

    def _ids(self, name: str) -> CTE:
        """Select (profile, id) of every profile with a customer id; a profile may have several."""
        rows, into = identifiers(self._space, self._customer_id), self._merged
        joined = rows.outerjoin(into, into.c.segment_id == rows.c.canonical_segment_id)
        profile = func.coalesce(into.c.canonical_segment_id, rows.c.canonical_segment_id)
        columns = (profile.label("profile"), rows.c.value.label("id"))
        return select(*columns).select_from(joined).distinct().cte(name)

    def _touched_since(self, since: datetime) -> CTE:
        """Select (profile) of the profiles with a new row."""
        ids, into = new_ids(self._space, since).cte("new_ids"), self._merged
        profile = func.coalesce(into.c.canonical_segment_id, ids.c.id).label("profile")
        joined = ids.outerjoin(into, into.c.segment_id == ids.c.id)
        return select(profile).select_from(joined).distinct().cte("touched")

    def _narrowed(self, scope: Scope) -> CTE:
        """Select the part of `_all_ids` that the scope names."""
        ids = self._all_ids
        if isinstance(scope, OnlyCustomers):
            named = self._space.columns.one_of(ids.c.id, scope.customer_ids)
            return select(ids).where(named).cte("ids")
        if self._touched is None:
            return ids
        # Every customer of a touched profile, with every profile of such a customer: only all of
        # its rows show which one is the newest.
        touched = select(ids.c.id).where(ids.c.profile.in_(select(self._touched.c.profile)))
        return select(ids).where(ids.c.id.in_(touched)).cte("ids")

    def _trait_rows(
        self, counted: Collection[str] | None = None
    ) -> tuple[FromClause, FromClause, ColumnElement[Any]]:
        traits, into = self._space.rows("user_traits"), self._merged
        if counted is not None:
            traits = _counts(self._space, traits, counted, traits.c.canonical_segment_id)
        joined = traits.outerjoin(into, into.c.segment_id == traits.c.canonical_segment_id)
        profile = func.coalesce(into.c.canonical_segment_id, traits.c.canonical_segment_id)
        return traits, joined, profile


def _counts(
    space: Space, traits: FromClause, names: Collection[str], *of: ColumnElement[Any]
) -> FromClause:
    """Select the number of rows (`number`) with these names, for each value of the columns."""
    named = space.columns.one_of(traits.c.name, names)
    counts = select(*of, func.count().label("number")).where(named).group_by(*of)
    return counts.subquery("counts")


#: A segment id with its profile, and with a customer id of that.
_Own = tuple[str, str, str]


class _Few:
    """A few people, whose segment ids were looked up."""

    def __init__(self, space: Space, owned: list[_Own], nameless: list[_Own]) -> None:
        self._space, self._owned, self._nameless = space, owned, nameless

    def traits(self, counted: Collection[str] | None = None) -> TraitRows:
        rows = self._rows(self._owned)
        if counted is None:
            return rows
        traits = rows.traits
        of = (traits.c.canonical_segment_id, traits.c.profile, traits.c.id)
        counts = _counts(self._space, traits, counted, *of)
        return TraitRows(counts, counts, counts.c.profile, counts.c.id)

    def nameless(self, names: Collection[str]) -> TraitRows:
        return self._rows(self._nameless)

    def _rows(self, owned: list[_Own]) -> TraitRows:
        listed = self._space.columns.listed(owned, ("segment_id", "profile", "id"))
        traits = self._space.rows("user_traits", listed=listed)
        return TraitRows(traits, traits, traits.c.profile, traits.c.id)


class _LookUp:
    """Looks up the people in a scope."""

    def __init__(self, space: Space, customer_id: str, ask: Ask) -> None:
        self._space, self._customer_id, self._ask = space, customer_id, ask
        self._merges = FewMerges(space, ask)

    def people(self, scope: Scope, since: datetime | None) -> _Few:
        """Return the people in a scope that is not everything."""
        if isinstance(scope, OnlyCustomers):
            return _Few(self._space, self._owned(scope.customer_ids), [])
        assert since is not None
        touched = self._merges.members(set(self._merges.profiles(self._new(since)).values()))
        ids = self._ids("canonical_segment_id", touched)
        named = {touched[own] for own, _ in ids}
        nameless = [(own, profile, "") for own, profile in touched.items() if profile not in named]
        return _Few(self._space, self._owned({value for _, value in ids}), nameless)

    def _new(self, since: datetime) -> set[str]:
        """Return the ids of the profiles that a new row names."""
        rows = list(self._ask(new_ids(self._space, since).limit(FEW + 1)))
        if len(rows) > FEW:
            raise TooMany
        return {check_plain(str(own)) for (own,) in rows if own is not None}

    def _owned(self, customer_ids: Collection[str]) -> list[_Own]:
        """Return all segment ids of all profiles of some customers.

        Only all rows of a customer show which one is the newest.
        """
        ids = self._ids("value", customer_ids)
        profiles = self._merges.profiles({own for own, _ in ids})
        by_profile: dict[str, set[str]] = {}
        for own, customer_id in ids:
            by_profile.setdefault(profiles[own], set()).add(customer_id)
        members = self._merges.members(by_profile)
        return [
            (own, profile, customer_id)
            for own, profile in members.items()
            for customer_id in by_profile[profile]
        ]

    def _ids(self, column: str, chosen: Collection[str]) -> list[tuple[str, str]]:
        """Return (segment id, customer id) of the identifiers with one of those in the column."""
        pairs = list[tuple[str, str]]()
        for part in chunks(iter(chosen), most=AT_A_TIME):
            rows = identifiers(self._space, self._customer_id, (column, part))
            ids = self._ask(select(rows.c.canonical_segment_id, rows.c.value).distinct())
            pairs += [
                (check_plain(str(own)), check_plain(str(value)))
                for own, value in ids
                if own is not None
            ]
        return pairs
