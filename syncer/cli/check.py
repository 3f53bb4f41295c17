"""`check`: whether the set-up works, and what a run would take."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from state import snapshot
from state.db.driver_errors import shown
from syncer import status as facts
from syncer.app import App
from syncer.cli import output
from syncer.cli.options import config_option, json_option, settings, wants_json
from syncer.cli.progress_bar import progress
from syncer.daemon import channels
from syncer.databases import check_databases
from syncer.engage.catalog import Catalog
from syncer.engage.computations import AUDIENCE, Computations
from syncer.engage.source import ComparingSource, Survey
from syncer.errors import EXIT_FAILED, ConfigError, StateError, SyncerError
from syncer.process.server import bind

#: How many traits the lines name.
NAMED = 20


@dataclass(frozen=True)
class Result:
    """What a check found: one line, `details` below it, and `more` for the JSON document."""

    check: str
    ok: bool
    message: str
    details: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def document(self) -> dict[str, Any]:
        return {"check": self.check, "ok": self.ok, "message": self.message, **self.more}


@click.command()
@config_option
@json_option
def check(config: Path | None, as_json: bool) -> None:
    """Test the config, the source, the Amberflo key, the database and the ports.

    A line for each, and the audiences and computed traits that a run would take.
    """
    results = list(checked(App(settings(config), progress())))
    if wants_json(as_json):
        output.print_json([result.document for result in results])
    else:
        print_results(results)
    if not all(result.ok for result in results):
        raise click.exceptions.Exit(EXIT_FAILED)


def print_results(results: list[Result], *, brief: bool = False) -> None:
    """Print a line for each result, and its details below it unless `brief`."""
    for result in results:
        output.print_line(f"{'ok  ' if result.ok else 'FAIL'}  {result.check}: {result.message}")
        for line in [] if brief else result.details:
            output.print_line(f"      {line}")


def checked(app: App, survey: Survey | None = None) -> Iterator[Result]:
    """Make all checks, and yield what each found; the `survey` of the source may be known."""
    yield _result("config", lambda: _config(app))
    survey, source = _source(app, survey)
    yield source
    if source.ok and isinstance(comparing := app.source(), ComparingSource):
        yield _result("scratch", comparing.try_scratch)
    yield _result("amberflo", lambda: _amberflo(app))
    yield _result("database", lambda: _database(app))
    computations = None
    if app.config.engage.public_api is not None:
        computations, catalog = _public_api(app)
        yield catalog
    if survey is not None and survey.share:
        yield _traits(app, survey, computations)
    yield from _ports(app)


def _result(name: str, test: Callable[[], str]) -> Result:
    try:
        return Result(name, True, test())
    except (SyncerError, StateError) as error:
        return Result(name, False, str(error))


def _source(app: App, survey: Survey | None) -> tuple[Survey | None, Result]:
    try:
        survey = survey or app.source().survey()
    except SyncerError as error:
        return None, Result("source", False, str(error))
    sight, advice = app.config.engage.settings.SIGHT, list(survey.advice)
    lines = [*advice, f"how late: {sight.lag}; what a pull costs: {sight.cost}"]
    if sight.unseen:
        lines.append(f"it does not see {', '.join(sight.unseen)} (docs/sources.md)")
    more = {"advice": advice, "lag": sight.lag, "cost": sight.cost, "unseen": sight.unseen}
    return survey, Result("source", True, survey.message, lines, more)


def _config(app: App) -> str:
    channels.check(app.config.alerts)
    return "it can be read"


def _amberflo(app: App) -> str:
    app.check_amberflo()
    return f"the key is good at {app.config.amberflo.customers_url}"


def _database(app: App) -> str:
    with app.state(writes=False) as database, database.read() as connection:
        known = snapshot.size(connection)
    check_databases(app.config)
    return f"{shown(app.config.state.url)}: {known:,} customers known"


def _public_api(app: App) -> tuple[Computations | None, Result]:
    """Return what the Public API lists, if it can be read."""
    try:
        computations = app.computations()
        assert computations is not None
    except SyncerError as error:
        return None, Result("catalog", False, str(error))
    listed = computations.computations.values()
    audiences = sum(computation.kind == AUDIENCE for computation in listed)
    not_live = sum(computation.exits_wait is not None for computation in listed)
    message = (
        f"{audiences:,} audiences, {len(listed) - audiences:,} computed traits, "
        f"{not_live:,} not live"
    )
    return computations, Result("catalog", True, message)


def _traits(app: App, survey: Survey, computations: Computations | None) -> Result:
    """Return the audiences and computed traits that a run would take.

    A name that two keys would have at Amberflo, or a key that makes no name, is a failure.
    """
    try:
        catalog = app.catalog(survey, computations)
    except (SyncerError, StateError) as error:
        return Result("traits", False, str(error))
    traits = taken(survey, catalog)
    audiences = sum(trait["kind"] == AUDIENCE for trait in traits)
    return Result(
        "traits",
        not catalog.messages,
        f"{audiences:,} audiences, {len(traits) - audiences:,} computed traits"
        + ("; ".join(["", *catalog.messages])),
        [*trait_lines(survey, traits), *catalog.notices],
        {"traits": traits, "notices": catalog.notices},
    )


def taken(survey: Survey, catalog: Catalog) -> list[dict[str, Any]]:
    """Return the traits that a run would take: key, name at Amberflo, kind and count.

    The count is of members (audiences) or of values (computed traits).
    """
    seen = {key.key: key for key in survey.keys}
    traits = [catalog.by_key[key] for key in catalog.keys if key not in catalog.problems]
    return [
        {
            "key": trait.key,
            "trait": trait.name,
            "kind": trait.kind,
            "count": survey.members[trait.key]
            if trait.kind == AUDIENCE
            else seen[trait.key].values,
        }
        for trait in traits
    ]


def trait_lines(survey: Survey, traits: list[dict[str, Any]]) -> list[str]:
    """Return a line for each of the largest traits: "vip: about 1,200 members"."""
    about = "about " if survey.share < 1 else ""
    largest = sorted(traits, key=lambda trait: (trait["kind"], -trait["count"], trait["key"]))
    lines = [
        f"{trait['key']}"
        + (f" ({trait['trait']} at Amberflo)" if trait["trait"] != trait["key"] else "")
        + f": {about}{trait['count']:,} {'members' if trait['kind'] == AUDIENCE else 'values'}"
        for trait in largest[:NAMED]
    ]
    rest = len(traits) - NAMED
    return [*lines, f"and {rest:,} more; --json has all"] if rest > 0 else lines


def _ports(app: App) -> Iterator[Result]:
    """Listen on each address of the daemon for a moment, on all at once."""
    config = app.config
    listeners = {"passthrough": config.passthrough, "ops": config.ops}
    if config.web is not None:
        listeners["web"] = config.web
    daemon = _daemon(app)
    with ExitStack() as bound:
        for name, listener in listeners.items():
            try:
                bound.enter_context(bind(*listener.address, f"{name}.listen"))
            except ConfigError as error:
                if daemon is None:
                    yield Result(name, False, str(error))
                else:
                    message = f"{listener.listen} is in use by the daemon, process {daemon.pid}"
                    yield Result(name, True, message)
            else:
                yield Result(name, True, f"{listener.listen} is free")


def _daemon(app: App) -> facts.Daemon | None:
    """Return the daemon that runs on this machine, if one does."""
    with suppress(SyncerError, StateError), app.state(writes=False) as state:
        for daemon in facts.daemons(state):
            if daemon.host == socket.gethostname():
                return daemon
    return None
