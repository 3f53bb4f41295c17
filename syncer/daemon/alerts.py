"""Alerts: conditions that need a person.

Each is reported once when it begins and once when it is over: in the log, as a metric, and to the
channels of the settings (`channels`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from state import alerts, failures, problems, runs, suppression
from state.alerts import AlertRow
from state.db.database import Database
from state.errors import StateError
from state.problems import ProblemRow
from syncer import status
from syncer.config import AlertsConfig
from syncer.daemon.channels import Channels
from syncer.errors import KeyRefused
from syncer.process.problem import ProblemLog

log = logging.getLogger("syncer.alert")

#: Seconds that a problem lasts, or times that it comes, until it is an alert.
LASTS, TIMES = 60.0, 3
#: The parts that a supervisor keeps going: what is on record of them is that they ended, or hang.
SUPERVISED = frozenset(
    {"worker", "calls", "delivery", "maintenance", "page", "pages", "sizes"}
    | {"receiver", "inbox writer", "ops", "reload", "schedule", "alerts", "supervisor"}
)
#: Seconds for which the state cannot be used before that is an alert of its own.
STATE_GONE_AFTER = 20.0


class Lasting(NamedTuple):
    """A problem of a part: how often it came, and for how long it has been there this time."""

    part: str
    text: str
    times: int
    seconds: float


@dataclass(frozen=True)
class Facts:
    """What alerts follow from. Times are seconds.

    `held` maps keys to the run that holds them; `failures` counts what Amberflo does not take,
    `calls` invalid calls, `deletes` deletions that wait for a person; `errors` are those of the
    newest runs that failed in a row, the newest first; `parts` are the parts of a daemon that ended
    without being asked to, each with what happened: of these, `problems` says nothing new.
    """

    held: dict[str, int]
    failures: int
    errors: list[str]
    lag: float
    silent: float
    calls: int = 0
    deletes: int = 0
    problems: Sequence[Lasting] = ()
    parts: Mapping[str, str] = field(default_factory=dict)


def conditions(facts: Facts, bounds: AlertsConfig) -> dict[str, str]:
    """Return the alerts for these facts: texts by a name that stays the same while it lasts.

    Pure.
    """
    present = {
        f"held:{key}": f"changes of {key} are held since run {run}: `syncer runs show {run}`, then "
        f"`syncer runs approve {run}` or `syncer runs reject {run}`"
        for key, run in sorted(facts.held.items())
    }
    present |= {f"part:{name}": f"{name}: {text}" for name, text in sorted(facts.parts.items())}
    if facts.failures:
        present["failures"] = (
            f"Amberflo does not take {facts.failures:,} customers or meter records: `syncer "
            "failures` lists them"
        )
    if facts.calls:
        more = " or more" if facts.calls >= failures.CALLS else ""
        present["calls"] = (
            f"{facts.calls:,}{more} calls are invalid and were not sent to Amberflo: `syncer "
            "failures` lists them"
        )
    if facts.deletes:
        present["deletes"] = (
            f"{facts.deletes:,} deletions are over passthrough.deletes_per_day: `syncer forget "
            "--pending` lists them and erases the customers"
        )
    if len(facts.errors) >= 2:
        present["runs"] = f"{len(facts.errors)} runs in a row failed: {facts.errors[0]}"
    if facts.lag > bounds.lag:
        present["lag"] = f"delivery to Amberflo is {facts.lag / 60:,.0f} minutes behind"
    if facts.silent > bounds.silent:
        present["silent"] = (
            f"the source has had nothing new for {facts.silent / 3600:,.0f} hours: check what "
            "brings its data, such as the sync of your warehouse or the webhook in Segment"
        )
    for problem in facts.problems:
        if problem.part in facts.parts:
            continue  # told already
        flaps = problem.times >= TIMES
        if problem.seconds >= LASTS or flaps or problem.text.startswith(KeyRefused.BEGINS):
            often = f" (it comes and goes, {problem.times:,} times)" if flaps else ""
            name = f"{status.OF_PROBLEM}{problem.part}"
            present[name] = f"{problem.part}: {problem.text}{often}"
    return present


def gather(state: Database, calls: Database, now: float, lasting: Sequence[Lasting] = ()) -> Facts:
    """Read the facts at a time in epoch seconds; `lasting` are the problems."""
    present = status.gather(state, calls)
    with state.read() as connection:
        errors = runs.errors_in_a_row(connection)
        unchanged = runs.unchanged_since(connection)
        deletes = suppression.waiting_count(connection)
    return Facts(
        held=present.held,
        failures=present.refused,
        calls=present.invalid_calls,
        deletes=deletes,
        errors=errors,
        lag=present.lag(int(now * 1000)),
        silent=0.0 if unchanged is None else max(0.0, now - unchanged / 1000),
        problems=lasting,
    )


def _news(row: AlertRow) -> str:
    return row.text if row.ended_at is None else f"over: {row.text}"


class Alerts:
    """Finds and reports alerts. One process of all calls `check` every few seconds.

    `parts` returns the parts of this daemon that ended, as `Facts` has them.
    """

    def __init__(
        self,
        state: Database,
        calls: Database,
        config: AlertsConfig,
        parts: Callable[[], Mapping[str, str]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._state, self._calls, self._parts = state, calls, parts
        self._began = int(time.time() * 1000)
        self._config, self._channels = config, self._made(config)
        #: since when each problem is there, by its part and how often it came (by our own clock:
        #: that of the machine may be set)
        self._seen: dict[tuple[str, int], float] = {}
        #: how often the news of an alert was not taken, by the alert and its end
        self._failures: dict[tuple[str, int | None], int] = {}
        #: since when the state cannot be used (monotonic), and the alert of that
        self._gone_since: float | None = None
        self._gone: AlertRow | None = None

    def configure(self, config: AlertsConfig) -> None:
        """Take these settings; raise `ConfigError` if a channel of theirs cannot work."""
        made = self._made(config)
        self._channels.end(kept=made.parts)
        self._config, self._channels = config, made

    def _made(self, config: AlertsConfig) -> Channels:
        return Channels(config, lambda part: ProblemLog(part, self._state))

    def check(self) -> None:
        """Record and report what changed; what a channel does not take is sent to it again."""
        self._channels.look()
        self._record_and_report()
        self._gone_since = None
        if self._gone is not None and self._gone.ended_at is None:
            log.info("over: %s", self._gone.text, extra={"alert": "state"})
            self._gone = self._gone._replace(ended_at=int(time.time() * 1000))
        self._report_gone()

    def state_gone(self, error: StateError) -> None:
        """Report that alerts cannot be recorded, once that lasts: no record is needed for it."""
        now = self._clock()
        self._channels.look()
        self._gone_since = now if self._gone_since is None else self._gone_since
        old = self._gone
        if (old is None or old.ended_at) and now - self._gone_since >= STATE_GONE_AFTER:
            text = f"no alert can be recorded: {error}"
            log.error("%s", text, extra={"alert": "state"})
            told = "[]" if old is None else old.told
            self._gone = AlertRow("state", text, int(time.time() * 1000), None, None, told)
        self._report_gone()

    def _report_gone(self) -> None:
        """Report the alert of the state, of which the memory is the record."""
        marks = self._channels.marks
        if (row := self._gone) is None:
            return
        for mark in self._channels.send(_news(row), row.owed(marks), over=row.ended_at is not None):
            self._gone = row = alerts.told(row, mark, marks)
        if row.ended_at is not None and not row.owed(marks):
            self._gone = None

    def _record_and_report(self) -> None:
        now = time.time()
        with self._state.read() as connection:
            rows = problems.recent(connection, int(now * 1000))
        facts = replace(
            gather(self._state, self._calls, now, self._lasting(rows, now)),
            parts=self._of_others(rows, now) | dict(self._parts()),
        )
        present = conditions(facts, self._config)
        with self._state.read() as connection:
            known = {row.name: row.text for row in alerts.active(connection)}
        if known != present:
            with self._state.write() as connection:
                news = alerts.see(connection, present, int(now * 1000))
            for name, text in news.began.items():
                log.error("%s", text, extra={"alert": name})
            for name, text in news.ended.items():
                log.info("over: %s", text, extra={"alert": name})
        self._report(int(now * 1000))

    def _report(self, now: int) -> None:
        """Send each channel the news that it has not had; what failed least comes first."""
        with self._state.read() as connection:
            rows = alerts.unnotified(connection)
        marks, failures = self._channels.marks, self._failures
        self._failures = {}
        for row in sorted(rows, key=lambda row: failures.get((row.name, row.ended_at), 0)):
            owed, key = row.owed(marks), (row.name, row.ended_at)
            told, tried = row, self._channels.any_open(owed)
            for mark in self._channels.send(_news(row), owed, over=row.ended_at is not None):
                told = alerts.told(told, mark, marks)
                with self._state.write() as connection:
                    alerts.tell(connection, told)
            if told.owed(marks):
                self._failures[key] = failures.get(key, 0) + tried
                continue
            with self._state.write() as connection:
                alerts.notified(connection, row.name, now)

    def _of_others(self, rows: Sequence[ProblemRow], now: float) -> dict[str, str]:
        """Return what the supervisors of other daemons have put on record, since we began."""
        told_since = int(now * 1000) - problems.TOLD_FOR
        return {
            row.part: row.text
            for row in rows
            if row.part in SUPERVISED
            and row.last_at >= self._began
            and (row.ended_at is None or row.ended_at >= told_since)
        }

    def _lasting(self, rows: Sequence[ProblemRow], now: float) -> list[Lasting]:
        """Return how long problems last; one that came again lasts since that was seen."""
        seen, lasting = self._seen, []
        self._seen = {}
        for row in rows:
            if row.ended_at is not None and row.times == 1:
                continue
            key, seconds = (row.part, row.times), 0.0
            if row.ended_at is None:
                lasts = max(0.0, now - row.since / 1000) if row.times == 1 else 0.0
                began = seen.get(key, self._clock() - lasts)
                self._seen[key], seconds = began, self._clock() - began
            lasting.append(Lasting(row.part, row.text, row.times, seconds))
        return lasting
