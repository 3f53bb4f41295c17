"""The kinds of columns that several models have."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Text, text


def ordered_text(primary_key: bool = False, default: str | None = None) -> Column[str]:
    """Return a text column that sorts in UTF-8 byte order on every engine, for the merge."""
    kind = Text().with_variant(Text(collation="C"), "postgresql")
    return Column(kind, primary_key=primary_key, nullable=False, server_default=default)


def serial() -> Column[int]:
    """Return a number that the database gives out, the primary key."""
    return Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


def big(nullable: bool = False, default: str | None = None) -> Column[int]:
    """Return a number of 64 bits, such as a time; `default` is what the database fills in."""
    return Column(BigInteger, nullable=nullable, server_default=text(default) if default else None)
