"""A DuckDB file as a warehouse: its types, views over Parquet, who else has it open, its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from syncer.engage.profiles_sync import ProfilesSync
from syncer.engage.source import Everything
from syncer.engage.source_settings import SourceContext
from syncer.engage.sources.profiles_sync import ProfilesSyncSettings
from syncer.engage.warehouse import snapshot
from syncer.errors import ConfigError, SourceError
from tests.contract.profiles_sync.helpers import assert_watermark
from tests.support.space import KEYS, TABLES, Warehouse


def path_of(warehouse: Warehouse) -> Path:
    return Path(str(make_url(warehouse.url).database))


def refusal(warehouse: Warehouse, query: str = "") -> str:
    """The one line that a pull ends with."""
    source = ProfilesSync(make_url(warehouse.url + query))
    with pytest.raises(SourceError) as caught, source.pull(Everything()) as pull:
        list(pull.customers(KEYS))
    said = str(caught.value)
    assert "\n" not in said
    assert "SELECT" not in said
    return said


def test_values_may_have_types(duckdb_warehouse: Warehouse) -> None:
    values: dict[str, tuple[list[Any], list[Any]]] = {
        "JSON": (["true", "[1, 2]", '"gold"', "2.5", "null"], [True, [1, 2], "gold", 2.5, None]),
        "BOOLEAN": ([True, False, None], [True, False, None]),
        "DOUBLE": ([1.0, 2.5, 1e15], [1, 2.5, 1e15]),
        "DECIMAL(20, 3)": (["1234567.125", "7"], [1234567.125, 7]),
        "HUGEINT": ([1234567890123], [1234567890123]),
    }
    for kind, (stored, wanted) in values.items():
        for table in TABLES:
            duckdb_warehouse.run(f"DROP TABLE IF EXISTS {table}")
        duckdb_warehouse.create(value=kind)
        for number, value in enumerate(stored):
            duckdb_warehouse.id(f"p{number}", f"u{number}")
            duckdb_warehouse.trait(f"p{number}", "total", value)
            duckdb_warehouse.trait(f"p{number}", "vip", True if kind == "BOOLEAN" else "1")
        customers = duckdb_warehouse.wanted()
        assert [customers[f"u{n}"].get("total") for n in range(len(stored))] == wanted, kind
        assert {traits["vip"] for traits in customers.values()} == {True}


@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP_NS", "VARCHAR"])
def test_times_are_in_utc_whatever_their_type(
    duckdb_warehouse: Warehouse, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times without a zone are UTC, whatever the zone of the machine is."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    duckdb_warehouse.create(time=kind)
    zone = "" if kind in ("TIMESTAMP", "TIMESTAMP_NS") else "Z"
    duckdb_warehouse.member("p1", "u1", at=f"2026-03-04T10:00:00{zone}")
    duckdb_warehouse.member("p2", "u2", at=f"2026-03-04T12:00:00{zone}")
    assert duckdb_warehouse.touched("2026-03-04T11:00:00+00:00", overlap=60) == ["u2"]
    with duckdb_warehouse.source().pull(Everything()) as pull:
        assert_watermark(pull, "2026-03-04T12:00:00.000+00:00")
    duckdb_warehouse.trait("p1", "vip", "false", at="soon" if kind == "VARCHAR" else None)
    assert "u1" in duckdb_warehouse.touched("2026-03-04T11:00:00+00:00", overlap=60)


def test_views_may_be_over_parquet(duckdb_warehouse: Warehouse, tmp_path: Path) -> None:
    """What they read may change, so that the tables are counted before and after."""
    warehouse = duckdb_warehouse
    warehouse.create()
    for number in range(3):
        warehouse.member(f"p{number}", f"u{number}")
    for table in TABLES:
        warehouse.run(f"COPY {table} TO '{tmp_path / table}.parquet'")
        warehouse.run(f"DROP TABLE {table}")
        warehouse.run(f"CREATE VIEW {table} AS FROM '{tmp_path / table}.parquet'")
    assert [row.customer_id for row in warehouse.pulled()] == ["u0", "u1", "u2"]

    traits = tmp_path / "user_traits.parquet"
    with pytest.raises(SourceError, match="changed while it was read"):
        pull_while(warehouse, lambda: add_row(traits))
    assert len(warehouse.pulled()) == 3
    traits.unlink()
    assert "No files found" in refusal(warehouse)


def pull_while(warehouse: Warehouse, change: Any) -> None:
    with warehouse.source().pull(Everything()) as pull:
        list(pull.customers(KEYS))
        change()


def add_row(traits: Path) -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE rows AS FROM '{traits}'")
        connection.execute("INSERT INTO rows SELECT * REPLACE ('churn' AS name) FROM rows LIMIT 1")
        connection.execute(f"COPY rows TO '{traits}.new' (FORMAT parquet)")
    os.replace(f"{traits}.new", traits)


def test_a_file_that_is_none_is_named(duckdb_warehouse: Warehouse) -> None:
    path, url = path_of(duckdb_warehouse), make_url(duckdb_warehouse.url)
    assert f"the DuckDB file {path} does not exist" in refusal(duckdb_warehouse)
    with pytest.raises(ConfigError, match=r"the DuckDB file .* does not exist; name the file"):
        ProfilesSyncSettings(url=url).source(SourceContext())
    assert not path.exists()
    path.write_bytes(b"This is a text file. " * 400)
    assert "not a valid DuckDB database" in refusal(duckdb_warehouse)


def test_who_else_has_the_file_open_is_named(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.create()
    duckdb_warehouse.member("p1", "u1")
    source, path = duckdb_warehouse.source(), path_of(duckdb_warehouse)
    opened = f"import duckdb; c = duckdb.connect({str(path)!r}); print(); input()"
    command = [sys.executable, "-c", opened]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        said = refusal(duckdb_warehouse)
        other.communicate(b"\n")
    assert f"process {other.pid} has {path} open, and DuckDB lets one process write" in said
    # In this process one that writes and one that reads go together, in this order alone.
    with source.pull(Everything(), writes=True), source.pull(Everything()) as pull:
        assert [row.customer_id for row in pull.customers(KEYS)] == ["u1"]
    with (
        source.pull(Everything()),
        pytest.raises(SourceError, match=r"this process reads .* just now"),
        source.pull(Everything(), writes=True),
    ):
        pass


def test_a_statement_ends_the_rows_of_the_one_before(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.create()
    for number in range(40):
        duckdb_warehouse.member(f"p{number}", f"u{number}")
    with (
        duckdb_warehouse.source().pull(Everything()) as pull,
        closing(pull.customers(KEYS)) as rows,
    ):
        next(rows)
        assert pull.identified(["u1"]) == {"u1"}
        with pytest.raises(SourceError, match="another statement ran before all rows were read"):
            list(rows)
        assert len(list(pull.customers(KEYS))) == 40


def test_what_is_sorted_on_disk_is_private_and_goes(
    duckdb_warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    duckdb_warehouse.create()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    many = "SELECT range::VARCHAR || repeat('x', 100) AS text FROM range(300000) ORDER BY text"
    url = make_url(duckdb_warehouse.url + "?memory_limit=24MB&threads=1")
    with snapshot(url) as connection:
        result = connection.execute(text(many), execution_options={"stream_results": True})
        result.fetchmany(10)
        (folder,) = tmp_path.glob("syncer-*")
        assert list(folder.iterdir())
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    assert "needs more memory than it may take: put for example ?memory_limit" in refusal(
        duckdb_warehouse, "?memory_limit=1KB"
    )
    assert "nonsense" in refusal(duckdb_warehouse, "?nonsense=1")
    assert not list(tmp_path.glob("syncer-*"))


def test_a_pull_writes_nothing(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.create()
    duckdb_warehouse.member("p1", "u1")
    duckdb_warehouse.flush()
    before = path_of(duckdb_warehouse).read_bytes()
    with duckdb_warehouse.source().pull(Everything()) as pull:
        (row,) = pull.customers(KEYS)
        with pytest.raises(Exception, match="read-only"):
            pull._connection.execute(text("CREATE TABLE nonsense (one INTEGER)"))
    assert json.loads(row.times) == ["2026-03-04 10:00:00+00:00"]
    assert duckdb_warehouse.source().survey().keys[0].key == "vip"
    assert path_of(duckdb_warehouse).read_bytes() == before
