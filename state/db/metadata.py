"""Single values of the state by name.

These are the head of the seals, the salt of forgotten ids, the Amberflo account that was delivered
to and since when, the form in which trait values were sent, the keys that the source had, and the
rate of requests while Amberflo slows it.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from state.db.tables import METADATA

#: Which Amberflo account the state is about.
ACCOUNT = "account"
#: The id of the last change before the state came to that account.
LAST_CHANGE_ELSEWHERE = "last_change_elsewhere"
#: How the values of traits were sent (`amberflo.trait_values`) when everybody was sent last.
TRAIT_VALUES = "trait_values"
#: The trait keys of the source, and the forms of their values, as the last full run saw them.
OBSERVED_KEYS = "observed_keys"
#: The rate of requests a second while Amberflo's answers slow it, and when that was written.
PRESENT_RATE = "present_rate"


def get(connection: Connection, name: str) -> str | None:
    """Return a value; None where there is none."""
    value = connection.execute(select(METADATA.c.value).where(METADATA.c.name == name)).scalar()
    return None if value is None else str(value)


def put(connection: Connection, name: str, value: str) -> None:
    """Set a value."""
    done = connection.execute(update(METADATA).where(METADATA.c.name == name).values(value=value))
    if not done.rowcount:
        connection.execute(insert(METADATA).values(name=name, value=value))


def drop(connection: Connection, name: str) -> None:
    """Remove a value."""
    connection.execute(delete(METADATA).where(METADATA.c.name == name))
