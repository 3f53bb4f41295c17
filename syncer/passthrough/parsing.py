"""The JSON of a request, as SDKs really send it. Pure.

SDKs send texts that are almost JSON: NaN from Python, half an emoji from JavaScript, bytes in
another encoding. Such a text concerns one event and must not cost the other events of its batch. So
where orjson refuses a body, a lenient reader reads it again. That reader also keeps integers beyond
64 bits, which orjson rounds.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from syncer.errors import SyncerError

#: Bytes that orjson reads in one go: while it reads, every other thread waits.
_AT_ONCE = 1024 * 1024
#: An integer of more digits may be beyond 64 bits.
_LONG_INTEGER = b"0" * 19
#: An integer of still more digits stays text: the time to read it grows with their square.
_TOO_LONG_INTEGER = b"0" * 1001
_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_ZEROS = re.compile(rb"0+")
_BLANK = re.compile(r"[ \t\r\n]*")


class BadRequest(SyncerError):
    """A request that is refused whole: the `status` and the `code` of the answer."""

    def __init__(self, reason: str, *, status: int = 400, code: str = "malformed") -> None:
        super().__init__(reason)
        self.status, self.code = status, code


class SlowToRead(SyncerError):
    """A body that orjson cannot read, not exactly, or not in a short time."""


def parse(body: bytes, *, exactly: bool = True) -> Any:
    """Return the value of a request's body; raise `BadRequest` if it is not JSON at all.

    `exactly` keeps integers beyond 64 bits; without it they may be rounded.
    """
    try:
        return parse_quickly(body, exactly=exactly)
    except SlowToRead:
        pass
    try:
        return _parse_leniently(body)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None


def parse_quickly(body: bytes, *, exactly: bool = True) -> Any:
    """Do as `parse` in at most a millisecond or two for 64 KB, or raise `SlowToRead`."""
    if len(body) > _AT_ONCE or (exactly and _has_long_integer(body)):
        raise SlowToRead
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise SlowToRead from None


def _has_long_integer(body: bytes) -> bool:
    """Return whether the body may contain an integer beyond 64 bits.

    That is a run of 19 digits after a character that may stand before a number. (Ids of as many
    digits are common, in quotes.)
    """
    zeros = body.translate(_AS_ZEROS)
    at = zeros.find(_LONG_INTEGER)
    while at >= 0:
        before = zeros[at - 1 : at]
        if before == b"-":
            before = zeros[at - 2 : at - 1]
        if before in b":[, \t\r\n":
            return True
        run = _ZEROS.match(zeros, at)
        assert run is not None
        at = zeros.find(_LONG_INTEGER, run.end())
    return False


def _parse_leniently(body: bytes) -> Any:
    """Read JSON value by value, so that a large body does not keep other threads waiting.

    Bytes that are not UTF-8 become lone surrogates, as half an emoji does.
    """
    text = body.decode("utf-8-sig", "surrogateescape")
    too_long = _TOO_LONG_INTEGER in body.translate(_AS_ZEROS)
    decoder = json.JSONDecoder(strict=False, parse_int=_integer if too_long else None)
    value, end = _value(text, _skip_blank(text, 0), decoder, levels=2)
    if _skip_blank(text, end) != len(text):
        raise ValueError("more than one value")
    return value


def _value(text: str, at: int, decoder: json.JSONDecoder, levels: int) -> tuple[Any, int]:
    """Return the value at a place of the text, and where it ends.

    The members of objects and arrays of the outer `levels` are read one by one.
    """
    first = text[at : at + 1]
    if first == "{" and levels:
        return _object(text, at, decoder, levels)
    if first == "[" and levels:
        return _array(text, at, decoder)
    _expect(bool(first))
    return decoder.raw_decode(text, at)


def _object(
    text: str, at: int, decoder: json.JSONDecoder, levels: int
) -> tuple[dict[str, Any], int]:
    members: dict[str, Any] = {}
    at = _skip_blank(text, at + 1)
    if text[at : at + 1] == "}":
        return members, at + 1
    while True:
        _expect(text[at : at + 1] == '"')
        name, at = decoder.raw_decode(text, at)
        at = _skip_blank(text, at)
        _expect(text[at : at + 1] == ":")
        members[name], at = _value(text, _skip_blank(text, at + 1), decoder, levels - 1)
        at, ended = _next_member(text, at, "}")
        if ended:
            return members, at


def _array(text: str, at: int, decoder: json.JSONDecoder) -> tuple[list[Any], int]:
    items: list[Any] = []
    at = _skip_blank(text, at + 1)
    if text[at : at + 1] == "]":
        return items, at + 1
    while True:
        item, at = _value(text, at, decoder, 0)
        items.append(item)
        at, ended = _next_member(text, at, "]")
        if ended:
            return items, at


def _next_member(text: str, at: int, close: str) -> tuple[int, bool]:
    """Return where the next member starts, or where all ends, and whether it ends there."""
    at = _skip_blank(text, at)
    if text[at : at + 1] == close:
        return at + 1, True
    _expect(text[at : at + 1] == ",")
    return _skip_blank(text, at + 1), False


def _expect(condition: bool) -> None:
    if not condition:
        raise ValueError("not JSON")


def _skip_blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    assert match is not None
    return match.end()


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) < len(_TOO_LONG_INTEGER) else digits
