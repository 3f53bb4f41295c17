"""`plan`: how long syncs, runs and catch-ups take, before they are made."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from syncer.capacity.advice import advice
from syncer.capacity.forecast import LATENCY, MACHINE, RATE, Forecast, Load, Step
from syncer.capacity.machine import MEASURED, Machine
from syncer.capacity.seen import ASSUMED, Figure, Seen, configured, seen
from syncer.cli import console, output
from syncer.cli.figures import MILLISECONDS, PERCENT, number, span_of
from syncer.cli.options import (
    config_option,
    config_path,
    json_option,
    listen_for_stop,
    settings,
    wants_json,
)
from syncer.clock import now_ms
from syncer.config import Config
from syncer.databases import open_database
from syncer.delivery.estimate import span
from syncer.progress import say


@click.command()
@config_option
@json_option
@click.option(
    "--customers",
    metavar="NUMBER",
    callback=number("number of customers", "100000", most=1e12, whole=True),
    help="Customers that are synced: those in an audience or with a computed trait.",
)
@click.option(
    "--audiences",
    "values",
    metavar="NUMBER",
    callback=number("number of audiences", "10", most=1e6),
    help="Audiences, entered or left, and computed traits that a customer has on average.",
)
@click.option(
    "--change",
    metavar="PERCENT",
    callback=number("percentage", "2%", unit=PERCENT, most=10_000),
    help="How many of the customers change in a day.",
)
@click.option(
    "--events",
    metavar="NUMBER",
    callback=number("number of events a second", "50"),
    help="Events of a second that are metered, on average.",
)
@click.option(
    "--rate",
    metavar="NUMBER",
    callback=number("rate", "100"),
    help="Requests a second that Amberflo gets at most; 0 is unlimited.",
)
@click.option(
    "--latency",
    metavar="MS",
    callback=number("number of milliseconds", "100", unit=MILLISECONDS, most=1_000_000),
    help="Milliseconds that an answer of Amberflo takes.",
)
@click.option(
    "--every", metavar="SPAN", callback=span_of(1.0), help='The time between two runs: "2h30m".'
)
@click.option(
    "--outage", metavar="SPAN", callback=span_of(0.0), help='How long nothing got through: "1d".'
)
@click.option(
    "--daemons",
    metavar="NUMBER",
    callback=number("number of daemons", "2", most=1000, whole=True),
    help="Daemons on one state; several of them have it on PostgreSQL.",
)
@click.option("--calibrate", is_flag=True, help="Measure this machine first, for about a minute.")
def plan(config: Path | None, as_json: bool, calibrate: bool, **given: float | None) -> None:
    """Say how long the first sync, runs, a verify and catch-ups take.

    What no option says comes from the config, and from what the state saw in its last runs. Both
    may be missing, then --customers must be given. Nothing is asked or sent.
    """
    known = _settings(config)
    figures = {name: Figure(value, "assumed") for name, value in ASSUMED.items()}
    past = Seen({}, None)
    if known is not None:
        past = _seen(known)
        figures |= configured(known) | past.figures
    figures |= {name: Figure(it, "given") for name, it in given.items() if it is not None}
    if not figures.get("customers", Figure(0, "")).value:
        raise click.UsageError(
            "nobody was synced yet, so say how many customers it will be: --customers 100000"
            if "customers" not in figures
            else "there is nothing to plan for 0 customers: write for example --customers 100000"
        )
    machine = _measured() if calibrate else MEASURED
    forecast = Forecast(_load(figures, known), machine)
    figures["reading"] = Figure(1.0, "measured now" if calibrate else "the table")
    if past.reading is not None and not calibrate:
        figures["reading"] = Figure(forecast.factor(past.reading), f"run {past.reading.run}")
        forecast = Forecast(forecast.load, machine.reads(figures["reading"].value))
    if wants_json(as_json):
        output.print_json(_document(figures, forecast))
    else:
        _print(figures, forecast)


def _settings(path: Path | None) -> Config | None:
    """Load the config; None where nobody named one and there is none."""
    named = path is not None or "SYNCER_CONFIG" in os.environ
    place = config_path(path)
    return settings(place) if named or place.exists() else None


def _seen(config: Config) -> Seen:
    with (
        open_database(config, writes=False) as state,
        open_database(config, "queue", writes=False) as calls,
    ):
        return seen(state, calls, now_ms(), config.amberflo.rate)


def _measured() -> Machine:
    from syncer.capacity.calibration import calibrate  # it brings the whole service along

    return calibrate(say, listen_for_stop())


def _load(figures: Mapping[str, Figure], config: Config | None) -> Load:
    value = {name: figure.value for name, figure in figures.items()}
    return Load(
        customers=int(value["customers"]),
        values=value["values"],
        change=value["change"],
        events=value["events"],
        rate=value["rate"],
        latency=value["latency"],
        concurrency=int(value["concurrency"]),
        every=value["every"],
        outage=value["outage"],
        queue_limit=int(value["queue_limit"]),
        always_whole=config is not None and config.engage.settings.ALWAYS_WHOLE,
        daemons=int(value["daemons"]),
        postgresql=config is not None and config.state.url.get_backend_name() == "postgresql",
    )


def _document(figures: Mapping[str, Figure], forecast: Forecast) -> dict[str, Any]:
    pace, events = forecast.pace, forecast.event_pace
    return {
        "figures": {name: figure._asdict() for name, figure in figures.items()},
        "steps": [step.document for step in forecast.steps()],
        "requests_per_second": {"most": pace.per_second, "bound": pace.bound},
        "events_per_second": {"most": events.per_second, "bound": events.bound},
        "busy": forecast.busy,
        "database_processors": forecast.database,
        "queue_full_after_seconds": forecast.queue_full_after,
        "machine": asdict(forecast.machine),
        "advice": list(advice(forecast)),
    }


def _print(figures: Mapping[str, Figure], forecast: Forecast) -> None:
    lines = [
        (name, said(figures[key].value), figures[key].source)
        for key, (name, said) in FIGURES.items()
    ]
    console.print_table(("figure", "value", "from"), lines)
    steps = [_line(step) for step in forecast.steps()]
    console.print_table(("what", "sent", "requests", "until it sends", "in all", "bound by"), steps)
    for line in advice(forecast):
        console.stdout().print(line)


def _rate(value: float) -> str:
    return f"{value:,g}" if value else "unlimited"


#: The figures in the order in which they are shown: the name of each, and how its value is said.
FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "customers": ("customers", "{:,.0f}".format),
    "values": ("audiences and computed traits of one", "{:,.3g}".format),
    "change": ("of the customers change in a day", lambda value: f"{value * 100:.3g} %"),
    "events": ("events a second", "{:,.4g}".format),
    "rate": ("requests a second", _rate),
    "latency": ("an answer of Amberflo takes", "{:,g} s".format),
    "concurrency": ("requests in flight", "{:,.0f}".format),
    "every": ("time between two runs", span),
    "outage": ("outage to catch up after", span),
    "queue_limit": ("calls that wait at most", "{:,.0f}".format),
    "daemons": ("daemons", "{:,.0f}".format),
    "reading": ("time to read, of that of the table", "{:,.3g}".format),
}

#: What each step is.
STEPS = {
    "initial": "first sync, Amberflo knows nobody",
    "initial_equal": "first sync, Amberflo has it all already",
    "incremental": "run of what changed",
    "full": "run that compares everything",
    "verify": "verify",
    "catch_up": "first run after the outage",
    "catch_up_events": "events after the outage",
}

#: What bounds a pace, in words.
BOUNDS = {RATE: "amberflo.rate", LATENCY: "Amberflo's answers", MACHINE: "this machine"}


def _line(step: Step) -> tuple[str, int, int, str, str, str]:
    """Return the row of a step: what does not take any time says nothing of what bounds it."""
    if not step.seconds and step.seconds is not None:
        bound = "–"
    else:
        bound = BOUNDS[step.bound] if step.sending != 0 else "reading"
    time = "never ends" if step.seconds is None else _span(step.seconds)
    return STEPS[step.name], step.sent, step.requests, _span(step.before), time, bound


def _span(seconds: float) -> str:
    return span(seconds) if seconds >= 0.5 else "under 1 s" if seconds else "–"
