"""The lines in which work waits, so that nobody's many keep another's few waiting.

Calls wait by the short name of their key. Customers wait in a line that says why they are due: its
first letter is the rank, the name of a key follows. A customer that is due for two reasons waits in
the line that comes first. One that is not due is in RUN.
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
    """The line of what a call of Engage made due."""
    return f"{_MEMBERSHIPS}:{key}"


def identify(key: str, *, trusted: bool) -> str:
    """The line of what a client's call made due; `trusted` is a key that may tell memberships. What
    such a one makes due, no bare key brings back into its own line."""
    return f"{_TRUSTED if trusted else _BARE}:{key}"


def key_of(line: str) -> str:
    """The key of a line; "" is none."""
    return line.partition(":")[2]


def of_customers(found: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of these lines, those that share what there is; and all, in the order in which they may have
    what is left: memberships go before identifies, and runs beside both; what was put off comes
    last."""
    memberships = [line for line in found if line.startswith(_MEMBERSHIPS)]
    identifies = [line for line in found if line.startswith((_TRUSTED, _BARE))]
    runs = [line for line in found if line == RUN]
    put_off = [line for line in found if line == PUT_OFF]
    return (memberships or identifies) + runs, memberships + runs + identifies + put_off


def present(
    connection: Connection, line: ColumnElement[str], *where: ColumnElement[bool]
) -> list[str]:
    """The lines in which something waits. Each is found by itself, in an index that begins with the
    column: there may be a million in one."""
    found: list[str] = []
    first = select(func.min(line)).where(*where)
    one = connection.execute(first).scalar()
    while one is not None:
        found.append(str(one))
        one = connection.execute(first.where(line > one)).scalar()
    return found


def shared(
    first: Sequence[str], rest: Sequence[str], limit: int, take: Callable[[str, int], Sequence[T]]
) -> list[T]:
    """Take up to `limit` things, the same number of each of the `first` lines as far as they have
    so many, then what is left of the `rest` in order. `take` takes up to so many of a line."""
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
    """The line of a customer that becomes due in `line`: where it is due already, the first of the
    two."""
    return case((due_at.is_(None), line), (line < column, line), else_=column)
