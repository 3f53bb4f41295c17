"""The place of a scenario: both stand-ins, the files, what is true there, and what can befall it.

The parent holds no connection to a database while it forks.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Self

from sqlalchemy import NullPool, create_engine, text

from state.db.database import Database
from state.db.schema import PARTS
from state.errors import StateError
from syncer.sandbox.amberflo import running
from syncer.sandbox.engage import EngageSandbox

from . import checks
from .amberflo import Recorder
from .child import accept
from .fork import Child, fork
from .model import Model
from .scenario import Scenario, SourceFault

API_KEY = "the-key"
#: Seconds that a process may take before it counts as hung.
BOUND = 40.0
#: Files that stay beside the state, by design: the databases, and the locks that are no process's
#: own, so have no number.
STAY = re.compile(r"syncer(-queue)?\.db|syncer\.db(\.[a-z]+)?\.lock")

CONFIG = """\
[amberflo]
api_key = "{key}"
customers_url = "{amberflo}/customers"
ingest_url = "{amberflo}/ingest"
rate = {rate}
concurrency = {concurrency}
timeout = "{timeout}"
patience = "{patience}"
[engage]
computed_traits = ["total_revenue_*"]
[engage.profiles_sync]
url = "sqlite:///{engage}"
[guard]
max_exits = {max_exits}
min_exits = 8
[state]
url = "{state}"
"""


@dataclass
class World:
    """The place of one scenario: both stand-ins, the files, and what is true there."""

    scenario: Scenario
    folder: Path
    state_url: str
    amberflo: Recorder
    amberflo_url: str
    engage: EngageSandbox
    model: Model
    notes: list[str] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)
    #: whether anything Amberflo refuses is there
    poisoned: list[str] = field(default_factory=list)

    @classmethod
    @contextmanager
    def open(cls, scenario: Scenario, folder: Path, postgres: str | None) -> Iterator[Self]:
        for name in ("state", "logs", "temporary"):
            (folder / name).mkdir()
        amberflo = Recorder(API_KEY, put_unknown=scenario.put_unknown)
        engage = EngageSandbox(
            f"sqlite:///{folder / 'engage.db'}",
            seed=scenario.seed,
            clock=datetime.now(UTC) - timedelta(days=30),
        )
        if scenario.postgres:
            assert postgres is not None, "a scenario on PostgreSQL needs a database"
        state = postgres if scenario.postgres else f"sqlite:///{folder / 'state' / 'syncer.db'}"
        with closing(engage), running(amberflo) as url:
            engage.fill(scenario.profiles, scenario.audiences)
            world = cls(scenario, folder, str(state), amberflo, url, engage, Model(engage))
            world._configure()
            try:
                yield world
            finally:
                for child in world.children:
                    child.kill()

    def _configure(self) -> None:
        usual = {
            "key": API_KEY,
            "amberflo": self.amberflo_url,
            "rate": self.scenario.rate,
            "concurrency": self.scenario.concurrency,
            "timeout": "0.3s",
            "patience": "1s",
            "max_exits": 0.3,
            "engage": self.folder / "engage.db",
            "state": self.state_url,
        }
        for name, more in (
            ("usual", {}),
            ("wrong-key", {"key": "wrong"}),
            ("patient", {"timeout": "10s", "patience": "20s"}),
        ):
            self.config(name).write_text(CONFIG.format(**{**usual, **more}))

    def config(self, name: str) -> Path:
        return self.folder / f"{name}.toml"

    # Processes

    def fork_off(self, what: str, target: Callable[[int, int], int]) -> Child:
        self.engage._engine.dispose()
        number = len(self.children)
        log = self.folder / "logs" / f"{number:02d}-{what.replace(' ', '-')}.log"
        child = fork(f"{number} ({what})", log, target)
        self.children.append(child)
        return child

    def end_of(self, child: Child) -> None:
        if not child.wait(BOUND):
            self.notes.append(f"process {child.what} hangs: {child.log.read_text()[-1500:]}")
            child.kill()
        said = child.log.read_text()
        # 75: another run is going on (the daemon's own run); 3: something is held
        if child.status not in (0, 1, 3, 75, -9, -15) or "Traceback" in said:
            self.notes.append(f"process {child.what} broke ({child.status}): {said[-3000:]}")

    # What befalls

    @contextmanager
    def source(self, fault: SourceFault | None) -> Iterator[None]:
        """The source with tables or rows missing, for the block."""
        if fault is None or fault.kind in ("breaks", "ends"):
            yield
            return
        hide, show = {
            "missing": (
                "ALTER TABLE profile_merges RENAME TO elsewhere",
                "ALTER TABLE elsewhere RENAME TO profile_merges",
            ),
            "empty": (
                "CREATE TABLE elsewhere AS SELECT * FROM user_traits; DELETE FROM user_traits",
                "INSERT INTO user_traits SELECT * FROM elsewhere; DROP TABLE elsewhere",
            ),
            "partial": (
                "CREATE TABLE elsewhere AS SELECT * FROM user_traits WHERE name ="
                " (SELECT name FROM user_traits WHERE value = 'true'"
                " GROUP BY name ORDER BY count(*) DESC, name)"
                # What is left of a merged or moved profile would say what was true before.
                " AND canonical_segment_id NOT IN (SELECT canonical_segment_id FROM profile_merges"
                " UNION SELECT segment_id FROM profile_merges"
                " UNION SELECT one.canonical_segment_id FROM user_identifiers one"
                " JOIN user_identifiers other ON other.value = one.value AND other.type = one.type"
                " WHERE other.canonical_segment_id <> one.canonical_segment_id);"
                "DELETE FROM elsewhere WHERE rowid % 10 = 0;"
                "DELETE FROM user_traits WHERE (canonical_segment_id, name) IN "
                "(SELECT canonical_segment_id, name FROM elsewhere)",
                "INSERT INTO user_traits SELECT * FROM elsewhere; DROP TABLE elsewhere",
            ),
        }[fault.kind]
        path = self.folder / "engage.db"
        with closing(sqlite3.connect(path)) as source:
            source.executescript(hide)
        try:
            yield
        finally:
            with closing(sqlite3.connect(path)) as source:
                source.executescript(show)

    def lock_for(self, seconds: float) -> None:
        """Another program writes to the state for so long."""
        path = Path(self.state_url.removeprefix("sqlite:///"))
        if not path.exists():
            return

        def hold(_lifeline: int, tell: int) -> int:
            with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as other:
                other.execute("BEGIN IMMEDIATE")
                os.write(tell, b".")
                time.sleep(seconds)
                other.execute("ROLLBACK")
            return 0

        child = self.fork_off("locker", hold)
        os.read(child.told, 1)

    def end_connections(self) -> None:
        """The state's server ends every connection, as its restart does."""
        engine = create_engine(self.state_url, poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                    "datname = current_database() AND pid <> pg_backend_pid()"
                )
            )

    def poison(self, rng: Random) -> None:
        """Give some customers a record that Amberflo does not take back."""
        customer_ids = sorted(self.amberflo.customers)
        self.poisoned = rng.sample(customer_ids, min(self.scenario.poisoned, len(customer_ids)))
        for customer_id in self.poisoned:
            self.amberflo.customers[customer_id] |= {"strange": 1}

    def call(self, rng: Random, count: int) -> None:
        """So many calls come in."""
        if not count:
            return
        events = self.model.calls(rng, count, now())
        with closing(Database.open(self.state_url, "queue")) as calls:
            for event in events:
                position = len(self.amberflo.writes)
                try:
                    accept(calls, [event])
                except StateError:
                    continue  # its sender is told to come again
                self.model.accepted([event], position)

    # What there is to see

    def tables(self, *names: str) -> dict[str, list[checks.Row]]:
        """The rows of the tables, of those named or of all, in the order of their keys; none where
        the first process was killed before it had made the tables."""
        by_table: dict[str, list[checks.Row]] = {}
        for part, tables in PARTS.items():
            for table in tables:
                if not names or table.name in names:
                    by_table[table.name] = []
            try:
                database = Database.peek(self.state_url, part)
            except StateError as error:
                if "schema version" not in str(error):
                    raise
                continue
            with closing(database), database.read() as connection:
                for table in tables:
                    if table.name in by_table:
                        order = list(table.primary_key.columns)
                        rows = connection.execute(table.select().order_by(*order)).mappings()
                        by_table[table.name] = [dict(row) for row in rows]
        return by_table

    def evidence(self) -> checks.Evidence:
        fields = ("customerName", "customerEmail", "traits")
        state, tables = self.folder / "state", self.tables()
        held = tables["held_change"]
        self.model.kept_back({(row["customer_id"], row["trait"]) for row in held})
        return checks.Evidence(
            audiences=self.engage.audiences,
            expected=self.model.records(self.amberflo.customers),
            meters=self.model.meters,
            member_since=self.model.member_since,
            other_since=self.model.other_since,
            holds={
                customer_id: {field: record.get(field) for field in fields}
                for customer_id, record in self.amberflo.customers.items()
            },
            writes=self.amberflo.writes,
            overlaps=self.amberflo.overlaps,
            records=self.amberflo.records,
            tables=tables,
            left_files=sorted(
                {path.name for path in state.iterdir() if not STAY.fullmatch(path.name)}
                | {path.name for path in (self.folder / "temporary").iterdir()}
            ),
            left_processes=[child.what for child in self.children if not child.ended()],
            notes=self.notes,
        )

    def log(self) -> str:
        """What the processes said."""
        logs = sorted((self.folder / "logs").iterdir())
        return "\n".join(f"--- {path.stem}\n{path.read_text().rstrip()}" for path in logs)


def now() -> int:
    return time.time_ns() // 1_000_000
