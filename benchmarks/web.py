"""How long the operator's page takes over a large history: 1,000,000 customers, 10,000,000 changes.

    python -m benchmarks.web [--customers N] [--folder FOLDER] [--times N]

Fills a SQLite state by SQL (a FOLDER that has one is used again), serves the page on loopback as
the daemon does, and asks for every page a few times over HTTP: the median and the maximum of the
times from the request to the end of the answer. The first request of each page is not cached by
anything but the file system.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from state.db.database import Database
from state.history import sizes
from syncer.process.server import bind, serve
from syncer.stop import Stop
from syncer.web.app import SecureApp
from syncer.web.context import Context
from syncer.web.server import READS, WRITES
from syncer.web.session import Sessions
from syncer.web.tasks import Tasks

TOKEN = "benchmark-token-of-the-page"
DAY = 86_400_000
#: The audience that everybody is in, and one in fifty of the rest.
EVERYBODY, SOME = "everybody", "audience_07"
#: Changes of one later run.
CHUNK = 5000
LIMIT = 0.2

_NUMBERS = """WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last})"""
#: The j-th audience of a customer; the first is everybody's.
_KEY = (
    "CASE WHEN {j} = 0 THEN 'everybody' ELSE printf('audience_%02d', ({i} * 7 + {j} * 13) % 50) END"
)


def fill(connection: Connection, customers: int, now: int) -> None:
    """A first run with five audiences each, then thirty days of runs in which every customer exits
    and enters again: ten changes each."""

    def do(statement: str) -> None:
        connection.exec_driver_sql(statement)

    kept = connection.exec_driver_sql(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        " AND tbl_name IN ('change', 'customer')"
    ).fetchall()
    for name, _ in kept:
        do(f"DROP INDEX {name}")
    numbers = _NUMBERS.format(last=customers - 1)
    start = now - 30 * DAY
    do(
        "INSERT INTO customer (customer_id, traits, name, email, rev, acked_rev, acked_at) "
        f"{numbers} SELECT printf('u%08d', i), '{{\"everybody\":true,\"audience_07\":false}}',"
        f" 'Customer ' || i, 'u' || i || '@example.com', 6, 6, {now - DAY} FROM n"
    )
    columns = (
        "(run, customer_id, rev, key, trait, before, after, observed_at, recorded_at,"
        " delivered_at, delta)"
    )
    key = _KEY.format(i="i", j="j")
    do(
        f"INSERT INTO change {columns} {numbers} SELECT 1, printf('u%08d', i), 1, {key}, {key},"
        f" NULL, 'true', {start - DAY}, {start}, {start} + 1000 + i, 1"
        " FROM n, (SELECT 0 AS j UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3"
        " UNION ALL SELECT 4)"
    )
    # Pass p over all customers: out of the first, in again, out of the second, in again, …
    i, j, out = f"(i * 7919 % {customers})", f"(i / {customers} / 2)", f"(i / {customers} % 2 = 0)"
    later, key = customers * 5, _KEY.format(i=i, j=j)
    at = f"{start} + (i / {CHUNK} + 1) * {30 * DAY - DAY // 24} / {later // CHUNK + 1}"
    do(
        f"INSERT INTO change {columns} {_NUMBERS.format(last=later - 1)}"
        f" SELECT 2 + i / {CHUNK}, printf('u%08d', {i}), 2 + i / {customers}, {key}, {key},"
        f" CASE WHEN {out} THEN 'true' ELSE 'false' END,"
        f" CASE WHEN {out} THEN 'false' ELSE 'true' END,"
        f" {at} - 60000, {at}, {at} + 2000, CASE WHEN {out} THEN -1 ELSE 1 END FROM n"
    )
    do(
        "INSERT INTO trait (key, trait, kind, members)"
        " SELECT key, key, 'audience', sum(delta) FROM change GROUP BY key"
    )
    do(
        "INSERT INTO run (kind, state, started_at, committed_at, ended_at, watermark, due,"
        " delivered, entered) SELECT CASE WHEN run = 1 THEN 'initial' ELSE 'incremental' END,"
        " 'done', min(recorded_at) - 60000, min(recorded_at), max(delivered_at), run, count(*),"
        " count(*), count(*) FROM change GROUP BY run ORDER BY run"
    )
    do(
        "INSERT INTO run_trait (run, key, trait, kind, pulled, entered, exited, changed, unchanged,"
        " skipped, held, reasons) SELECT run, key, key, 'audience', count(*), sum(delta = 1),"
        " sum(delta = -1), 0, 0, 0, 0, '{}' FROM change GROUP BY run, key"
    )
    do(
        "INSERT INTO failure (ref, kind, customer_id, reason, status, request, body, failed_at)"
        f" {_NUMBERS.format(last=99_999)} SELECT 'customer:u' || i, 'customer',"
        f" printf('u%08d', i), 'unknown field', 400, 'PUT {{}}', '{{}}', {now} FROM n"
    )
    # One in ten waits; some were tried before.
    do(
        f"UPDATE customer SET due_at = {now}, rev = 7, attempts = rowid % 100 = 0"
        " WHERE rowid % 10 = 0"
    )
    for _, sql in kept:
        do(sql)


@contextmanager
def served(state: Database, calls: Database) -> Iterator[int]:
    """The page on a free port."""
    listener = bind("127.0.0.1", 0)
    context = Context(state, calls, Tasks(None))  # type: ignore[arg-type]
    secure = SecureApp(Sessions(TOKEN), "127.0.0.1", layout=context.layout)
    app = secure.build(context.bind(READS), context.bind(WRITES))
    over = Stop()
    thread = threading.Thread(target=lambda: asyncio.run(serve(app, listener, over)))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        thread.join()
        listener.close()


def pages(customers: int, now: int) -> dict[str, str]:
    middle = f"u{customers // 2:08d}"
    day = time.strftime("%Y-%m-%dT%H:%M", time.gmtime((now - 15 * DAY) / 1000))
    early = time.strftime("%Y-%m-%dT%H:%M", time.gmtime((now - 31 * DAY) / 1000))
    last = customers * 10
    return {
        "now": "/",
        "now, the part that is polled": "/now/live?seen=x",
        "runs": "/runs",
        "runs, a later page": "/runs?before=500",
        "the first run": "/runs/1",
        "the first run, a later page": f"/runs/1?after={customers * 2}",
        "the first run, one audience": f"/runs/1?key={SOME}",
        "the first run, exits (none)": "/runs/1?step=exited",
        "a later run": "/runs/700",
        "customers": "/customers",
        "customers, found": f"/customers?q={middle[:5]}",
        "customers, a later page": f"/customers?after={middle}",
        "a customer": f"/customer?id={middle}",
        "audiences": "/audiences",
        "an audience": f"/audience?key={SOME}",
        "an audience, exits of 15 days": f"/audience?key={SOME}&since={day}&step=exited",
        "the audience of all": f"/audience?key={EVERYBODY}",
        "the audience of all, 15 days": f"/audience?key={EVERYBODY}&since={day}",
        "the audience of all, entries": f"/audience?key={EVERYBODY}&step=entered",
        "the audience of all, changed": f"/audience?key={EVERYBODY}&step=changed",
        "the audience of all, a later page": f"/audience?key={EVERYBODY}&after={last // 2 + 7}",
        "members now": f"/audience/members?key={EVERYBODY}",
        "members of an audience now": f"/audience/members?key={SOME}",
        "members 15 days ago": f"/audience/members?key={EVERYBODY}&at={day}",
        "members, a later page": f"/audience/members?key={EVERYBODY}&after={middle}",
        "members before there was one": f"/audience/members?key={EVERYBODY}&at={early}",
        "failures": "/failures",
        "failures, a later page": "/failures?before=50000",
        "a page that is not there": "/nothing",
    }


def ask(port: int, path: str) -> tuple[float, int, int]:
    """Seconds, status and bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        began = time.perf_counter()
        connection.request("GET", path, headers={"authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        size = len(answer.read())
        return time.perf_counter() - began, answer.status, size
    finally:
        connection.close()


def measure(folder: Path, customers: int, times: int) -> bool:
    url, now = f"sqlite:///{folder / 'syncer.db'}", int(time.time() * 1000)
    state, calls = Database.open(url), Database.open(url, "queue")
    with state.read() as connection:
        newest: Any = connection.exec_driver_sql("SELECT max(recorded_at) FROM change").scalar()
    if newest is None:
        began = time.perf_counter()
        with state.write() as connection:
            fill(connection, customers, now)
        with state.read() as connection:
            changes = connection.exec_driver_sql("SELECT count(*) FROM change").scalar()
        took = time.perf_counter() - began
        print(f"filled: {customers:,} customers, {changes:,} changes in {took:,.0f} s")
    began = time.perf_counter()
    more = True
    while more:
        with state.write(alone=True) as connection:
            more = sizes.fold(connection)
    print(f"sizes by the hour: counted in {time.perf_counter() - began:.0f} s, in the background")
    good = True
    try:
        with served(state, calls) as port:
            print(f"{'page':36}{'first':>8}{'median':>8}{'max':>8}  ms")
            for name, path in pages(customers, now).items():
                first, status, _ = ask(port, path)
                later = [ask(port, path)[0] for _ in range(times)]
                median, most = statistics.median(later), max(later)
                good = good and median < LIMIT
                late = "" if median < LIMIT else "  SLOW"
                note = "" if status in (200, 404) else f"  status {status}"
                figures = "".join(f"{seconds * 1000:8.0f}" for seconds in (first, median, most))
                print(f"{name:36}{figures}{note}{late}", flush=True)
    finally:
        state.close()
        calls.close()
    return good


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--times", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        raise SystemExit(0 if measure(folder, given.customers, given.times) else 1)


if __name__ == "__main__":
    main()
