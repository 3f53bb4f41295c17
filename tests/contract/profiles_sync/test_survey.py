"""What a warehouse holds, counted in bounded time, and which schemas have the tables."""

from __future__ import annotations

import pytest

from syncer.engage import survey
from syncer.engage.warehouse import Space, snapshot, spaces
from syncer.engage.warehouses import postgresql
from syncer.errors import SourceError
from tests.support.space import Warehouse

MANY = 4000


def fill(warehouse: Warehouse) -> None:
    for number in range(MANY):
        warehouse.trait(f"p{number}", "vip", "true" if number % 4 else "false")
    warehouse.flush()


@pytest.mark.parametrize("value", ["true", "T", "1", "1.0", "1.00", " true "])
def test_a_member_is_counted_in_whatever_words(warehouse: Warehouse, value: str) -> None:
    warehouse.trait("p1", "vip", value)
    warehouse.trait("p2", "vip", "false")
    warehouse.trait("p3", "vip", "0.0")
    warehouse.trait("p4", "vip", None)
    surveyed = warehouse.source().survey()
    assert surveyed.share == 1
    assert dict(surveyed.members) == {"vip": 1}
    assert [(key.key, key.rows, key.values) for key in surveyed.keys] == [("vip", 4, 3)]


def test_a_sample_gives_about_the_same_numbers(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(warehouse)
    monkeypatch.setattr(survey, "PAGES", 15)
    monkeypatch.setattr(survey, "ROWS", 1000)
    source = warehouse.source()
    with snapshot(source.url) as connection:
        space = Space.of(connection, source.schema, source.url)
        (_, _), (share, rows) = survey._ways(connection, space)
        ((_, number, *_, members),) = connection.execute(survey._counts(space, rows())).all()
    assert share < 0.5
    assert MANY / 3 < number / share < MANY * 3
    assert 0.6 < members / number < 0.9


def test_what_takes_too_long_is_not_waited_for(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(warehouse)
    monkeypatch.setattr(survey, "PATIENCE", 0.001)
    monkeypatch.setattr(survey, "PAGES", 1)
    surveyed = warehouse.source().survey()
    assert surveyed.share < 1
    assert "estimated from" in surveyed.message or "too many rows to count" in surveyed.message


def test_the_schemas_that_hold_the_tables(postgres_warehouse: Warehouse) -> None:
    postgres_warehouse.create(identifiers="user_identifier")
    half = Warehouse(postgres_warehouse.url, "half_a_space")
    half.create()
    half.run("DROP TABLE half_a_space.profile_merges")
    source = postgres_warehouse.source()
    with snapshot(source.url) as connection:
        assert spaces(connection) == ["public"]
    wrong = Warehouse(postgres_warehouse.url, "your_space").source()
    with pytest.raises(SourceError) as caught:
        wrong.survey()
    assert "can read it in 'half_a_space', 'public'" in str(caught.value)
    half.engine.dispose()


def test_a_table_that_the_login_may_not_read_is_none(postgres_warehouse: Warehouse) -> None:
    postgres_warehouse.create()
    postgres_warehouse.run("CREATE ROLE a_stranger LOGIN")
    try:
        url = postgres_warehouse.source().url.set(username="a_stranger")
        with snapshot(url) as connection:
            assert spaces(connection) == []
    finally:
        postgres_warehouse.run("DROP ROLE a_stranger")


def test_an_empty_schema_is_ambiguous_where_several_hold_the_tables(
    empty_postgres: str,
) -> None:
    public, other = Warehouse(empty_postgres), Warehouse(empty_postgres, "other_space")
    public.create()
    other.create()
    (line,) = public.source().survey().advice
    assert "of 'other_space', 'public'" in line
    assert other.source().survey().advice == ()
    for warehouse in (public, other):
        warehouse.engine.dispose()


def test_missing_indexes_are_named_with_the_statements_that_make_them(
    empty_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = Warehouse(empty_postgres, "my_space")
    warehouse.create()
    warehouse.member("p1", "u1")
    assert warehouse.source().survey().advice == ()  # a small table
    monkeypatch.setattr(postgresql, "SMALL", 0)
    warehouse.run("CREATE INDEX mine ON my_space.user_traits (uuid_ts, name)")
    warehouse.run("CREATE INDEX half ON my_space.user_identifiers (value) WHERE value > 'a'")
    (line,) = warehouse.source().survey().advice
    statements = [f"{each};" for each in line.partition(" with ")[2].split("; ")]
    assert len(statements) == len(postgresql.INDEXES) - 1
    for statement in statements:
        warehouse.run(statement.replace(" CONCURRENTLY", "").rstrip(";"))
    assert warehouse.source().survey().advice == ()
    warehouse.engine.dispose()
