"""Which ids and keys any database can keep."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.ids import LONG_ID, MAX_ID, NO_ID, ODD_ID, WHITE, cleaned, problem, storable


def test_white_space_is_all_that_python_takes_for_it() -> None:
    assert "".join(filter(str.isspace, map(chr, range(sys.maxunicode + 1)))) == WHITE


@pytest.mark.parametrize(
    ("customer_id", "why"),
    [
        *[(id_, NO_ID) for id_ in ("", " ", "\t", "\n", "\u00a0", "\u2003\u3000", "\x1c")],
        *[
            (id_, None)
            for id_ in ("u1", " u1 ", "\tu1", "u\n1", "u\u00a0", "\u200b", "\ufeff", "0")
        ],
        *[(id_, ODD_ID) for id_ in ("a\0b", "\0", "\ud800", "é\udcff", "é\0")],
        *[(id_ * MAX_ID, None) for id_ in ("x",)],
        ("é" * (MAX_ID // 2), None),
        *[(id_, LONG_ID) for id_ in ("x" * (MAX_ID + 1), "é" * (MAX_ID // 2) + "x", "🦊" * 251)],
    ],
)
def test_what_is_no_id(customer_id: str, why: str | None) -> None:
    assert problem(customer_id) == why


@given(st.text(st.characters(), max_size=20))
def test_what_is_an_id_can_be_kept(text: str) -> None:
    assert (problem(text) is None) is (storable(text, MAX_ID) and not text.isspace() and text != "")
    assert storable(cleaned(text), 4 * len(text))
