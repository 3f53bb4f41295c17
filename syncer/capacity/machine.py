"""What a machine takes for each unit of work: the constants of a forecast. Pure.

`MEASURED` is the one table of them. `python -m benchmarks.plan` prints it anew, and
`syncer plan --calibrate` measures the machine that it runs on (`calibration`). What PostgreSQL
takes is by `python -m benchmarks.daemons`, with four daemons.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple


class Sample(NamedTuple):
    """Work that was measured: so many customers with so many values in all, in seconds."""

    customers: int
    values: int
    seconds: float


@dataclass(frozen=True)
class Cost:
    """Seconds that some work takes: `start`, and more for each customer and each of its values.

    A value is a membership, true or false, or a computed trait of one customer.
    """

    start: float
    customer: float
    value: float

    def seconds(self, customers: float, values: float) -> float:
        """Return how long the work takes for customers that have so many values in all."""
        return self.start + self.customer * customers + self.value * values

    def times(self, factor: float) -> Cost:
        """Return the cost of work that takes `factor` times as long."""
        return Cost(self.start * factor, self.customer * factor, self.value * factor)


@dataclass(frozen=True)
class Machine:
    """Costs up to the first request, those of sending, and the seconds of an event.

    `initial` is a first run that finds nobody at Amberflo, `full` one that compares everything and
    finds no change, `incremental` the customers that changed, `verify` the customers that were
    sent. Waiting for Amberflo is in none of them. `delivery` is what one process takes to send
    without any limit: of requests in place of customers, each with the values of a customer; its
    start is that of a delivery which reads Amberflo's pages, and one of few customers has none.
    `event` is what a worker takes from the inbox to Amberflo's answer for an event of a batch.
    `stored_customer` and `stored_event` are seconds of a processor of PostgreSQL's, where the state
    is there, for a customer that is delivered and for an event.
    """

    initial: Cost
    full: Cost
    incremental: Cost
    verify: Cost
    delivery: Cost
    event: float
    stored_customer: float = 0.00100
    stored_event: float = 0.000156

    def reads(self, factor: float) -> Machine:
        """Return this machine on a source that takes `factor` times as long to read."""
        return replace(
            self,
            initial=self.initial.times(factor),
            full=self.full.times(factor),
            incremental=self.incremental.times(factor),
        )


#: Two shared x86-64 cores, Python 3.11, SQLite, all on loopback, by `python -m benchmarks.plan`.
MEASURED = Machine(
    initial=Cost(0.12, 0.000114, 0.0000159),
    full=Cost(0.17, 0.000183, 0.0000110),
    incremental=Cost(0.14, 0.000107, 0.0000114),
    verify=Cost(0.06, 0.000033, 0.0000016),
    delivery=Cost(0.17, 0.000372, 0.0000606),
    event=0.000153,
)


def fit(small: Sample, few: Sample, many: Sample) -> Cost:
    """Return the cost that fits three measurements: few customers; more of them; more values each.

    `few` and `many` are of about as many customers. Noise may say that more takes less: such a part
    counts as nothing.
    """
    value = max(0.0, many.seconds - few.seconds) / max(1, many.values - few.values)
    more = few.seconds - small.seconds - value * (few.values - small.values)
    customer = max(0.0, more) / max(1, few.customers - small.customers)
    start = small.seconds - customer * small.customers - value * small.values
    return Cost(max(0.0, start), customer, value)
