"""Segment's webhook signature over the bytes as they came, and keys
(docs/facts/segment.md §4.7)."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncer.passthrough.signature import Signed, first_element, verify
from tests.support.examples import examples

SECRET = "s3cret"


def sign(data: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), data, hashlib.sha1).hexdigest()


def test_a_known_signature() -> None:
    """RFC 2202, test case 2."""
    header = "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"
    assert verify("Jefe", b"what do ya want for nothing?", header)


@pytest.mark.parametrize(
    "body",
    [b'{"type":"track"}', b'{"a":1.0,"b":"\\u00e9"}', b' { "a" : 1 }\n', b'{"a":[1,2]}', b""],
)
def test_an_object_is_signed_whole(body: bytes) -> None:
    assert verify(SECRET, body, sign(body)) is Signed.WHOLE
    assert verify(SECRET, body, f" {sign(body).upper()} ")
    assert not verify(SECRET, body + b" ", sign(body))


@pytest.mark.parametrize(
    ("body", "first"),
    [
        (b'[{"a":1},{"b":2}]', b'{"a":1}'),
        (b'[{"a":1}]', b'{"a":1}'),
        (b' \n[\t{ "a" : 1.0 }\r\n , {"b":2}] ', b'{ "a" : 1.0 }'),
        (b'[{"a":"]},{[\\""},{}]', b'{"a":"]},{[\\""}'),
        (b'[{"a\\\\":"\\\\","b":[{},[1,2]]},3]', b'{"a\\\\":"\\\\","b":[{},[1,2]]}'),
        (b'[{"a":"\\u005d\\u0022 \xc3\xa9"},1]', b'{"a":"\\u005d\\u0022 \xc3\xa9"}'),
        (b"[[1,2],3]", b"[1,2]"),
        (b'["a,b]" , 3]', b'"a,b]"'),
        (b"[ null ]", b"null"),
        (b"[1]", b"1"),
        (b"[{}]", b"{}"),
        (b'["' + b"\\\\" * 1000 + b'"]', b'"' + b"\\\\" * 1000 + b'"'),
    ],
)
def test_an_array_is_signed_by_its_first_element_or_whole(body: bytes, first: bytes) -> None:
    json.loads(body)
    assert first_element(body) == first
    assert verify(SECRET, body, sign(first)) is Signed.FIRST
    assert verify(SECRET, body, sign(body)) is Signed.WHOLE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{}",
        b'"text"',
        b"[",
        b"[]",
        b"[ ]",
        b"[,1]",
        b"[1",
        b'[{"a":1}',
        b'[{"a":"1]',
        b'["\\"]',
        b'["abc\\',
        b"[}]",
        b"[" * 500 + b"]" * 500,
        b'["' + b"x" * 200_000 + b'"]',
    ],
)
def test_no_first_element(body: bytes) -> None:
    assert first_element(body) is None
    if body.lstrip().startswith(b"["):
        assert not verify(SECRET, body, sign(b""))
        assert verify(SECRET, body, sign(body)) is Signed.WHOLE


@pytest.mark.parametrize("tail", [b'["' + b'\\"' * 250_000, b"[" * 500_000, b"[" + b" " * 500_000])
def test_hostile_arrays_are_answered_at_once(tail: bytes) -> None:
    start = time.perf_counter()
    assert first_element(tail) is None
    assert time.perf_counter() - start < 1  # a milliseconds' matter, unless it is quadratic


@pytest.mark.parametrize(
    "header", [None, "", "0", "g" * 40, "é" * 40, "\ud83d", "0" * 40, "0" * 41]
)
def test_wrong_headers(header: str | None) -> None:
    assert not verify(SECRET, b"{}", header)


def test_wrong_secrets() -> None:
    assert not verify("other", b"{}", sign(b"{}"))
    assert not verify("", b"{}", sign(b"{}", ""))
    assert not verify(SECRET, b"{}", sign(b"{}")[:-1])
    assert not verify(SECRET, b"{}", sign(b"{}") + "0")
    assert not verify(SECRET, b"{}", f"sha1={sign(b'{}')}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}",:\\ aé\n🙂', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(alphabet='[]{}",\\a', max_size=4), inner, max_size=4)
    ),
    max_leaves=10,
)
SPACE = st.text(alphabet=" \t\r\n", max_size=3).map(str.encode)


@examples(40)
@given(
    values=st.lists(JSON, min_size=1, max_size=4),
    space=SPACE,
    ascii_=st.booleans(),
    indent=st.none() | st.integers(0, 2),
)
def test_the_slice_is_what_stands_there(
    values: list[Any], space: bytes, ascii_: bool, indent: int | None
) -> None:
    parts = [json.dumps(value, ensure_ascii=ascii_, indent=indent).encode() for value in values]
    body = space + b"[" + space + (space + b"," + space).join(parts) + space + b"]" + space
    assert first_element(body) == parts[0]
    assert verify(SECRET, body, sign(parts[0]))


@given(body=st.binary(max_size=60) | st.text(alphabet='[]{}",:\\ 1a', max_size=30).map(str.encode))
@example(b"[\\")
def test_anything_is_answered(body: bytes) -> None:
    element = first_element(body)
    assert element is None or element in body
    assert not verify(SECRET, body, "0" * 40)
