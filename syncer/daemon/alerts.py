"""Alerts: conditions that need a person.

Each is reported once when it begins and once when it is over: in the log, as a metric, and to a
webhook that takes Slack's JSON ({"text": …}).
"""

from __future__ import annotations

import logging
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import NamedTuple
from urllib.error import HTTPError

import orjson

from state import alerts, failures, problems, runs, suppression
from state.db.database import Database
from state.problems import ProblemRow
from syncer import egress, status
from syncer.config import AlertsConfig
from syncer.errors import KeyRefused
from syncer.process.problem import ProblemLog

log = logging.getLogger("syncer.alert")

#: Seconds until a request to the webhook is given up.
TIMEOUT = 10.0
#: Seconds that a problem lasts, or times that it comes, until it is an alert.
LASTS, TIMES = 60.0, 3


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
    newest runs that failed in a row, the newest first.
    """

    held: dict[str, int]
    failures: int
    errors: list[str]
    lag: float
    silent: float
    calls: int = 0
    deletes: int = 0
    problems: Sequence[Lasting] = ()


def conditions(facts: Facts, bounds: AlertsConfig) -> dict[str, str]:
    """Return the alerts for these facts: texts by a name that stays the same while it lasts.

    Pure.
    """
    present = {
        f"held:{key}": f"changes of {key} are held since run {run}: `syncer runs show {run}`, then "
        f"`syncer runs approve {run}` or `syncer runs reject {run}`"
        for key, run in sorted(facts.held.items())
    }
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
            f"the source has had nothing new for {facts.silent / 3600:,.0f} hours: check the sync "
            "of your warehouse in Segment"
        )
    for problem in facts.problems:
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


class Alerts:
    """Finds and reports alerts. One process of all calls `check` every few seconds."""

    def __init__(self, state: Database, calls: Database, config: AlertsConfig) -> None:
        self.config = config
        self._state, self._calls = state, calls
        self._problems = ProblemLog("webhook", state)
        #: since when each problem is there, by its part and how often it came (epoch seconds)
        self._seen: dict[tuple[str, int], float] = {}

    def check(self) -> None:
        """Record and report what changed; what the webhook does not take is sent again later."""
        now = time.time()
        with self._state.read() as connection:
            rows = problems.recent(connection, int(now * 1000))
        facts = gather(self._state, self._calls, now, self._lasting(rows, now))
        present = conditions(facts, self.config)
        with self._state.read() as connection:
            known = {row.name: row.text for row in alerts.active(connection)}
        if known != present:
            with self._state.write() as connection:
                news = alerts.see(connection, present, int(now * 1000))
            for name, text in news.began.items():
                log.error("%s", text, extra={"alert": name})
            for name, text in news.ended.items():
                log.info("over: %s", text, extra={"alert": name})
        with self._state.read() as connection:
            unreported = alerts.unnotified(connection)
        for row in unreported:
            text = row.text if row.ended_at is None else f"over: {row.text}"
            if not self._post(f"syncer: {text}"):
                return
            with self._state.write() as connection:
                alerts.notified(connection, row.name, int(now * 1000))

    def _lasting(self, rows: Sequence[ProblemRow], now: float) -> list[Lasting]:
        """Return how long problems last; one that came again lasts since that was seen."""
        seen, lasting = self._seen, []
        self._seen = {}
        for row in rows:
            key, seconds = (row.part, row.times), 0.0
            if row.ended_at is None:
                began = seen.get(key, row.since / 1000 if row.times == 1 else now)
                self._seen[key], seconds = began, now - began
            lasting.append(Lasting(row.part, row.text, row.times, seconds))
        return lasting

    def _post(self, text: str) -> bool:
        """Post to the webhook; return whether it took it, or there is no webhook."""
        if self.config.webhook is None:
            return True
        webhook = self.config.webhook.get_secret_value()
        request = urllib.request.Request(
            webhook,
            data=orjson.dumps({"text": text}),
            headers={"content-type": "application/json", "user-agent": "engage-amberflo-sync"},
        )
        try:
            with egress.opener(webhook).open(request, timeout=TIMEOUT) as answer:
                answer.read(1000)
        except HTTPError as error:
            self._problems(f"it answered {error.code}; tried again until it accepts")
            return False
        except (OSError, ValueError, HTTPException) as error:
            # Its address is a secret, so an error's own text stays out.
            self._problems(f"it cannot be reached ({type(error).__name__}); tried again")
            return False
        self._problems(None)
        return True
