"""INSERT ... ON CONFLICT, which SQLAlchemy has in the dialect of each kind of database."""

from __future__ import annotations

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_into(table: Table, dialect: str) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that knows conflicts, for the dialect with that name."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
