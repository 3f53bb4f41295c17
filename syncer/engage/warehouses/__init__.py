"""The warehouses that Segment's Profiles Sync writes to: what differs between them, a file each."""

from __future__ import annotations

from sqlalchemy.engine import URL

from syncer.engage.warehouses.bigquery import BIGQUERY
from syncer.engage.warehouses.databricks import DATABRICKS
from syncer.engage.warehouses.duckdb import DUCKDB
from syncer.engage.warehouses.postgresql import POSTGRESQL
from syncer.engage.warehouses.redshift import REDSHIFT
from syncer.engage.warehouses.snowflake import SNOWFLAKE
from syncer.engage.warehouses.sqlite import SQLITE
from syncer.engage.warehouses.warehouse import Warehouse
from syncer.errors import SourceError

__all__ = ["WAREHOUSES", "Warehouse", "warehouse_of"]

#: The warehouses by the name that their URL begins with.
WAREHOUSES: dict[str, Warehouse] = {
    "postgresql": POSTGRESQL,
    "snowflake": SNOWFLAKE,
    "bigquery": BIGQUERY,
    "redshift": REDSHIFT,
    "databricks": DATABRICKS,
    "duckdb": DUCKDB,
    "sqlite": SQLITE,
}
_NAMES = ", ".join(warehouse.name for warehouse in WAREHOUSES.values())


def warehouse_of(url: URL) -> Warehouse:
    """Return the kind of warehouse at a URL; raise `SourceError` for one that is not read."""
    backend = url.get_backend_name()
    if backend == "mssql":
        raise SourceError(
            "the URL of the warehouse: Azure Synapse is not read, as nobody has run it; these are: "
            f"{_NAMES}"
        )
    if backend not in WAREHOUSES:
        raise SourceError(
            f"the URL of the warehouse: {backend} is no warehouse that is read; these are: {_NAMES}"
        )
    return WAREHOUSES[backend]
