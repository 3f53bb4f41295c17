"""A catalog and customers for the tests of the comparison."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from syncer.engage.catalog import Catalog, KnownTrait
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT
from syncer.engage.source import PulledCustomer
from syncer.json_text import canonical
from syncer.sync.changes import CustomerChange
from syncer.sync.diff import compare
from syncer.sync.join import merge
from syncer.sync.tally import Tally

#: Times of rows as the source writes them, with what they are in epoch milliseconds.
MAY, MAY_MS = "2024-05-01T00:00:00Z", 1_714_521_600_000


JUNE, JUNE_MS = "2024-06-01 02:00:00+02:00", 1_717_200_000_000


JULY, JULY_MS = "2024-07-01T00:00:00", 1_719_792_000_000


TRAITS = [
    KnownTrait("vip", "vip", AUDIENCE),
    KnownTrait("Order Completed Last 30days", "order_completed_last_30days", AUDIENCE),
    KnownTrait("lost", "lost", AUDIENCE),
    KnownTrait("total", "total", COMPUTED_TRAIT),
    KnownTrait("Tags", "tags", COMPUTED_TRAIT),
    # two keys, one name
    KnownTrait("Gold Club", "gold_club", AUDIENCE),
    KnownTrait("gold_club", "gold_club", AUDIENCE),
]


PROBLEMS = dict.fromkeys(("Gold Club", "gold_club"), "name taken twice")


ORDERS = "Order Completed Last 30days"


def make_catalog() -> Catalog:
    return Catalog(TRAITS, PROBLEMS, [])


class Stored(NamedTuple):
    """A customer as the snapshot gives it."""

    customer_id: str
    traits: str
    name: str | None
    email: str | None
    stamps: str | None = None
    rev: int = 1
    compared: int | None = 1


Row = tuple[str, object, str | None]


def pulled(customer_id: str, *rows: Row, profile: Iterable[Row] = ()) -> PulledCustomer:
    keys, values, times = (json.dumps([row[n] for row in rows]) for n in range(3))
    return PulledCustomer(
        customer_id, keys, values, times, json.dumps(list(profile), separators=(",", ":"))
    )


def with_traits(customer_id: str, **values: object) -> PulledCustomer:
    """A customer with these rows, all of May."""
    return pulled(customer_id, *((key, value, MAY) for key, value in values.items()))


def known(
    customer_id: str,
    traits: dict[str, Any],
    name: str | None = None,
    email: str | None = None,
    stamps: dict[str, Any] | None = None,
) -> Stored:
    """`stamps` are the times of what came by a call: [its own, of its receipt], or one for both."""
    text = None if stamps is None else json.dumps(stamps)
    return Stored(customer_id, canonical(traits), name, email, text)


def run(
    pull: Iterable[PulledCustomer], snapshot: Iterable[Stored] = ()
) -> tuple[list[CustomerChange], Tally]:
    """Compare a whole pull that knows of all that was before June."""
    tally = Tally(make_catalog())
    return list(compare(merge(pull, snapshot), tally.catalog, tally, JUNE_MS)), tally


def compare_one(
    row: PulledCustomer | None, before: Stored | None
) -> tuple[CustomerChange | None, Tally]:
    """Compare one customer."""
    changes, tally = run([row] if row else [], [before] if before else [])
    assert len(changes) <= 1
    return (changes[0] if changes else None), tally


def counts(tally: Tally, key: str) -> dict[str, int]:
    """The sums of a trait that are not zero."""
    sums = tally.sums[key]
    names = ("pulled", "entered", "exited", "changed", "unchanged", "skipped", "vanished")
    return {name: count for name in (*names, "dropped") if (count := getattr(sums, name))}
