"""A customer's record at Amberflo: how ours is merged into what others have there. Pure.

PUT replaces the whole record (docs/facts/amberflo.md §1.4), so it contains what others have put
there, as it was read. `alike` says which values are equal as Amberflo may store them.
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
#: A number as JSON writes it; "007" and "1e5 " are texts.
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class Difference(NamedTuple):
    """A trait, `customerName` or `customerEmail` with another value than ours; None is absent."""

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
    """Return the record to PUT.

    It has our `traits`, and no other trait with one of the `owned` names. All other traits and
    fields of `current` stay, as does every trait whose name one of the globs `protected` matches.
    Without a `name` or `email` of ours the existing one stays, and "" removes it. A customer must
    have a name, so a missing name becomes the id.
    """
    current = current or {}
    record = {
        field: value
        for field, value in current.items()
        if field not in SERVER_OWNED and value is not None
    }
    record["customerId"] = customer_id
    record["customerName"] = name_of(current, name, customer_id)
    email = email_of(current, email)
    if email:
        record["customerEmail"] = email
    else:
        record.pop("customerEmail", None)
    foreign = {
        key: value
        for key, value in traits_of(current).items()
        if key not in owned or is_protected(key, protected)
    }
    record["traits"] = foreign | as_sent(traits, as_strings, protected)
    return record


def holds_already(current: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Return whether Amberflo's record has the name, the email and the traits of ours already.

    Traits compare as Amberflo may store them (`alike`), name and email as they are written.
    """
    held, wanted = traits_of(current), traits_of(record)
    return all(
        (current.get(field) or None) == (record.get(field) or None)
        for field in ("customerName", "customerEmail")
    ) and all(alike(held.get(name), wanted.get(name)) for name in {*held, *wanted})


def without_nulls(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record to PUT without the traits that others left in it without a value."""
    traits = {name: value for name, value in traits_of(record).items() if value is not None}
    return {**record, "traits": traits}


@lru_cache(4096)
def is_protected(trait: str, protected: tuple[str, ...]) -> bool:
    """Return whether a trait is never written or removed; `protected` are names or globs."""
    return any(fnmatchcase(trait, glob) for glob in protected)


def name_of(current: Mapping[str, Any], name: str | None, customer_id: str) -> str:
    """Return the name that a record shall have: ours, or the existing one, or the id."""
    if name is None:
        name = _text(current.get("customerName"))
    return name or customer_id


def email_of(current: Mapping[str, Any], email: str | None) -> str | None:
    """Return the email that a record shall have: ours, "" for none, or the existing one."""
    return _text(current.get("customerEmail")) if email is None else email


def as_sent(
    traits: Mapping[str, Any], as_strings: bool, protected: tuple[str, ...]
) -> dict[str, Any]:
    """Return traits as they are sent, without those that are blank or null.

    Amberflo's SDKs send no such trait, and with one Amberflo would refuse the whole customer
    (docs/facts/amberflo.md §3).
    """
    ours = {
        key: at_amberflo(value, as_strings=as_strings)
        for key, value in traits.items()
        if not is_protected(key, protected)
    }
    return {key: value for key, value in ours.items() if not _blank(value)}


def at_amberflo(value: Any, *, as_strings: bool = False) -> Any:
    """Return a trait's value as it is sent.

    `/` and `|` in text become `_`, as in Segment's own destination (docs/facts/segment.md §7). With
    `as_strings` every value is text, as Amberflo's SDKs ask. In a list an object or list becomes
    its JSON, and nulls are left out.
    """
    if as_strings and not isinstance(value, str | None):
        value = written(value).decode()
    if isinstance(value, str):
        return value.replace("/", "_").replace("|", "_")
    if isinstance(value, list):
        return [at_amberflo(_scalar(item)) for item in value if item is not None]
    return value


def traits_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the traits of a record; {} if it has none."""
    traits = record.get("traits")
    return traits if isinstance(traits, dict) else {}


def alike(first: Any, second: Any) -> bool:
    """Return whether two values are equal as Amberflo may store them: as JSON or as its text.

    So true equals "true" but not 1, and 5 equals 5.0, "5" and "5.0". Lists compare item by item.
    """
    if first is second:
        return True
    first, second = _of_text(first), _of_text(second)
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(alike, first, second))
    return type(first) is type(second) and bool(first == second)


def _of_text(value: Any) -> Any:
    """Return the boolean, the number or the list of a value or of its text; else the value itself.

    Numbers are decimals: two long ones may differ in a digit that a float does not keep.
    """
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
    except InvalidOperation:  # the exponent is too large
        return text


def _scalar(value: Any) -> Any:
    return written(value).decode() if isinstance(value, dict | list) else value


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
