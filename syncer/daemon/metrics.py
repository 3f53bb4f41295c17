"""What the database knows of every stage, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from state import alerts, failures, holds, outbox, pending_calls, queue, runs, snapshot, suppression
from state.db import workers
from state.db.database import Database
from syncer.daemon.schedule import Slot


class Figures:
    """A collector. `slot` is the next run's, where this process schedules."""

    def __init__(self, calls: Database, state: Database) -> None:
        self._calls, self._state = calls, state
        self.slot: Slot | None = None

    def collect(self) -> Iterator[Metric]:
        yield from self._of_calls()
        yield from self._of_the_state()
        if self.slot is not None:
            yield GaugeMetricFamily(
                "syncer_next_run_timestamp_seconds", "When the next run starts", self.slot.at
            )

    def _of_calls(self) -> Iterator[Metric]:
        with self._calls.read() as connection:
            counters = queue.counters(connection)
            inbox, records = queue.waiting(connection)
            oldest = queue.oldest_waiting(connection)
            by_key = queue.waiting_by_key(connection)
        calls = CounterMetricFamily(
            "syncer_calls", "Calls by what became of them", None, ["what", "reason"]
        )
        requests = CounterMetricFamily(
            "syncer_amberflo_requests", "Requests to Amberflo", None, ["method", "status"]
        )
        keys = CounterMetricFamily("syncer_key_calls", "Calls by the key", None, ["key"])
        for (what, reason), value in sorted(counters.items()):
            if what == "key":
                keys.add_metric([reason], value)
            elif what == "amberflo":
                requests.add_metric(reason.split(" "), value)
            else:
                calls.add_metric([what, reason], value)
        yield calls
        yield keys
        yield requests
        waiting = GaugeMetricFamily(
            "syncer_key_waiting", "Calls and meter records that wait, by the key", labels=["key"]
        )
        for key, value in sorted(by_key.items()):
            waiting.add_metric([key], value)
        yield waiting
        yield GaugeMetricFamily("syncer_calls_unprocessed", "Calls in the inbox", inbox)
        yield GaugeMetricFamily("syncer_meters_waiting", "Meter records to deliver", records)
        lag = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)
        yield GaugeMetricFamily("syncer_lag_seconds", "Age of the oldest waiting call", lag)

    def _of_the_state(self) -> Iterator[Metric]:
        with self._state.read() as connection:
            customers = outbox.backlog(connection)
            failed = failures.count(connection)
            ended = runs.counts(connection)
            sums = runs.totals(connection)
            last = runs.last_good(connection, ())
            held = holds.open_keys(connection)
            traits = snapshot.traits(connection)
            active = alerts.active(connection)
            processes = workers.all_of(connection)
            early_calls = pending_calls.count(connection)
            deletes = suppression.waiting_count(connection)
        yield GaugeMetricFamily("syncer_customers_waiting", "Customers to deliver", customers)
        yield GaugeMetricFamily(
            "syncer_calls_early", "Calls of Engage whose key no pull knows yet", early_calls
        )
        yield GaugeMetricFamily(
            "syncer_deletes_waiting", "Deletes that wait for somebody's word", deletes
        )
        yield GaugeMetricFamily("syncer_failures", "Failures that wait for somebody", failed)
        runs_ended = CounterMetricFamily("syncer_runs", "Runs", None, ["kind", "state"])
        for (kind, state), value in sorted(ended.items()):
            runs_ended.add_metric([kind, state], value)
        yield runs_ended
        changes = CounterMetricFamily(
            "syncer_run_sums", "What runs found and did, in sum", None, ["what"]
        )
        for what, value in sums.items():
            changes.add_metric([what], value)
        yield changes
        if last is not None:
            yield GaugeMetricFamily(
                "syncer_last_good_run_timestamp_seconds", "When it started", last / 1000
            )
        members = GaugeMetricFamily("syncer_members", "Members", labels=["trait", "kind"])
        for row in traits:
            members.add_metric([row.trait, row.kind], row.members)
        yield members
        gauge = GaugeMetricFamily("syncer_held", "Audiences held by the guard", labels=["audience"])
        for key in sorted(held):
            gauge.add_metric([key], 1)
        yield gauge
        alerting = GaugeMetricFamily("syncer_alert", "Alerts that are not over", labels=["name"])
        for alert in active:
            alerting.add_metric([alert["name"]], 1)
        yield alerting
        kinds = GaugeMetricFamily("syncer_processes", "Processes at work", labels=["kind"])
        for kind in sorted({row["kind"] for row in processes}):
            kinds.add_metric([kind], sum(row["kind"] == kind for row in processes))
        yield kinds
