"""Each alert of docs/ops/prometheus fires where somebody breaks the real thing, and not before.

tests/support/drill.py says how an hour of trouble takes a second.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import orjson
import pytest
import yaml

from syncer.sandbox.faults import Faults
from tests.support.daemon import Daemon, daemon
from tests.support.drill import RULES, Drill, Scrape
from tests.support.events import sign, track
from tests.support.installation import Installation
from tests.support.locks import held_elsewhere
from tests.support.processes import free_port, wait_until
from tests.support.warehouse import Warehouse

#: Minutes of a play after which the newest good run is too old.
LONG = 7 * 60
AMBERFLO = 'syncer_amberflo_requests_total{method="POST",status="%s"}'
PART_DOWN = "SyncerPartDown"
#: A channel of alerts where nobody listens.
NOBODY = '[alerts]\nwebhook = "http://127.0.0.1:%d/"\n'
REFUSED = 'syncer_requests_refused_total{code="queue_full"}'


def alert(name: str) -> str:
    """The sample of an alert of the daemon."""
    return f'syncer_alert{{name="{name}"}}'


def scraped(running: Daemon, *names: str, since: Scrape | None = None) -> Scrape:
    """The first scrape in which all these samples are more than they were `since`."""
    latest: list[Scrape] = []

    def look() -> bool:
        latest[:] = [Scrape.of(running)]
        before = {} if since is None else since.samples
        now = latest[0].samples
        return all(now.get(name, 0.0) > before.get(name, 0.0) for name in names)

    wait_until(look, what=f"more of {names}")
    return latest[0]


def well(running: Daemon) -> None:
    """Wait until the daemon has no alert, nothing waits, and nothing is held."""
    running.settle()
    marks = ("syncer_alert", "syncer_held", "syncer_problem")
    wait_until(lambda: not any(name.startswith(marks) for name in running.metrics()), what="well")


@contextmanager
def slow_disk(installation: Installation) -> Iterator[None]:
    """Somebody else keeps the database of the queue for longer than a second."""
    path = installation.folder / "syncer-queue.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        end = threading.Timer(1.2, other.execute, ["COMMIT"])
        end.start()
        yield
        end.join()


def deleted(running: Daemon, *customer_ids: str) -> None:
    """Segment's webhook says that these customers were deleted."""
    for customer_id in customer_ids:
        body = orjson.dumps({"type": "delete", "userId": customer_id, "messageId": customer_id})
        running.send("webhook", body, key=None, x_signature=sign(body))


@contextmanager
def settings(running: Daemon, more: str) -> Iterator[None]:
    """For the block the daemon has something more at the end of its config."""
    config = running.installation.config
    text = config.read_text(encoding="utf-8")
    for content in (text + more, text):
        config.write_text(content, encoding="utf-8")
        running.process.send_signal(signal.SIGHUP)
        if content != text:
            yield


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here")
def test_each_alert_fires_in_a_drill(installation: Installation, warehouse: Warehouse) -> None:
    ids = warehouse.users(40, ago=40, vip="true")
    with daemon(installation, queue_limit=8, deletes_per_day=1) as running:
        running.first_run()
        running.send("track", track())
        drill = Drill(good := scraped(running, AMBERFLO % 200))

        with slow_disk(installation):
            running.send("track", track())
        running.settle()
        drill.broken("a slow disk", good, Scrape.of(running), ("SyncerReceiverSlow", ""))

        before = Scrape.of(running)
        deleted(running, *ids[:3])
        running.settle()
        broken = scraped(running, "syncer_deletes_waiting")
        drill.broken("many deletions", before, broken, ("SyncerDeletesWait", ""))
        installation.run("forget", "--pending", "--yes")
        well(running)

        for customer_id in ids[3:]:
            warehouse.say(customer_id, "vip", "false", ago=1)
        before = Scrape.of(running)
        run = installation.json("sync", exit_code=3)["run"]
        broken = scraped(running, alert("held:vip"))
        drill.broken("a mass exit", before, broken, ("SyncerHeld", ""))
        installation.run("runs", "approve", str(run), "--yes")
        well(running)

        with settings(running, '[alerts]\nsilent = "1s"\n'):
            before = Scrape.of(running)
            installation.run("sync")
            broken = scraped(running, alert("silent"))
            drill.broken("nothing new", before, broken, ("SyncerSourceSilent", "silent"))
        well(running)

        source_breaks(drill, running)
        amberflo_breaks(drill, running)
    daemon_breaks(drill, installation)
    drill.play(installation.folder)
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    assert drill.alerts == {rule["alert"] for rule in group["rules"] if "alert" in rule}


def source_breaks(drill: Drill, running: Daemon) -> None:
    """The tables of the source are gone, and come back."""
    installation, before = running.installation, Scrape.of(running)
    source = installation.folder / "engage.db"
    aside = source.rename(installation.folder / "aside.db")
    source.touch()
    for _ in range(2):
        installation.run("sync", exit_code=1)
    broken = scraped(running, alert("runs"), alert("problem:source"))
    firing = [("SyncerRunsFail", "runs"), (PART_DOWN, "problem:source")]
    drill.broken("no tables", before, broken, *firing)
    firing.append(("SyncerNoGoodRun", ""))
    drill.broken("no tables for long", before, broken, *firing, minutes=LONG)
    aside.rename(source)
    installation.run("sync")
    well(running)


def amberflo_breaks(drill: Drill, running: Daemon) -> None:
    """Amberflo answers 503, until the queue is full; then it takes everything."""
    running.installation.amberflo.faults = Faults.parse("503=1")
    running.send("track", track())
    before = scraped(running, AMBERFLO % 503, alert("problem:meters"))
    broken = scraped(running, AMBERFLO % 503, since=before)
    firing = [(PART_DOWN, "problem:meters"), ("SyncerAmberfloFails", ""), ("SyncerBehind", "")]
    drill.broken("an Amberflo that fails", before, broken, *firing)

    wait_until(lambda: running.post("track", track()).status_code == 429, what="a full queue")
    firing.append(("SyncerCallersTurnedAway", ""))
    drill.broken("a full queue", before, scraped(running, REFUSED), *firing)
    running.installation.amberflo.faults = Faults()
    well(running)


def daemon_breaks(drill: Drill, installation: Installation) -> None:
    """A daemon that may not schedule and reaches nobody gets a call that is none, and is killed."""
    with (
        held_elsewhere(installation.state_url, "schedule"),
        daemon(installation, more=NOBODY % free_port()) as running,
    ):
        before = Scrape.of(running)
        firing = [("SyncerNothingScheduled", "")]
        drill.broken("a schedule that another process keeps", before, before, *firing)

        running.send("track", track(properties={"value": "not a number"}))
        running.settle()
        broken = scraped(running, alert("calls"), alert("problem:webhook"))
        firing += [("SyncerFailures", "calls"), (PART_DOWN, "problem:webhook")]
        drill.broken("a call that is none, and a dead channel", before, broken, *firing)

        running.kill()
        broken = Scrape.of(running)
        drill.broken("a daemon that is dead", broken, broken, ("SyncerDown", ""))
