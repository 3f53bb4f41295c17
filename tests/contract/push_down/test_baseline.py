"""When everything is read though the warehouse compares: where the fingerprints are not those of
what the state has, and where somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from state import restored, snapshot
from state.restored import Restored
from syncer.engage.computations import Computation
from syncer.errors import SourceError
from syncer.sync.trait_selection import Selection
from tests.contract.push_down.worlds import SCRATCH, Pair, tables_in_scratch

NOT_KEPT = (
    "all customers are read, and no fingerprints are kept: no table can be made in the scratch "
    "schema 'scratch': "
)


@pytest.fixture
def pair(empty_postgres: str) -> Iterator[Pair]:
    with Pair.opened(empty_postgres) as pair:
        yield pair


def all_read(pair: Pair, why: str = "") -> None:
    """The last run read everybody; the next one reads nobody."""
    assert not pair.narrow
    assert why in pair.read, pair.read
    pair.full()
    assert pair.narrow, pair.read


def test_everything_is_read_where_fingerprints_say_nothing(pair: Pair) -> None:
    """Each time a row changes meanwhile: what is not read would not be right."""
    assert not pair.narrow
    pair.full()
    assert pair.narrow

    pair.say("u1", "vip", "false")
    pair.lose_scratch()
    pair.full()
    all_read(pair, "is not in the scratch schema 'scratch' any more")

    pair.say("u1", "vip", "true")
    (table,) = (
        name for name in tables_in_scratch(pair.warehouse) if str(baseline(pair)["name"]) == name
    )
    pair.warehouse.run(f"DELETE FROM {SCRATCH}.{table} WHERE customer_id = 'u1'")
    pair.full()
    all_read(pair, "was changed: it had")

    pair.warehouse.run(f"DROP TABLE {SCRATCH}.{baseline(pair)['name']}")
    pair.warehouse.run(f"CREATE TABLE {SCRATCH}.{baseline(pair)['name']} (other TEXT)")
    pair.full()
    all_read(pair, "cannot be read")

    pair.resync_all()
    all_read(pair)

    for world in pair.worlds.values():
        with world.database.write() as connection:
            restored.note(connection, Restored(pair.now, pair.now))
    pair.full()
    all_read(pair)


def test_a_table_that_others_keep_costs_no_run(pair: Pair) -> None:
    """It is dropped as soon as the warehouse lets it go."""
    kept = baseline(pair)["name"]
    pair.warehouse.run(f"CREATE VIEW {SCRATCH}.look AS SELECT * FROM {SCRATCH}.{kept}")
    pair.full()
    pair.say("u1", "vip", "false")
    pair.full()
    assert f"the table {kept} of an earlier run cannot be dropped: " in pair.read
    assert "1 of 8 customers are read" in pair.read
    pair.warehouse.run(f"DROP VIEW {SCRATCH}.look")
    pair.full()
    assert kept not in tables_in_scratch(pair.warehouse)


@pytest.mark.parametrize("engine", ["postgresql", "duckdb"])
def test_a_scratch_schema_that_is_gone_costs_no_run(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Everything is read until it is there again, and then once more."""
    url = f"duckdb:///{tmp_path / 'engage.duckdb'}"
    if engine == "duckdb":
        pytest.importorskip("duckdb", reason="duckdb (the extra duckdb has it)")
    else:
        url = request.getfixturevalue("empty_postgres")
    with Pair.opened(url) as pair:
        pair.warehouse.run(f"DROP SCHEMA {SCRATCH} CASCADE")
        for value in ("false", "true"):
            pair.say("u1", "vip", value)
            pair.full()
            assert not pair.narrow
            assert NOT_KEPT in pair.read, pair.read
        with pytest.raises(SourceError, match="the schema must be there, and the login must be"):
            pair.pushed.source.try_scratch()
        pair.say("u1", "vip", "false")
        pair.warehouse.run(f"CREATE SCHEMA {SCRATCH}")
        pair.full()
        all_read(pair, "is not in the scratch schema 'scratch' any more")


def test_runs_without_the_scratch_schema_leave_the_baseline(pair: Pair) -> None:
    """As soon as tables can be made there again, who changed meanwhile is read, and nobody else."""
    before = baseline(pair)
    pair.warehouse.run(f"ALTER SCHEMA {SCRATCH} RENAME TO elsewhere")
    pair.say("u1", "vip", "false")
    pair.full()
    assert NOT_KEPT in pair.read, pair.read
    pair.say("u1", "vip", "true")  # as it was when the fingerprints were made
    pair.call("u3", "vip", False)
    pair.passes(4)
    pair.full()
    assert baseline(pair) == before
    pair.warehouse.run(f"ALTER SCHEMA elsewhere RENAME TO {SCRATCH}")
    pair.full()
    assert pair.read.startswith("2 of 8 customers are read"), pair.read
    assert tables_in_scratch(pair.warehouse) == {before["name"], baseline(pair)["name"]}
    pair.full()
    assert before["name"] not in tables_in_scratch(pair.warehouse)


def test_the_same_characters_of_another_type_are_read(pair: Pair) -> None:
    """As JSON it is the text gold, and not one in quotes."""
    pair.say("u2", "total", '"gold"')
    pair.full()
    values = "ALTER COLUMN value TYPE jsonb USING value::jsonb"
    pair.warehouse.run(f"ALTER TABLE user_traits {values}")
    pair.full()
    assert pair.read.startswith("8 of 8 customers are read")


def test_everything_is_read_where_something_else_changed(pair: Pair) -> None:
    why = "the settings, the traits or the program changed"
    usual = pair.pushed.selection
    for selection in (
        replace(usual, settings='{"customer_id": "email"}'),
        replace(usual, forget_deleted=True),
        replace(usual, hold_first_contact=True),
        Selection(("vip",), ("total",), usual.settings),
        Selection(("vip", "gold"), (), usual.settings),
        usual,
    ):
        for world in pair.worlds.values():
            world.selection = selection
        pair.full()
        all_read(pair, why)
    pair.say("u1", "gold", "2")  # now it is no audience by its values
    pair.full()
    assert pair.narrow
    for world in pair.worlds.values():
        world.selection = Selection(("vip", "gold", "plan"), ("total",), usual.settings)
    pair.say("u1", "plan", "true")
    pair.sync()
    all_read(pair, why)


def test_a_run_that_leaves_something_to_wait_is_no_baseline(pair: Pair) -> None:
    """What left waits until Segment has computed the audience; no row changes for it."""
    status = ["Backfilling"]

    def listed() -> list[Computation]:
        kinds = {"vip": "audience", "gold": "audience", "total": "computed_trait"}
        return [Computation(key, key, kind, status[0]) for key, kind in kinds.items()]  # type: ignore[arg-type]

    for world in pair.worlds.values():
        world.computations = listed
    pair.full()
    pair.full()
    before = baseline(pair)
    pair.say("u1", "vip", "false")
    pair.say("u3", "name", "Ada")
    pair.full()
    assert pair.narrow
    assert baseline(pair) == before
    pair.say("u3", "name", None)
    pair.lose("u3", "name")
    status[0] = "Live"
    pair.full()
    assert pair.narrow
    assert baseline(pair) != before


def test_a_dry_run_leaves_the_baseline(pair: Pair) -> None:
    before, tables = baseline(pair), tables_in_scratch(pair.warehouse)
    pair.say("u1", "vip", "false")
    pair.warehouse.flush()
    compared = pair.pushed.runs.diff(full=True)
    assert [change.customer_id for change in compared.changes] == ["u1"]
    compared.close()
    assert (baseline(pair), tables_in_scratch(pair.warehouse)) == (before, tables)
    pair.full()
    assert pair.narrow


def test_a_run_without_fingerprints_ends_them(pair: Pair) -> None:
    """Nobody would note any more whom the next comparison by them must read."""
    source = pair.pushed.source
    pair.pushed.source = pair.worlds["full"].source
    pair.full()
    pair.call("u1", "vip", False)
    assert pair.pushed.revisits() == []
    with pair.pushed.database.read() as connection:
        assert not connection.execute(text("SELECT * FROM fingerprint_table")).all()
    pair.pushed.source = source
    pair.call_meanwhile("u3", "vip", False)
    pair.full()
    all_read(pair, "no fingerprints are kept yet")
    pair.passes(4)
    pair.say("u2", "total", "8")
    pair.full()
    assert pair.read.startswith("3 of "), "u1 and u3, of whom calls came, and u2"


def test_a_call_while_a_run_compares_is_not_lost(pair: Pair) -> None:
    """It is written before the commit and after what the run has seen of the state."""
    pair.call("u1", "gold", True)
    pair.full()
    pair.call_meanwhile("u1", "vip", False)
    pair.say("u3", "vip", "false")
    pair.full()
    assert pair.pushed.revisits() == ["u1"]
    pair.passes(4)
    pair.say("u2", "total", "8")
    pair.full()
    assert pair.read.startswith("2 of "), pair.read


def test_a_call_that_began_before_the_first_fingerprints(
    empty_postgres: str, state_postgres: str
) -> None:
    """Its transaction saw that nobody compares by them, and noted nobody: the run waits for it."""
    with Pair.opened(empty_postgres, state_postgres) as pair:
        world, source = pair.pushed, pair.pushed.source
        world.source = pair.worlds["full"].source
        pair.full()
        world.source = source
        waits = text("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        with ThreadPoolExecutor(1) as beside:
            with world.database.write(alone=True) as connection:
                (known,) = snapshot.find(connection, ["u1"])
                row = known._replace(traits='{"gold": true, "vip": false}')
                snapshot.touch_customers(connection, [row])
                run = beside.submit(world.runs.sync, full=True)
                while not (run.done() or connection.execute(waits).first()):
                    pass
            run.result()
        world.runs.sync(full=True)
        with world.database.read() as connection:
            assert snapshot.find(connection, ["u1"])[0].traits == known.traits


def baseline(pair: Pair) -> dict[str, object]:
    with pair.pushed.database.read() as connection:
        rows = connection.execute(text("SELECT * FROM fingerprint_table WHERE basis IS NOT NULL"))
        return dict(rows.mappings().one())
