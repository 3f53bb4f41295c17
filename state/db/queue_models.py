"""The tables of the queue of calls, as SQLModel classes; see models.py."""

from __future__ import annotations

from sqlalchemy import Column, Integer, LargeBinary, String, Text
from sqlmodel import Field, SQLModel

from state.db.columns import big, ordered_text, serial


class Inbox(SQLModel, table=True):
    """Accepted requests as they came, until they are processed.

    The requests of one commit by one key are in one row.
    """

    id: int | None = Field(default=None, sa_column=serial())
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    events: int = Field(sa_column=Column(Integer, nullable=False))
    received_at: int = Field(sa_column=big())
    key: str = Field(default="", sa_column=ordered_text(default=""))


class Event(SQLModel, table=True):
    """A meter call that was accepted, by its messageId and its key.

    It is kept for a day, so that a repeat is recognized, and longer while its meter record waits.
    `record` is the frozen record; null once Amberflo has or refused it.
    """

    id: int | None = Field(default=None, sa_column=serial())
    message_id: str = Field(sa_column=Column(Text, nullable=False))
    record: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    received_at: int = Field(sa_column=big())
    due_at: int | None = Field(default=None, sa_column=big(nullable=True))
    attempts: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default="0"))
    claimed_by: int | None = Field(default=None, sa_column=big(nullable=True))
    key: str = Field(default="", sa_column=ordered_text(default=""))


class Counter(SQLModel, table=True):
    """How many calls ended how, for the metrics: counted in the transaction that ended them."""

    name: str = Field(sa_column=Column(String(32), primary_key=True))
    reason: str = Field(sa_column=Column(Text, primary_key=True))
    value: int = Field(sa_column=big())
