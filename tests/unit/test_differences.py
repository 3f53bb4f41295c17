"""What of a customer at Amberflo is not as it should be: exactly what the next PUT would change."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.amberflo.record import Difference
from syncer.delivery.desired import differences, ours_at_amberflo, to_put
from tests.support.examples import examples


class Row(NamedTuple):
    customer_id: str = "u1"
    traits: str = "{}"
    name: str | None = None
    email: str | None = None
    identify_traits: str | None = None
    given_back: str | None = None


OWNED = frozenset({"vip", "gone", "spent"})


def differing(current: dict[str, Any], owned: frozenset[str] = OWNED, **row: Any) -> list[Any]:
    for field in ("traits", "identify_traits", "given_back"):
        if field in row:
            row[field] = orjson.dumps(row[field]).decode()
    return differences(current, Row(**row), owned)


def record(**fields: Any) -> dict[str, Any]:
    return {"customerId": "u1", "customerName": "u1", **fields}


@pytest.mark.parametrize(
    ("stored", "expected", "equal"),
    [
        (True, True, True),
        (True, False, False),
        ("true", True, True),  # a server that keeps only text
        (True, "true", True),
        ("false", False, True),
        ("false", True, False),
        ("True", True, False),
        (1, True, False),
        (0, False, False),
        (False, 0, False),
        (1.0, 1, True),  # JavaScript writes 1 for both
        (1, 1.0, True),
        (12.5, 12.51, False),
        ("12.5", 12.5, True),
        ("5", 5, True),
        ("5.0", 5, True),
        (5, "5.0", True),
        ("5", "5.0", True),
        ("1e2", 100, True),
        ("450.0", 450.0, True),
        ("05", 5, False),  # a postal code
        ("5 ", 5, False),
        ("1", True, False),
        ("12345678901234567891", "12345678901234567892", False),
        ("12345678901234567891", 12345678901234567892, False),
        ("1e99999999999999999999", "1e99999999999999999999", True),
        ("1e99999999999999999999", 5, False),
        ("NaN", "nan", False),
        ("", False, False),
        ("a_b_c", "a/b|c", True),
        ("a/b|c", "a/b|c", False),
        ("A", "a", False),
        ([1, True, "a_b"], [1, True, "a/b"], True),
        (["1", "true", "a_b"], [1, True, "a/b"], True),
        ('[1,"true"]', [1, True], True),
        ("[1", [1], False),
        ([1, 1, "a_b"], [1, True, "a/b"], False),
        ([True, 1], [1, True], False),
        ([1], [1, 2], False),
        (["a"], "a", False),
        (None, True, False),
        ({"a": 1}, True, False),
    ],
)
def test_values_are_equal_as_amberflo_stores_them(stored: Any, expected: Any, equal: bool) -> None:
    drifts = differing(record(traits={"vip": stored}), traits={"vip": expected})
    if equal:
        assert drifts == []
    else:
        (drift,) = drifts
        assert (drift.trait, drift.found) == ("vip", stored)
        row = Row(traits=orjson.dumps({"vip": expected}).decode())
        assert drift.expected == ours_at_amberflo(row, ())["vip"]


def test_traits_that_are_there_or_not() -> None:
    foreign = {"stripeId": "cus_1", "plan": None}
    current = record(traits={"gone": False, "spent": None, **foreign})
    assert differing(current, traits={"vip": True}) == [
        Difference("gone", None, False),
        Difference("vip", True, None),
    ]
    # What an identify call said or took away is ours, too; Engage's value goes before it.
    called = {"plan": ["pro", 5], "left": [None, 6, ["x"]], "vip": [False, 7], "blank": [" ", 8]}
    current = record(traits={"plan": "free", "left": "x", "vip": True, "stripeId": "cus_1"})
    assert differing(current, traits={"vip": True}, identify_traits=called) == [
        Difference("left", None, "x"),
        Difference("plan", "pro", "free"),
    ]


@pytest.mark.parametrize("traits", [{}, {"traits": {}}, {"traits": None}, {"traits": "none"}])
def test_a_record_without_traits_lacks_all(traits: dict[str, Any]) -> None:
    assert differing(record(**traits), traits={"vip": True}) == [Difference("vip", True, None)]
    assert differing(record(**traits)) == []


@pytest.mark.parametrize(
    ("stored", "name", "expected"),
    [
        ("Ada", "Ada", None),
        ("Eve", "Ada", "Ada"),
        ("", "Ada", "Ada"),
        (None, "Ada", "Ada"),
        ("Eve", None, None),  # not ours to say
        ("", None, "u1"),
        (" ", None, "u1"),
        (5, None, "u1"),
        (None, None, "u1"),
    ],
)
def test_the_name(stored: Any, name: str | None, expected: str | None) -> None:
    wanted = [] if expected is None else [Difference("customerName", expected, stored)]
    assert differing(record(customerName=stored), name=name) == wanted


@pytest.mark.parametrize(
    ("stored", "email", "drifts"),
    [
        ("a@b.c", "a@b.c", []),
        ("x@b.c", "a@b.c", [("a@b.c", "x@b.c")]),
        (None, "a@b.c", [("a@b.c", None)]),
        ("", "a@b.c", [("a@b.c", "")]),
        ("x@b.c", None, []),
        ("", None, []),
        (None, None, []),
        ("x@b.c", "", [(None, "x@b.c")]),  # taken away by Segment's delete call
        ("", "", []),
        (None, "", []),
    ],
)
def test_the_email(stored: str | None, email: str | None, drifts: list[Any]) -> None:
    found_by = differing(record(customerEmail=stored), email=email)
    assert found_by == [Difference("customerEmail", *drift) for drift in drifts]


def test_values_as_text() -> None:
    row = Row(traits='{"spent":[1,"a/b"],"vip":true}')
    current = record(traits={"vip": "true", "spent": '[1,"a_b"]', "gone": "x"})
    assert differences(current, row, OWNED, as_strings=True) == [Difference("gone", None, "x")]
    # A setting that is turned makes nobody drift.
    assert differences(current, row, OWNED) == [Difference("gone", None, "x")]


PROTECTED = ("stripeId", "awsm.*")


def test_a_protected_trait_is_nobodys_to_judge() -> None:
    row = Row(traits='{"awsm.customer":"x","stripeId":true,"vip":true}')
    current = record(traits={"stripeId": "cus_1", "vip": False})
    owned = OWNED | {"stripeId", "awsm.customer"}
    drifts = differences(current, row, owned, protected=PROTECTED)
    assert drifts == [Difference("vip", True, False)]
    assert ours_at_amberflo(row, (), protected=PROTECTED) == {"vip": True}
    assert to_put(current, row, owned, protected=PROTECTED)["traits"] == {
        "stripeId": "cus_1",
        "vip": True,
    }


names = st.sampled_from(["vip", "gone", "spent", "plan", "left", "stripeId"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([1.0, 0.5])
    | st.sampled_from(["", " ", "a", "a/b", "a_b", "true"])
)
values = scalars | st.lists(scalars, max_size=3)
texts = st.none() | st.sampled_from(["", " ", "Ada", "a@b.c", "x"])
records = st.fixed_dictionaries(
    {"customerId": st.just("u1")},
    optional={
        "customerName": texts,
        "customerEmail": texts,
        "traits": st.none() | st.dictionaries(names, values, max_size=5),
        "description": texts,
    },
)
rows = st.builds(
    Row,
    traits=st.dictionaries(names, values, max_size=4).map(
        lambda value: orjson.dumps(value).decode()
    ),
    name=texts.filter(lambda text: text != " "),
    email=texts.filter(lambda text: text != " "),
    identify_traits=st.none()
    | st.dictionaries(names, st.tuples(values, st.just(1)), min_size=1, max_size=3).map(
        lambda value: orjson.dumps(value).decode()
    ),
    given_back=st.none(),
)


def plain(value: Any) -> Any:
    """A value whatever way it is stored."""
    if isinstance(value, str):
        try:
            parsed = orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
        return plain(parsed)
    if isinstance(value, list):
        return [plain(element) for element in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def flat(record: dict[str, Any]) -> dict[str, str]:
    """Name, email and traits as JSON texts; what is null, and an email that is blank, is absent."""
    fields = {"customerName": record.get("customerName")}
    fields["customerEmail"] = record.get("customerEmail") or None
    fields |= {
        f"trait {name}": plain(value) for name, value in (record.get("traits") or {}).items()
    }
    return {
        name: orjson.dumps(value).decode() for name, value in fields.items() if value is not None
    }


@examples(25)
@given(records, rows, st.booleans())
def test_it_is_what_the_next_put_would_change(
    current: dict[str, Any], row: Row, as_strings: bool
) -> None:
    put = to_put(current, row, OWNED, as_strings=as_strings)
    drifts = differences(current, row, OWNED, as_strings=as_strings)
    before, after = flat(current), flat(put)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert {drift.trait for drift in drifts} == {name.removeprefix("trait ") for name in changed}
    for drift in drifts:
        at = put if drift.trait.startswith("customer") else put["traits"]
        assert drift.expected == at.get(drift.trait)
    assert differences(put, row, OWNED, as_strings=as_strings) == []


@examples(25)
@given(records, rows, st.dictionaries(st.sampled_from(["stripeId", "other"]), values))
def test_what_others_own_is_nobodys_business(
    current: dict[str, Any], row: Row, foreign: dict[str, Any]
) -> None:
    row = row._replace(traits='{"vip":true}', identify_traits=None)
    edited = {**current, "description": "edited", "enabled": False}
    edited["traits"] = {**(current.get("traits") or {}), **foreign}
    assert differences(edited, row, OWNED) == differences(current, row, OWNED)
