"""JSON that is written as it was read."""

from __future__ import annotations

from typing import Any

import pytest

from syncer.amberflo.codec import plain, read, written
from syncer.amberflo.record import alike

TEXTS = [
    '{"a":1,"b":[1.5,true,null,"x"],"é":"ü"}',
    '{"big":123456789012345678901234567890}',
    '{"a":1.10,"b":-0.0,"c":1e400,"d":0.1234567890123456789012}',
    '{"a":"\\ud83d","b":{"c":[2.50]}}',
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_read_is_written_the_same(text: str) -> None:
    assert written(read(text)).decode() == text
    written(plain(read(text)))


@pytest.mark.parametrize("text", ["", "{", "NaN", "[Infinity]", "[" * 100_000, "{'a': 1}", "1 2"])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(text)


@pytest.mark.parametrize(
    ("first", "other", "same"),
    [
        (read("12345678901234567890123"), "12345678901234567890123", True),
        (read("12345678901234567890123"), "12345678901234567890124", False),
        (read("1.10"), "1.1", True),
        (read("1.10"), 1.1, True),
        (read("1e400"), "1E+400", True),
        (read("1e400"), "1e401", False),
        ("[1, 2.0]", [1, 2], True),
    ],
)
def test_numbers_are_compared_by_their_digits(first: Any, other: Any, same: bool) -> None:
    assert alike(first, other) is same
