"""A customer's record at Amberflo: what to write, given what is there and what we know. Pure.

PUT replaces the whole record (facts/amberflo.md §1), so what others have put there is read and
written back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson

#: Fields that Amberflo keeps itself.
SERVER_OWNED = {"id", "createTime", "updateTime", "deleteTime", "deactivateTimeStamp"}


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
    record["customerName"] = name or _text(there.get("customerName")) or customer_id
    found_email = _text(there.get("customerEmail")) if email is None else email
    if found_email:
        record["customerEmail"] = found_email
    else:
        record.pop("customerEmail", None)
    foreign = {key: value for key, value in (there.get("traits") or {}).items() if key not in owned}
    ours = {key: at_amberflo(value, as_strings=as_strings) for key, value in traits.items()}
    # Amberflo's SDKs send no blank or null trait (§1), and one such would cost the whole customer.
    record["traits"] = foreign | {key: value for key, value in ours.items() if not _blank(value)}
    return record


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


def _scalar(value: Any) -> Any:
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else value


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
