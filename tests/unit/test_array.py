"""The reader of a JSON array that comes in pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.amberflo import json_stream
from syncer.amberflo.json_stream import ArrayReader
from tests.support.examples import examples

#: Text with all that could be taken for the end of something.
texts = st.text(st.sampled_from('ab"\\[]{},: \n\u2028é漢😀\x00') | st.characters(codec="utf-8"))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.lists(st.dictionaries(texts, values, max_size=5), max_size=6)


def read(pieces: Iterable[bytes]) -> tuple[list[dict[str, Any]], bool]:
    reader = ArrayReader()
    return [record for piece in pieces for record in reader.feed(piece)], reader.whole


def cut(text: bytes, places: Iterable[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(ends)]


@examples(25)
@given(objects, st.lists(st.integers(0, 10_000), max_size=20), st.booleans(), st.booleans())
def test_reads_what_was_written_wherever_it_is_cut(
    wanted: list[dict[str, Any]], places: list[int], spread: bool, escaped: bool
) -> None:
    text = json.dumps(wanted, indent=1 if spread else None, ensure_ascii=escaped).encode()
    assert read(cut(b" " + text + b"\n", places)) == (wanted, True)
    assert read(text[at : at + 1] for at in range(len(text))) == (wanted, True)
    for place in places:
        records, whole = read([text[: place % len(text)]])
        assert not whole, "it breaks off"
        assert records == wanted[: len(records)]


def test_an_object_is_there_as_soon_as_it_is_whole() -> None:
    reader = ArrayReader()
    assert reader.feed(b'[{"a": [1, {"b": "}') == []
    assert reader.feed(b'"}]}, {') == [{"a": [1, {"b": "}"}]}]
    assert reader.feed(b"}") == [{}]
    assert not reader.whole
    assert reader.feed(b" ] ") == []
    assert reader.whole


@pytest.mark.parametrize(
    "text",
    [
        b'{"items": []}',
        b"[1, 2]",
        b'["a"]',
        b"[[]]",
        b"[{} {}]",
        b"[{},]",
        b"[,{}]",
        b"[{},,{}]",
        b"[{}, null]",
        b"[null, {}]",
        b"[{}]]",
        b"[] []",
        b"[] x",
        b"[]{}",
        b"x []",
        b"]",
        b'[{"a": 1]',
        b'[{"a": }]',
        b'[{"a": \xff}]',
        b"[]\x0b",
        b"\x0c[]",
        b'[{"a": 1}\x0b]',
    ],
)
def test_what_is_no_array_of_objects_is_refused(text: bytes) -> None:
    for pieces in ([text], [text[at : at + 1] for at in range(len(text))]):
        with pytest.raises(ValueError):  # noqa: PT011 (orjson has its own words)
            read(pieces)


@examples(25)
@given(objects, st.binary(max_size=3), st.data())
def test_takes_nothing_that_json_would_not_take(
    written: list[dict[str, Any]], noise: bytes, data: st.DataObject
) -> None:
    """A text with bytes put in or taken out: either both read the same, or ours says it is bad or
    broke off."""
    text = json.dumps(written).encode()
    at = data.draw(st.integers(0, len(text)))
    to = data.draw(st.integers(at, min(len(text), at + 3)))
    text = text[:at] + noise + text[to:]
    try:
        records, whole = read(cut(text, [at]))
    except ValueError:
        return
    if whole:
        assert records == json.loads(text)


def test_no_more_is_kept_than_one_object_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "LARGEST", 1000)
    reader = ArrayReader()
    reader.feed(b"[")
    for number in range(1000):
        assert reader.feed(b'{"a": "%0500d"},' % number) == [{"a": f"{number:0500d}"}]
    with pytest.raises(ValueError, match="larger than 1,000 bytes"):
        reader.feed(b'{"a": "' + b"a" * 1000)
