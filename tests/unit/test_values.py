"""Trait values and times, read leniently: how Profiles Sync writes them is not documented
(docs/facts/segment.md §1.3)."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncer.engage.values import (
    BYTES,
    CUT_OFF,
    NO_TEXT,
    NO_UNICODE,
    Unreadable,
    boolean,
    elements,
    is_null,
    read_array,
    read_rows,
    typed,
)

#: 2024-05-01T12:30:00Z
NOON = 1_714_566_600_000


# Booleans: true/false/t/f/1/0 (docs/facts/segment.md §1.3)


@pytest.mark.parametrize(
    "raw", [True, 1, 1.0, "true", "TRUE", "True", "t", "T", "1", "1.0", " true ", "\ttrue\n", " 1"]
)
def test_what_says_member(raw: object) -> None:
    assert boolean(raw) is True


@pytest.mark.parametrize(
    "raw",
    [
        False,
        0,
        0.0,
        -0.0,
        "false",
        "FALSE",
        "False",
        "f",
        "F",
        "0",
        "0.0",
        "0.00",
        "\u00a0false ",
        "0\n",
    ],
)
def test_what_says_no_member(raw: object) -> None:
    assert boolean(raw) is False


@pytest.mark.parametrize(
    "raw",
    [
        *(2, -1, 0.5, math.nan, math.inf, None, [], [True], {}, b"1"),
        *("yes", "no", "on", "2", "2.0", "1.5", "1.01", "01", "1.0.0", "tr ue", "", " ", "null"),
    ],
)
def test_what_is_no_membership(raw: object) -> None:
    assert boolean(raw) is None


# Null


@pytest.mark.parametrize("raw", [None, "", " ", "\t\n", "null", " null "])
def test_what_says_no_value(raw: object) -> None:
    assert is_null(raw)


@pytest.mark.parametrize("raw", [0, False, 0.0, "0", "false", "none", "nullable", [], "[]", {}])
def test_what_is_a_value_though_it_looks_empty(raw: object) -> None:
    assert not is_null(raw)


# Computed traits: text that reads as true/false, a number or a JSON list becomes that type; else a
# string (docs/design.md §3.4)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("true", True),
        ("False", False),
        (" TRUE ", True),
        ("0", 0),
        ("5", 5),
        (" 5 ", 5),
        ("-17", -17),
        ("-0", 0),
        ("-0.0", -0.0),
        ("450.00", 450.0),
        ("450.5", 450.5),
        ("1e5", 100000.0),
        ("1E+5", 100000.0),
        ("2.5e-3", 0.0025),
        ("0e-400", 0.0),
        ("9007199254740991", 9007199254740991),
        ("-9007199254740991", -9007199254740991),
        ('["a", "b"]', ["a", "b"]),
        (" [1, 2.5, true, null] ", [1, 2.5, True, None]),
        ('[["a"], {"b": 1}]', [["a"], {"b": 1}]),
        ("[]", []),
    ],
)
def test_text_becomes_the_type_that_it_reads_as(raw: str, value: object) -> None:
    result = typed(raw)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "raw",
    [
        *("premium", "", " ", "t", "f", "yes", "null", "  padded text ", "2024-05-01T12:30:00Z"),
        # no JSON numbers
        *("007", "+5", ".5", "5.", "1e", "0x10", "1_000", "1,000", "--5", "5 6", "-", "١٢"),
        *("NaN", "Infinity", "-Infinity", "inf", "nan"),
        # JSON numbers that would lose digits
        *("9007199254740992", "-9007199254740992", "9007199254740993", "1e16"),
        *("1" * 31, "1" * 4000),
        # … or would be zero
        *("1e-400", "-0.1e-400", "0.1e-999"),
        # text that begins like a list, and JSON that is no list
        *("[1,]", "['a']", "[a]", "[1] [2]", "[NaN]", "[1e400]", '["\\ud800"]', "[VIP] Ada", "{a"),
        *('{"a": 1}', '"a"', "]"),
    ],
)
def test_other_text_stays_as_it_is(raw: str) -> None:
    assert typed(raw) == raw


LISTS = [
    '["sku-1", "sku-2"]',
    "[1.5, -2e9, true, false, null]",
    '{"a": [1, {"b": "\\"]"}], "c": 2}',
]


@pytest.mark.parametrize(
    "raw", [text[:length] for text in LISTS for length in range(1, len(text))] + [" [1, 2 "]
)
def test_a_list_or_object_that_a_warehouse_cut_is_unreadable(raw: str) -> None:
    """The text that is left would be sent as if it were the value."""
    assert typed(raw) == Unreadable(CUT_OFF)


def test_a_long_text_that_begins_like_a_list_is_looked_at_once() -> None:
    assert typed('["' + "a\\" * 100_000) == Unreadable(CUT_OFF)
    assert isinstance(typed("[" * 100_000), Unreadable)


@pytest.mark.parametrize("raw", ["1e400", "-1E999", "1٢", "1.٢", "1e٢"])
def test_text_that_is_nearly_a_number_stays_text(raw: str) -> None:
    """One odd value must not end a run."""
    assert typed(raw) == raw


@pytest.mark.parametrize("raw", [True, False, 0, -3, 4.5, 2**60, ["a", 1], []])
def test_a_value_that_has_a_type_keeps_it(raw: object) -> None:
    result = typed(raw)
    assert result == raw
    assert type(result) is type(raw)


@pytest.mark.parametrize(
    ("raw", "text"),
    [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), ({"a": [1]}, '{"a":[1]}')],
)
def test_what_json_cannot_say_and_objects_become_text(raw: object, text: str) -> None:
    assert typed(raw) == text


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_integers_are_read_back_exactly(number: int) -> None:
    result = typed(str(number))
    assert result == number
    assert type(result) is int


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(450.0)
def test_decimal_numbers_are_read_back_or_stay_text(number: float) -> None:
    text = json.dumps(number)
    assert typed(text) == (number if abs(number) < 2**53 else text)


@given(st.integers(min_value=2**53) | st.integers(max_value=-(2**53)))
def test_integers_that_would_lose_digits_stay_text(number: int) -> None:
    assert typed(str(number)) == str(number)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=4))
def test_lists_are_read_back(values: list[object]) -> None:
    assert typed(json.dumps(values)) == values


@given(st.text(alphabet=st.characters(exclude_characters="0123456789")))
@example("a\ud800")
@example("{\0")
def test_text_without_digits_is_itself_a_boolean_or_a_list(text: str) -> None:
    result = typed(text)
    kept = re.sub("[\0\ud800-\udfff]", "\ufffd", text)  # no database has a NUL or half a pair
    assert result == kept or isinstance(result, bool | list | Unreadable)


# What cannot be read costs itself


def test_bytes_are_no_value() -> None:
    assert typed(BYTES) == Unreadable(NO_TEXT)
    assert boolean(BYTES) is None
    assert not is_null(BYTES)


@pytest.mark.parametrize(
    "odd", ["1e999", "NaN", "Inf", '"\udcff"', '"\\ud800"', "[1, NaN]", '{"a": Inf}']
)
def test_an_element_that_is_no_json_leaves_the_others(odd: str) -> None:
    """An engine's own JSON may be none."""
    text = f'["a,]", {odd} , ["[", 2], {{"b": "}}"}}, null]'
    result = read_array(text)
    assert result == ["a,]", Unreadable(NO_UNICODE), ["[", 2], {"b": "}"}, None]
    assert read_rows(f"[{text},[]]") == [result, []]


@given(st.lists(JSON, max_size=4), st.sampled_from([None, 0, 2]))
def test_the_elements_of_an_array_are_found(values: list[object], indent: int | None) -> None:
    text = json.dumps(values, indent=indent)
    assert [json.loads(element) for element in elements(text)] == values
