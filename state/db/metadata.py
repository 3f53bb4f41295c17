"""Single values of the state by name.

These are the head of the seals, the salt of forgotten ids, the Amberflo account that was delivered
to, and the form in which trait values were sent.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from state.db.tables import MEMO

#: Which Amberflo account the state is about.
ACCOUNT = "account"
#: How the values of traits were sent (`amberflo.trait_values`) when everybody was sent last.
TRAIT_VALUES = "trait_values"


def get(connection: Connection, name: str) -> str | None:
    """Return a value; None where there is none."""
    found = connection.execute(select(MEMO.c.value).where(MEMO.c.name == name)).scalar()
    return None if found is None else str(found)


def put(connection: Connection, name: str, value: str) -> None:
    """Set a value."""
    done = connection.execute(update(MEMO).where(MEMO.c.name == name).values(value=value))
    if not done.rowcount:
        connection.execute(insert(MEMO).values(name=name, value=value))


def drop(connection: Connection, name: str) -> None:
    """Remove a value."""
    connection.execute(delete(MEMO).where(MEMO.c.name == name))
