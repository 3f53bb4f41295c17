"""The population of `benchmarks.pushdown_engines` on a Spark cluster, in place of Databricks.

Tables are Parquet, which nobody can change in place: what was changed is a second set of tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from sqlalchemy.engine import make_url

from benchmarks.pushdown_engines import CHANGED, GONE, NEW, SCRATCH, TABLES, selected
from syncer.engage.profiles_sync import ProfilesSync
from tests.support import spark

#: The schemas of the tables as they were, and as they are.
BEFORE, NOW = "before", "now"


class SparkEngine:
    """Two schemas of a cluster, and one for the fingerprints."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def make(self, customers: int, audiences: int) -> None:
        for schema in (BEFORE, NOW, SCRATCH):
            self._run(f"CREATE SCHEMA {schema}")
        for name, statement in TABLES.items():
            rows = selected(statement, 0, customers, audiences)
            self._run(f"CREATE TABLE {BEFORE}.{name} USING PARQUET AS {rows}")

    def change(self, customers: int, audiences: int) -> None:
        changed = (
            f"CASE WHEN name = 'audience_000' AND canonical_segment_id LIKE 'p%{CHANGED}' "
            "THEN CASE value WHEN 'true' THEN 'false' ELSE 'true' END ELSE value END"
        )
        rest = "seq, received_at, uuid_ts, timestamp"
        columns = {
            "user_traits": f"canonical_segment_id, name, {changed} AS value, {rest}",
            "user_identifiers": f"canonical_segment_id, type, value, {rest}",
            "profile_merges": f"canonical_segment_id, segment_id, {rest}",
        }
        new = (customers, customers + customers // NEW, audiences)
        for name, statement in TABLES.items():
            self._run(
                f"CREATE TABLE {NOW}.{name} USING PARQUET AS "
                f"SELECT {columns[name]} FROM {BEFORE}.{name} "
                f"WHERE NOT canonical_segment_id LIKE 'p%{GONE}' "
                f"UNION ALL {selected(statement, *new)}"
            )

    def source(self, changed: bool) -> ProfilesSync:
        schema = NOW if changed else BEFORE
        return ProfilesSync(make_url(spark.URL.format(schema=schema)), schema)

    def account(self, step: str) -> AbstractContextManager[Callable[[], int]]:
        """Nothing: the cluster has processes of its own."""
        return nullcontext(lambda: 0)

    def _run(self, statement: str) -> None:
        self._session.sql(statement).collect()


@contextmanager
def engine(address: str) -> Iterator[SparkEngine]:
    """Connect to a cluster."""
    with spark.connected(address) as session:
        yield SparkEngine(session)
