"""A customer's record at Amberflo: what to write, given what is there and what we know. Pure.

PUT replaces the whole record (facts/amberflo.md §1), so what others have put there is read and
written back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import orjson

#: Fields that Amberflo keeps itself.
SERVER_OWNED = {"id", "createTime", "updateTime", "deleteTime", "deactivateTimeStamp"}


class Desired(Protocol):
    """A row of the snapshot that says what a customer shall have (`state.tables.Customer`)."""

    @property
    def customer_id(self) -> str: ...
    @property
    def traits(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def email(self) -> str | None: ...
    @property
    def called(self) -> str | None: ...


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
) -> dict[str, Any]:
    """The record to PUT.

    `traits` are exactly what it shall have of ours; of `owned` names it has nothing else. All other
    traits and fields of `current` stay. Without a `name` or `email` of ours the existing one stays,
    while an `email` of "" takes it away; a customer must have a name, so it falls back to the id.
    """
    there = current or {}
    record = {
        field: value
        for field, value in there.items()
        if field not in SERVER_OWNED and value is not None
    }
    record["customerId"] = customer_id
    record["customerName"] = _name(there, name, customer_id)
    found_email = _email(there, email)
    if found_email:
        record["customerEmail"] = found_email
    else:
        record.pop("customerEmail", None)
    foreign = {key: value for key, value in _traits(there).items() if key not in owned}
    record["traits"] = foreign | _ours(traits, as_strings)
    return record


def to_put(
    current: Mapping[str, Any] | None,
    row: Desired,
    owned: Collection[str],
    *,
    as_strings: bool = False,
) -> dict[str, Any]:
    """The record to PUT for a customer of the snapshot."""
    return merged(
        current,
        customer_id=row.customer_id,
        traits=_wanted(row.traits, row.called),
        name=row.name,
        email=row.email,
        owned={*owned, *_names(row.called)} if row.called else owned,
        as_strings=as_strings,
    )


def differences(
    current: Mapping[str, Any],
    row: Desired,
    owned: Collection[str],
    *,
    as_strings: bool = False,
) -> list[Difference]:
    """What `to_put` would change of a record that is there: name, email, and traits that are ours,
    by name. Traits and fields of others are not looked at."""
    found = []
    name = _name(current, row.name, row.customer_id)
    if name != current.get("customerName"):
        found.append(Difference("customerName", name, current.get("customerName")))
    email = _email(current, row.email) or None
    if email != (current.get("customerEmail") or None):
        found.append(Difference("customerEmail", email, current.get("customerEmail")))
    ours, held = ours_at_amberflo(row, as_strings=as_strings), _traits(current)
    called = _names(row.called)
    drifted = [trait for trait, value in ours.items() if not _alike(value, held.get(trait))]
    drifted += [
        trait
        for trait, value in held.items()
        if trait not in ours and (trait in owned or trait in called) and value is not None
    ]
    found += [Difference(trait, ours.get(trait), held.get(trait)) for trait in sorted(drifted)]
    return found


def ours_at_amberflo(row: Desired, *, as_strings: bool = False) -> Mapping[str, Any]:
    """The traits that are ours, as Amberflo should hold them."""
    return _sent(row.traits, row.called, as_strings)


@lru_cache(4096)
def _sent(traits: str, called: str | None, as_strings: bool) -> Mapping[str, Any]:
    # Kept, because many customers have the same traits.
    return _ours(_wanted(traits, called), as_strings)


def _wanted(traits: str, called: str | None) -> dict[str, Any]:
    """All traits that a customer shall have of ours: what identify calls said is the customer's
    where Engage does not compute a trait of that name."""
    found: dict[str, Any] = orjson.loads(traits)
    if not called:
        return found
    said = {name: value for name, (value, _) in orjson.loads(called).items() if value is not None}
    return said | found


def _names(called: str | None) -> Collection[str]:
    """What identify calls ever set or took away."""
    return orjson.loads(called).keys() if called else ()


def _name(there: Mapping[str, Any], name: str | None, customer_id: str) -> str:
    return name or _text(there.get("customerName")) or customer_id


def _email(there: Mapping[str, Any], email: str | None) -> str | None:
    return _text(there.get("customerEmail")) if email is None else email


def _ours(traits: Mapping[str, Any], as_strings: bool) -> dict[str, Any]:
    """As they are sent. Amberflo's SDKs send no blank or null trait (§1), and one such would cost
    the whole customer."""
    ours = {key: at_amberflo(value, as_strings=as_strings) for key, value in traits.items()}
    return {key: value for key, value in ours.items() if not _blank(value)}


def at_amberflo(value: Any, *, as_strings: bool = False) -> Any:
    """A trait's value as it is sent: `/` and `|` in text become `_`, as Segment's own destination
    does (facts/segment.md §7); with `as_strings` everything is text, as Amberflo's SDKs ask. What
    is no scalar in a list becomes its JSON, and nothing in a list is null."""
    if as_strings and not isinstance(value, str):
        value = orjson.dumps(value).decode()
    if isinstance(value, str):
        return value.replace("/", "_").replace("|", "_")
    if isinstance(value, list):
        return [at_amberflo(_scalar(one)) for one in value if one is not None]
    return value


def _traits(record: Mapping[str, Any]) -> dict[str, Any]:
    found = record.get("traits")
    return found if isinstance(found, dict) else {}


def _alike(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1, and 1 is 1.0, which some servers write as the other."""
    if one is other:
        return True
    if isinstance(one, bool) or isinstance(other, bool):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one == other)


def _scalar(value: Any) -> Any:
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else value


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
