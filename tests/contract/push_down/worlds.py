"""Two worlds over one warehouse: the same calls, decisions and runs, and one compares in full while
the other lets the warehouse compare. What they keep must be equal, whatever happened."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import text

from state import early_exits, erasure, queue, suppression
from state.db.database import Database
from state.queue import Accepted
from syncer.engage.computations import Computation
from syncer.engage.pushdown import PushDownSource
from syncer.engage.source import Source
from syncer.passthrough.processor import Processor
from syncer.passthrough.scopes import SCOPES, SIGNED
from syncer.sync.compared import Compared
from syncer.sync.comparison import Comparison
from syncer.sync.guard import Guard
from syncer.sync.runs import Runs
from syncer.sync.trait_selection import Selection
from tests.support.space import Quiet, Warehouse, runs_on

#: In the past, as no time of a warehouse may be in the future.
NOW = 1_700_000_000_000
HOUR = 3_600_000
SCRATCH = "scratch"
CUSTOMERS = [f"u{number}" for number in range(8)]
#: What is left at random, or says which way the other things came about.
LEFT_OUT = {"salt", "hash", "digest", "marks", "previous", "progress"}
TABLES = (
    *("customer", "trait", "change", "run", "run_trait", "hold", "held_change"),
    *("erasure", "early_exit", "failure"),
)
#: A count of what a run skipped may be one of what did not change.
SUMS = {"unchanged", "skipped", "reasons"}


class Said(Quiet):
    """Progress, as its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@dataclass(frozen=True)
class _Comparison(Comparison):
    """A comparison, after which something happens that the commit comes upon."""

    afterwards: Callable[[], None] = lambda: None

    def compare(self, *arguments: Any, **named: Any) -> Compared:
        compared = super().compare(*arguments, **named)
        self.afterwards()
        return compared


class World:
    """A state, and its runs and calls."""

    def __init__(self, source: Source, state: str = "sqlite://", queue_url: str = "") -> None:
        self.source, self.now, self.progress = source, NOW, Said()
        self.selection = Selection(("vip", "gold"), ("total",), "{}")
        self.computations: Callable[[], list[Computation]] | None = None
        #: happens when a run has compared, before its commit
        self.meanwhile: Callable[[], None] = lambda: None
        self._urls = state, queue_url or state
        self.open()

    def open(self) -> None:
        state, calls = self._urls
        self.database, self.calls = Database.open(state), Database.open(calls, "queue")

    def close(self) -> None:
        self.database.close()
        self.calls.close()

    @property
    def runs(self) -> Runs:
        """Runs of now; what they make due is delivered."""
        made = runs_on(self.database, self.source, self.progress)
        guard = Guard(0.3, 3, 0.3, 3, max_deleted=0.3)
        comparison = _Comparison(
            **vars(made.comparison)
            | {"guard": guard, "selection": self.selection, "computations": self.computations}
            | {"clock": lambda: self.now, "afterwards": self.compared}
        )
        return replace(made, comparison=comparison, clock=lambda: self.now)

    def compared(self) -> None:
        """Let happen what comes before the commit, once."""
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()

    def tries(self, work: Callable[[Runs], Any]) -> str:
        """Let runs do something; return the kind of the error, "" for none."""
        self.progress.lines.clear()
        try:
            work(self.runs)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def last_held(self) -> int:
        with self.database.read() as connection:
            undecided = "SELECT last_run FROM hold WHERE decision IS NULL OR decision = 'rejected'"
            return max(connection.execute(text(undecided)).scalars(), default=0)

    def accept(self, body: bytes, received: int) -> None:
        row = Accepted("webhook", body, 1, received, SIGNED.name, ",".join(sorted(SCOPES)))
        with self.calls.write() as connection:
            queue.accept(connection, [row])

    def take(self, body: bytes) -> None:
        self.accept(body, self.now)
        self.process()

    def process(self) -> None:
        processor = Processor(
            self.calls, self.database, ["vip", "gold"], ["total"], lambda: self.now
        )
        while processor.process():
            pass
        processor.apply_early_calls()
        with self.database.write(alone=True) as connection:
            early_exits.drop_expired(connection, self.now)

    def contents(self) -> dict[str, list[dict[str, Any]]]:
        """What is kept, by table."""
        with self.database.read() as connection:
            return {table: self._rows(connection, table) for table in TABLES}

    def _rows(self, connection: Any, table: str) -> list[dict[str, Any]]:
        rows = []
        for row in connection.execute(text(f"SELECT * FROM {table}")).mappings():
            kept = {name: value for name, value in row.items() if name not in LEFT_OUT}
            if table in ("run", "run_trait"):
                kept["same"] = kept["unchanged"] + kept["skipped"]
                kept = {name: value for name, value in kept.items() if name not in SUMS}
            rows.append(kept)
        return sorted(rows, key=repr)

    def revisits(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.execute(text("SELECT customer_id FROM revisit")).scalars())


@dataclass
class Pair:
    """Both worlds and what they read. Each method happens to both."""

    warehouse: Warehouse
    now: int = NOW
    worlds: dict[str, World] = field(default_factory=dict)
    profiles: dict[str, str] = field(default_factory=dict)
    #: what the run before read in the world that pushes down, by its own words
    read: str = ""
    number: int = 0

    @classmethod
    @contextmanager
    def opened(cls, url: str, state: str = "sqlite://", queue_url: str = "") -> Iterator[Pair]:
        """A warehouse with customers, who were compared once.

        The state of the world that pushes down is at `state`.
        """
        warehouse = Warehouse(url)
        warehouse.create()
        warehouse.run(f"CREATE SCHEMA {SCRATCH}")
        pair = cls(warehouse)
        source = warehouse.source()
        pair.worlds["full"] = World(source)
        pair.worlds["pushed"] = World(PushDownSource(source, SCRATCH), state, queue_url)
        try:
            for number, customer_id in enumerate(CUSTOMERS):
                pair.arrive(customer_id, "true" if number < 6 else "false")
                if number in (1, 3, 5):
                    pair.say(customer_id, "gold", "true")
                elif number < 7:
                    pair.say(customer_id, "total", "5")
            pair.passes(5)
            pair.full()
            yield pair
        finally:
            for world in pair.worlds.values():
                world.close()
            warehouse.engine.dispose()

    @property
    def pushed(self) -> World:
        return self.worlds["pushed"]

    @property
    def both(self) -> tuple[World, World]:
        return self.worlds["full"], self.worlds["pushed"]

    # What Engage says

    def passes(self, hours: float) -> None:
        self.now += int(hours * HOUR)
        for world in self.worlds.values():
            world.now = self.now

    def arrive(self, who: str, vip: str = "true") -> None:
        """A profile, which is there again if it was deleted."""
        if who not in self.profiles:
            self.number += 1
            self.profiles[who] = f"p{self.number}"
            self.warehouse.id(self.profiles[who], who, self._time())
            self.say(who, "vip", vip)

    def say(self, who: str, key: str, value: str | None) -> None:
        """A new row of a trait, in place of the one before."""
        if who in self.profiles:
            self.lose(who, key)
            self.warehouse.trait(self.profiles[who], key, value, self._time())

    def again(self, who: str, key: str) -> None:
        """The same row, computed and loaded anew."""
        if who in self.profiles:
            self._run(
                "UPDATE user_traits SET timestamp = :at, uuid_ts = :at, received_at = :at "
                "WHERE canonical_segment_id = :own AND name = :key",
                own=self.profiles[who],
                key=key,
                at=self._time(),
            )

    def lose(self, who: str, key: str) -> None:
        if who in self.profiles:
            own = "canonical_segment_id = :own AND name = :key"
            self._run(f"DELETE FROM user_traits WHERE {own}", own=self.profiles[who], key=key)

    def many_leave(self, key: str) -> None:
        """So many that the guard holds them."""
        for who in CUSTOMERS[:5]:
            self.say(who, key, "false")

    def delete(self, who: str) -> None:
        profile = self.profiles.pop(who, None)
        for table in ("user_traits", "user_identifiers") if profile else ():
            self._run(f"DELETE FROM {table} WHERE canonical_segment_id = :own", own=profile)

    def merge(self, who: str, into: str) -> None:
        if who in self.profiles and into in self.profiles:
            old, new = self.profiles[who], self.profiles[into]
            if old != new:
                self.warehouse.merge(old, new, self._time())
                self.profiles[who] = new

    def _run(self, statement: str, **values: Any) -> None:
        self.warehouse.run(statement, **values)

    def _time(self) -> str:
        self.now += 1000
        return datetime.fromtimestamp(self.now / 1000, UTC).isoformat()

    # Calls

    def call(self, who: str, key: str, value: Any, ago: float = 0.0, late: float = 0.0) -> None:
        """Engage's own call, which is processed `late` hours after it came."""
        self._call(who, {key: value}, ago, late, **_of_engage(key))

    def identify(self, who: str, name: str | None = None, ago: float = 0.0) -> None:
        self._call(who, {} if name is None else {"name": name}, ago)

    def call_meanwhile(self, who: str, key: str, value: Any) -> None:
        """Engage's call comes when the next run has compared, before its commit."""
        body = self._body(who, {key: value}, 0.0, **_of_engage(key))
        for world in self.worlds.values():
            world.meanwhile = partial(world.take, body)

    def _call(
        self, who: str, traits: dict[str, Any], ago: float, late: float = 0.0, **more: Any
    ) -> None:
        body = self._body(who, traits, ago, **more)
        for world in self.worlds.values():
            world.accept(body, self.now)
        self.passes(late)
        for world in self.worlds.values():
            world.process()

    def _body(self, who: str, traits: dict[str, Any], ago: float, **more: Any) -> bytes:
        self.number += 1
        self.passes(0.001)
        said = {"type": "identify", "userId": who, "traits": traits, **more}
        said |= {"messageId": f"m{self.number}", "timestamp": self.now - int(ago * HOUR)}
        return json.dumps(said).encode()

    def forget(self, who: str) -> None:
        for world in self.worlds.values():
            with world.database.write(alone=True) as connection:
                erasure.erase(connection, who, self.now)

    def ask_to_forget(self, who: str, run: int | None = 1) -> None:
        """A run found somebody deleted, who is to be erased as soon as Amberflo was told."""
        for world in self.worlds.values():
            with world.database.write(alone=True) as connection:
                suppression.ask(connection, who, self.now, run)

    def let_in(self, who: str) -> None:
        for world in self.worlds.values():
            with world.database.write(alone=True) as connection:
                suppression.lift(connection, who)

    # Runs

    def sync(self) -> None:
        """A run by the schedule, between two that compare all."""
        self._runs(lambda runs: runs.sync())

    def full(self) -> None:
        self._runs(lambda runs: runs.sync(full=True))

    def resync(self, who: str) -> None:
        self._runs(lambda runs: runs.resync(customer_id=who))

    def resync_all(self) -> None:
        self._runs(lambda runs: runs.resync())

    def approve(self) -> None:
        held = self.pushed.last_held()
        self._runs(lambda runs: runs.approve(held))

    def reject(self) -> None:
        held = self.pushed.last_held()
        self._runs(lambda runs: runs.reject(held))

    def lift(self) -> None:
        held = self.pushed.last_held()
        self._runs(lambda runs: runs.lift(held))

    def lose_scratch(self) -> None:
        self.warehouse.run(f"DROP SCHEMA {SCRATCH} CASCADE")
        self.warehouse.run(f"CREATE SCHEMA {SCRATCH}")

    def _runs(self, work: Callable[[Runs], Any]) -> None:
        self.warehouse.flush()
        self.passes(0.01)
        errors = {name: world.tries(work) for name, world in self.worlds.items()}
        self.read = "; ".join(self.pushed.progress.lines)
        assert errors["full"] == errors["pushed"], errors
        self.check()

    def check(self) -> None:
        full, pushed = (world.contents() for world in self.both)
        for table in TABLES:
            assert pushed[table] == full[table], (table, self.read)

    @property
    def narrow(self) -> bool:
        """Whether the last run read only a part."""
        return "customers are read: the warehouse says" in self.read


def _of_engage(key: str) -> dict[str, Any]:
    kind = "trait" if key == "total" else "audience"
    return {"context": {"personas": {"computation_class": kind, "computation_key": key}}}


def tables_in_scratch(warehouse: Warehouse) -> set[str]:
    named = f"SELECT tablename FROM pg_tables WHERE schemaname = '{SCRATCH}'"
    with warehouse.engine.connect() as connection, closing(connection):
        return set(connection.execute(text(named)).scalars())
