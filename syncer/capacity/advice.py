"""What a forecast means for who runs the service, in lines: is the pace enough, and is one daemon?

Pure. What several daemons change, and what not, is in docs/explanation/capacity.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from syncer.capacity.forecast import LATENCY, MACHINE, Forecast
from syncer.delivery.estimate import span

#: The part of a day from which a pace counts as nearly used up.
NEARLY = 0.5
#: Events of an hour and meter that Amberflo takes (docs/facts/amberflo.md).
EVENTS_OF_A_METER = 1_000_000
#: Busy processors of PostgreSQL from which it is worth a word.
ONE_DATABASE = 1.0


def advice(forecast: Forecast) -> Iterator[str]:
    """Yield a line for each thing to know, what must be done first."""
    yield from _of_runs(forecast)
    yield from _of_events(forecast)
    yield from _of_daemons(forecast)


def _of_runs(forecast: Forecast) -> Iterator[str]:
    load, busy, run = forecast.load, forecast.busy, forecast.incremental()
    if busy > 1:
        rate = forecast.pace.per_second * busy
        yield (
            f"more changes than gets through: it would take {rate:,.1f} requests a second, and "
            f"{_pace(forecast)}"
        )
    elif run.seconds is not None and run.seconds > load.every:
        yield (
            f"a run takes longer than the {span(load.every)} between two: the next one waits for "
            "it; raise schedule.every or amberflo.rate"
        )
    elif busy > NEARLY:
        yield f"the runs of a day keep Amberflo busy for {busy:.0%} of it: {_pace(forecast)}"


def _of_events(forecast: Forecast) -> Iterator[str]:
    load, pace = forecast.load, forecast.event_pace
    if not load.events:
        return
    if pace.per_second <= load.events:
        more = "bring no more" if pace.bound == MACHINE else "would bring more"
        yield (
            f"{load.events:,.0f} events a second are more than the {pace.per_second:,.0f} that "
            f"get to Amberflo: the queue fills; more daemons {more}"
        )
    if load.events * 3600 > EVENTS_OF_A_METER:
        yield (
            f"{load.events * 3600:,.0f} events an hour: Amberflo takes {EVENTS_OF_A_METER:,} an "
            "hour and meter unless its support raises that"
        )
    full = forecast.queue_full_after
    if full is not None and full < load.outage:
        yield (
            f"after {span(full)} without Amberflo {load.queue_limit:,} events wait, and callers "
            "get 429 until it takes them: a longer outage needs a larger passthrough.queue_limit"
        )


def _of_daemons(forecast: Forecast) -> Iterator[str]:
    load, pace = forecast.load, forecast.pace
    together = f"{load.daemons} daemons send" if load.daemons > 1 else "one process sends"
    if pace.bound == MACHINE and load.rate:
        yield (
            f"{together} {pace.per_second:,.0f} requests a second, less than the rate of "
            f"{load.rate:,g}: {'more' if load.daemons > 1 else 'several'} daemons on PostgreSQL "
            "would share it"
        )
    elif pace.bound == LATENCY and load.rate:
        many = f" of each of {load.daemons} daemons," if load.daemons > 1 else ""
        yield (
            f"{load.concurrency} requests in flight{many} of {load.latency:g} s each "
            f"are {pace.per_second:,.0f} a second, less than the rate of "
            f"{load.rate:,g}: raise amberflo.concurrency"
        )
    elif load.daemons > 1:
        yield from _of_several(forecast)
    else:
        yield (
            "one daemon on SQLite is enough for that; several on PostgreSQL go on when a host "
            "fails, and are no faster than Amberflo lets them be"
        )
    if forecast.database is not None and forecast.database > ONE_DATABASE:
        yield (
            f"PostgreSQL needs {forecast.database:,.1f} processors for that, whatever the number "
            "of daemons: docs/explanation/capacity.md says what to do"
        )


def _of_several(forecast: Forecast) -> Iterator[str]:
    load = forecast.load
    if load.rate:
        yield (
            f"{load.daemons} daemons share the rate of {load.rate:,g}: they deliver no faster than "
            f"one, and a run reads Amberflo's list at {forecast.reading_rate:,.3g} a second"
        )
    else:
        yield f"{load.daemons} daemons send {forecast.pace.per_second:,.0f} requests a second"
    if load.events:
        yield (
            f"each of {load.daemons} daemons takes and delivers events, and one of them processes "
            f"all: {forecast.event_pace.per_second:,.0f} a second get to Amberflo at most"
        )


def _pace(forecast: Forecast) -> str:
    pace = forecast.pace
    return f"{pace.per_second:,.1f} a second are what the {pace.bound} allows"
