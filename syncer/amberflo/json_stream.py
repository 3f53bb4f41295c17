"""Reads a JSON array of objects as its bytes arrive; the array may be larger than memory. Pure.

A JSON reader needs a whole text. So this module only follows the brackets to find the end of each
object, and gives the object to a reader (codec.py).
"""

from __future__ import annotations

import re
from typing import Any

from syncer.amberflo.codec import read

#: Bytes of one object at most: no customer is larger.
LARGEST = 16 << 20
#: The blanks that JSON allows between its parts.
BLANK = b" \t\n\r"
#: Everything up to the next bracket, including whole strings: what they contain is not a bracket.
_RUN = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)

NOT_OBJECTS = "this is not a JSON array of objects"


class ArrayReader:
    """Reads the array from pieces of any size.

    `whole` is true once the array has ended. If it is false after the last piece, bytes are
    missing.
    """

    def __init__(self) -> None:
        self._rest = b""  # the bytes after the last whole object
        self._seen = 0  # how many of them were searched
        self._depth = 0
        self._before = b""  # the bytes that must precede the next object
        self.whole = False

    def feed(self, piece: bytes) -> list[dict[str, Any]]:
        """Return the objects that this piece completes.

        Raise `ValueError` if the bytes cannot be an array of objects.
        """
        text = self._rest + piece
        objects: list[dict[str, Any]] = []
        start, at = 0, _run_end(text, self._seen)
        # A quote here begins a string whose end has not arrived yet.
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
                    objects.append(_object(text[start:at]))
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
        return objects

    def _expect(self, text: bytes, wanted: bytes) -> None:
        if text.strip(BLANK) != wanted:
            raise ValueError(NOT_OBJECTS)


def _run_end(text: bytes, start: int) -> int:
    match = _RUN.match(text, start)
    assert match is not None  # it matches an empty text as well
    return match.end()


def _object(text: bytes) -> dict[str, Any]:
    value = read(text)
    if not isinstance(value, dict):
        raise ValueError(NOT_OBJECTS)
    return value
