"""The JSON of Amberflo's records, read and written so that what others put there stays as it was.

A float keeps some 16 digits, and the quick JSON libraries make one of every long number. Pure.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

import orjson

Record = dict[str, Any]


class Exact(float):
    """A number that as a float would not be written as it was read."""

    text: str

    def __new__(cls, text: str) -> Exact:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __repr__(self) -> str:
        return self.text


def read(body: bytes | str) -> Any:
    """What a JSON text says; ValueError where it is none."""
    text = body if isinstance(body, str) else body.decode()
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("this is nested too deeply") from None


def written(value: Any) -> bytes:
    """The JSON of it, as UTF-8."""
    try:
        return orjson.dumps(value)
    except TypeError:  # a number that is no float, or half of a surrogate pair
        return _spelled(value).encode()


def plain(value: Any) -> Any:
    """A value that was read as other parts of the program take it, who keep and show values: a
    number beyond 64 bits or a float's digits as the nearest float, half of a surrogate pair as a
    mark."""
    if isinstance(value, dict):
        return {plain(name): plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if not value.isascii() else value
    if isinstance(value, Exact) or (isinstance(value, int) and value.bit_length() > 63):
        return float(value.text if isinstance(value, Exact) else str(value))
    return value


def _spelled(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{','.join(f'{json.dumps(k)}:{_spelled(one)}' for k, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_spelled, value))}]"
    return value.text if isinstance(value, Exact) else json.dumps(value)


def _number(text: str) -> float:
    number = float(text)
    return number if repr(number) == text else Exact(text)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_float=_number, parse_constant=_no_number)
