"""How a customer's rows read (docs/design.md §3.1, §3.3)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.engage import catalog as catalogs
from syncer.engage.catalog import Catalog, Reading, newest
from syncer.errors import SourceError
from syncer.json_text import canonical
from tests.unit.catalog.helpers import booleans, catalog_of, seen

MAY, JUNE, JULY = "2024-05-01T00:00:00Z", "2024-06-01 00:00:00+00", "2024-07-01T00:00:00"


# Reading a customer's rows


def read(catalog: Catalog, **rows: object) -> Reading:
    return catalog.read(json.dumps(list(rows)), json.dumps(list(rows.values())))


@pytest.fixture
def catalog() -> Catalog:
    return catalog_of(
        [*booleans("Vip", "trial", "Gold Club", "gold_club"), seen("total", others=2)],
        computed_traits=["total"],
    )


def test_values_read_by_the_kind_of_their_key(catalog: Catalog) -> None:
    reading = read(catalog, Vip="t", trial=0, total="450.00")
    assert reading.traits == {"vip": True, "trial": False, "total": 450.0}
    assert reading.traits["vip"] is True
    assert reading.text == '{"total":450.0,"trial":false,"vip":true}'
    assert (list(reading.nulls), list(reading.skipped)) == ([], [])
    assert reading.somebody


def test_a_one_is_a_number_where_the_key_is_a_computed_trait(catalog: Catalog) -> None:
    reading = read(catalog, Vip="1", total="1")
    assert reading.text == '{"total":1,"vip":true}'


@pytest.mark.parametrize("null", [None, "", " ", "null"])
def test_rows_without_a_value_are_told_apart(catalog: Catalog, null: object) -> None:
    reading = read(catalog, Vip=null, total=null)
    assert list(reading.nulls) == ["Vip", "total"]
    assert (reading.traits, list(reading.skipped)) == ({}, [])
    assert not reading.somebody


@pytest.mark.parametrize("garbage", ["perhaps", 7, [True], "1.5"])
def test_an_audience_value_that_is_no_boolean_is_skipped(catalog: Catalog, garbage: object) -> None:
    reading = read(catalog, Vip=garbage, trial="true")
    assert list(reading.skipped) == [("Vip", "not a boolean")]
    assert reading.traits == {"trial": True}


def test_keys_with_a_problem_are_skipped_for_it(catalog: Catalog) -> None:
    keys, values = '["Gold Club","gold_club"]', '["true",null]'
    reading = catalog.read(keys, values)
    assert dict(reading.skipped) == catalog.problems
    assert set(catalog.problems.values()) == {"name taken twice"}
    assert (reading.traits, list(reading.nulls)) == ({}, [])
    nameless = catalog_of(booleans("会员")).read('["会员"]', "[true]")
    assert list(nameless.skipped) == [("会员", "no name")]


def test_a_key_that_is_not_ours_is_skipped(catalog: Catalog) -> None:
    reading = read(catalog, plan="true", Vip="f")
    assert list(reading.skipped) == [("plan", "not ours")]
    assert reading.traits == {"vip": False}


@pytest.mark.parametrize(
    ("rows", "somebody"),
    [
        ({"Vip": "true"}, True),
        ({"Vip": "false", "trial": "true"}, True),
        ({"total": "0"}, True),
        ({"total": "false"}, True),
        ({"Vip": "false", "trial": "T"}, True),
        ({"Vip": "1", "trial": 0}, True),
        ({"Vip": "false", "trial": "false"}, False),
        ({"Vip": "0", "trial": "F"}, False),
        ({"Vip": False, "trial": 0}, False),
        ({"Vip": "false", "total": None}, False),
        ({"Vip": "perhaps"}, False),
        ({}, False),
    ],
)
def test_who_is_somebody_to_send(catalog: Catalog, rows: dict[str, object], somebody: bool) -> None:
    """docs/design.md §3.4: in at least one audience, or with a computed trait."""
    assert read(catalog, **rows).somebody is somebody


def test_a_key_that_stands_twice_is_not_read(catalog: Catalog) -> None:
    reading = catalog.read('["Vip","total","Vip"]', '["true","5","false"]')
    assert reading.layout.twice
    assert reading.traits == {}
    assert not read(catalog, Vip="t", total="5").layout.twice


def test_rows_of_different_length_are_an_error(catalog: Catalog) -> None:
    with pytest.raises(SourceError, match="1 values of 2 keys"):
        catalog.read('["Vip","total"]', '["true"]')


def test_equal_rows_are_read_once(catalog: Catalog) -> None:
    assert read(catalog, Vip="t") is read(catalog, Vip="t")
    assert read(catalog, Vip="t") is not read(catalog, Vip="true")


def test_remembered_readings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs, "READINGS", 5000)
    small = catalog_of(booleans("a"))
    first = read(small, a="t")
    assert read(small, a="t") is first
    for value in range(20):
        read(small, a=f"{value}")
    assert read(small, a="t") is not first


def test_a_reading_larger_than_all_that_is_remembered_is_read_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalogs, "READINGS", 5000)
    monkeypatch.setattr(catalogs, "LAYOUTS", 0)
    small = catalog_of([*booleans("a"), seen("total", others=1)], computed_traits=["total"])
    first = read(small, a="t")
    assert read(small, total="x" * 5000).traits == {"total": "x" * 5000}
    assert read(small, a="t").traits == first.traits


@given(st.dictionaries(st.text(max_size=5), st.booleans() | st.integers(-9, 9) | st.text()))
def test_canonical_text_does_not_depend_on_the_order(traits: dict[str, bool | int | str]) -> None:
    turned = dict(reversed(traits.items()))
    assert canonical({**traits}) == canonical({**turned})
    assert json.loads(canonical({**traits})) == traits


# The newest row of a key (docs/design.md §3.1)


def newest_of(*rows: tuple[str, object, object]) -> dict[str, tuple[object, object]]:
    keys, values, times = newest(*(json.dumps([row[n] for row in rows]) for n in range(3)))
    triples = zip(json.loads(keys), json.loads(values), json.loads(times), strict=True)
    return {key: (value, time) for key, value, time in triples}


def test_the_newest_row_of_each_key_counts() -> None:
    rows = newest_of(("a", "old", MAY), ("b", "only", MAY), ("a", "new", JULY), ("a", "mid", JUNE))
    assert rows == {"a": ("new", JULY), "b": ("only", MAY)}


def test_times_are_compared_as_times_not_as_text() -> None:
    later, earlier = "2024-05-01 10:00:00+00:00", "2024-05-01T11:00:00+02:00"
    assert newest_of(("a", "x", later), ("a", "y", earlier)) == {"a": ("x", later)}


@pytest.mark.parametrize("time", [None, "", "soon"])
def test_a_time_that_cannot_be_read_is_oldest(time: str | None) -> None:
    for rows in ([("a", "x", MAY), ("a", "y", time)], [("a", "y", time), ("a", "x", MAY)]):
        assert newest_of(*rows) == {"a": ("x", MAY)}


def test_of_equal_times_the_later_place_counts() -> None:
    """The source orders rows of one time by `seq`."""
    same = "2024-05-01T02:00:00+02:00"
    assert newest_of(("a", "x", MAY), ("a", "y", same)) == {"a": ("y", same)}
    assert newest_of(("a", "x", None), ("a", "y", "soon")) == {"a": ("y", "soon")}


def test_what_newest_gives_reads_without_a_twin(catalog: Catalog) -> None:
    keys, values, _ = newest(
        '["Vip","total","Vip"]', '["true","5","false"]', json.dumps([MAY, MAY, JULY])
    )
    reading = catalog.read(keys, values)
    assert not reading.layout.twice
    assert reading.text == '{"total":5,"vip":false}'
