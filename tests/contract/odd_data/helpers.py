"""A sync from a warehouse, and what came of it."""

from __future__ import annotations

import json
from typing import Any

from state import runs
from state.db.database import Database
from syncer.sync.run_result import Result
from tests.support.space import Warehouse, runs_on
from tests.support.state import ask, records

NOT_UTF8 = "CAST(X'c328' AS TEXT)"


def sync(database: Database, warehouse: Warehouse, **how: Any) -> Result:
    return runs_on(database, warehouse.source()).sync(**how)


def traits(database: Database) -> dict[str, Any]:
    return {
        customer_id: json.loads(row["traits"]) for customer_id, row in records(database).items()
    }


def reasons(database: Database, run: int, key: str) -> dict[str, int]:
    (sums,) = [row for row in ask(database, lambda c: runs.traits(c, run)) if row.key == key]
    parts = ("unchanged", "entered", "exited", "changed", "skipped")
    assert sums.pulled == sum(getattr(sums, part) for part in parts)
    return dict(sums.reasons)
