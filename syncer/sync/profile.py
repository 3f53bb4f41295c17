"""The name and email of a customer: of rows and calls the newest counts. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from syncer.clock import since_1970
from syncer.engage.selection import PROFILE_KEYS
from syncer.engage.values import is_null
from syncer.event_times import read_stamps
from syncer.ids import cleaned


class Profile(NamedTuple):
    """A name and an email by the rows, and their times (epoch milliseconds).

    A value is "" if a row takes it away, and None if there is no row or a call said a newer one.
    """

    name: str | None
    email: str | None
    name_at: int
    email_at: int


def newest(rows: list[list[Any]], stamps_text: str | None) -> Profile:
    """Return the newest name and email of the rows (key, value, time).

    `stamps_text` says when calls set them; None: no call counts.
    """
    stamps = {} if stamps_text is None else read_stamps(stamps_text)
    timed = sorted(((since_1970(time), key, value) for key, value, time in rows), key=_at)
    values = {
        key: (value, at) for at, key, value in timed if key not in stamps or at >= stamps[key].at
    }
    (name, name_at), (email, email_at) = (values.get(key, (_NO_ROW, 0)) for key in PROFILE_KEYS)
    return Profile(_text(name), _text(email), name_at, email_at)


def overruled(rows: list[list[Any]], profile: Profile, known: tuple[str | None, ...]) -> bool:
    """Return whether a row says another name or email than is `known`, and an older one.

    The same row counts as soon as it is computed anew.
    """
    taken = dict(zip(PROFILE_KEYS, profile[:2], strict=True))
    before = dict(zip(PROFILE_KEYS, known, strict=True))
    return any(taken[key] is None and _text(value) != (before[key] or "") for key, value, _ in rows)


def changed(known: str | None, pulled: str | None) -> str | None:
    """Return a name or email if it is not the known one; what we never had is not taken away."""
    return None if pulled is None or pulled == (known or "") else pulled


#: Stands for the value of a row that does not exist.
_NO_ROW = object()


def _at(row: tuple[int, str, object]) -> int:
    return row[0]


def _text(value: object) -> str | None:
    if value is _NO_ROW:
        return None
    return "" if is_null(value) else cleaned(str(value))
