"""An incremental run at constant change, over populations that grow.

    python -m benchmarks.incremental [--sizes 10000,…,5000000] [--changed 200]
        [--engine postgresql|sqlite] [--runs 3] [--without-indexes]

Makes for each size a space of Profiles Sync with four rows a customer and every tenth profile
merged into another one, with the indexes that `syncer check` names, and a state (SQLite) that knows
all customers. Then changes some customers and times `Runs.sync`, from its start to the commit and
the acknowledgement of what it sent: pull, compare, commit, without requests. One run before those
that count is not counted. PostgreSQL is the one of the tests ($TEST_POSTGRES_URL, else one from the
wheel), with its own settings.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, insert, text
from sqlalchemy.engine import make_url

from state import runs as run_records
from state import snapshot
from state.db.database import Database
from state.db.tables import CUSTOMER
from syncer.engage.profiles_sync import ProfilesSync
from syncer.engage.source import ObservedKey
from syncer.engage.warehouses.postgresql import INDEXES
from syncer.sync.observed_keys import keep_keys
from tests.support import postgres
from tests.support.space import runs_on

LOADED = datetime(2026, 11, 1, tzinfo=UTC)
KEYS = ("vip", "churn", "total", "email")
TYPES = {"postgresql": ("TEXT", "BIGINT", "TIMESTAMPTZ"), "sqlite": ("TEXT", "BIGINT", "DATETIME")}


def fill(connection: Connection, customers: int) -> None:
    """The three tables; the customers are numbers, so that each engine makes its rows itself."""
    engine = connection.dialect.name
    kind, number, moment = TYPES[engine]
    rest = f"seq {number}, received_at {moment}, uuid_ts {moment}, timestamp {moment}"
    for table, own in (
        ("user_traits", f"canonical_segment_id {kind}, name {kind}, value {kind}"),
        ("user_identifiers", f"canonical_segment_id {kind}, type {kind}, value {kind}"),
        ("profile_merges", f"canonical_segment_id {kind}, segment_id {kind}"),
    ):
        connection.execute(text(f"CREATE TABLE {table} ({own}, {rest})"))
    if engine == "postgresql":
        numbers = f"generate_series(0, {customers - 1}) AS numbers(n)"
        hour = f"'{LOADED:%Y-%m-%d}'::timestamptz - (n % 8000) * interval '1 hour'"
    else:
        numbers = (
            "(WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers"
            f" WHERE n < {customers - 1}) SELECT n FROM numbers)"
        )
        hour = f"strftime('%Y-%m-%d %H:%M:%f', '{LOADED:%Y-%m-%d}', -(n % 8000) || ' hours')"
    times = ", ".join([hour] * 3)
    for key, value in (
        ("vip", "CASE WHEN n % 3 = 0 THEN 'true' ELSE 'false' END"),
        ("churn", "CASE WHEN n % 7 = 0 THEN 'true' ELSE 'false' END"),
        ("total", "CAST(n AS TEXT)"),
        ("email", "n || '@example.com'"),
    ):
        connection.execute(
            text(
                f"INSERT INTO user_traits SELECT 'use_' || n, '{key}', {value}, n, {times}"
                f" FROM {numbers}"
            )
        )
    connection.execute(
        text(
            f"INSERT INTO user_identifiers SELECT 'use_' || n, 'user_id', 'u' || n, n, {times}"
            f" FROM {numbers}"
        )
    )
    connection.execute(
        text(
            f"INSERT INTO profile_merges SELECT 'use_' || n, 'old_' || n, n, {times}"
            f" FROM {numbers} WHERE n % 10 = 0"
        )
    )


def index(connection: Connection) -> None:
    for number, (table, column) in enumerate(INDEXES):
        connection.execute(text(f"CREATE INDEX bench_{number} ON {table} ({column})"))


def analyse(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("VACUUM ANALYZE"))


def change(engine: Engine, customers: int, changed: int, at: datetime) -> None:
    """So many customers get another value of `vip`, loaded at that moment."""
    step = customers // changed
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE user_traits SET value = CASE WHEN value = 'true' THEN 'false' ELSE 'true'"
                " END, uuid_ts = :at, timestamp = :at WHERE name = 'vip' AND canonical_segment_id"
                f" IN ({', '.join(repr(f'use_{step * number + 1}') for number in range(changed))})"
            ),
            {"at": at if engine.dialect.name == "postgresql" else f"{at:%Y-%m-%d %H:%M:%S}.000"},
        )


def know(database: Database, customers: int) -> None:
    """The state after a first run over all of them, with the watermark of that moment."""
    with database.write() as connection:
        run = run_records.start(connection, "initial", 1, "{}")
        for first in range(0, customers, 10_000):
            connection.execute(
                insert(CUSTOMER),
                [_known(n, run) for n in range(first, min(first + 10_000, customers))],
            )
        kinds = (("vip", "audience"), ("churn", "audience"), ("total", "computed_trait"))
        snapshot.put_traits(
            connection, [snapshot.TraitRow(key, key, kind, customers // 3) for key, kind in kinds]
        )
        keep_keys(
            connection,
            [ObservedKey(key, customers, customers, 0, 0) for key in ("vip", "churn")]
            + [ObservedKey(key, customers, 0, 2, customers) for key in ("total", "email")],
        )
        values = {"state": "done", "committed_at": 1, "watermark": LOADED.isoformat()}
        run_records.set_values(connection, run, values)


def _known(n: int, run: int) -> dict[str, Any]:
    churn, vip = str(n % 7 == 0).lower(), str(n % 3 == 0).lower()
    return {
        "customer_id": f"u{n}",
        "traits": f'{{"churn":{churn},"total":{n},"vip":{vip}}}',
        "email": f"{n}@example.com",
        "rev": 1,
        "acked_rev": 1,
        "acked_at": 1,
        "compared": run,
    }


@contextmanager
def warehouse(engine: str, folder: Path) -> Iterator[str]:
    if engine == "sqlite":
        yield f"sqlite:///{folder / 'engage.db'}"
        return
    with postgres.server() as server, postgres.database(server) as url:
        yield url


def measure(options: argparse.Namespace, customers: int, folder: Path) -> list[float]:
    with warehouse(options.engine, folder) as url:
        engine = create_engine(url)
        with engine.begin() as connection:
            fill(connection, customers)
            if not options.without_indexes:
                index(connection)
        analyse(engine)
        times = []
        state = f"sqlite:///{folder / 'state.db'}"
        with closing(Database.open(state)) as database:
            know(database, customers)
        with closing(Database.open(state)) as database:
            source = ProfilesSync(make_url(url), overlap=3600.0)
            for number in range(options.runs + 1):
                change(engine, customers, options.changed, LOADED + timedelta(days=1 + number))
                started = time.perf_counter()
                result = runs_on(database, source).sync()
                times.append(time.perf_counter() - started)
                sent = result.delivery.delivered
                assert (result.kind, sent) == ("incremental", options.changed), result
        engine.dispose()
    return times[1:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="10000,100000,1000000,5000000")
    parser.add_argument("--changed", type=int, default=200)
    parser.add_argument("--engine", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--without-indexes", action="store_true")
    options = parser.parse_args()
    medians = []
    for size in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory() as name:
            times = measure(options, size, Path(name))
        medians.append(statistics.median(times))
        print(
            f"{size:>10,} customers, {options.changed} changed: {medians[-1]:.3f} s "
            f"(min {min(times):.3f}, max {max(times):.3f})",
            flush=True,
        )
    print(f"ratio largest/smallest {medians[-1] / medians[0]:.2f}")


if __name__ == "__main__":
    main()
