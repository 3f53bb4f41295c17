"""A customer's record at Amberflo: what to write, given what is there and what we know. Pure.

PUT replaces the whole record (docs/facts/amberflo.md §1.4), so what others have put there is read
and written back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from functools import lru_cache
from sys import getsizeof
from typing import Any, NamedTuple, Protocol

import orjson

from state import identify_traits
from syncer.amberflo.codec import read, written
from syncer.cache import Cache

#: Fields that Amberflo keeps itself.
SERVER_OWNED = {"id", "createTime", "updateTime", "deleteTime", "deactivateTimeStamp"}
#: How JSON writes a number; "007" and "1e5 " are texts.
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")

#: What was to be sent for the traits of customers: many have the same. Of a value, the bytes beside
#: its text.
_SENT: Cache[tuple[str, bool, tuple[str, ...]], Mapping[str, Any]] = Cache(8 << 20)
_VALUE = 150


class Desired(Protocol):
    """A row of the snapshot that says what a customer shall have (`state.db.tables.Customer`)."""

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
    @property
    def given_back(self) -> str | None: ...


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
    record["customerName"] = _name(there, name, customer_id)
    found_email = _email(there, email)
    if found_email:
        record["customerEmail"] = found_email
    else:
        record.pop("customerEmail", None)
    foreign = {
        key: value
        for key, value in _traits(there).items()
        if key not in owned or is_protected(key, protected)
    }
    record["traits"] = foreign | _ours(traits, as_strings, protected)
    return record


def to_put(
    current: Mapping[str, Any] | None,
    row: Desired,
    owned: Collection[str],
    *,
    as_strings: bool = False,
    protected: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The record to PUT for a customer of the snapshot. What is given back is in it as it was
    found: the next records leave it to others."""
    given_back = _given_back(row)
    there = _traits(current or {})
    record = merged(
        current,
        customer_id=row.customer_id,
        traits=_wanted(row, owned),
        name=row.name,
        email=row.email,
        owned={*owned, *_taken_away(there, row.called), *given_back}
        if row.called or given_back
        else owned,
        as_strings=as_strings,
        protected=protected,
    )
    record["traits"] |= {
        trait: value
        for trait, value in given_back.items()
        if value is not None and not is_protected(trait, protected)
    }
    return record


def holds_already(current: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether a record that is there is what `to_put` made of it, its traits as Amberflo may store
    values. Name and email are texts: those count as they are written."""
    there, wanted = _traits(current), _traits(record)
    return all(
        (current.get(field) or None) == (record.get(field) or None)
        for field in ("customerName", "customerEmail")
    ) and all(alike(there.get(name), wanted.get(name)) for name in {*there, *wanted})


def without_nulls(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record to PUT, less what others left in its traits without a value."""
    traits = {name: value for name, value in _traits(record).items() if value is not None}
    return {**record, "traits": traits}


def differences(
    current: Mapping[str, Any],
    row: Desired,
    owned: Collection[str],
    *,
    as_strings: bool = False,
    protected: tuple[str, ...] = (),
) -> list[Difference]:
    """Where a record that is there is not what `to_put` makes of it: name, email, and traits that
    are ours, by name. Traits and fields of others are not looked at, and values are equal as
    Amberflo may store them (`alike`)."""
    found = []
    name = _name(current, row.name, row.customer_id)
    if name != current.get("customerName"):
        found.append(Difference("customerName", name, current.get("customerName")))
    email = _email(current, row.email) or None
    if email != (current.get("customerEmail") or None):
        found.append(Difference("customerEmail", email, current.get("customerEmail")))
    found += trait_differences(
        _traits(current), row, owned, as_strings=as_strings, protected=protected
    )
    return found


def trait_differences(
    there: Mapping[str, Any],
    row: Desired,
    owned: Collection[str],
    *,
    as_strings: bool = False,
    protected: tuple[str, ...] = (),
) -> list[Difference]:
    """The same of the traits `there` alone."""
    ours = ours_at_amberflo(row, owned, as_strings=as_strings, protected=protected)
    held = {trait: value for trait, value in there.items() if not is_protected(trait, protected)}
    gone = _taken_away(there, row.called) if row.called else ()
    owned = set(owned).difference(_given_back(row)) if row.given_back else owned
    drifted = [trait for trait, value in ours.items() if not alike(value, held.get(trait))]
    drifted += [
        trait
        for trait, value in held.items()
        if trait not in ours and (trait in owned or trait in gone) and value is not None
    ]
    return [Difference(trait, ours.get(trait), held.get(trait)) for trait in sorted(drifted)]


def ours_at_amberflo(
    row: Desired,
    owned: Collection[str],
    *,
    as_strings: bool = False,
    protected: tuple[str, ...] = (),
) -> Mapping[str, Any]:
    """The traits that are ours, as Amberflo should hold them; `owned` names are Engage's alone."""
    if not row.called:
        asked = row.traits, as_strings, protected
        return _SENT.get(asked) or _remember_sent(asked)
    return _ours(_wanted(row, owned), as_strings, protected)


def _remember_sent(asked: tuple[str, bool, tuple[str, ...]]) -> Mapping[str, Any]:
    text, as_strings, protected = asked
    found = _ours(orjson.loads(text), as_strings, protected)
    return _SENT.put(asked, found, 2 * getsizeof(text) + getsizeof(found) + _VALUE * len(found))


@lru_cache(4096)
def is_protected(trait: str, protected: tuple[str, ...]) -> bool:
    """Whether a trait is never written or removed; `protected` are names or globs."""
    return any(fnmatchcase(trait, one) for one in protected)


def _wanted(row: Desired, owned: Collection[str]) -> dict[str, Any]:
    """All traits that a customer shall have of ours: what identify calls said is the customer's
    where Engage does not compute a trait of that name, for whomever (`owned`, less what was given
    back since)."""
    found: dict[str, Any] = orjson.loads(row.traits)
    if not row.called:
        return found
    free = orjson.loads(row.given_back) if row.given_back else ()
    told = {
        name: value
        for name, value in identify_traits.values(row.called).items()
        if name not in owned or name in free
    }
    return told | found


def _given_back(row: Desired) -> dict[str, Any]:
    """Traits that are ours no more, with what others had there (None: nothing). What identify calls
    say of such a name since is the customer's."""
    if not row.given_back:
        return {}
    found: dict[str, Any] = orjson.loads(row.given_back)
    said = identify_traits.in_force(row.called)
    return {name: value for name, value in found.items() if name not in said}


def _taken_away(there: Mapping[str, Any], said: str | None) -> Collection[str]:
    """The names of traits `there` that identify calls took away, where the value may be ours."""
    return {
        name
        for name, written in identify_traits.removed(said)
        if name in there
        and (written is True or any(_is_there(one, there[name]) for one in written or ()))
    }


def _is_there(value: Any, found: Any) -> bool:
    return alike(at_amberflo(value), found)


def _name(there: Mapping[str, Any], name: str | None, customer_id: str) -> str:
    if name is None:
        name = _text(there.get("customerName"))
    return name or customer_id


def _email(there: Mapping[str, Any], email: str | None) -> str | None:
    return _text(there.get("customerEmail")) if email is None else email


def _ours(
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


def _traits(record: Mapping[str, Any]) -> dict[str, Any]:
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
