"""The lanes in which work waits, so that one caller's many never keep another's few waiting.

Calls wait by the short name of their key. A customer waits in a lane that says why it is due: its
first letter is the rank, the name of a key follows. A customer that is due for two reasons waits in
the lane that comes first. One that is not due is in RUN.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, case, func, select

T = TypeVar("T")

#: The line of what runs and people made due.
RUN = "2"
#: The line of those that Amberflo did not take while it took others: each is tried again by itself,
#: now and then, and nobody waits for it.
PUT_OFF = "5"
_MEMBERSHIPS, _TRUSTED, _BARE = "1", "3", "4"


def membership(key: str) -> str:
    """Return the lane of what a call of Engage made due."""
    return f"{_MEMBERSHIPS}:{key}"


def identify(key: str, *, trusted: bool) -> str:
    """Return the lane of what a client's call made due.

    `trusted` is a key that may set memberships. What such a key makes due, no bare key brings back
    into its own lane.
    """
    return f"{_TRUSTED if trusted else _BARE}:{key}"


def key_of(line: str) -> str:
    """Return the key of a lane; "" for none."""
    return line.partition(":")[2]


def of_customers(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the lanes that share the limit, and all lanes in the order in which they get the rest.

    Memberships go before identifies, and runs beside both; what was put off comes last.
    """
    memberships = [line for line in lines if line.startswith(_MEMBERSHIPS)]
    identifies = [line for line in lines if line.startswith((_TRUSTED, _BARE))]
    runs = [line for line in lines if line == RUN]
    put_off = [line for line in lines if line == PUT_OFF]
    return (memberships or identifies) + runs, memberships + runs + identifies + put_off


def present(
    connection: Connection, line: ColumnElement[str], *where: ColumnElement[bool]
) -> list[str]:
    """Return the lanes in which something waits.

    Each is found by itself, in an index that begins with the column: there may be a million rows in
    one.
    """
    lines: list[str] = []
    first = select(func.min(line)).where(*where)
    value = connection.execute(first).scalar()
    while value is not None:
        lines.append(str(value))
        value = connection.execute(first.where(line > value)).scalar()
    return lines


def shared(
    first: Sequence[str], rest: Sequence[str], limit: int, take: Callable[[str, int], Sequence[T]]
) -> list[T]:
    """Take up to `limit` items: the same number of each of the `first` lanes, then of the `rest`.

    `take` returns up to a number of items of a lane. The rest gets what is left, in order.
    """
    taken: list[T] = []
    if first:
        # Where there are more lines than places, each has its turn now and then.
        start = random.randrange(len(first))
        part = max(1, limit // len(first))
        for line in [*first[start:], *first[:start]]:
            taken += take(line, min(part, limit - len(taken))) if len(taken) < limit else ()
    for line in rest:
        taken += take(line, limit - len(taken)) if len(taken) < limit else ()
    return taken


def earlier(column: ColumnElement[Any], due_at: ColumnElement[Any], line: Any) -> Any:
    """Return the lane of a customer that becomes due in `line`.

    Where it is due already, that is the first of the two.
    """
    return case((due_at.is_(None), line), (line < column, line), else_=column)
