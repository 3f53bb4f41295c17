"""Spark in place of Databricks: a real cluster here, reached through Spark Connect.

The cluster has a driver and two workers, each a process (`local-cluster`). What the program asks
goes through Databricks' own dialect of SQLAlchemy; in place of the vendor's driver, which speaks to
its service alone, a connection gives the text of a statement to Spark as it is. One thing is
changed: tables are made of Parquet and not of Delta, which is no part of Spark.
"""

from __future__ import annotations

import gc
import importlib
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.processes import free_port

URL = "databricks://token:none@localhost?http_path=none&catalog=spark_catalog&schema={schema}"
SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.catalogImplementation": "in-memory",
    # A busy machine may let a process wait for minutes.
    "spark.network.timeout": "900s",
    "spark.executor.heartbeatInterval": "60s",
}
_QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
#: For a few rows: what is asked once is not worth compiling.
SMALL = {
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.driver.memory": "1g",
    # Java compiles each method once, and quickly: its processes end before more of it pays.
    "spark.driver.extraJavaOptions": _QUICK,
    "spark.executor.extraJavaOptions": _QUICK,
}
#: A parameter as the dialect writes it: :name or :`name`.
_PARAMETER = re.compile(r"(?<![\w:]):`(\w+)`")


def missing() -> str | None:
    """Why there is no Spark here; None if there is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("databricks.sql")
            importlib.import_module("pyspark.sql.connect.session")
    except ImportError as error:
        return f"{error} (the extra dev-warehouses has it)"
    return None if shutil.which("java") else "java is not installed, which Spark needs"


@contextmanager
def cluster(
    folder: Path, settings: Mapping[str, str] = SMALL, workers: str = "2,1,1024"
) -> Iterator[str]:
    """Start a cluster that keeps its files in a folder, and yield its address for Spark Connect.

    `workers` are their number, the cores and the MB of each, all of which its executor takes.
    """
    import pyspark
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    port = free_port()
    os.environ |= {
        "SPARK_HOME": str(_home(folder, Path(pyspark.__file__).parent)),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(folder / "local"),
    }
    builder = SparkSession.builder.master(f"local-cluster[{workers}]")
    own = {
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.executor.memory": f"{workers.rpartition(',')[2]}m",
        "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
    }
    for name, value in (SETTINGS | own | dict(settings)).items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    try:
        yield f"sc://127.0.0.1:{port}"
    finally:
        session.stop()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Py4J leaves its sockets to the garbage collector
            SparkContext._gateway.shutdown()
            SparkContext._gateway = SparkContext._jvm = None
            del session, builder
            gc.collect()


def _home(folder: Path, installed: Path) -> Path:
    """A place for Spark with all that is installed: its workers write `work` there, whatever one
    sets."""
    home = folder / "home"
    home.mkdir(parents=True)
    for file in installed.iterdir():
        if file.name != "work":
            (home / file.name).symlink_to(file)
    return home


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yield a session of Spark Connect, to which Databricks' driver gives out connections."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyspark.sql.connect.session import SparkSession
    session = SparkSession.builder.remote(address).create()
    try:
        with in_place_of_databricks(session):
            yield session
    finally:
        session.client.close()


@contextmanager
def in_place_of_databricks(session: Any) -> Iterator[None]:
    """Let Databricks' driver give out connections to Spark."""
    from databricks import sql

    kept = sql.connect
    sql.connect = lambda **_: Connection(session)
    try:
        yield
    finally:
        sql.connect = kept


class Connection:
    """A connection without transactions, as Databricks has them."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def cursor(self) -> Cursor:
        return Cursor(self._session)

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


class Cursor:
    """The rows of a statement, which come in parts."""

    arraysize, rowcount, lastrowid = 1, -1, None

    def __init__(self, session: Any) -> None:
        self._session = session
        self._rows: Iterator[Any] = iter(())
        self.description: list[tuple[Any, ...]] | None = None

    def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> None:
        text = _PARAMETER.sub(r":\1", statement).replace("USING DELTA", "USING PARQUET")
        with _databricks_errors():
            frame = self._session.sql(text, args=dict(parameters or {}))
            names = frame.columns
            self._rows = frame.toLocalIterator() if names else iter(())
        self.description = [(name, *[None] * 6) for name in names] or None

    def columns(self, catalog_name: str, schema_name: str, table_name: str) -> Cursor:
        """Ask for the columns of a table, as the driver does without a statement."""
        described = self._session.sql(f"DESCRIBE TABLE {catalog_name}.{schema_name}.{table_name}")
        self._rows = iter(
            SimpleNamespace(
                COLUMN_NAME=row.col_name,
                TYPE_NAME=row.data_type.upper(),
                NULLABLE=1,
                COLUMN_DEF=None,
                REMARKS=None,
            )
            for row in described.collect()
        )
        return self

    def fetchmany(self, size: int | None = None) -> Sequence[Any]:
        with _databricks_errors():
            return list(islice(self._rows, self.arraysize if size is None else size))

    def fetchone(self) -> Any:
        return next(iter(self.fetchmany(1)), None)

    def fetchall(self) -> Sequence[Any]:
        with _databricks_errors():
            return list(self._rows)

    def close(self) -> None:
        self._rows = iter(())

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _databricks_errors() -> Iterator[None]:
    from databricks.sql.exc import DatabaseError
    from pyspark.errors import PySparkException

    try:
        yield
    except PySparkException as error:
        raise DatabaseError(str(error)) from error
