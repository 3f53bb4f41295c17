"""A customer's record at Amberflo: how ours is merged into what others have there, and which values
are equal as Amberflo may store them. Pure.

PUT replaces the whole record (docs/facts/amberflo.md §1.4), so what others have put there is read
and written back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple

from syncer.amberflo.codec import read, written

#: Fields that Amberflo keeps itself.
SERVER_OWNED = {"id", "createTime", "updateTime", "deleteTime", "deactivateTimeStamp"}
#: How JSON writes a number; "007" and "1e5 " are texts.
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class Difference(NamedTuple):
    """A trait, `customerName` or `customerEmail` that is not what it shall be; None is absent."""

    trait: str
    expected: Any
    found: Any


def merged(
    current: Mapping[str, Any] | None,
    *,
    customer_id: str,
    traits: Mapping[str, Any],
    name: str | None,
    email: str | None,
    owned: Collection[str],
    as_strings: bool = False,
    protected: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The record to PUT.

    `traits` are exactly what it shall have of ours; of `owned` names it has nothing else. All other
    traits and fields of `current` stay, and so does every trait with a name that one of the globs
    `protected` matches, whoever calls it ours. Without a `name` or `email` of ours the existing one
    stays, while "" takes it away; a customer must have a name, so that falls back to the id.
    """
    there = current or {}
    record = {
        field: value
        for field, value in there.items()
        if field not in SERVER_OWNED and value is not None
    }
    record["customerId"] = customer_id
    record["customerName"] = name_of(there, name, customer_id)
    found_email = email_of(there, email)
    if found_email:
        record["customerEmail"] = found_email
    else:
        record.pop("customerEmail", None)
    foreign = {
        key: value
        for key, value in traits_of(there).items()
        if key not in owned or is_protected(key, protected)
    }
    record["traits"] = foreign | as_sent(traits, as_strings, protected)
    return record


def holds_already(current: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether a record that is there is what `to_put` made of it, its traits as Amberflo may store
    values. Name and email are texts: those count as they are written."""
    there, wanted = traits_of(current), traits_of(record)
    return all(
        (current.get(field) or None) == (record.get(field) or None)
        for field in ("customerName", "customerEmail")
    ) and all(alike(there.get(name), wanted.get(name)) for name in {*there, *wanted})


def without_nulls(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record to PUT, less what others left in its traits without a value."""
    traits = {name: value for name, value in traits_of(record).items() if value is not None}
    return {**record, "traits": traits}


@lru_cache(4096)
def is_protected(trait: str, protected: tuple[str, ...]) -> bool:
    """Whether a trait is never written or removed; `protected` are names or globs."""
    return any(fnmatchcase(trait, one) for one in protected)


def name_of(there: Mapping[str, Any], name: str | None, customer_id: str) -> str:
    if name is None:
        name = _text(there.get("customerName"))
    return name or customer_id


def email_of(there: Mapping[str, Any], email: str | None) -> str | None:
    return _text(there.get("customerEmail")) if email is None else email


def as_sent(
    traits: Mapping[str, Any], as_strings: bool, protected: tuple[str, ...]
) -> dict[str, Any]:
    """As they are sent. Amberflo's SDKs send no blank or null trait, and one such would cost
    the whole customer (docs/facts/amberflo.md §3)."""
    ours = {
        key: at_amberflo(value, as_strings=as_strings)
        for key, value in traits.items()
        if not is_protected(key, protected)
    }
    return {key: value for key, value in ours.items() if not _blank(value)}


def at_amberflo(value: Any, *, as_strings: bool = False) -> Any:
    """A trait's value as it is sent: `/` and `|` in text become `_`, as Segment's own destination
    does (docs/facts/segment.md §7); with `as_strings` everything is text, as Amberflo's SDKs ask.
    What is no scalar in a list becomes its JSON, and nothing in a list is null."""
    if as_strings and not isinstance(value, str | None):
        value = written(value).decode()
    if isinstance(value, str):
        return value.replace("/", "_").replace("|", "_")
    if isinstance(value, list):
        return [at_amberflo(_scalar(one)) for one in value if one is not None]
    return value


def traits_of(record: Mapping[str, Any]) -> dict[str, Any]:
    found = record.get("traits")
    return found if isinstance(found, dict) else {}


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same as Amberflo may store them: as JSON, or as the text of it.
    So true is "true" and not 1, and 5 is 5.0, "5" and "5.0"; lists are the same item by item."""
    if one is other:
        return True
    one, other = _of_text(one), _of_text(other)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return type(one) is type(other) and bool(one == other)


def _of_text(value: Any) -> Any:
    """What a value's text says, where it is that of a boolean, a number or a list; numbers as
    decimals: two long ones may differ in a digit that a float does not keep."""
    if isinstance(value, bool | None):
        return value
    if isinstance(value, int | float):
        return _decimal(str(value))
    if not isinstance(value, str):
        return value
    if value in ("true", "false"):
        return value == "true"
    if _NUMBER.fullmatch(value):
        return _decimal(value)
    if value.startswith("[") and value.endswith("]"):
        try:
            return read(value)
        except ValueError:
            return value
    return value


def _decimal(text: str) -> Decimal | str:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond all bounds
        return text


def _scalar(value: Any) -> Any:
    return written(value).decode() if isinstance(value, dict | list) else value


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
