"""`python -m tests.contract.profiles_sync.on_spark URL FOLDER`: Databricks' statements, on Spark.

Fails where a pull from the cluster says something else than the same pull from the warehouse at
the URL. The cluster keeps its files in the folder. A pull of the changes, and the fingerprints:
each statement of Spark takes a second.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from syncer.engage.profiles_sync import ProfilesSync
from syncer.engage.source import ChangedSince, Everything
from tests.contract.profiles_sync.answers import SINCE, answers
from tests.contract.profiles_sync.dialects import load_spark
from tests.contract.profiles_sync.fingerprints import check_fingerprints
from tests.support import spark
from tests.support.space import Warehouse


def main(url: str, folder: Path) -> None:
    # Spark warns of what it uses; Py4J leaves its sockets to the garbage collector.
    warnings.simplefilter("ignore")
    warehouse = Warehouse(url)
    try:
        with spark.cluster(folder) as address, spark.connected(address) as session:
            compare(session, warehouse)
    finally:
        warehouse.engine.dispose()


def compare(session: Any, warehouse: Warehouse) -> None:
    """The tables are Parquet, which has no versions: they are counted before and after."""
    load_spark(session, "segment", warehouse)
    source = ProfilesSync(make_url(spark.URL.format(schema="segment")), "segment", overlap=0)
    scope = ChangedSince(SINCE)
    with warehouse.source(overlap=0).pull(scope) as expected, source.pull(scope) as tried:
        assert answers(tried) == answers(expected)
    with source.pull(Everything()) as tried:
        check_fingerprints(tried)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
