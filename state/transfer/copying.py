"""A state in another database: SQLite or PostgreSQL, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy import Connection, inspect
from sqlalchemy.engine import URL

from state.db import migrations
from state.db.database import Database, beside, engine_of, resolved, sqlite_path
from state.db.driver_errors import shown, translated
from state.db.install import Plan, carry_out, check_installed, write_plan
from state.db.locks import alone
from state.db.schema import PARTS
from state.db.server_check import check_server
from state.errors import StateError
from state.history.proof import Proof, prove
from state.transfer import images
from state.transfer.backup import Steps, check_equal, copy_parts
from state.transfer.moment import Contents, Moment, contents, moment


def copy(
    state: Database,
    queue: Database,
    target: URL,
    steps: Steps = Steps(),  # noqa: B008
) -> Contents:
    """Copy a state to a URL where none is; return what both hold.

    Nobody else may work on the state meanwhile. The copy is there when all of it is, and when it
    was compared: until then PostgreSQL keeps it in a transaction, and SQLite's files have no names
    that anybody looks for.
    """
    with alone(state), moment(state, queue, steps.check) as pair:
        held = pair.contents()

        def check() -> None:
            with moment(state, queue, steps.check) as later:
                if differences := held.differences(later.contents()):
                    raise StateError(
                        f"the state was written to while it was copied ({'; '.join(differences)}):"
                        " stop what uses it, and copy again"
                    )

        if target.get_backend_name() == "postgresql":
            put_into_server(pair, target, held, lambda _target: check(), steps)
        else:
            _put_into_files(pair, target, held, check, steps)
    return held


def put_into_server(
    pair: Moment, url: URL, held: Contents, settle: Callable[[Connection], None], steps: Steps
) -> None:
    """Put both parts into an empty database of a server, in one transaction.

    `settle` is the last that is done in it; what it raises leaves the database empty.
    """
    engine = engine_of(url, "state")
    try:
        with translated(engine.url):
            check_server(engine)
        with translated(engine.url), engine.begin() as target:
            check_empty(target)
            copy_parts(pair, target, [*PARTS], held, steps)
            target.exec_driver_sql("ANALYZE")
            _check_copy(held, target, target, shown(engine.url), steps)
            settle(target)
    finally:
        engine.dispose()


def check_empty(connection: Connection) -> None:
    """Raise where a database has tables of ours."""
    schema = inspect(connection)
    names = [table.name for part in PARTS for table in PARTS[part]]
    for name in [*map(migrations.record_of, PARTS), *names]:
        if schema.has_table(name):
            raise StateError(
                f"the database {shown(connection.engine.url)} is not empty, it has a table {name}: "
                "name a new database"
            )


def _put_into_files(
    pair: Moment, url: URL, held: Contents, check: Callable[[], None], steps: Steps
) -> None:
    database = Database(engine_of(resolved(url), "state"))
    path = sqlite_path(database.engine.url)
    assert path is not None
    places = {"state": path, "queue": beside(path, "queue")}
    new = {part: new_file(place) for part, place in places.items()}
    check_installed(path)
    _check_free(places.values())
    with closing(database), alone(database):
        try:
            for part, file in new.items():
                _put_into_file(pair, part, file, held, steps)
            with images.reading(new["state"]) as state, images.reading(new["queue"]) as queue:
                _check_copy(held, state, queue, path, steps)
            check()
            _check_free(places.values())
            put = [(str(new[part]), str(place)) for part, place in places.items()]
            write_plan(path, Plan([], put))
            carry_out(path)
        except OSError as error:
            raise StateError(f"{path} cannot be made: {error.strerror}") from None
        finally:
            with suppress(OSError):
                for file in new.values():
                    images.discard(file)


def _put_into_file(pair: Moment, part: str, file: Path, held: Contents, steps: Steps) -> None:
    images.begin(file)
    if pair.state.dialect.name == "sqlite":
        steps.begin(f"copying the {part}, in percent", 100)
        images.copy_pages(pair.part(part), file, steps.pages)
        steps.end()
    else:
        with images.writing(file, part) as target:
            copy_parts(pair, target, [part], held, steps)
    images.finish(file)


def new_file(place: Path) -> Path:
    """Return the name of a file until it has its place."""
    return place.with_name(f"{place.name}.new")


def _check_free(places: Iterable[Path]) -> None:
    for place in places:
        if place.exists():
            raise StateError(f"{place} exists already: name another file, or move it away")


def _check_copy(
    held: Contents, state: Connection, queue: Connection, where: object, steps: Steps
) -> None:
    check_equal(held, contents(state, queue), where)
    proof = proved(state, where, steps)
    if proof.head != held.head:
        raise StateError(f"{where} is not what was copied: its history ends with {proof.head}")


def proved(connection: Connection, where: object, steps: Steps) -> Proof:
    """Walk the chain of the history; raise where it does not hold."""
    with steps.stage("checking the history"):
        proof = prove(connection, check=steps.check)
    if proof.broken is not None:
        raise StateError(
            f"the history of {where} is not as it was sealed: {proof.broken.what}; "
            "`syncer audit seal` says more"
        )
    return proof
