"""How long syncs, runs and catch-ups take for a load on a machine. Pure.

A run reads, compares and commits on this machine before it sends anything, and then sends at a
pace: that of the rate, of Amberflo's answers or of this machine, whichever is least. How many
requests customers take is in `delivery.estimate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any, NamedTuple

from syncer.amberflo.reader import LIMITS, PAGE_BYTES
from syncer.capacity.machine import Cost, Machine
from syncer.delivery.estimate import Estimate
from syncer.delivery.meters import BATCH, IN_FLIGHT
from syncer.in_flight import START

DAY = 86_400.0
#: Bytes of JSON of a customer in Amberflo's list, and of each of its traits there.
RECORD_BYTES, TRAIT_BYTES = 250, 35
#: Seconds that are too short to be compared.
SHORTEST = 0.001
#: What bounds a pace.
RATE, LATENCY, MACHINE = "rate", "latency", "machine"


@dataclass(frozen=True)
class Load:
    """What there is to do, and what Amberflo gives.

    `customers` are those who are synced, each with so many `values` (memberships, true or false,
    and computed traits) on average; `change` is the part of them that changes in a day; `events`
    come in a second. `rate` is in requests a second (0: unlimited); an answer of Amberflo takes
    `latency` seconds, and `concurrency` requests are in flight at most. A run starts `every`
    seconds, and nothing gets through for `outage` seconds. `queue_limit` events wait at most.
    With `always_whole` each run pulls everything. So many `daemons` run (0: a run by itself),
    several of them with the state on PostgreSQL; one may have it there, too (`postgresql`).
    """

    customers: int
    values: float
    change: float
    events: float
    rate: float
    latency: float
    concurrency: int
    every: float
    outage: float
    queue_limit: int
    always_whole: bool = False
    daemons: int = 1
    postgresql: bool = False

    @property
    def in_server(self) -> bool:
        """Whether the state is on PostgreSQL."""
        return self.postgresql or self.daemons > 1

    def changed(self, seconds: float) -> int:
        """Return how many customers change in a time: each counts once in it."""
        return min(self.customers, ceil(self.customers * self.change * seconds / DAY))

    def pages(self, listed: int) -> int:
        """Return the requests that read a list of customers at Amberflo (`CustomerReader.pages`).

        The first one looks how large they are, and the last one finds nobody.
        """
        least = LIMITS[-1]
        if listed < least:
            return 2 if listed else 1
        size = RECORD_BYTES + TRAIT_BYTES * self.values
        page = next((limit for limit in LIMITS if limit * size <= PAGE_BYTES), least)
        return ceil(listed / page) + 2


class Reading(NamedTuple):
    """What a full run, by its number, took from its start to its commit.

    It pulled so many customers with so many values in all, and so many were to be sent. An initial
    one found nobody acknowledged.
    """

    run: int
    initial: bool
    customers: int
    values: int
    changed: int
    seconds: float


@dataclass(frozen=True)
class Pace:
    """So many a second, and what bounds it: "rate", "latency" or "machine"."""

    per_second: float
    bound: str


@dataclass(frozen=True)
class Step:
    """One thing that takes time. `sent` counts customers, or events of a catch-up of events.

    `before` are the seconds up to the first write, `sending` those after; None: it never ends.
    """

    name: str
    sent: int
    requests: int
    before: float
    sending: float | None
    bound: str

    @property
    def seconds(self) -> float | None:
        return None if self.sending is None else self.before + self.sending

    @property
    def document(self) -> dict[str, Any]:
        """The step as JSON."""
        return {
            "step": self.name,
            "sent": self.sent,
            "requests": self.requests,
            "before_seconds": round(self.before, 3),
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "bound": self.bound,
        }


@dataclass(frozen=True)
class Forecast:
    """What a load takes on a machine."""

    load: Load
    machine: Machine

    # The paces

    @property
    def pace(self) -> Pace:
        """Requests about customers: each daemon sends, and all together keep to the rate."""
        load, senders = self.load, max(1, self.load.daemons)
        request = replace(self.machine.delivery, start=0.0).seconds(1, load.values) / senders
        in_flight = load.concurrency * senders
        return self._least(load.rate or inf, in_flight, request)

    @property
    def event_pace(self) -> Pace:
        """Events that get to Amberflo; they have no configured rate.

        However many daemons there are, one of them processes the calls.
        """
        in_flight = IN_FLIGHT * BATCH * max(1, self.load.daemons)
        return self._least(inf, in_flight, self.machine.event)

    @property
    def reading_rate(self) -> float:
        """The rate at which a run alone reads Amberflo's list: its share of the configured one.

        The workers of the daemons keep theirs, though they have nothing to send meanwhile.
        """
        return min(self.pace.per_second, (self.load.rate or inf) / (1 + self.load.daemons))

    def _least(self, rate: float, in_flight: int, seconds: float) -> Pace:
        """Return the least of three paces: so many are in flight, and one takes `seconds` here."""
        latency = self.load.latency
        paces = [
            Pace(rate, RATE),
            Pace(in_flight / latency if latency else inf, LATENCY),
            Pace(1 / seconds if seconds else inf, MACHINE),
        ]
        return min(paces, key=lambda pace: pace.per_second)

    # The steps

    def steps(self) -> Iterator[Step]:
        """Yield all that takes time, from the first sync to the catch-ups."""
        load, machine = self.load, self.machine
        everybody = load.customers
        yield self._run("initial", machine.initial, everybody, new=everybody)
        yield self._run("initial_equal", machine.initial, everybody, listed=True)
        yield self.incremental()
        yield self.full()
        yield self._run("verify", machine.verify, everybody, listed=True)
        yield self._compare("catch_up", load.changed(load.outage))
        yield self.events()

    def incremental(self) -> Step:
        """Return the run that the schedule makes `every` so often."""
        changed = self.load.changed(self.load.every)
        if self.load.always_whole:
            return self._compare("incremental", changed)
        return self._run("incremental", self.machine.incremental, changed, known=changed)

    def full(self) -> Step:
        """Return the run that compares everything, which sends what an incremental one would."""
        return self._compare("full", self.load.changed(self.load.every))

    def _compare(self, name: str, changed: int) -> Step:
        """Return a run that compares everything and finds so many customers changed."""
        load = self.load
        step = self._run("full", self.machine.full, load.customers, known=changed, listed=True)
        before = step.before + self._of_changes(changed, load.values)
        return replace(step, name=name, before=before)

    def _of_changes(self, changed: int, values: float) -> float:
        """Return what the changed customers of a full run take besides, with `values` each."""
        return replace(self.machine.incremental, start=0.0).seconds(changed, changed * values)

    def _run(
        self,
        name: str,
        cost: Cost,
        read: int,
        *,
        new: int = 0,
        known: int = 0,
        listed: bool = False,
    ) -> Step:
        """Return a step that reads so many customers, of which some are sent.

        With `listed` Amberflo lists all customers, page by page, before anything is sent.
        """
        pages = self.load.pages(self.load.customers if listed else 0)
        to_send = Estimate(new, known, self.pace.per_second, self.load.customers if known else 0)
        sending = self._sending(to_send.requests)
        if to_send.by_pages:
            sending += self.machine.delivery.start
        return Step(
            name,
            to_send.customers,
            pages + to_send.requests,
            cost.seconds(read, read * self.load.values) + self._waiting(pages),
            sending if to_send.customers else 0.0,
            self.pace.bound,
        )

    def _sending(self, requests: int) -> float:
        """Return the seconds of requests at the pace.

        Those under way are few at first and double in a round trip (in_flight.py), until they are
        what the pace needs: itself times the latency.
        """
        pace, latency = self.pace.per_second, self.load.latency
        seconds, remaining, under_way = 0.0, requests, START
        while remaining and under_way < pace * latency:
            answered = min(remaining, under_way)
            seconds += latency * answered / under_way
            remaining -= answered
            under_way *= 2
        return seconds + remaining / pace

    def _waiting(self, pages: int) -> float:
        """Return the seconds for which so many pages are waited for: one comes after the other."""
        return max((pages - 1) / self.reading_rate, pages * self.load.latency)

    def events(self) -> Step:
        """Return the catch-up of events after an outage of Amberflo, while more come in."""
        load, pace = self.load, self.event_pace
        waiting = min(load.queue_limit, ceil(load.events * load.outage))
        spare = pace.per_second - load.events
        sending = 0.0 if not waiting else waiting / spare if spare > 0 else None
        return Step("catch_up_events", waiting, ceil(waiting / BATCH), 0.0, sending, pace.bound)

    def factor(self, reading: Reading) -> float:
        """Return how many times as long a run took to read as this machine would have taken.

        What it waited for Amberflo's list is left out.
        """
        customers, values, changed = reading.customers, reading.values, reading.changed
        if reading.initial:
            told, listed = self.machine.initial.seconds(customers, values), 0
        else:
            told, listed = self.machine.full.seconds(customers, values), customers
            told += self._of_changes(changed, values / max(1, customers))
        waited = self._waiting(self.load.pages(listed))
        return max(SHORTEST, reading.seconds - waited) / max(SHORTEST, told)

    # What it adds up to

    @property
    def busy(self) -> float:
        """The part of a day for which the runs of a day keep Amberflo's pace busy."""
        runs = DAY / self.load.every
        requests = runs * self.incremental().requests + self.full().requests
        return requests / (self.pace.per_second * DAY)

    @property
    def database(self) -> float | None:
        """Processors of PostgreSQL that are busy while customers go out at the pace, and events.

        None: the state is not there.
        """
        if not self.load.in_server:
            return None
        machine, events = self.machine, min(self.load.events, self.event_pace.per_second)
        return self.pace.per_second * machine.stored_customer + events * machine.stored_event

    @property
    def queue_full_after(self) -> float | None:
        """Seconds of an outage after which callers are turned away; None: no events come."""
        return self.load.queue_limit / self.load.events if self.load.events else None
