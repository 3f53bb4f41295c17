"""The signature of Segment's webhooks. Pure, in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
from enum import IntEnum

#: Bytes and levels of an element: an event has up to 32 KB and 64 levels, and Segment adds fields.
_MAX_ELEMENT = 128 * 1024
_MAX_DEPTH = 128
_BLANK = re.compile(rb"[ \t\r\n]*")
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[\[\]{},]', re.DOTALL)


class Signed(IntEnum):
    """How much of a body its signature covers."""

    NOT, FIRST, WHOLE = range(3)


def verify(secret: str, raw_body: bytes, header: str | None) -> Signed:
    """Return how much of the body `X-Signature`, a hex HMAC-SHA1, covers.

    That is the whole body or, if it is an array, its first element: Segment signs no more of a
    batch. Both count byte by byte as they came.
    """
    signature = (header or "").strip().lower().encode("utf-8", "replace")
    if not secret:
        return Signed.NOT
    if _matches(secret, raw_body, signature):
        return Signed.WHOLE
    first = first_element(raw_body)
    if first is not None and _matches(secret, first, signature):
        return Signed.FIRST
    return Signed.NOT


def _matches(secret: str, signed: bytes, signature: bytes) -> bool:
    expected = hmac.new(secret.encode(), signed, hashlib.sha1).hexdigest().encode()
    return hmac.compare_digest(expected, signature)


def first_element(raw: bytes) -> bytes | None:
    """Return the bytes of the first element of a JSON array.

    None if the body is not an array, the array is empty, or the element is too large or too deep.
    """
    if not _starts_array(raw):
        return None
    start = _end_of_blank(raw, _end_of_blank(raw, 0) + 1)
    depth = 0
    for token in _TOKEN.finditer(raw, start, min(len(raw), start + _MAX_ELEMENT)):
        text = token[0]
        if text in (b"[", b"{"):
            depth += 1
            if depth > _MAX_DEPTH:
                return None
        elif depth == 0 and text in (b",", b"]"):
            return raw[start : token.start()].rstrip(b" \t\r\n") or None
        elif text in (b"]", b"}"):
            depth -= 1
            if depth < 0:
                return None
        elif text[:1] == b'"' and not token[1]:
            return None  # a string without an end
    return None


def _starts_array(raw: bytes) -> bool:
    return raw.startswith(b"[", _end_of_blank(raw, 0))


def _end_of_blank(raw: bytes, start: int) -> int:
    match = _BLANK.match(raw, start)
    assert match is not None
    return match.end()
