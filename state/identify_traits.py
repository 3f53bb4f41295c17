"""The traits of identify calls: the JSON in `customer.identify_traits`. Pure.

`{name: [value, time]}`, with a third item where something else than the value may still be at
Amberflo by us: a list of such values, or true for whatever is there. A null value is one that a
call took away: it removes what we may have written, and nothing that others did. When Amberflo has
acknowledged the customer, only the value is there by us, and the third item goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

#: Earlier values that are remembered of a trait that is changed again and again before it is sent.
_REMEMBERED = 8


class Said(NamedTuple):
    """One trait: its value and when a call said it (epoch milliseconds).

    `written` is what else of us may be at Amberflo.
    """

    value: Any
    at: int
    written: list[Any] | bool = False

    def says(self, value: Any, at: int) -> Said:
        """Return the same trait with another value."""
        if self.written is True or orjson.dumps(value) == orjson.dumps(self.value):
            return self._replace(value=value, at=at)
        written = list(self.written or ())
        if self.value is not None:
            written.append(self.value)
        return Said(value, at, written[-_REMEMBERED:])

    def goes(self, at: int) -> Said:
        """Return the trait as one to remove, whatever is at Amberflo."""
        return Said(None, at, True)


def load(text: str | None) -> dict[str, Said]:
    """Return the traits by name."""
    return {name: Said(*said) for name, said in orjson.loads(text).items()} if text else {}


def dump(traits: dict[str, Said]) -> str | None:
    """Return the JSON of traits; None where there are none."""
    if not traits:
        return None
    short = {name: said if said.written else said[:2] for name, said in traits.items()}
    return orjson.dumps(short, option=orjson.OPT_SORT_KEYS, default=list).decode()


def values(text: str | None) -> dict[str, Any]:
    """Return the values that the customer should have, by name."""
    return {name: said.value for name, said in load(text).items() if said.value is not None}


def in_force(text: str | None) -> set[str]:
    """Return the names of traits that a customer has, or whose removal is not done yet."""
    return {name for name, said in load(text).items() if said.value is not None or said.written}


def removed(text: str | None) -> Iterator[tuple[str, list[Any] | bool]]:
    """Yield the names of traits that calls took away, with what we may have written there.

    That is a list of values, or true for whatever is there.
    """
    for name, said in load(text).items():
        if said.value is None and said.written:
            yield name, said.written


def acknowledged(text: str | None) -> str | None:
    """Return the JSON after Amberflo has taken the customer."""
    if not text or ("]]" not in text and ",true]" not in text):
        return text
    return dump({name: said._replace(written=False) for name, said in load(text).items()})
