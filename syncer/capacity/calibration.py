"""Measures this machine: real runs, a real daemon, against stand-ins on loopback.

The stand-in of Amberflo is a process of its own, as Amberflo is a machine of its own.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from state import queue
from state.queue import Accepted
from state.runs import RunRow
from syncer.app import App
from syncer.capacity.machine import Machine, Sample, fit
from syncer.clock import now_ms
from syncer.config import load
from syncer.engage.warehouses.postgresql import INDEXES
from syncer.errors import Stopped, SyncerError
from syncer.passthrough.scopes import SCOPES, Caller
from syncer.progress import LineProgress
from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.environment import STARTS_BEFORE

#: Customers and audiences of each measurement: few customers; more of them; more values each.
SHAPES = ((300, 4), (2000, 4), (2000, 24))
#: The part of the customers that changes for an incremental run.
CHANGED = 0.4
#: Events that a worker brings to Amberflo, in requests of so many.
EVENTS, EACH = 20_000, 100
CALLER = Caller("calibration", frozenset(SCOPES))
#: Seconds between two looks at the queue, and seconds after which a worker that does nothing fails.
LOOK, PATIENCE = 0.02, 60.0

CONFIG = """\
[amberflo]
api_key = "{api_key}"
customers_url = "{customers_url}"
ingest_url = "{ingest_url}"
rate = {rate}
[engage]
computed_traits = ["total_revenue_*"]
[engage.profiles_sync]
url = "sqlite:///{folder}/engage.db"
[guard]
max_exits = 1
small_max_exits = 1
[state]
url = "sqlite:///{folder}/syncer.db"
[passthrough]
listen = "127.0.0.1:0"
write_keys = ["calibration-of-this-machine"]
[ops]
listen = "127.0.0.1:0"
"""


def calibrate(
    report: Callable[[str], None] = lambda line: None, stop: Callable[[], bool] = lambda: False
) -> Machine:
    """Measure this machine in about a minute; `report` gets a line for each part.

    Raises Stopped soon after `stop` returns true, and SyncerError where it does not work here.
    """
    measured = []
    for customers, audiences in SHAPES:
        report(f"measuring {customers:,} customers in {audiences} audiences")
        with installed(customers, audiences, stop=stop) as installation:
            measured.append(measure(installation))
    report(f"measuring {EVENTS:,} events")
    with installed(1, 1, stop=stop) as installation:
        return machine_of(measured, seconds_of_an_event(installation, EVENTS))


def machine_of(measured: Sequence[Measured], event: float) -> Machine:
    """Return the constants by what was measured of each of `SHAPES`, and of an event."""
    costs = map(fit, *(measurement.samples for measurement in measured))
    initial, full, incremental, verify, delivery = costs
    return Machine(initial, full, incremental, verify, delivery, event)


@dataclass(frozen=True)
class Installed:
    """Stand-ins on loopback, and the program on them."""

    folder: Path
    engage: EngageSandbox
    app: App
    amberflo: str

    def requests(self) -> int:
        """Return how many requests the stand-in of Amberflo has seen."""
        place = urlsplit(self.amberflo)
        with closing(HTTPConnection(place.hostname or "", place.port)) as connection:
            connection.request("GET", "/_sandbox/stats")
            counts: dict[str, int] = orjson.loads(connection.getresponse().read())["requests"]
        return sum(counts.values())

    def sync(self, *, full: bool = False) -> RunRow:
        """Make a run, and return its record."""
        with self.app.runs() as maker:
            result = maker.sync(full=full)
            if self.app.stop():
                raise Stopped("stopped")
            if result.record is None or result.problems or result.held:
                problems = "; ".join(result.problems) or "something is held"
                raise SyncerError(f"the calibration does not work here: {problems}")
            return result.record


@contextmanager
def installed(
    customers: int, audiences: int, rate: float = 0.0, stop: Callable[[], bool] = lambda: False
) -> Iterator[Installed]:
    """Serve stand-ins with so many profiles, and yield the program on them."""
    with tempfile.TemporaryDirectory(prefix="syncer-plan-") as name, _amberflo() as settings:
        folder = Path(name)
        config = folder / "config.toml"
        config.write_text(CONFIG.format(folder=folder, **{**settings, "rate": rate}), "utf-8")
        engage = EngageSandbox(
            f"sqlite:///{folder / 'engage.db'}", clock=datetime.now(UTC) - STARTS_BEFORE
        )
        with closing(engage):
            engage.fill(customers, audiences)
            _index(folder / "engage.db")
            app = App(load(config, {}), LineProgress(lambda line: None), stop)
            base = settings["ingest_url"].removesuffix("/ingest")
            yield Installed(folder, engage, app, base)


def _index(warehouse: Path) -> None:
    """Make the indexes that `syncer check` names."""
    with closing(sqlite3.connect(warehouse)) as connection, connection:
        for number, (table, column) in enumerate(INDEXES):
            connection.execute(f"CREATE INDEX calibration_{number} ON {table} ({column})")


@contextmanager
def _amberflo() -> Iterator[dict[str, Any]]:
    """Serve Amberflo in a process of its own; yield the `[amberflo]` that points at it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "syncer", "sandbox", "--users", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "\n" and "[amberflo]\n" in lines:
                break
        settings: dict[str, Any] = tomllib.loads("".join(lines)).get("amberflo", {})
        if not settings:
            raise SyncerError("the sandbox does not start: run `syncer sandbox` to see why")
        yield settings
    finally:
        process.terminate()
        process.communicate()


@dataclass(frozen=True)
class Measured:
    """The runs of an installation that was new, and a verify between the last two.

    `requests` are those of the initial run, `verified` are seconds.
    """

    initial: RunRow
    requests: int
    full: RunRow
    incremental: RunRow
    verified: float

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What a `Machine` has costs of: reading by each kind of run, the verify, and sending."""
        customers, values = self.initial.due, self.initial.pulled
        sending = whole(self.initial) - reading(self.initial)
        return (
            Sample(customers, values, reading(self.initial)),
            Sample(customers, values, reading(self.full)),
            Sample(self.incremental.due, self.incremental.pulled, reading(self.incremental)),
            Sample(customers, values, self.verified),
            Sample(self.requests, round(self.requests * values / customers), sending),
        )


def measure(installation: Installed, changed: float = CHANGED) -> Measured:
    """Make a first run, one that compares everything, and one of what changed."""
    before = installation.requests()
    initial = installation.sync()
    requests = installation.requests() - before
    full = installation.sync(full=True)
    began = time.perf_counter()
    with installation.app.state(writes=False) as database:
        installation.app.verify(database).close()
    verified = time.perf_counter() - began
    installation.engage.observe()
    installation.engage.evolve(fraction=changed)
    return Measured(initial, requests, full, installation.sync(), verified)


def reading(run: RunRow) -> float:
    """Return the seconds of a run from its start to its commit."""
    assert run.committed_at is not None
    return (run.committed_at - run.started_at) / 1000


def whole(run: RunRow) -> float:
    """Return the seconds of a run from its start to its end."""
    assert run.ended_at is not None
    return (run.ended_at - run.started_at) / 1000


def seconds_of_an_event(installation: Installed, events: int) -> float:
    """Return what a daemon takes to bring an event of its inbox to Amberflo."""
    installation.sync()  # so that the daemon makes no run meanwhile
    now = now_ms()
    requests = [
        Accepted("batch", _batch(start), EACH, now, CALLER.name, CALLER.scopes)
        for start in range(0, events, EACH)
    ]
    with installation.app.queue(writes=True) as calls:
        for number in range(0, len(requests), 10):
            with calls.write() as connection:
                queue.accept(connection, requests[number : number + 10])
    command = [sys.executable, "-m", "syncer", "daemon", "--config"]
    daemon = subprocess.Popen(
        [*command, str(installation.folder / "config.toml")], stderr=subprocess.DEVNULL
    )
    try:
        return _watched(installation, daemon, events)
    finally:
        daemon.terminate()
        daemon.wait()


def _watched(installation: Installed, daemon: subprocess.Popen[bytes], events: int) -> float:
    """Watch the queue from the last look at which all events wait; return seconds an event.

    They may all go between two looks.
    """
    until, began = time.monotonic() + PATIENCE, time.perf_counter()
    with installation.app.queue(writes=False) as calls:
        while time.monotonic() < until and daemon.poll() is None:
            looked = time.perf_counter()
            with calls.read() as connection:
                waiting = sum(queue.waiting(connection))
            if installation.app.stop():
                raise Stopped("stopped")
            if not waiting:
                return (time.perf_counter() - began) / events
            if waiting == events:
                began = looked
            time.sleep(LOOK)
    raise SyncerError("the calibration does not work here: the daemon brings no event to Amberflo")


def _batch(start: int) -> bytes:
    """Return the body of a request of `EACH` track calls."""
    events = [
        {
            "type": "track",
            "userId": f"user_{number % 1000}",
            "event": "API Call",
            "messageId": f"calibration-{number}",
            "properties": {"value": number % 7, "region": "us-west-2", "plan": "enterprise"},
        }
        for number in range(start, start + EACH)
    ]
    return orjson.dumps({"batch": events})
