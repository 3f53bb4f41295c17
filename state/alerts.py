"""Alerts: what needs a person, from when it is seen until it is over and that was reported.

Times are epoch milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from state.db.tables import ALERT


class AlertRow(NamedTuple):
    """An alert, as the table `alert` has it; see `models.Alert`."""

    name: str
    text: str
    since: int
    ended_at: int | None
    notified_at: int | None
    told: str | None

    def owed(self, channels: Collection[str]) -> list[str]:
        """Return who of the channels is to be told the news, by their marks.

        That an alert began goes to who does not know of it, that it is over to who does.
        """
        know = channels if self.told is None else json.loads(self.told)
        return [mark for mark in channels if (mark in know) == (self.ended_at is not None)]


@dataclass(frozen=True)
class News:
    """What changed: the alerts that began and those that ended, each a text by its name."""

    began: dict[str, str]
    ended: dict[str, str]


def see(connection: Connection, present: Mapping[str, str], now: int) -> News:
    """Record the alerts that are present (texts by name); return what is new and what is over."""
    known = {row.name: row for row in _all(connection)}
    news = News({}, {})
    for name, text in present.items():
        if name not in known:
            connection.execute(insert(ALERT).values(name=name, text=text, since=now, told="[]"))
            news.began[name] = text
        elif known[name].ended_at is not None:
            # It came back before all were told that it was over.
            at = now if known[name].told is None else None
            _set(connection, name, {"text": text, "ended_at": None, "notified_at": at})
            news.began[name] = text
        elif known[name].text != text:
            _set(connection, name, {"text": text})
    for name, row in known.items():
        if name in present or row.ended_at is not None:
            continue
        news.ended[name] = row.text
        if row.told == "[]":
            forget(connection, name)  # nobody was told that it began
        else:
            _set(connection, name, {"ended_at": now, "notified_at": None})
    return news


def active(connection: Connection) -> list[AlertRow]:
    """Return the alerts that are not over, oldest first."""
    return [row for row in _all(connection) if row.ended_at is None]


def unnotified(connection: Connection) -> list[AlertRow]:
    """Return the alerts of which the beginning, or with `ended_at` the end, is not reported yet."""
    return [row for row in _all(connection) if row.notified_at is None]


def told(row: AlertRow, mark: str, channels: Collection[str]) -> AlertRow:
    """Return an alert after one of the channels was told the news of it. Pure."""
    owed = row.owed(channels)
    if row.ended_at is None:
        know = [channel for channel in channels if channel == mark or channel not in owed]
    else:
        know = [channel for channel in owed if channel != mark]
    return row._replace(told=json.dumps(know))


def tell(connection: Connection, row: AlertRow) -> None:
    """Note who knows of an alert."""
    _set(connection, row.name, {"told": row.told})


def notified(connection: Connection, name: str, now: int) -> None:
    """Note that an alert's beginning or end was reported to all."""
    _set(connection, name, {"notified_at": now, "told": None})
    connection.execute(delete(ALERT).where(ALERT.c.name == name, ALERT.c.ended_at.is_not(None)))


def forget(connection: Connection, name: str) -> None:
    """Remove an alert."""
    connection.execute(delete(ALERT).where(ALERT.c.name == name))


def _all(connection: Connection) -> list[AlertRow]:
    columns = [ALERT.c[name] for name in AlertRow._fields]
    rows = connection.execute(select(*columns).order_by(ALERT.c.since, ALERT.c.name))
    return [AlertRow._make(row) for row in rows]


def _set(connection: Connection, name: str, values: Mapping[str, Any]) -> None:
    connection.execute(update(ALERT).where(ALERT.c.name == name).values(**values))
