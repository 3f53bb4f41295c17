"""The demo: syncs, calls and an audit on this machine, against the sandbox."""

from __future__ import annotations

import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable
from pathlib import Path

import orjson

from state.history import listings
from syncer.amberflo.record import merged
from syncer.app import App
from syncer.cli import console
from syncer.clock import iso
from syncer.config import Config
from syncer.errors import Stopped, SyncerError
from syncer.progress import Progress
from syncer.progress import say as warn
from syncer.sandbox.environment import Environment, environment
from syncer.sync.run_result import Result

USERS, AUDIENCES = 1000, 10
#: A trait that another integration wrote to Amberflo before us; it must survive.
FOREIGN = {"stripeId": "cus_sandbox"}
#: The traits of the identify call.
IDENTIFIED = {"plan": "premium"}


def demo(
    folder: Path,
    progress: Progress,
    stop: Callable[[], bool],
    keep: Callable[[Environment], None] | None,
) -> bool:
    """Play the demo in `folder`; return whether Amberflo is equal to Engage at the end.

    `keep` is called at the end, while the sandbox still serves.
    """
    say = console.stdout().print

    def head(text: str) -> None:
        say()
        say(text)

    with environment(folder, users=USERS, audiences=AUDIENCES) as on:
        app = App(Config.model_validate(tomllib.loads(on.config)), progress, stop)
        say(f"Engage: a Profiles Sync database with {USERS:,} profiles, {AUDIENCES} audiences")
        say(f"Amberflo: {on.amberflo_url}, it has one customer already, with a Stripe id")
        first = next(on.engage.expected()).customer_id
        record = {"customerId": first, "customerName": "before", "traits": FOREIGN}
        on.amberflo.customers[first] = record

        head("1. The first sync sends every customer of an audience.")
        _sync(app, on, say)
        head("2. A few hours pass: customers enter and leave audiences, profiles merge.")
        evolution = on.evolve(hours=2.5, fraction=0.02)
        say(
            f"   {evolution.entered.total():,} memberships entered, "
            f"{evolution.exited.total():,} exited, {evolution.merged:,} profiles merged away"
        )
        head("3. The next sync sends only the customers that changed.")
        puts = _sync(app, on, say)
        say(f"   {len(evolution.changed):,} customers differ, {puts:,} were sent")
        head("4. Page, screen, track and identify calls are passed on as they happen.")
        _calls(folder, on, first, say)
        head("5. The audit of a customer: what changed, when, and when Amberflo acknowledged it.")
        _audit(app, evolution.changed)
        head("6. What Amberflo holds, beside what Engage says.")
        equal = _compare(on, first)
        say("equal" if equal else "NOT equal")
        if keep is not None:
            keep(on)
    return equal


def _sync(app: App, on: Environment, say: Callable[[str], None]) -> int:
    """Make a run; return how many customers were written."""
    on.amberflo.reset_stats()
    with app.runs() as runs:
        result: Result = runs.sync()
    if app.stop():
        raise Stopped("stopped")
    for problem in result.problems:
        warn(f"error: {problem}")
    on.engage.observe()
    sent = result.delivery.delivered
    say(f"   run {result.run} ({result.kind}): {sent:,} customers delivered")
    return sum(on.amberflo.stats()["puts"].values())


def _calls(folder: Path, on: Environment, customer_id: str, say: Callable[[str], None]) -> None:
    """Start the daemon, send it calls as an SDK does, and wait until Amberflo has them."""
    config = folder / "config.toml"
    config.write_text(on.config, encoding="utf-8")
    daemon = subprocess.Popen(
        [sys.executable, "-P", "-m", "syncer", "daemon", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert daemon.stderr is not None
        lines = iter(daemon.stderr.readline, "")
        url = next((line.split()[-1] for line in lines if "receiving on" in line), None)
        if url is None:
            raise SyncerError("the daemon did not start")
        calls: list[dict[str, object]] = [
            {"type": "page", "name": "Home", "properties": {"title": "Welcome | Initech"}},
            {"type": "screen", "name": "Main"},
            {"type": "track", "event": "ApiCalls", "properties": {"value": 2, "region": "us"}},
            {"type": "identify", "traits": IDENTIFIED},
        ]
        for call in calls:
            body = orjson.dumps({"writeKey": on.write_key, "userId": customer_id, **call})
            request = urllib.request.Request(f"{url}/v1/{call['type']}", data=body)
            with urllib.request.urlopen(request, timeout=10) as response:
                say(f"   POST /v1/{call['type']}: {response.status} {response.read().decode()}")
        until = time.monotonic() + 15
        while time.monotonic() < until and not _arrived(on, customer_id):
            time.sleep(0.1)
    finally:
        daemon.terminate()
        daemon.communicate()
    for record in on.amberflo.records:
        say(f"   meter {record['meterApiName']}: {record['meterValue']:g} {record['dimensions']}")
    plan = on.amberflo.customers[customer_id]["traits"].get("plan")
    say(f"   customer {customer_id}: plan = {plan}")


def _arrived(on: Environment, customer_id: str) -> bool:
    traits = on.amberflo.customers[customer_id]["traits"]
    return len(on.amberflo.records) == 3 and "plan" in traits


def _audit(app: App, changed: set[str]) -> None:
    """Print the history of a customer that left an audience in the second run, if there is one."""
    with app.state(writes=False) as database, database.read() as connection:
        histories = [
            list(listings.of_customer(connection, customer_id)) for customer_id in sorted(changed)
        ]
    histories.sort(key=lambda rows: not any(row.before == "true" for row in rows))
    console.print_table(
        ("trait", "before", "after", "in Segment", "recorded here", "Amberflo has it"),
        [
            [
                *(row.trait, row.before, row.after),
                *map(iso, (row.observed_at, row.recorded_at, row.delivered_at)),
            ]
            for row in histories[0][-5:]
        ],
        title=f"the last changes of {histories[0][0].customer_id}",
    )


def _compare(on: Environment, foreign: str) -> bool:
    """Print for each trait how often it is true (or set) on either side, and how often they differ.

    The customer with the foreign trait must still have it.
    """
    customers = on.amberflo.customers
    wanted = {customer.customer_id: customer for customer in on.engage.expected()}
    counts: dict[str, list[int]] = {}
    equal = customers.keys() == wanted.keys()
    for customer_id, customer in wanted.items():
        has = customers.get(customer_id, {})
        right = merged(
            {"traits": FOREIGN | IDENTIFIED} if customer_id == foreign else None,
            customer_id=customer_id,
            traits=customer.traits,
            name=customer.name,
            email=customer.email,
            owned=(),
        )
        differs = any(has.get(field) != value for field, value in right.items())
        equal = equal and not differs
        sides = right["traits"], has.get("traits", {})
        for name in sides[0].keys() | sides[1].keys():
            count = counts.setdefault(name, [0, 0, 0])
            for number, traits in enumerate(sides):
                count[number] += traits.get(name, False) is not False
            count[2] += sides[0].get(name) != sides[1].get(name)
    console.print_table(
        ("trait", "Engage", "Amberflo", "differ"),
        [[name, *counts[name]] for name in sorted(counts) if name not in FOREIGN | IDENTIFIED],
    )
    console.stdout().print(f"customers: Engage {len(wanted):,}, Amberflo {len(customers):,}")
    kept = customers[foreign].get("traits", {}).items() >= FOREIGN.items()
    console.stdout().print(f"the Stripe id of {foreign} is {'still there' if kept else 'LOST'}")
    return equal
