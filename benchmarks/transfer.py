"""A whole state to a backup and back, and to PostgreSQL and back.

    python -m benchmarks.transfer [--customers 100000] [--changes 1000000] [--folder DIR]
                                  [--postgres URL]

Makes a SQLite state with so many customers and sealed changes (benchmarks/history.py), a tenth of
the customers due, and as many meter records as customers. Then runs, each in a process of its own,
`backup`, `restore` of it, `copy --to` an empty PostgreSQL (the tests' own, unless a URL is given),
`copy --to` a new SQLite file from there, and `check` of that. Prints the seconds and the highest
resident memory of each, and that heads and rows are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks.history import make
from state.db.database import Database
from state.history import seal
from tests.support import postgres

CONFIG = """
[amberflo]
api_key = "none"
[engage.profiles_sync]
url = "sqlite:///engage.db"
[state]
url = "{state}"
"""
CUSTOMERS = """
INSERT INTO customer (customer_id, traits, rev)
WITH RECURSIVE number(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i + 1 < :count)
SELECT 'more_' || i, :traits, 1 FROM number
"""
#: What `check` asks for beside them: the runs that the changes name, the trait that they have.
RUNS = """
INSERT INTO run (id, kind, state, started_at)
SELECT DISTINCT run, 'incremental', 'done', 1790000000000 FROM change
"""
TRAIT = "INSERT INTO trait (key, trait, kind, members) VALUES ('vip', 'vip', 'audience', :count)"
EVENTS = """
INSERT INTO event (message_id, record, received_at, due_at, key)
WITH RECURSIVE number(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i + 1 < :count)
SELECT 'message-' || i, zeroblob(200), 1790000000000 + i, CASE WHEN i % 10 = 0 THEN 1 END, ''
FROM number
"""


def fill(file: Path, customers: int, changes: int) -> None:
    """The state and its queue; all changes are sealed."""
    make(file, changes)
    values = {"count": max(customers - changes // 10, 1), "traits": '{"vip":true}'}
    with (
        closing(Database.open(f"sqlite:///{file}")) as database,
        database.write(alone=True) as connection,
    ):
        connection.execute(text(CUSTOMERS), values)
        connection.execute(text(TRAIT), {"count": values["count"]})
        connection.execute(text(RUNS))
        connection.execute(text("UPDATE customer SET due_at = 1 WHERE abs(random()) % 10 = 0"))
        seal.seal(connection, None, 1_790_000_000_000)
    with closing(Database.open(f"sqlite:///{file}", "queue")) as calls, calls.write() as connection:
        connection.execute(text(EVENTS), {"count": customers})


def run(folder: Path, state: str, *words: str) -> dict[str, Any]:
    """Run `syncer state …` with `--json`; print what it took."""
    config = folder / "config.toml"
    config.write_text(CONFIG.format(state=state), encoding="utf-8")
    began = time.monotonic()
    # Its own pages at most: `ru_maxrss` would begin with those of this process.
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from syncer.cli import main\n"
        "try:\n    main()\n"
        "finally:\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    print(status.partition('VmHWM:')[2].split()[0], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "state", *words, "--config", str(config), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    seconds, memory = time.monotonic() - began, int(done.stderr.split()[-1]) / 1024
    print(f"{' '.join(words)[:60]:60} {seconds:8.1f} s {memory:6.0f} MB", flush=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--postgres")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        file = folder / "syncer.db"
        began = time.monotonic()
        fill(file, options.customers, options.changes)
        size = os.path.getsize(file) / 1e6
        print(f"made {size:,.0f} MB in {time.monotonic() - began:.0f} s", flush=True)
        url = options.postgres
        if url is None:
            url = stack.enter_context(postgres.database(stack.enter_context(postgres.server())))
        sqlite = f"sqlite:///{file}"
        results = [
            run(folder, sqlite, "backup", str(folder / "backup")),
            run(folder, f"sqlite:///{folder / 'restored.db'}", "restore", str(folder / "backup")),
            run(folder, sqlite, "copy", "--to", url),
            run(folder, url, "copy", "--to", f"sqlite:///{folder / 'back.db'}"),
            run(folder, f"sqlite:///{folder / 'back.db'}", "check"),
        ]
        heads = {result["head"] for result in results}
        rows = [{**result["rows"], "metadata": 0} for result in results]
        assert len(heads) == 1, heads
        assert all(row == rows[0] for row in rows), rows
        print(f"head {heads.pop()}, {sum(rows[0].values()):,} rows: equal")


if __name__ == "__main__":
    main()
