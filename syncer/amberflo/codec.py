"""The JSON of Amberflo's records, read and written so that the values of others stay as they were.

Pure. A float keeps about 16 digits, and fast JSON libraries turn every long number into one.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from syncer.json_text import to_json

Record = dict[str, Any]


class Exact(float):
    """A float that remembers its text: as a plain float it would be written differently."""

    text: str

    def __new__(cls, text: str) -> Exact:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __repr__(self) -> str:
        return self.text


def read(body: bytes | str) -> Any:
    """Return the value of a JSON text; raise `ValueError` if it is not JSON."""
    text = body if isinstance(body, str) else body.decode()
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def written(value: Any) -> bytes:
    """Return the JSON of a value in UTF-8."""
    return to_json(value).encode()


def plain(value: Any) -> Any:
    """Return a value in the plain types that other parts of the program store and show.

    An `Exact` number and an integer beyond 64 bits become the nearest float, and half of a
    surrogate pair becomes "?".
    """
    if isinstance(value, dict):
        return {plain(name): plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if not value.isascii() else value
    if isinstance(value, Exact) or (isinstance(value, int) and value.bit_length() > 63):
        return float(value.text if isinstance(value, Exact) else str(value))
    return value


def _number(text: str) -> float:
    number = float(text)
    return number if repr(number) == text else Exact(text)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_number, parse_constant=_no_number)
