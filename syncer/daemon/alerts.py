"""Alerts: conditions that need a person.

Each is reported once when it begins and once when it is over: in the log, as a metric, and to a
webhook that takes Slack's JSON ({"text": …}).
"""

from __future__ import annotations

import logging
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import HTTPError

import orjson

from state import alerts, failures, runs, suppression
from state.db.database import Database
from syncer import egress, status
from syncer.config import AlertsConfig
from syncer.process.problem import ProblemLog

log = logging.getLogger("syncer.alert")

#: Seconds until a request to the webhook is given up.
TIMEOUT = 10.0


@dataclass(frozen=True)
class Facts:
    """What alerts follow from. Times are seconds.

    `held` maps keys to the run that holds them; `failures` counts what Amberflo refused, `calls`
    invalid calls, `deletes` deletions that wait for a person; `errors` are those of the newest runs
    that failed in a row, the newest first.
    """

    held: dict[str, int]
    failures: int
    errors: list[str]
    lag: float
    silent: float
    calls: int = 0
    deletes: int = 0


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
        present["failures"] = f"Amberflo refused {facts.failures:,}: `syncer failures` lists them"
    if facts.calls:
        more = " or more" if facts.calls >= failures.CALLS else ""
        present["calls"] = f"{facts.calls:,}{more} calls are invalid: `syncer failures` lists them"
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
    return present


def gather(state: Database, calls: Database, now: float) -> Facts:
    """Read the facts at a time in epoch seconds."""
    present = status.gather(state, calls)
    with state.read() as connection:
        errors = runs.errors_in_a_row(connection)
        unchanged = runs.unchanged_since(connection)
        deletes = suppression.waiting_count(connection)
    return Facts(
        held=present.held,
        failures=present.failures - present.invalid_calls,
        calls=present.invalid_calls,
        deletes=deletes,
        errors=errors,
        lag=present.lag(int(now * 1000)),
        silent=0.0 if unchanged is None else max(0.0, now - unchanged / 1000),
    )


class Alerts:
    """Finds and reports alerts. One process of all calls `check` every few seconds."""

    def __init__(self, state: Database, calls: Database, config: AlertsConfig) -> None:
        self.config = config
        self._state, self._calls = state, calls
        self._problems = ProblemLog("webhook", state)

    def check(self) -> None:
        """Record and report what changed; what the webhook does not take is sent again later."""
        now = time.time()
        present = conditions(gather(self._state, self._calls, now), self.config)
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
