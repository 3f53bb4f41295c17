"""A backup: one SQLite file with both parts of a state, as they are at one moment.

The tables of the two parts stand side by side in it, as they do on PostgreSQL. Its
`application_id` says that it is a backup, so that nobody works on it by mistake.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection

from state.db import metadata, migrations
from state.db.database import BACKUP_ID, Database, beside, sqlite_path
from state.db.install import sync_folder
from state.db.locks import lock
from state.db.schema import PARTS
from state.errors import StateError
from state.transfer import images, rows
from state.transfer.moment import Contents, Moment, contents, moment

#: When the backup was made: epoch milliseconds, in its table `metadata`.
MADE_AT = "backup"


class Steps(NamedTuple):
    """Whom to tell how far it is.

    `begin` gets the name of a stage and its size, `at` how much of it is done. `check` raises where
    it is to end.
    """

    begin: Callable[[str, int], None] = lambda stage, total: None
    at: Callable[[int], None] = lambda done: None
    end: Callable[[], None] = lambda: None
    check: Callable[[], None] = lambda: None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Tell of a stage of which nobody can say how far it is."""
        self.check()
        self.begin(name, 1)
        yield
        self.at(1)
        self.end()

    def pages(self, done: int, total: int) -> None:
        """Tell how many pages are copied, in percent of the stage."""
        self.check()
        self.at(done * 100 // max(total, 1))

    def counter(self) -> Callable[[int], None]:
        """Return a function that is told of more rows."""
        total = 0

        def more(number: int) -> None:
            nonlocal total
            self.check()
            total += number
            self.at(total)

        return more


class Backup(NamedTuple):
    """A backup that was made: where, of when (epoch milliseconds), what it holds, its bytes."""

    file: Path
    made_at: int
    contents: Contents
    size: int


def back_up(
    state: Database,
    queue: Database,
    file: Path,
    now: Callable[[], int],
    *,
    force: bool = False,
    steps: Steps = Steps(),  # noqa: B008
) -> Backup:
    """Make a backup while others may work on the state.

    With `force` it takes the place of an older backup, when it is complete. Where it cannot be
    made, nothing is left of it, and an older one stays as it was.
    """
    _check_place(state, file, force)
    part = file.with_name(f"{file.name}.part")
    with lock(state, "backup"):
        try:
            images.begin(part)
            with moment(state, queue, steps.check) as pair:
                made_at = now()
                held = _write(pair, part, made_at, steps)
            images.finish(part)
            _check_place(state, file, force)
            os.replace(part, file)
            sync_folder(file.parent)
        except OSError as error:
            raise StateError(f"the backup {file} cannot be made: {error.strerror}") from None
        finally:
            with suppress(OSError):
                images.discard(part)
    return Backup(file, made_at, held, file.stat().st_size)


def made_at(file: Path) -> int:
    """Return when a backup was made (epoch milliseconds); raise where the file is none."""
    if not file.is_file():
        raise StateError(f"{file}: there is no such file")
    try:
        with images.reading(file) as source:
            kind = source.exec_driver_sql("PRAGMA application_id").scalar()
            moment = metadata.get(source, MADE_AT) if kind == BACKUP_ID else None
    except StateError as error:
        raise StateError(f"{file} cannot be read as a backup: {error.reason}") from None
    if moment is None:
        raise StateError(f"{file} is not a backup that `syncer state backup` made")
    try:
        return int(moment)
    except ValueError:
        raise StateError(f"{file} is damaged: it does not say when it was made") from None


def _check_place(state: Database, file: Path, force: bool) -> None:
    """Raise where a backup must not be put: what is there is not ours, or is the state's own."""
    if not file.parent.is_dir():
        raise StateError(f"the folder {file.parent} does not exist; make it, or name another")
    if file.is_dir() or (file.exists() and not file.is_file()):
        raise StateError(f"{file} is not a file; name one that does not exist yet")
    path = sqlite_path(state.engine.url)
    own = (path.name, beside(path, "queue").name) if path else ()
    place = Path(os.path.realpath(file))
    if path is not None and place.parent == path.parent and place.name.startswith(own):
        # The files themselves, and those that SQLite and the locks keep beside them.
        raise StateError(
            f"{file} is the state itself, or one of its files, whose names begin with "
            f"{' or '.join(own)}; name another file"
        )
    if not file.exists():
        return
    if not force:
        raise StateError(f"{file} exists already; name another file, or replace it with --force")
    if file.stat().st_size:
        try:
            made_at(file)
        except StateError as error:
            raise StateError(
                f"--force replaces a backup, and nothing else: {error}; name another file"
            ) from None


def _write(pair: Moment, part: Path, made_at: int, steps: Steps) -> Contents:
    """Write both parts into the file; return what it holds, which is what the state held."""
    held = pair.contents()
    if pair.state.dialect.name == "sqlite":
        steps.begin("copying the state, in percent", 100)
        images.copy_pages(pair.state, part, steps.pages)
        steps.end()
        parts = ["queue"]
    else:
        parts = ["state", "queue"]
    with images.writing(part) as target:
        copy_parts(pair, target, parts, held, steps)
        check_equal(held, contents(target, target), part)
        metadata.put(target, MADE_AT, str(made_at))
        target.exec_driver_sql(f"PRAGMA application_id = {BACKUP_ID}")
    return held


def copy_parts(
    pair: Moment, target: Connection, parts: list[str], held: Contents, steps: Steps
) -> None:
    """Make parts in the target, row by row."""
    tables = [table for part in parts for table in PARTS[part]]
    steps.begin("copying rows", sum(held.rows[table.name] for table in tables))
    more = steps.counter()
    for part in parts:
        migrations.create(target, part)
        rows.fill(pair.part(part), target, PARTS[part], more)
    steps.end()


def check_equal(held: Contents, copied: Contents, where: object) -> None:
    """Raise where a copy is not what was copied."""
    if differences := held.differences(copied):
        raise StateError(f"{where} is not what was copied: {'; '.join(differences)}")
