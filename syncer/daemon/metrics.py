"""Metrics for Prometheus that are read from the database."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from state import pending_calls, queue, runs, snapshot, suppression
from state.db import workers
from state.db.database import Database
from syncer import status
from syncer.clock import now_ms
from syncer.daemon.schedule import Slot


class StateCollector:
    """Collects the metrics. `slot` is that of the next run if this process schedules."""

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
            by_key = queue.waiting_by_key(connection)
        calls = CounterMetricFamily(
            "syncer_calls", "Calls by their outcome", None, ["outcome", "reason"]
        )
        requests = CounterMetricFamily(
            "syncer_amberflo_requests", "Requests to Amberflo", None, ["method", "status"]
        )
        keys = CounterMetricFamily("syncer_key_calls", "Calls by key", None, ["key"])
        for (outcome, reason), value in sorted(counters.items()):
            if outcome == "key":
                keys.add_metric([reason], value)
            elif outcome == "amberflo":
                requests.add_metric(reason.split(" "), value)
            else:
                calls.add_metric([outcome, reason], value)
        yield calls
        yield keys
        yield requests
        waiting = GaugeMetricFamily(
            "syncer_key_waiting", "Waiting calls and meter records by key", labels=["key"]
        )
        for key, value in sorted(by_key.items()):
            waiting.add_metric([key], value)
        yield waiting
        yield GaugeMetricFamily("syncer_calls_unprocessed", "Calls to process", inbox)
        yield GaugeMetricFamily("syncer_meters_waiting", "Meter records to deliver", records)

    def _of_the_state(self) -> Iterator[Metric]:
        facts = status.gather(self._state, self._calls)
        with self._state.read() as connection:
            ended = runs.counts(connection)
            sums = runs.totals(connection)
            last = runs.last_good(connection, ())
            traits = snapshot.traits(connection)
            processes = workers.all_of(connection)
            pending = pending_calls.count(connection)
            deletes = suppression.waiting_count(connection)
        yield GaugeMetricFamily(
            "syncer_lag_seconds",
            "How long the oldest customer or call has waited to be sent",
            facts.lag(now_ms()),
        )
        yield GaugeMetricFamily(
            "syncer_customers_waiting", "Customers to deliver", facts.waiting_customers
        )
        yield GaugeMetricFamily(
            "syncer_calls_pending",
            "Engage calls that wait for a pull to know their key",
            pending,
        )
        yield GaugeMetricFamily(
            "syncer_deletes_waiting", "Deletions that wait for a person", deletes
        )
        yield GaugeMetricFamily("syncer_failures", "Failures", facts.failures)
        runs_ended = CounterMetricFamily("syncer_runs", "Runs", None, ["kind", "state"])
        for (kind, state), value in sorted(ended.items()):
            runs_ended.add_metric([kind, state], value)
        yield runs_ended
        changes = CounterMetricFamily("syncer_run_sums", "Sums over all runs", None, ["outcome"])
        for outcome, value in sums.items():
            changes.add_metric([outcome], value)
        yield changes
        if last is not None:
            yield GaugeMetricFamily(
                "syncer_last_good_run_timestamp_seconds",
                "When the last good run started",
                last / 1000,
            )
        members = GaugeMetricFamily("syncer_members", "Members", labels=["trait", "kind"])
        for row in traits:
            members.add_metric([row.trait, row.kind], row.members)
        yield members
        gauge = GaugeMetricFamily("syncer_held", "Audiences held by the guard", labels=["audience"])
        for key in sorted(facts.held):
            gauge.add_metric([key], 1)
        yield gauge
        alerting = GaugeMetricFamily("syncer_alert", "Alerts", labels=["name"])
        for alert in facts.alerts:
            alerting.add_metric([alert.name], 1)
        yield alerting
        times = GaugeMetricFamily(
            "syncer_problem", "Problems that last: how often each began", labels=["part"]
        )
        since = GaugeMetricFamily(
            "syncer_problem_since_timestamp_seconds", "When it began first", labels=["part"]
        )
        for problem in facts.problems:
            times.add_metric([problem.part], problem.times)
            since.add_metric([problem.part], problem.since / 1000)
        yield times
        yield since
        kinds = GaugeMetricFamily("syncer_processes", "Running processes", labels=["kind"])
        for kind in sorted({row.kind for row in processes}):
            kinds.add_metric([kind], sum(row.kind == kind for row in processes))
        yield kinds
