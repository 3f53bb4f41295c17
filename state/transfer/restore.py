"""Put a backup in place of a state."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.engine import URL

from state import restored, suppression
from state.db import metadata, migrations
from state.db.database import (
    Database,
    beside,
    engine_of,
    resolved,
    sqlite_path,
)
from state.db.install import Plan, carry_out, drop_plan, plan_file, write_plan
from state.db.locks import alone
from state.db.schema import PARTS
from state.errors import Locked, StateError
from state.restored import Restored
from state.transfer import backup, images, rows
from state.transfer.backup import MADE_AT, Steps
from state.transfer.copying import new_file, proved, put_into_server
from state.transfer.moment import Contents, Moment, contents

#: Seconds that commands which only read get to end.
PATIENCE = 3.0


class Outcome(NamedTuple):
    """A state that was restored: of when it is (epoch milliseconds), what it holds.

    `kept` is the file of the state that it replaced, None where there was none. `forgotten` are the
    customers in it that the old state had forgotten since, and that will be forgotten again; None
    where the old state cannot tell.
    """

    made_at: int
    contents: Contents
    kept: Path | None
    forgotten: int | None


def restore(
    url: URL,
    file: Path,
    now: Callable[[], int],
    steps: Steps = Steps(),  # noqa: B008
) -> Outcome:
    """Put a backup in place of the state at a URL, which is kept under another name.

    Nothing is replaced before the backup was read whole and checked: its pages, its version, the
    chain of its history. Nobody may use the state. A server's database must be empty.
    """
    made_at = backup.made_at(file)
    database = Database(engine_of(resolved(url), "state"))
    path = sqlite_path(database.engine.url)
    with closing(database), alone(database):
        if path is None:
            return _restore_to_server(database.engine.url, file, made_at, now(), steps)
        if plan_file(path).exists():
            raise StateError(
                f"files of {path} were being exchanged when that was cut off: "
                "`syncer state restore --finish` comes first"
            )
        new = {"state": new_file(path), "queue": new_file(beside(path, "queue"))}
        try:
            held = _make(file, new["state"], new["queue"], steps)
            forgotten = _settle(new["state"], path, Restored(now(), made_at))
            for made in new.values():
                images.finish(made)
            kept = _exchange(path, new, now())
        except OSError as error:
            raise StateError(f"{path} cannot be written: {error.strerror}") from None
        finally:
            if not plan_file(path).exists():
                with suppress(OSError):
                    for made in new.values():
                        images.discard(made)
    return Outcome(made_at, held, kept, forgotten)


def finish(url: URL) -> Plan:
    """Finish a restore, or a copy to a file, that was cut off while it exchanged files.

    Return what was to be exchanged: nothing, where the old files were not touched yet.
    """
    database = Database(engine_of(resolved(url), "state"))
    path = sqlite_path(database.engine.url)
    with closing(database), alone(database):
        if path is None or not plan_file(path).exists():
            raise StateError("no restore was cut off: there is nothing to finish")
        plan = carry_out(path)
        for place in (path, beside(path, "queue")):
            images.discard(new_file(place))
    return plan


# The backup


def _check_pages(connection: Connection, where: object, steps: Steps) -> None:
    """Raise where a SQLite database is damaged."""
    with steps.stage("checking the pages"):
        problem = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
    if problem != "ok":
        raise StateError(f"{where} is damaged: {' '.join(str(problem).split())}")


def _make(file: Path, state: Path, queue: Path, steps: Steps) -> Contents:
    """Make both files of a state from a backup, and check them; return what they hold."""
    for new in (state, queue):
        images.begin(new)
    steps.begin("reading the backup, in percent", 100)
    with images.reading(file) as source:
        images.copy_pages(source, state, steps.pages)
    steps.end()
    with images.writing(state) as target:
        _check_pages(target, file, steps)
        for part in PARTS:
            migrations.create(target, part)
        proved(target, file, steps)
        held = contents(target, target)
    with images.reading(state) as source, images.writing(queue, "queue") as target:
        migrations.create(target, "queue")
        rows.fill(source, target, PARTS["queue"], lambda rows: steps.check())
    with images.writing(state) as target:
        for table in PARTS["queue"]:
            table.drop(target)
        target.exec_driver_sql(f"DROP TABLE {migrations.record_of('queue')}")
    return held


def _settle(new: Path, old: Path, mark: Restored) -> int | None:
    """Make the new file a state that goes on from where the old one is."""
    with images.writing(new) as target:
        target.exec_driver_sql("PRAGMA application_id = 0")
        metadata.drop(target, MADE_AT)
        restored.note(target, mark)
        if not old.exists():
            return None
        with (
            suppress(StateError),
            closing(Database.peek(images.url_of(old))) as database,
            database.read() as source,
        ):
            return suppression.carry_over(source, target, mark.at)
    return None


# The exchange


def _exchange(path: Path, new: dict[str, Path], now: int) -> Path | None:
    """Put the new files in place of the old ones, which nobody may use."""
    places = {"state": path, "queue": beside(path, "queue")}
    kept = _free_name(path, datetime.fromtimestamp(now // 1000, UTC))
    names = {"state": kept, "queue": beside(kept, "queue")}
    put = [(str(new[part]), str(place)) for part, place in places.items()]
    # With a plan, though it says nothing yet, nobody opens the state any more. Who opened it before
    # is found below.
    write_plan(path, Plan([], []))
    try:
        for place in places.values():
            _leave_by_others(place)
        keep = [
            (str(place) + end, str(names[part]) + end)
            for part, place in places.items()
            for end in ("", "-wal", "-shm")
            if os.path.exists(str(place) + end)
        ]
        write_plan(path, Plan(keep, put))
    except BaseException:
        drop_plan(path)
        raise
    carry_out(path)
    return kept if keep else None


def _free_name(path: Path, moment: datetime) -> Path:
    """Return the name that the old state keeps: two restores in one second have two."""
    start = f"{path.stem}-before-{moment:%Y%m%dT%H%M%SZ}"
    names = (
        path.with_name(f"{start}{again}{path.suffix}")
        for again in chain([""], (f"-{number}" for number in count(2)))
    )
    return next(name for name in names if not name.exists() and not beside(name, "queue").exists())


def _leave_by_others(place: Path) -> None:
    """Raise where another process has a SQLite file open; bring its log into it otherwise.

    Only who has the file alone can take it out of WAL. A file that is so damaged that SQLite cannot
    say is moved away with its log as it is.
    """
    if not place.exists():
        return
    try:
        with closing(sqlite3.connect(place, isolation_level=None, timeout=PATIENCE)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Locked(f"another process has {place} open; wait for its end") from None
    except sqlite3.DatabaseError:
        pass


# A server


def _restore_to_server(url: URL, file: Path, made_at: int, now: int, steps: Steps) -> Outcome:
    with images.reading(file) as source:
        _check_pages(source, file, steps)
        for part in PARTS:
            if migrations.check(source, part) != migrations.newest(part):
                raise StateError(
                    f"{file} is of an older version: restore it to SQLite (state.url), which "
                    "migrates it, and use `syncer state copy --to` from there"
                )
        held = contents(source, source)

        def settle(target: Connection) -> None:
            metadata.drop(target, MADE_AT)
            restored.note(target, Restored(now, made_at))

        put_into_server(Moment(source, source), url, held, settle, steps)
    return Outcome(made_at, held, None, None)
