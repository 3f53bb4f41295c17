"""The pull and the snapshot as streams, and the equality of values."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

from syncer.engage.source import PulledCustomer
from syncer.engage.values import same
from syncer.errors import SourceError
from syncer.sync.diff import compare
from syncer.sync.join import look_up, merge
from syncer.sync.tally import Tally
from tests.unit.compare.helpers import (
    Stored,
    counts,
    known,
    make_catalog,
    with_traits,
)


def test_merge_is_an_outer_join_in_order() -> None:
    rows = [with_traits(customer_id) for customer_id in ("b", "c", "é", "日")]
    snapshot = [known(customer_id, {}) for customer_id in ("a", "b", "d", "日", "😀")]
    pairs = [
        (row and row.customer_id, known and known[0]) for row, known, _ in merge(rows, snapshot)
    ]
    assert pairs == [
        (None, "a"),
        ("b", "b"),
        ("c", None),
        (None, "d"),
        ("é", None),
        ("日", "日"),
        (None, "😀"),
    ]


@pytest.mark.parametrize(
    "ids", [["b", "a"], ["a", "a"], ["😀", "\uffff"], ["a", "b", "B"], ["é", "z"]]
)
def test_a_pull_out_of_order_ends_the_run(ids: list[str]) -> None:
    """docs/design.md §3.7: in UTF-8 byte order, each customer once."""
    with pytest.raises(SourceError, match="out of order") as refused:
        list(merge([with_traits(customer_id) for customer_id in ids], []))
    assert repr(ids[-1]) in str(refused.value)
    assert repr(ids[-2]) in str(refused.value)


def test_merge_reads_no_further_than_it_must() -> None:
    """Both sides are streams: millions of customers must not be gathered."""
    taken: list[str] = []

    def rows() -> Iterable[PulledCustomer]:
        for customer_id in ("a", "b", "c"):
            taken.append(customer_id)
            yield with_traits(customer_id)

    pairs = merge(rows(), [known("a", {})])
    next(pairs)
    assert taken == ["a"]


def test_look_up_pairs_a_part_with_the_snapshot_chunk_by_chunk() -> None:
    asked: list[list[str]] = []
    snapshot = {"b": known("b", {"vip": True}), "x": known("x", {})}

    def find(ids: Collection[str]) -> list[Stored]:
        asked.append(list(ids))
        return [snapshot[id_] for id_ in reversed(list(ids)) if id_ in snapshot]

    rows = [with_traits(customer_id) for customer_id in ("a", "b", "c", "d", "e")]
    pairs = list(look_up(rows, find, at_a_time=2))
    assert pairs == [(row, snapshot.get(row.customer_id), None) for row in rows]
    assert asked == [["a", "b"], ["c", "d"], ["e"]]


def test_a_partial_pull_says_nothing_of_the_others() -> None:
    tally = Tally(make_catalog())
    snapshot = {customer_id: known(customer_id, {"vip": True}) for customer_id in ("a", "b")}
    pairs = look_up([with_traits("a", vip="f")], lambda ids: [snapshot[id_] for id_ in ids])
    (change,) = compare(pairs, tally.catalog, tally, whole=False)
    assert change.customer_id == "a"
    assert counts(tally, "vip") == {"pulled": 1, "exited": 1}


def test_a_partial_pull_infers_nothing_from_a_row_that_is_not_there() -> None:
    """docs/design.md §3.11: a merge or a table may be half loaded."""
    tally = Tally(make_catalog())
    before = known("a", {"vip": True, "lost": True, "total": 5})
    pairs = look_up([with_traits("a", vip="f")], lambda ids: [before])
    (change,) = compare(pairs, tally.catalog, tally, whole=False)
    assert change.traits == {"vip": False, "lost": True, "total": 5}
    pairs = look_up([with_traits("a", vip="t")], lambda ids: [before])
    assert list(compare(pairs, tally.catalog, tally, whole=False)) == []


def test_an_explicit_null_counts_in_a_partial_pull_too() -> None:
    tally = Tally(make_catalog())
    before = known("a", {"vip": True, "lost": True, "total": 5})
    pairs = look_up([with_traits("a", vip=None, total=None)], lambda ids: [before])
    (change,) = compare(pairs, tally.catalog, tally, whole=False)
    assert change.traits == {"vip": False, "lost": True}


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        (None, None, True),
        (True, True, True),
        (True, 1, False),
        (False, 0, False),
        (1, 1.0, False),
        (None, False, False),
        ("1", 1, False),
        ([True], [1], False),
        (["a"], ["a"], True),
    ],
)
def test_equal_means_equal_json(first: Any, second: Any, equal: bool) -> None:
    assert same(first, second) is equal
    assert same(second, first) is equal
