"""Calls that cannot be stored, as the disk is full: said once, on record, over with new room."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from state import problems
from state.db.database import Database
from state.errors import StateError
from state.queue import Accepted
from syncer.passthrough.inbox import Inbox
from syncer.process.problem import ProblemLog
from syncer.process.supervisor import Supervisor
from tests.support.processes import wait_until
from tests.support.state import NOW, ask


class Disk:
    """The disk of a database: `room` is how many pages more new connections find."""

    def __init__(self, database: Database) -> None:
        self.database, self.room = database, 1 << 20
        event.listen(database.engine, "connect", self._bound)

    def _bound(self, connection: sqlite3.Connection, _record: Any) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + self.room}")

    def has_room_for(self, pages: int) -> None:
        self.room = pages
        self.database.engine.dispose()


def test_calls_that_cannot_be_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "syncer")
    url = f"sqlite:///{tmp_path / 'syncer.db'}"
    call = Accepted("track", os.urandom(500_000), 1, NOW)
    with closing(Database.open(url)) as state, closing(Database.open(url, "queue")) as calls:
        disk = Disk(calls)
        disk.has_room_for(0)
        inbox = Inbox(calls, 1000, on_problem=ProblemLog("inbox", state))
        inbox.start(Supervisor())
        for _ in range(3):
            with pytest.raises(StateError, match="database or disk is full"):
                asyncio.run(inbox.take(call))
        assert inbox.problem is not None
        assert inbox.problem.startswith("cannot store calls: database or disk is full (sqlite://")
        wait_until(lambda: ask(state, problems.active), what="the record")
        (row,) = ask(state, problems.active)
        assert (row.part, row.text) == ("inbox", inbox.problem)

        disk.has_room_for(1 << 20)
        wait_until(lambda: inbox.problem is None, what="room")
        asyncio.run(inbox.take(call))
        wait_until(lambda: not ask(state, problems.active), what="the end on record")
        inbox.stop()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == f"inbox: {row.text}"
    assert len([line for line in lines if line.startswith("inbox: cannot store")]) == 1
