"""What a record of a file says: of whom, which traits, when. Pure.

| a record of | has | as in |
|---|---|---|
| a profile | `key`, `external_ids`, maybe `value` and `traits` | downloads of Segment |
| an id | one column, called as the type of the customer id | downloads of one id type |
| a change | `audience_name`, `audience_action`, … | Segment's destination S3 |
| a user | the customer id, and a column for each trait | exports |
| a call | JSON with `context.personas` | logs of Segment |
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import orjson

from syncer.clock import read as read_time
from syncer.engage.calls import identifier, stated
from syncer.engage.selection import PROFILE_KEYS
from syncer.engage.wide import trait_columns
from syncer.errors import SourceError
from syncer.ids import cleaned
from syncer.json_text import printable

USER_ID, ANONYMOUS_ID = "user_id", "anonymous_id"

#: Why a record says nothing.
NO_JSON = "not a JSON object"
NO_RECORD = "neither a call nor a change"
NO_CALL_OF_ENGAGE = "no call of Engage"
NOBODY = "no id"
BAD_ID = "an id that is not usable"
NO_NAME = "no audience_name"
NO_CHANGE = "audience_action is neither true nor false"

#: Typographic quotes, which stand for plain ones in some downloads.
_QUOTES = str.maketrans("“”„‟", '""""')
_SHA256 = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


class Statement(NamedTuple):
    """What a record says of a profile.

    `ids` are its external ids, (type, value) each. `traits` are (key, value) with the value as
    Profiles Sync stores it, None for none. `at` is when that became true (epoch milliseconds); None
    where only the file has a time.
    """

    profile: str
    ids: list[tuple[str, str]]
    traits: list[tuple[str, str | None]]
    at: int | None = None


Values = Mapping[str, Any]
#: Reads a record: what it says, or why it says nothing. Raises `ValueError` if it is damaged.
Layout = Callable[[Values], Statement | str]


class Form(NamedTuple):
    """What records are, by a name that two records share if they are the same, and their layout."""

    name: str
    layout: Layout


class Layouts:
    """Knows what records are by their columns, and what the settings say that no file does.

    `key` is the audience or trait that a list is about, `customer_id` the type of the customer id,
    `named` the keys that the config names.
    """

    def __init__(self, key: str | None, customer_id: str, named: tuple[str, ...] = ()) -> None:
        self._key, self._customer_id = key, customer_id
        self._users = Form("users", _Wide(customer_id, named))

    def of(self, columns: Mapping[str, Any], place: str) -> Form:
        """Return the form of the records with these columns; raise `SourceError` if none fits."""
        if "external_ids" in columns:
            if "value" in columns:
                return self._listed("profiles with a value", _profile_with_value, place)
            return self._listed("profiles", _profile, place)
        if {"audience_name", "audience_action"} <= columns.keys():
            return _CHANGES
        if _is_call(columns):
            return _CALLS
        if [*columns] == [self._customer_id]:
            return self._listed("ids", partial(_one_id, id_type=self._customer_id), place)
        if self._customer_id in columns:
            return self._users
        raise SourceError(
            f"{place} has the columns {', '.join(columns)[:200]}, which say neither who nor what: "
            f"it needs external_ids, {self._customer_id}, or calls of Segment"
        )

    def of_json(self, columns: Mapping[str, Any], place: str, first: Form | None) -> Form:
        """Return the form of a record of JSON, which may have other columns than the `first` one.

        Tools leave out what has no value. Raise `SourceError` if none fits.
        """
        of_users = first is self._users or (first is None and self._key is None)
        if of_users and [*columns] == [self._customer_id]:
            return self._users
        return self.of(columns, place)

    def _listed(
        self, name: str, read: Callable[[Values, str], Statement | str], place: str
    ) -> Form:
        key = self._key
        if key is None:
            raise SourceError(
                f"{place} lists profiles and does not say of which audience or trait; write its "
                'key in engage.files.sets: key = "…"'
            )
        return Form(name, lambda values: read(values, key))


def is_log(columns: Mapping[str, Any]) -> bool:
    """Return whether records with these columns are changes, of which none ends a membership."""
    return "audience_action" in columns or _is_call(columns)


def _is_call(columns: Mapping[str, Any]) -> bool:
    return "type" in columns and bool(columns.keys() & {"userId", "anonymousId", "context"})


# -- downloads of Segment


def _profile(values: Values, key: str) -> Statement | str:
    return _listed(values, key, "true")


def _profile_with_value(values: Values, key: str) -> Statement | str:
    return _listed(values, key, stored(values["value"]))


def _listed(values: Values, key: str, value: str | None) -> Statement | str:
    profile = identifier(values.get("key"))
    if not profile:
        raise ValueError("it has no key of a profile")
    ids = list(_external_ids(values["external_ids"]))
    traits = [(key, value)]
    for name, given in _object(values.get("traits"), "traits").items():
        if name != key:
            traits.append((name, stored(given)))
    return Statement(profile, ids, traits)


def _external_ids(raw: object) -> Iterator[tuple[str, str]]:
    if raw is None or raw == "":
        raise ValueError("it has no external_ids")
    for id_type, values in _object(raw, "external_ids").items():
        for value in values if isinstance(values, list) else [values]:
            if text := identifier(value):
                yield id_type, text


def _object(raw: object, column: str) -> dict[str, Any]:
    """Return a JSON object of a column, also one that was written with typographic quotes."""
    if raw is None or raw == "":
        return {}
    if isinstance(raw, dict):
        return raw
    text = str(raw)
    document = _document(text)
    if document is None:
        document = _document(text.translate(_QUOTES))
    if document is None:
        raise ValueError(f"{column} is no JSON object")
    return document


def _document(text: str) -> dict[str, Any] | None:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _one_id(values: Values, key: str, id_type: str) -> Statement | str:
    value = identifier(values[id_type])
    if not value:
        return NOBODY if value == "" else BAD_ID
    if _SHA256.fullmatch(value):
        raise ValueError(
            "the ids are hashed (SHA-256), so nobody can tell whose they are: download the list "
            "with raw ids"
        )
    return Statement(f"{id_type}:{value}", [(id_type, value)], [(key, "true")])


# -- changes, exports and calls


def _change(values: Values) -> Statement | str:
    action = str(values["audience_action"]).strip().lower()
    if action not in ("true", "false"):
        return NO_CHANGE
    key = str(values["audience_name"] or "").strip()
    if not key:
        return NO_NAME
    ids = _ids({USER_ID: values.get("user_id"), ANONYMOUS_ID: values.get("anonymous_id")})
    if isinstance(ids, str):
        return ids
    traits: list[tuple[str, str | None]] = [(key, action)]
    if email := stored(values.get("email")):
        traits.append(("email", email))
    return Statement(_profile_of(ids), ids, traits, read_time(values.get("timestamp")))


class _Wide:
    """The layout of exports; records of JSON may have other columns each."""

    def __init__(self, id_column: str, named: tuple[str, ...]) -> None:
        self._id_column, self._named = id_column, named
        self._keys: dict[tuple[str, ...], dict[str, str]] = {}

    def __call__(self, values: Values) -> Statement | str:
        ids = _ids({self._id_column: values.get(self._id_column)})
        if isinstance(ids, str):
            return ids
        keys = self._keys_of(tuple(values))
        texts = ((key, stored(values[column])) for column, key in keys.items())
        # A cell without a value says nothing: that a list has none of a user, its absence says.
        traits: list[tuple[str, str | None]] = [(key, text) for key, text in texts if text]
        times = (read_time(values.get(name)) for name in ("timestamp", "received_at"))
        at = next((time for time in times if time is not None), None)
        return Statement(_profile_of(ids), ids, traits, at)

    def _keys_of(self, columns: tuple[str, ...]) -> dict[str, str]:
        keys = self._keys.get(columns)
        if keys is None:
            keys = trait_columns(columns, self._named)
            keys.pop(self._id_column, None)
            if len(self._keys) > 1000:
                self._keys.clear()
            self._keys[columns] = keys
        return keys


def _call(values: Values) -> Statement | str:
    context = values.get("context")
    personas = context.get("personas") if isinstance(context, dict) else None
    if not isinstance(context, dict) or not isinstance(personas, dict):
        return NO_CALL_OF_ENGAGE
    data = values.get("traits" if values["type"] == "identify" else "properties")
    if not isinstance(data, dict):
        data = {}
    said = stated(
        personas.get("computation_class"),
        personas.get("computation_key"),
        values["type"],
        data,
    )
    if isinstance(said, str):
        return said
    ids = _ids({USER_ID: values.get("userId"), ANONYMOUS_ID: values.get("anonymousId")})
    if isinstance(ids, str):
        return ids
    traits = [(said.key, stored(said.value))]
    profile_traits = data if values["type"] == "identify" else context.get("traits")
    if isinstance(profile_traits, dict):
        traits += [
            (key, stored(profile_traits[key])) for key in PROFILE_KEYS if profile_traits.get(key)
        ]
    at = read_time(values.get("timestamp"))
    if at is None:
        at = read_time(values.get("receivedAt"))
    return Statement(_profile_of(ids), ids, traits, at)


_CHANGES, _CALLS = Form("changes", _change), Form("calls", _call)


def _ids(given: Mapping[str, object]) -> list[tuple[str, str]] | str:
    """Return the ids that are set, the first alone if it is: a call is of its user."""
    for id_type, raw in given.items():
        value = identifier(raw)
        if value is None:
            return BAD_ID
        if value:
            return [(id_type, value)]
    return NOBODY


def _profile_of(ids: list[tuple[str, str]]) -> str:
    id_type, value = ids[0]
    return f"{id_type}:{value}"


def stored(value: Any) -> str | None:
    """Return a value as Profiles Sync stores it: text, or JSON of what is none."""
    if value is None:
        return None
    if isinstance(value, str):
        return cleaned(value) if value else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else None
    if isinstance(value, int):
        return str(value)
    return printable(value) if isinstance(value, dict | list) else str(value)
