"""Metrics for Prometheus that are read from the database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
                "syncer_next_run_timestamp_seconds",
                "When the next run starts, in Unix time; only the daemon that schedules has it",
                self.slot.at,
            )

    def _of_calls(self) -> Iterator[Metric]:
        with self._calls.read() as connection:
            counters = queue.counters(connection)
            inbox, records = queue.waiting(connection)
            by_key = queue.waiting_by_key(connection)
        calls = CounterMetricFamily(
            "syncer_calls",
            "What became of calls; a call may count under several outcomes, so they make no sum",
            None,
            ["outcome", "reason"],
        )
        requests = CounterMetricFamily(
            "syncer_amberflo_requests",
            "Requests to Amberflo by method and status; without a status where no answer came",
            None,
            ["method", "status"],
        )
        keys = CounterMetricFamily(
            "syncer_key_calls",
            "Calls that were processed, by the short name of their key",
            None,
            ["key"],
        )
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
            "syncer_key_waiting", "Calls and meter records that wait, by the key", labels=["key"]
        )
        for key, value in sorted(by_key.items()):
            waiting.add_metric([key], value)
        yield waiting
        yield GaugeMetricFamily(
            "syncer_calls_unprocessed", "Calls that are stored and not processed yet", inbox
        )
        yield GaugeMetricFamily(
            "syncer_meters_waiting", "Meter records that Amberflo has yet to take", records
        )

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
            "syncer_customers_waiting",
            "Customers whose record Amberflo has yet to take",
            facts.waiting_customers,
        )
        yield GaugeMetricFamily(
            "syncer_calls_pending",
            "Engage calls that wait for a pull to know their key",
            pending,
        )
        yield GaugeMetricFamily(
            "syncer_deletes_waiting",
            "Deletions over passthrough.deletes_per_day, which wait for a person",
            deletes,
        )
        yield GaugeMetricFamily(
            "syncer_failures",
            "Customers, meter records and calls that failed for good and wait for a person",
            facts.failures,
        )
        runs_ended = CounterMetricFamily(
            "syncer_runs", "Runs that ended, by their kind and state", None, ["kind", "state"]
        )
        for (kind, state), value in sorted(ended.items()):
            runs_ended.add_metric([kind, state], value)
        yield runs_ended
        yield from _of_sums(sums)
        if last is not None:
            yield GaugeMetricFamily(
                "syncer_last_good_run_timestamp_seconds",
                "When the newest good run started, in Unix time",
                last / 1000,
            )
        members = GaugeMetricFamily(
            "syncer_members",
            "Members of an audience, or customers with a computed trait",
            labels=["trait", "kind"],
        )
        for row in traits:
            members.add_metric([row.trait, row.kind], row.members)
        yield members
        gauge = GaugeMetricFamily(
            "syncer_held",
            "1 for each audience whose changes the guard holds until a person decides",
            labels=["audience"],
        )
        for key in sorted(facts.held):
            gauge.add_metric([key], 1)
        yield gauge
        alerting = GaugeMetricFamily(
            "syncer_alert", "1 for each alert that is not over", labels=["name"]
        )
        for alert in facts.alerts:
            alerting.add_metric([alert.name], 1)
        yield alerting
        times = GaugeMetricFamily(
            "syncer_problem",
            "How often a problem began that lasts, of each part that does not work",
            labels=["part"],
        )
        since = GaugeMetricFamily(
            "syncer_problem_since_timestamp_seconds",
            "When a problem that lasts began first, in Unix time",
            labels=["part"],
        )
        for problem in facts.problems:
            times.add_metric([problem.part], problem.times)
            since.add_metric([problem.part], problem.since / 1000)
        yield times
        yield since
        kinds = GaugeMetricFamily(
            "syncer_processes", "Processes at work, by what they do", labels=["kind"]
        )
        for kind in sorted({row.kind for row in processes}):
            kinds.add_metric([kind], sum(row.kind == kind for row in processes))
        yield kinds


def _of_sums(sums: Mapping[str, int]) -> Iterator[Metric]:
    """Yield what runs did, as sums over all of them: a metric for each unit that is counted."""
    pulled = CounterMetricFamily("syncer_run_values_pulled", "Values that runs pulled")
    pulled.add_metric([], sums["pulled"])
    yield pulled
    skipped = CounterMetricFamily(
        "syncer_run_values_skipped", "Values that runs could not read or take, and left out"
    )
    skipped.add_metric([], sums["skipped"])
    yield skipped
    changes = CounterMetricFamily(
        "syncer_run_changes", "Changes that runs committed, by their kind", None, ["change"]
    )
    for change in ("entered", "exited", "changed"):
        changes.add_metric([change], sums[change])
    yield changes
    held = CounterMetricFamily("syncer_run_changes_held", "Changes that runs held back")
    held.add_metric([], sums["held"])
    yield held
    customers = CounterMetricFamily(
        "syncer_run_customers", "Customers of runs, by how their delivery ended", None, ["outcome"]
    )
    # What Amberflo had already is a part of what was delivered.
    customers.add_metric(["written"], sums["delivered"] - sums["already_right"])
    customers.add_metric(["already_right"], sums["already_right"])
    customers.add_metric(["failed"], sums["failed"])
    yield customers
