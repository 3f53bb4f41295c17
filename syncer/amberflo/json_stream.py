"""A JSON array of objects, read as its bytes come: it may be larger than memory. Pure.

A JSON reader wants a whole text. So only the brackets are looked at here, to find where an object
ends, and a reader (record.py) has that.
"""

from __future__ import annotations

import re
from typing import Any

from syncer.amberflo.codec import read

#: Bytes: an object that is larger is none of a customer.
LARGEST = 16 << 20
#: What JSON allows between its parts.
BLANK = b" \t\n\r"
#: All up to the next bracket. Whole strings belong to it: what stands in one is no bracket.
_RUN = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)


class ArrayReader:
    """Feed it the bytes in pieces of any size. `whole` says whether the array has ended; where it
    has not at the end of the bytes, they broke off."""

    def __init__(self) -> None:
        self._rest = b""  # what comes after the last whole object
        self._seen = 0  # how much of it was looked at
        self._depth = 0
        self._before = b""  # what must stand before the next object
        self.whole = False

    def feed(self, piece: bytes) -> list[dict[str, Any]]:
        """The objects that are whole by now and were not before. ValueError when this cannot be an
        array of objects."""
        text = self._rest + piece
        found: list[dict[str, Any]] = []
        start, at = 0, _run_end(text, self._seen)
        # A quote here is a string whose end has not come yet.
        while at < len(text) and text[at] != ord('"'):
            bracket = text[at : at + 1]
            at += 1
            if bracket in b"[{":
                self._depth += 1
                if self._depth == 1:
                    self._expect(text[start:at], b"" if self.whole else b"[")
                    start = at
                elif self._depth == 2:
                    self._expect(text[start : at - 1], self._before)
                    start, self._before = at - 1, b","
            else:
                self._depth -= 1
                if self._depth == 1:
                    found.append(_object(text[start:at]))
                    start = at
                elif self._depth <= 0:
                    self._expect(text[start:at], b"" if self.whole or self._depth < 0 else b"]")
                    start, self.whole = at, True
            at = _run_end(text, at)
        self._rest, self._seen = text[start:], at - start
        if self.whole:
            self._expect(self._rest, b"")
        if len(self._rest) > LARGEST:
            raise ValueError(f"an object is larger than {LARGEST:,} bytes")
        return found

    def _expect(self, text: bytes, wanted: bytes) -> None:
        if text.strip(BLANK) != wanted:
            raise ValueError("this is no JSON array of objects")


def _run_end(text: bytes, start: int) -> int:
    match = _RUN.match(text, start)
    assert match is not None  # it matches nothing, too
    return match.end()


def _object(text: bytes) -> dict[str, Any]:
    found = read(text)
    if not isinstance(found, dict):
        raise ValueError("this is no JSON array of objects")
    return found
