"""The one writer of JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.json_text import to_json
from tests.support.examples import examples

#: Keys and numbers as drivers of warehouses give them, beyond what fast libraries take.
NAMES = st.text() | st.integers() | st.booleans() | st.none()
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner, max_size=3),
)


@examples(25)
@given(VALUES)
def test_it_says_what_the_standard_library_says(value: Any) -> None:
    assert json.loads(to_json(value)) == json.loads(json.dumps(value))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({1: "a", False: "b"}, '{"1":"a","false":"b"}'),
        ({None: 2**70}, '{"null":1180591620717411303424}'),
        ({"a": {2.5: []}}, '{"a":{"2.5":[]}}'),
        ({"\ud83d": 1}, '{"\\ud83d":1}'),
    ],
)
def test_names_are_texts(value: Any, text: str) -> None:
    assert to_json(value) == text
