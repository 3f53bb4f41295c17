"""The command line. Results go to stdout, everything else to stderr.

Exit status: 0 good, 1 failed, 2 usage or config, 3 the guard held something (design §5).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click
import orjson

from state import failures, history, queue, snapshot
from state import runs as run_records
from state.database import Database, shown
from syncer import __version__, report
from syncer.amberflo.delivery import Delivery
from syncer.app import App
from syncer.config import Config, duration, load
from syncer.daemon import run as run_daemon
from syncer.daemon import set_up_logging
from syncer.demo import demo as play
from syncer.errors import (
    EXIT_FAILED,
    EXIT_HELD,
    EXIT_OK,
    NotFound,
    StateError,
    SyncerError,
)
from syncer.interpreter import set_for_throughput
from syncer.sandbox.faults import Faults
from syncer.sandbox.stage import Stage, stage
from syncer.sync.compare import CustomerChange
from syncer.sync.run import Compared, Result, Runs, trait_sums

Command = TypeVar("Command", bound=Callable[..., Any])


def main() -> NoReturn:
    """The `syncer` program."""
    set_for_throughput()
    try:
        # Without standalone mode click gives the status of an Exit, else what the command returned.
        status = cli.main(standalone_mode=False) or EXIT_OK
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        report.say("stopped")
        status = EXIT_FAILED
    except SyncerError as error:
        report.say(f"error: {error}")
        status = error.exit_code
    except StateError as error:
        report.say(f"error: {error}")
        status = EXIT_FAILED
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_OK
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="syncer")
def cli() -> None:
    """Keeps Amberflo's customers in step with Segment Engage."""


# Options that commands share


def config_option(command: Command) -> Command:
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The TOML file with the settings [default: $SYNCER_CONFIG, else config.toml].",
    )(command)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def moment(_context: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    """Epoch milliseconds of an ISO-8601 time or date; UTC when it names no zone."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no time; write for example 2026-11-01 or 2026-11-01T12:00:00Z"
        ) from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return round(found.timestamp() * 1000)


def settings(path: Path | None) -> Config:
    """The config of a command: its own --config, its group's, the environment's, the default."""
    context: click.Context | None = click.get_current_context()
    while path is None and context is not None:
        path = context.params.get("config")
        context = context.parent
    return load(path or Path(os.environ.get("SYNCER_CONFIG") or "config.toml"), os.environ)


def wants_json(as_json: bool) -> bool:
    parent = click.get_current_context().parent
    return as_json or bool(parent and parent.params.get("as_json"))


class Stop:
    """Set by the first Ctrl-C or SIGTERM; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def __call__(self) -> bool:
        return self._asked.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Until it is asked for, or so long; gives whether it was."""
        return self._asked.wait(seconds)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self() and number == signal.SIGINT:
            raise KeyboardInterrupt
        first = not self()
        self._asked.set()
        if first:
            report.say("stopping: what is under way ends first")


def listen_for_stop() -> Stop:
    stop = Stop()
    signal.signal(signal.SIGINT, stop.handle)
    signal.signal(signal.SIGTERM, stop.handle)
    return stop


def application(config: Path | None) -> App:
    """The app of a command that may take long: it stops cleanly when asked to."""
    return App(settings(config), report.progress(), listen_for_stop())


@contextmanager
def looking(config: Path | None) -> Iterator[Database]:
    """The state of a command that only looks."""
    with App(settings(config), report.progress()).state(writes=False) as database:
        yield database


# Runs


@cli.command()
@config_option
@json_option
@click.option("--full", is_flag=True, help="Compare everything (a reconcile).")
@click.option("--dry-run", is_flag=True, help="Show what would change; change nothing anywhere.")
def sync(config: Path | None, as_json: bool, full: bool, dry_run: bool) -> None:
    """One run now, until delivered.

    The first one pulls everything; later ones what changed since.
    """
    app = application(config)
    if dry_run:
        show_diff(app, full=full, customers=False, as_json=as_json)
        return
    with app.runs() as runs:
        end(runs, runs.sync(full=full), as_json)


@cli.command()
@config_option
@json_option
@click.option("--full", is_flag=True, help="As a reconcile would see it.")
@click.option("--customers", is_flag=True, help="List the customers that would change.")
def diff(config: Path | None, as_json: bool, full: bool, customers: bool) -> None:
    """The membership diff that the next run would make.

    Writes nothing and asks Amberflo nothing.
    """
    show_diff(application(config), full=full, customers=customers, as_json=as_json)


@cli.command()
@config_option
@json_option
@click.option("--audience", metavar="KEY", help="Only who is or was in this audience.")
@click.option("--customer", metavar="ID", help="Only this customer.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def resync(
    config: Path | None, as_json: bool, audience: str | None, customer: str | None, yes: bool
) -> None:
    """Pull everything and send it again, changed or not."""
    if audience and customer:
        raise click.UsageError("name an audience or a customer, not both")
    app = application(config)
    whom = (
        f"customer {customer}"
        if customer
        else f"everybody who is or was in {audience}"
        if audience
        else "every customer"
    )
    if not yes:
        click.confirm(f"Send {whom} to Amberflo again?", abort=True, err=True)
    with app.runs() as runs:
        end(runs, runs.resync(audience=audience, customer_id=customer), as_json)


def end(runs: Runs, result: Result, as_json: bool) -> NoReturn:
    """Report a run and leave with its exit status."""
    with runs.database.read() as connection:
        record = run_records.get(connection, result.run)
        traits = run_records.traits(connection, result.run)
    assert record is not None
    if as_json:
        report.print_json(
            {
                **run_json(record),
                "traits": [trait_json(row) for row in traits],
                "held_because": result.held,
                "problems": result.problems,
            }
        )
    else:
        report.print_table(report.TRAIT_COLUMNS, report.trait_rows(traits))
        report.stdout().print(run_line(record))
    if record["without_customer_id"]:
        report.say(
            f"{record['without_customer_id']:,} profiles have no customer id and cannot be billed: "
            "`syncer diff --full --customers` lists them"
        )
    for key, reason in result.held.items():
        report.say(f"held: {key}: {reason}")
    if result.state == run_records.HELD:
        report.say(
            f"nothing of what is held was sent; `syncer runs approve {result.run}` lets it through"
        )
    for problem in result.problems:
        report.say(f"error: {problem}")
    if result.problems:
        raise click.exceptions.Exit(EXIT_FAILED)
    raise click.exceptions.Exit(EXIT_HELD if result.held else EXIT_OK)


def run_line(record: Any) -> str:
    held = f", {record['held']:,} held" if record["held"] else ""
    failed = f", {record['failed']:,} refused" if record["failed"] else ""
    return (
        f"run {record['id']} ({record['kind']}) {record['state']}: "
        f"{record['delivered']:,} of {record['due']:,} customers delivered{failed}{held}"
    )


def show_diff(app: App, *, full: bool, customers: bool, as_json: bool) -> None:
    with app.runs(writes=False) as runs:
        compared = runs.diff(full=full)
        try:
            _print_diff(runs, compared, customers, as_json)
        finally:
            compared.close()
    for message in compared.catalog.messages:
        report.say(f"error: {message}")
    for key, reason in compared.held.items():
        report.say(f"would be held: {key}: {reason}")


def _print_diff(runs: Runs, compared: Compared, customers: bool, as_json: bool) -> None:
    held: dict[str, int] = {}
    for change in compared.plan:
        for one in compared.split(change)[1]:
            held[one.key] = held.get(one.key, 0) + 1
    tally = compared.tally
    traits = [trait_json(row) for row in trait_sums(compared, held)]
    document = {
        "kind": compared.kind,
        "complete": True,
        "customers": {"new": tally.new, "changed": tally.changed, "unchanged": tally.unchanged},
        "traits": traits,
        "without_customer_id": compared.without_id.profiles,
    }
    if as_json and not customers:
        report.print_json(document)
    elif as_json:
        # The lists may be long: they are written as they come.
        head = orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
        sys.stdout.write(head.removesuffix("\n}"))
        _print_list("changes", (change_json(compared, change) for change in compared.plan))
        _print_list("profiles_without_customer_id", runs.without_customer_id(compared))
        sys.stdout.write("\n}\n")
        sys.stdout.flush()
    else:
        report.print_table(report.TRAIT_COLUMNS, report.trait_rows(traits))
        report.stdout().print(
            f"{compared.kind}: {tally.new:,} new customers, {tally.changed:,} changed, "
            f"{tally.unchanged:,} unchanged"
        )
        if compared.without_id.profiles:
            report.stdout().print(
                f"{compared.without_id.profiles:,} profiles have no customer id and cannot be "
                "billed" + ("" if customers else "; --customers lists them")
            )
        if customers:
            for change in compared.plan:
                print(_change_line(compared, change))
            for profile in runs.without_customer_id(compared):
                print(f"no customer id: profile {profile}")


def _print_list(name: str, items: Iterator[Any]) -> None:
    sys.stdout.write(f',\n  "{name}": [')
    for number, item in enumerate(items):
        sys.stdout.write(("," if number else "") + "\n    " + orjson.dumps(item).decode())
    sys.stdout.write("]")


def _change_line(compared: Compared, change: CustomerChange) -> str:
    parts = [
        f"{one.trait}: {_said(one.before)} → {_said(one.after)}"
        + (" (held)" if one.key in compared.held else "")
        for one in change.changes
    ]
    mark = "changed" if change.known else "new"
    return f"{mark} {change.customer_id}: {', '.join(parts) or 'name or email'}"


def _said(value: Any) -> str:
    return "absent" if value is None else orjson.dumps(value).decode()


@cli.group(invoke_without_command=True)
@config_option
@json_option
@click.option("--limit", type=click.IntRange(min=1), help="Only the newest so many.")
@click.pass_context
def runs(context: click.Context, config: Path | None, as_json: bool, limit: int | None) -> None:
    """The runs, the newest first; and what the guard held."""
    if context.invoked_subcommand is None:
        list_runs(config, as_json, limit)


@runs.command("list")
@config_option
@json_option
@click.option("--limit", type=click.IntRange(min=1), help="Only the newest so many.")
def runs_list(config: Path | None, as_json: bool, limit: int | None) -> None:
    """The runs, the newest first."""
    list_runs(config, as_json, limit)


def list_runs(config: Path | None, as_json: bool, limit: int | None) -> None:
    with looking(config) as database, database.read() as connection:
        records = run_records.newest(connection, limit)
    if wants_json(as_json):
        report.print_json([run_json(record) for record in records])
        return
    sums = ("entered", "exited", "changed", "due", "delivered", "failed", "held")
    rows = [
        [
            *(row["id"], row["kind"], row["state"], report.iso(row["started_at"])),
            *(row[name] for name in sums),
        ]
        for row in records
    ]
    report.print_table(("run", "kind", "state", "started", *sums), rows)


@runs.command("show")
@click.argument("run", type=int)
@config_option
@json_option
def runs_show(run: int, config: Path | None, as_json: bool) -> None:
    """One run with its sums by trait."""
    with looking(config) as database, database.read() as connection:
        record = run_records.get(connection, run)
        traits = run_records.traits(connection, run)
    if record is None:
        raise NotFound(f"there is no run {run}; `syncer runs` lists them")
    if wants_json(as_json):
        report.print_json({**run_json(record), "traits": [trait_json(row) for row in traits]})
        return
    report.print_table(report.TRAIT_COLUMNS, report.trait_rows(traits))
    for row in traits:
        for reason, count in orjson.loads(row["reasons"]).items():
            report.stdout().print(f"{row['trait']}: {count:,} skipped: {reason}")
    report.stdout().print(run_line(record))
    if record["error"]:
        report.stdout().print(record["error"])


@runs.command("approve")
@click.argument("run", type=int)
@config_option
@json_option
def runs_approve(run: int, config: Path | None, as_json: bool) -> None:
    """Let through what the guard held in a run.

    Compares everything anew, so that what is sent is what Engage says now.
    """
    with application(config).runs() as found:
        end(found, found.approve(run), wants_json(as_json))


@runs.command("reject")
@click.argument("run", type=int)
@config_option
@json_option
def runs_reject(run: int, config: Path | None, as_json: bool) -> None:
    """Leave what the guard held in a run as it is."""
    with application(config).runs() as found:
        found.reject(run)
        with found.database.read() as connection:
            record = run_records.get(connection, run)
    if wants_json(as_json):
        report.print_json(run_json(record))
    else:
        report.say(f"run {run} rejected: nothing of what it held will be sent")


# Audit


@cli.group()
@config_option
@json_option
def audit(config: Path | None, as_json: bool) -> None:
    """Who was in which audience, when, and when Amberflo learned of it."""


csv_option = click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
CHANGE_COLUMNS = (
    *("trait", "key", "before", "after", "run"),
    *("observed_at", "recorded_at", "delivered_at"),
)


@audit.command("customer")
@click.argument("customer_id", metavar="ID")
@config_option
@json_option
@csv_option
@click.option("--at", callback=moment, metavar="TIME", help="As recorded here by then.")
def audit_customer(
    customer_id: str, config: Path | None, as_json: bool, as_csv: bool, at: int | None
) -> None:
    """A customer's present traits and their history."""
    with looking(config) as database, database.read() as connection:
        present = history.present(connection, customer_id)
        rows = history.of_customer(connection, customer_id)
    if present is None:
        raise NotFound(f"the customer {customer_id!r} is not known here")
    traits = orjson.loads(present)
    if at is not None:
        rows = [row for row in rows if row["recorded_at"] <= at]
        traits = {row["trait"]: _value(row["after"]) for row in rows if row["after"] is not None}
        for row in rows:
            if row["after"] is None:
                traits.pop(row["trait"], None)
            else:
                traits[row["trait"]] = _value(row["after"])
    changes = [history_json(row) for row in rows]
    if wants_json(as_json):
        document = {"customer_id": customer_id, "present": traits, "changes": changes}
        report.print_json(document if at is None else {**document, "at": report.iso(at)})
        return
    cells = [
        [
            orjson.dumps(row[name]).decode() if name in ("before", "after") else row[name]
            for name in CHANGE_COLUMNS
        ]
        for row in changes
    ]
    if as_csv:
        report.print_csv(CHANGE_COLUMNS, cells)
        return
    when = "now" if at is None else f"at {report.iso(at)}"
    report.print_table(
        ("trait", "value"),
        [[name, orjson.dumps(value).decode()] for name, value in sorted(traits.items())],
        title=f"{customer_id} {when}",
    )
    report.print_table(CHANGE_COLUMNS, cells, title="history")


@audit.command("audience")
@click.argument("key", metavar="KEY")
@config_option
@json_option
@csv_option
@click.option("--since", callback=moment, metavar="TIME", help="Recorded at or after this.")
@click.option("--until", callback=moment, metavar="TIME", help="Recorded before this.")
@click.option("--at", callback=moment, metavar="TIME", help="Who was in, as recorded here by then.")
def audit_audience(
    key: str,
    config: Path | None,
    as_json: bool,
    as_csv: bool,
    since: int | None,
    until: int | None,
    at: int | None,
) -> None:
    """Who entered and left an audience; or with --at who was in."""
    if at is not None and (since is not None or until is not None):
        raise click.UsageError("--at is one moment: leave --since and --until out")
    with looking(config) as database, database.read() as connection:
        found = history.key_of(connection, key)
        if found is None:
            raise NotFound(f"no audience with the key {key!r} was ever synced")
        if at is not None:
            members = history.members_at(connection, found, at)
            rows: list[dict[str, Any]] = []
        else:
            rows = [
                history_json(row) | {"customer_id": row["customer_id"]}
                for row in history.of_key(connection, found, since, until)
            ]
    if at is not None:
        if wants_json(as_json):
            report.print_json(
                {"audience": found, "at": report.iso(at), "count": len(members), "members": members}
            )
        elif as_csv:
            report.print_csv(("customer_id",), [[one] for one in members])
        else:
            report.print_table(("customer_id",), [[one] for one in members])
            report.stdout().print(f"{len(members):,} in {found} at {report.iso(at)}")
        return
    moved = [(side, row) for row in rows if (side := _side(row)) is not None]
    columns = ("customer_id", "observed_at", "recorded_at", "delivered_at", "run")
    if wants_json(as_json):
        sides: dict[str, list[dict[str, Any]]] = {"entered": [], "exited": []}
        for side, row in moved:
            sides[side].append({name: row[name] for name in columns})
        report.print_json({"audience": found, **sides})
        return
    cells = [[side, *(row[name] for name in columns)] for side, row in moved]
    (report.print_csv if as_csv else report.print_table)(("what", *columns), cells)


def _side(row: dict[str, Any]) -> str | None:
    if row["after"] is True:
        return "entered"
    return "exited" if row["before"] is True else None


# Failures


@cli.group("failures", invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def failures_group(context: click.Context, config: Path | None, as_json: bool) -> None:
    """What Amberflo refused for good, with the request and its answer."""
    if context.invoked_subcommand is None:
        list_failures(config, as_json)


@failures_group.command("list")
@config_option
@json_option
def failures_list(config: Path | None, as_json: bool) -> None:
    """The failures, oldest first."""
    list_failures(config, as_json)


def list_failures(config: Path | None, as_json: bool) -> None:
    with looking(config) as database, database.read() as connection:
        found = failures.find(connection)
    if wants_json(as_json):
        report.print_json([{**row, "failed_at": report.iso(row["failed_at"])} for row in found])
        return
    columns = ("id", "kind", "customer", "status", "reason", "attempts", "failed at")
    names = ("kind", "customer_id", "status", "reason", "attempts")
    rows = [
        [str(row["id"]), *(row[name] for name in names), report.iso(row["failed_at"])]
        for row in found
    ]
    report.print_table(columns, rows)


def _chosen(database: Database, ids: tuple[int, ...], everything: bool) -> list[Any]:
    if bool(ids) == everything:
        raise click.UsageError("name failures by their numbers, or all of them with --all")
    with database.read() as connection:
        there = failures.find(connection, None if everything else ids)
    missing = sorted(set(ids) - {row["id"] for row in there})
    if missing:
        raise NotFound(f"there is no failure {missing[0]}; `syncer failures` lists them")
    return there


@failures_group.command("retry")
@click.argument("ids", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@config_option
@json_option
def failures_retry(
    ids: tuple[int, ...], everything: bool, config: Path | None, as_json: bool
) -> None:
    """Send them again now; while a daemon runs, it sends the meter records."""
    app = application(config)
    with app.runs() as found:
        rows = _chosen(found.database, ids, everything)
        for row in rows:
            if row["ref"].startswith("call:"):
                raise SyncerError(
                    f"failure {row['id']} is a call that cannot be taken ({row['reason']}): "
                    "it can only be discarded"
                )
        customers = [row["id"] for row in rows if row["kind"] == failures.CUSTOMER]
        meters = [row for row in rows if row["kind"] == failures.METER]
        delivery = found.retry(customers) if customers else Delivery()
        if meters:
            sent, refused = app.retry_meters(found.database, meters)
            delivery.delivered += sent
            delivery.failed += refused
    if wants_json(as_json):
        report.print_json({"delivered": delivery.delivered, "failed": delivery.failed})
    report.say(f"{delivery.delivered:,} delivered, {delivery.failed:,} refused again")
    if delivery.problem:
        report.say(f"error: {delivery.problem}")
    if delivery.failed or delivery.problem or delivery.stopped:
        raise click.exceptions.Exit(EXIT_FAILED)


@failures_group.command("discard")
@click.argument("ids", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@config_option
@json_option
def failures_discard(
    ids: tuple[int, ...], everything: bool, config: Path | None, as_json: bool
) -> None:
    """Forget them; what they wanted is not sent until the customer changes or is resynced."""
    with application(config).state(writes=True) as database:
        chosen = [row["id"] for row in _chosen(database, ids, everything)]
        with database.write() as connection:
            removed = failures.remove(connection, chosen)
    if wants_json(as_json):
        report.print_json({"discarded": removed})
    report.say(f"{removed:,} discarded")


@cli.command()
@config_option
def daemon(config: Path | None) -> None:
    """Receive calls and deliver, until SIGTERM.

    It drains and stops within 20 seconds.
    """
    loaded, stop = settings(config), listen_for_stop()
    set_up_logging()
    run_daemon(loaded, stop)


# The sandbox


def faults_option(command: Command) -> Command:
    def parsed(_context: click.Context, _param: click.Parameter, text: str | None) -> Faults | None:
        try:
            return None if text is None else Faults.parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return click.option(
        "--faults",
        callback=parsed,
        metavar="SPEC",
        help='What Amberflo gets wrong how often: "429=0.05,500=0.02,drop=0.01,slow=0.1".',
    )(command)


@cli.command()
@click.option("--keep", is_flag=True, help="Leave the sandbox serving until Ctrl-C.")
def demo(keep: bool) -> None:
    """The whole story on this machine, in under a minute.

    A first sync, a few hours of change, a second sync, an audit.
    """
    stop = listen_for_stop()
    with tempfile.TemporaryDirectory(prefix="syncer-demo-") as folder:
        kept = (lambda on: _keep(on, Path(folder), stop)) if keep else None
        if not play(Path(folder), report.progress(), stop, kept):
            raise click.exceptions.Exit(EXIT_FAILED)


def _keep(on: Stage, folder: Path, stop: Stop) -> None:
    report.say(f"serving until Ctrl-C; try: syncer status --config {folder / 'config.toml'}")
    stop.wait()


@cli.command()
@click.option("--users", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--audiences", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="The same gives the same.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Amberflo's [default: free]")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where Engage's database and the state go [default: a temporary one].",
)
@click.option("--evolve", metavar="EVERY", help='Let 2.5 h pass at Engage every so often: "60s".')
@faults_option
def sandbox(
    users: int,
    audiences: int,
    seed: int,
    port: int,
    folder: Path | None,
    evolve: str | None,
    faults: Faults | None,
) -> None:
    """Stand-ins for Engage and Amberflo on loopback, until stopped.

    Prints a config that points at them.
    """
    try:
        every = None if evolve is None else duration(evolve)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--evolve") from None
    stop = listen_for_stop()
    with contextlib.ExitStack() as cleanup:
        if folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="syncer-sandbox-")
            folder = Path(cleanup.enter_context(temporary))
        on = cleanup.enter_context(
            stage(folder, users=users, audiences=audiences, seed=seed, faults=faults, port=port)
        )
        print(on.config, flush=True)
        report.say("the sandbox serves until Ctrl-C; the config above points at it")
        while not stop.wait(every):
            evolution = on.engage.evolve()
            on.engage.observe()
            report.say(f"2.5 h passed at Engage: {len(evolution.changed):,} customers changed")


# Looking after it


@cli.command()
@config_option
@json_option
def status(config: Path | None, as_json: bool) -> None:
    """The last run, what waits to be sent, and what needs somebody."""
    app = App(settings(config), report.progress())
    with app.state(writes=False) as database, database.read() as connection:
        newest = run_records.newest(connection, 1)
        oldest_customer = snapshot.oldest_due(connection)
        held = run_records.held_keys(connection)
        customers = snapshot.backlog(connection)
        failed = failures.count(connection)
        daemon = app.daemon_process(database)
    with app.queue(writes=False) as database, database.read() as connection:
        events = sum(queue.waiting(connection))
        oldest_event = queue.oldest_waiting(connection)
    waiting = [one for one in (oldest_customer, oldest_event) if one is not None]
    lag = _lag(min(waiting, default=None))
    if wants_json(as_json):
        report.print_json(
            {
                "daemon": daemon,
                "next_run": None,
                "last_run": run_json(newest[0]) if newest else None,
                "backlog": {"customers": customers, "events": events},
                "failures": failed,
                "held": [{"key": key, "run": run} for key, run in sorted(held.items())],
                "lag_seconds": lag,
            }
        )
        return
    out = report.stdout()
    out.print(run_line(newest[0]) if newest else "no run yet")
    out.print(f"the daemon runs: process {daemon['pid']}" if daemon else "no daemon is running")
    out.print(f"{customers:,} customers and {events:,} calls wait to be sent, {lag:.0f} s behind")
    out.print(f"{failed:,} failures")
    for key, run in sorted(held.items()):
        out.print(f"held: {key}, since run {run}: `syncer runs approve {run}` or reject")


def _lag(oldest: int | None) -> float:
    if oldest is None:
        return 0.0
    return round(max(0.0, datetime.now(UTC).timestamp() - oldest / 1000), 3)


@cli.command()
@config_option
@json_option
def check(config: Path | None, as_json: bool) -> None:
    """Config, source, Amberflo key and database: each a line, good or what to do."""
    app = App(settings(config), report.progress())
    results: list[dict[str, Any]] = [{"check": "config", "good": True, "says": "it can be read"}]
    tests = {"source": _check_source, "amberflo": _check_amberflo, "database": _check_database}
    for name, test in tests.items():
        try:
            results.append({"check": name, "good": True, "says": test(app)})
        except (SyncerError, StateError) as error:
            results.append({"check": name, "good": False, "says": str(error)})
    if wants_json(as_json):
        report.print_json(results)
    else:
        for row in results:
            print(f"{'good' if row['good'] else 'BAD '}  {row['check']}: {row['says']}")
    if not all(row["good"] for row in results):
        raise click.exceptions.Exit(EXIT_FAILED)


def _check_source(app: App) -> str:
    return app.source().check()


def _check_amberflo(app: App) -> str:
    asyncio.run(app.check_amberflo())
    return f"the key is good at {app.config.amberflo.customers_url}"


def _check_database(app: App) -> str:
    with app.state(writes=False) as database, database.read() as connection:
        return f"{shown(app.config.state.url)}: {snapshot.size(connection):,} customers known"


# JSON shapes (design §5)


def run_json(record: Any) -> dict[str, Any]:
    names = (
        *("pulled", "entered", "exited", "changed", "unchanged", "skipped"),
        *("due", "delivered", "failed", "held", "without_customer_id", "error"),
    )
    return {
        "run": record["id"],
        "kind": record["kind"],
        "state": record["state"],
        "started_at": report.iso(record["started_at"]),
        "ended_at": report.iso(record["ended_at"]),
        **{name: record[name] for name in names},
    }


def trait_json(row: Any) -> dict[str, Any]:
    names = ("key", *report.TRAIT_COLUMNS)
    return {**{name: row[name] for name in names}, "reasons": orjson.loads(row["reasons"])}


def change_json(compared: Compared, change: CustomerChange) -> dict[str, Any]:
    return {
        "customer_id": change.customer_id,
        "new": not change.known,
        "name": change.name,
        "email": change.email,
        "changes": [
            {
                "trait": one.trait,
                "key": one.key,
                "before": one.before,
                "after": one.after,
                "observed_at": report.iso(one.observed_at),
                "held": one.key in compared.held,
            }
            for one in change.changes
        ],
    }


def history_json(row: Any) -> dict[str, Any]:
    return {
        "trait": row["trait"],
        "key": row["key"],
        "before": _value(row["before"]),
        "after": _value(row["after"]),
        "run": row["run"],
        "observed_at": report.iso(row["observed_at"]),
        "recorded_at": report.iso(row["recorded_at"]),
        "delivered_at": report.iso(row["delivered_at"]),
    }


def _value(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


if __name__ == "__main__":
    main()
