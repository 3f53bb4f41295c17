"""What a customer of the snapshot should have at Amberflo, and where a record differs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from sys import getsizeof
from typing import Any, Protocol

import orjson

from state import identify_traits
from syncer.amberflo.record import (
    Difference,
    alike,
    as_sent,
    at_amberflo,
    email_of,
    is_protected,
    merged,
    name_of,
    traits_of,
)
from syncer.cache import Cache

#: What is sent for the traits of customers: many have the same. And the bytes of a value beside its
#: text.
_SENT: Cache[tuple[str, bool, tuple[str, ...]], Mapping[str, Any]] = Cache(8 << 20)
_VALUE = 150


class Desired(Protocol):
    """A row of the snapshot that says what a customer shall have (`state.db.models.Customer`)."""

    @property
    def customer_id(self) -> str: ...
    @property
    def traits(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def email(self) -> str | None: ...
    @property
    def identify_traits(self) -> str | None: ...
    @property
    def given_back(self) -> str | None: ...


def to_put(
    current: Mapping[str, Any] | None,
    row: Desired,
    owned: Collection[str],
    *,
    as_strings: bool = False,
    protected: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the record to PUT for a customer of the snapshot.

    A trait that is given back is in it as it was found; later records leave it to others.
    """
    given_back = _given_back(row)
    held = traits_of(current or {})
    record = merged(
        current,
        customer_id=row.customer_id,
        traits={},
        name=row.name,
        email=row.email,
        owned={*owned, *_taken_away(held, row.identify_traits), *given_back}
        if row.identify_traits or given_back
        else owned,
        as_strings=as_strings,
        protected=protected,
    )
    record["traits"] |= ours_at_amberflo(row, owned, as_strings=as_strings, protected=protected)
    record["traits"] |= {
        trait: value
        for trait, value in given_back.items()
        if value is not None and not is_protected(trait, protected)
    }
    return record


def differences(
    current: Mapping[str, Any],
    row: Desired,
    owned: Collection[str],
    *,
    as_strings: bool = False,
    protected: tuple[str, ...] = (),
) -> list[Difference]:
    """Return where an existing record is not what `to_put` makes of it.

    Compared are the name, the email, and the traits that are ours, in order of their names. Traits
    and fields of others are not compared, and values are equal as Amberflo may store them
    (`alike`).
    """
    drifts = []
    name = name_of(current, row.name, row.customer_id)
    if name != current.get("customerName"):
        drifts.append(Difference("customerName", name, current.get("customerName")))
    email = email_of(current, row.email) or None
    if email != (current.get("customerEmail") or None):
        drifts.append(Difference("customerEmail", email, current.get("customerEmail")))
    drifts += trait_differences(
        traits_of(current), row, owned, as_strings=as_strings, protected=protected
    )
    return drifts


def compared_names(
    row: Desired,
    owned: Collection[str],
    *,
    as_strings: bool = False,
    protected: tuple[str, ...] = (),
) -> list[str]:
    """Return the traits and fields that `differences` compares of a customer, whatever is there."""
    ours = ours_at_amberflo(row, owned, as_strings=as_strings, protected=protected)
    return [*ours, "customerName", *(["customerEmail"] if row.email else [])]


def trait_differences(
    traits: Mapping[str, Any],
    row: Desired,
    owned: Collection[str],
    *,
    as_strings: bool = False,
    protected: tuple[str, ...] = (),
) -> list[Difference]:
    """Return the same for the traits of a record alone."""
    ours = ours_at_amberflo(row, owned, as_strings=as_strings, protected=protected)
    held = {trait: value for trait, value in traits.items() if not is_protected(trait, protected)}
    gone = _taken_away(traits, row.identify_traits) if row.identify_traits else ()
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
    """Return our traits as Amberflo should hold them; `owned` names are Engage's alone."""
    if not row.identify_traits:
        asked = row.traits, as_strings, protected
        return _SENT.get(asked) or _remember_sent(asked)
    return as_sent(_wanted(row, owned), as_strings, protected)


def _remember_sent(asked: tuple[str, bool, tuple[str, ...]]) -> Mapping[str, Any]:
    text, as_strings, protected = asked
    sent = as_sent(orjson.loads(text), as_strings, protected)
    return _SENT.put(asked, sent, 2 * getsizeof(text) + getsizeof(sent) + _VALUE * len(sent))


def _wanted(row: Desired, owned: Collection[str]) -> dict[str, Any]:
    """Return all traits that a customer should have from us.

    A value of an identify call counts if Engage does not compute a trait of that name for any
    customer (`owned`, less what was given back since).
    """
    traits: dict[str, Any] = orjson.loads(row.traits)
    if not row.identify_traits:
        return traits
    free = orjson.loads(row.given_back) if row.given_back else ()
    identified = {
        name: value
        for name, value in identify_traits.values(row.identify_traits).items()
        if name not in owned or name in free
    }
    return identified | traits


def _given_back(row: Desired) -> dict[str, Any]:
    """Return the traits that are not ours any more, with what others had there (None: nothing).

    What identify calls said of such a name since then is the customer's.
    """
    if not row.given_back:
        return {}
    values: dict[str, Any] = orjson.loads(row.given_back)
    identified = identify_traits.in_force(row.identify_traits)
    return {name: value for name, value in values.items() if name not in identified}


def _taken_away(traits: Mapping[str, Any], identified: str | None) -> Collection[str]:
    """Return the names of traits that identify calls removed, if the value may be ours."""
    return {
        name
        for name, written in identify_traits.removed(identified)
        if name in traits
        and (written is True or any(_is_held(value, traits[name]) for value in written or ()))
    }


def _is_held(value: Any, held: Any) -> bool:
    return alike(at_amberflo(value), held)
