"""Many keys, rows that the filter leaves out, and the encodings of servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from state.db.database import Database
from syncer.engage.source import Everything
from syncer.errors import SourceError
from tests.contract.odd_data.helpers import traits
from tests.support.space import Warehouse, runs_on


def test_there_may_be_more_keys_than_parameters(warehouse: Warehouse) -> None:
    keys = [f"flag_{number:05}" for number in range(70_000)]
    warehouse.id("p1", "u1")
    for key in (keys[0], keys[-1], "other", "name"):
        warehouse.trait("p1", key, "true")
    warehouse.trait("p2", keys[1], "true")
    with warehouse.source().pull(Everything()) as pull:
        assert pull.count(keys).rows == 3
        (customer,) = pull.customers(keys)
        assert json.loads(customer.keys) == [keys[0], keys[-1]]
        assert pull.without_customer_id(keys).rows == {keys[1]: 1}


def mark(warehouse: Warehouse, *tables: str) -> Callable[[str, str], None]:
    """Give the tables a mark as tools that copy them do; gives what sets it."""
    for table in tables:
        warehouse.run(f"ALTER TABLE {table} ADD COLUMN _fivetran_deleted BOOLEAN DEFAULT FALSE")

    def delete(table: str, where: str) -> None:
        warehouse.run(f"UPDATE {table} SET _fivetran_deleted = TRUE WHERE {where}")

    return delete


@pytest.mark.parametrize(
    "condition",
    ["NOT _fivetran_deleted", '"_fivetran_deleted" IS NOT TRUE', "not _FIVETRAN_deleted or 1 = 0"],
)
def test_rows_that_the_filter_leaves_out_are_not_there(
    warehouse: Warehouse, condition: str
) -> None:
    delete = mark(warehouse, "user_traits", "user_identifiers")
    for number in range(4):
        warehouse.member(f"p{number}", f"u{number}")
    warehouse.trait("p3", "churn", "true")
    warehouse.merge("p0", "p1")  # this table has no mark
    delete("user_traits", "canonical_segment_id = 'p3' AND name = 'vip'")
    delete("user_identifiers", "value = 'u2'")
    assert warehouse.wanted(filter=condition) == {
        "u0": {"vip": True},
        "u1": {"vip": True},
        "u3": {"churn": True},
    }
    with warehouse.source(filter=condition).pull(Everything()) as pull:
        assert pull.identified(["u1", "u2"]) == {"u1"}
        assert {observed.key: observed.rows for observed in pull.observed()} == {
            "vip": 3,
            "churn": 1,
        }
    assert len(warehouse.wanted()) == 4


def test_a_filter_may_say_anything(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u:1%")
    warehouse.member("p2", "it's")
    condition = "value LIKE 'u:%' OR value IN ('true', ':name', 'a;b', 'it''s not')"
    assert list(warehouse.wanted(filter=condition)) == ["u:1%"]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("NOT _fivetran_deletd", "no table of the warehouse has all columns"),
        ('"_fivetran_deletd" = 1', "no table of the warehouse has all columns"),
        ("1 = 1", "no table of the warehouse has all columns"),
        ("NOT value AND nothing_such", "does not take"),
        ("value = ", "does not take"),
        ("value IS NULL) OR (", "does not take"),
        ("value IS NULL; DROP TABLE user_traits", "does not take"),
        ("value = 'a", "does not take"),
    ],
)
def test_a_filter_that_is_none_is_refused_in_one_line(
    warehouse: Warehouse, condition: str, said: str
) -> None:
    warehouse.member("p1", "u1")
    with pytest.raises(SourceError) as caught:
        warehouse.source(filter=condition).survey()
    line = str(caught.value)
    assert line.startswith("engage.filter: ")
    assert said in line
    assert "\n" not in line
    assert warehouse.wanted() == {"u1": {"vip": True}}


def test_what_the_filter_leaves_out_has_left(warehouse: Warehouse, tmp_path: Path) -> None:
    delete = mark(warehouse, "user_traits")
    for number in (1, 2):
        warehouse.member(f"p{number}", f"u{number}")
        warehouse.trait(f"p{number}", "churn", "true")
    with closing(Database.open(f"sqlite:///{tmp_path / 'state.db'}")) as database:
        runs_on(database, warehouse.source(filter="NOT _fivetran_deleted")).sync()
        delete("user_traits", "name = 'churn' AND canonical_segment_id = 'p1'")
        runs_on(database, warehouse.source(filter="NOT _fivetran_deleted")).sync(full=True)
        by_customer = traits(database)
    assert by_customer == {"u1": {"vip": True, "churn": False}, "u2": {"vip": True, "churn": True}}


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "EUC_JP", "SQL_ASCII"])
def test_a_server_may_keep_texts_in_any_encoding(empty_postgres: str, encoding: str) -> None:
    server = create_engine(empty_postgres, isolation_level="AUTOCOMMIT")
    name = f"of_{encoding.lower()}"
    with server.connect() as connection:
        connection.execute(
            text(
                f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0"
                " LC_COLLATE 'C' LC_CTYPE 'C'"
            )
        )
    url = make_url(empty_postgres).set(database=name)
    url = url.update_query_dict({"client_encoding": "utf8"})
    warehouse = Warehouse(url.render_as_string(hide_password=False))
    try:
        warehouse.create(value="BYTEA")
        warehouse.member("p1", "u1", b"true")
        warehouse.run("ALTER TABLE user_traits ALTER value TYPE TEXT USING 'true'")
        warehouse.member("p2", "u 2", "false")
        assert "2 trait rows" in warehouse.source().survey().message
        assert warehouse.wanted() == {"u1": {"vip": True}}
    finally:
        warehouse.engine.dispose()
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name}"))
        server.dispose()
