"""Alerts: what a person has to know of, told once when it begins and once when it is over: in the
log, as a metric, and to a webhook that takes Slack's JSON ({"text": …})."""

from __future__ import annotations

import logging
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import HTTPError

import orjson

from state import alerts, failures, holds, outbox, queue, runs, suppression
from state.db.database import Database
from syncer import egress
from syncer.config import AlertsConfig
from syncer.process.problem import Trouble

log = logging.getLogger("syncer.alert")

#: Seconds that the webhook may take.
TIMEOUT = 10.0


@dataclass(frozen=True)
class Facts:
    """What alerts follow from. `held` maps keys to the run that holds them; `failures` are what
    Amberflo does not take, `calls` those that could not be taken; `errors` are those of the newest
    runs that failed in a row, the newest first; times are seconds."""

    held: dict[str, int]
    failures: int
    errors: list[str]
    lag: float
    silent: float
    calls: int = 0
    #: customers whose deletion waits for somebody's word
    deletes: int = 0


def found(facts: Facts, bounds: AlertsConfig) -> dict[str, str]:
    """The alerts that the facts give: a text by a name that stays the same while it lasts. Pure."""
    present = {
        f"held:{key}": f"changes of {key} are held since run {run}: `syncer runs show {run}`, then "
        f"`syncer runs approve {run}` or `syncer runs reject {run}`"
        for key, run in sorted(facts.held.items())
    }
    if facts.failures:
        present["failures"] = (
            f"Amberflo does not take {facts.failures:,}: `syncer failures` lists them"
        )
    if facts.calls:
        more = " or more" if facts.calls >= failures.CALLS else ""
        present["calls"] = (
            f"{facts.calls:,}{more} calls cannot be taken as they are: `syncer failures` lists them"
        )
    if facts.deletes:
        present["deletes"] = (
            f"{facts.deletes:,} customers more than passthrough.deletes_per_day are to be deleted: "
            "`syncer forget --pending` shows them and lets them go"
        )
    if len(facts.errors) >= 2:
        present["runs"] = f"{len(facts.errors)} runs in a row failed: {facts.errors[0]}"
    if facts.lag > bounds.lag:
        present["lag"] = f"what waits longest to reach Amberflo waits {facts.lag / 60:,.0f} minutes"
    if facts.silent > bounds.silent:
        present["silent"] = (
            f"the source has brought nothing new for {facts.silent / 3600:,.0f} hours: look at the "
            "sync of your warehouse in Segment"
        )
    return present


def gather(state: Database, calls: Database, now: float) -> Facts:
    """The facts as the database has them, at a time in epoch seconds."""
    with state.read() as connection:
        held = holds.open_keys(connection)
        calls_failed = failures.count_calls(connection)
        refused = failures.count(connection) - calls_failed
        errors = runs.errors_in_a_row(connection)
        unchanged = runs.unchanged_since(connection)
        oldest = [outbox.waits_since(connection)]
        deletes = suppression.waiting_count(connection)
    with calls.read() as connection:
        oldest.append(queue.oldest_waiting(connection))
    since = min((one for one in oldest if one is not None), default=None)
    return Facts(
        held=held,
        failures=refused,
        calls=calls_failed,
        deletes=deletes,
        errors=errors,
        lag=0.0 if since is None else max(0.0, now - since / 1000),
        silent=0.0 if unchanged is None else max(0.0, now - unchanged / 1000),
    )


class Alerts:
    """Looks, and tells. `look` is to be called every few seconds by one process of all."""

    def __init__(self, state: Database, calls: Database, config: AlertsConfig) -> None:
        self.config = config
        self._state, self._calls = state, calls
        self._trouble = Trouble("alerts.webhook")

    def look(self) -> None:
        """See what is new and tell it; what the webhook did not take is told the next time."""
        now = time.time()
        present = found(gather(self._state, self._calls, now), self.config)
        with self._state.read() as connection:
            known = {row["name"]: row["text"] for row in alerts.active(connection)}
        if known != present:
            with self._state.write() as connection:
                news = alerts.see(connection, present, int(now * 1000))
            for name, text in news.began.items():
                log.error("%s", text, extra={"alert": name})
            for name, text in news.ended.items():
                log.info("over: %s", text, extra={"alert": name})
        with self._state.read() as connection:
            untold = alerts.untold(connection)
        for row in untold:
            text = row["text"] if row["ended_at"] is None else f"over: {row['text']}"
            if not self._tell(f"syncer: {text}"):
                return
            with self._state.write() as connection:
                alerts.told(connection, row["name"], int(now * 1000))

    def _tell(self, text: str) -> bool:
        """Post it; gives whether it got there (without a webhook there is nothing to do)."""
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
            self._trouble(f"it answered {error.code}; tried again until it takes it")
            return False
        except (OSError, ValueError, HTTPException) as error:
            # Its address is a secret, so an error's own text stays out.
            self._trouble(f"it cannot be reached ({type(error).__name__}); tried again")
            return False
        self._trouble(None)
        return True
