"""The Engage sandbox against real databases: what its tables say is what it says to expect.

`Reader` works the expectation out again, from the rows alone and in another way than the sandbox:
merges resolved, identifiers matched, the newest row of a trait by timestamp.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from syncer.errors import ConfigError
from syncer.sandbox.engage import AUDIENCES, EngageSandbox

CLOCK = datetime(2026, 3, 4, 9, 30, tzinfo=UTC)
TABLES = ("user_traits", "user_identifiers", "profile_merges")
Record = tuple[dict[str, Any], str | None, str | None]


class Reader:
    """Someone who syncs from the tables and remembers what was sent."""

    def __init__(self, engine: Engine, schema: str = "") -> None:
        self.engine, self.prefix = engine, f"{schema}." if schema else ""
        self.sent: dict[str, Record] = {}

    def rows(self, table: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(f"SELECT * FROM {self.prefix}{table}")))

    def read(self) -> dict[str, Record]:
        canonical = {row.segment_id: row.canonical_segment_id for row in self.rows(TABLES[2])}
        newest: dict[tuple[str, str], Any] = {}
        for row in sorted(self.rows(TABLES[0]), key=lambda row: row.timestamp):
            newest[canonical[row.canonical_segment_id], row.name] = row.value
        traits: dict[str, dict[str, str]] = {}
        for (profile, name), value in newest.items():
            if value is not None:
                traits.setdefault(profile, {})[name] = value
        by_value = {}
        for row in self.rows(TABLES[1]):
            if row.type == "user_id":
                of_profile = traits.get(canonical[row.canonical_segment_id], {})
                record = self._record(of_profile, self.sent.get(row.value))
                if record is not None:
                    by_value[row.value] = record
        return by_value

    def _record(self, traits: dict[str, str], sent: Record | None) -> Record | None:
        audiences = {k: v == "true" for k, v in traits.items() if v in ("true", "false")}
        computed = {k: _value(v) for k, v in traits.items() if k.startswith("total_revenue_")}
        if sent is None and not any(audiences.values()) and not computed:
            return None
        once = {k: False for k, v in sent[0].items() if type(v) is bool} if sent else {}
        return once | audiences | computed, traits.get("name"), traits.get("email")


def _value(raw: str) -> Any:
    return json.loads(raw) if raw[0] in "-[0123456789" else raw


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'engage.db'}"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def sandbox(url: str) -> Iterator[EngageSandbox]:
    with closing(EngageSandbox(url, clock=CLOCK)) as sandbox:
        yield sandbox


def expected(sandbox: EngageSandbox) -> dict[str, Record]:
    customers = list(sandbox.expected())
    ids = [customer.customer_id for customer in customers]
    assert ids == sorted(set(ids), key=str.encode)
    return {customer_id: (traits, name, email) for customer_id, traits, name, email in customers}


def story(sandbox: EngageSandbox, reader: Reader, users: int) -> None:
    """A first sync, then steps of every sort; not after each of them somebody syncs."""
    sandbox.fill(users)
    reader.sent = reader.read()
    assert expected(sandbox) == reader.sent
    sandbox.observe()
    for step in range(6):
        evolution = sandbox.evolve(fraction=0.05, vanish=8 if step % 2 else 0)
        now, before = reader.read(), reader.sent
        assert expected(sandbox) == now
        assert now.keys() >= before.keys()
        assert evolution.changed == {c for c in now if now[c] != before.get(c)}
        entered: Counter[str] = Counter()
        exited: Counter[str] = Counter()
        for customer in now:
            was = before.get(customer, ({}, None, None))[0]
            for key in AUDIENCES:
                is_in = now[customer][0].get(key) is True
                entered[key] += is_in and was.get(key) is not True
                exited[key] += not is_in and was.get(key) is True
        assert (+entered, +exited) == (evolution.entered, evolution.exited)
        assert 0 not in (entered.total(), exited.total(), evolution.merged, evolution.created)
        if step % 3 != 1:
            sandbox.observe()
            reader.sent = now


def test_the_tables_say_what_is_expected_on_sqlite(sandbox: EngageSandbox, engine: Engine) -> None:
    story(sandbox, Reader(engine), 700)


def test_the_tables_say_what_is_expected_on_postgresql(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    with closing(EngageSandbox(postgres_url, schema="my_space", clock=CLOCK)) as sandbox:
        story(sandbox, Reader(engine, "my_space"), 400)
    tables = inspect(engine)
    assert set(TABLES) <= set(tables.get_table_names(schema="my_space"))
    assert not set(TABLES) & set(tables.get_table_names(schema="public"))
    types = {c["name"]: str(c["type"]) for c in tables.get_columns("user_traits", "my_space")}
    assert (types["value"], types["seq"], types["uuid_ts"]) == ("TEXT", "BIGINT", "TIMESTAMP")
    with engine.connect() as connection:
        first = connection.execute(text("SELECT max(uuid_ts) FROM my_space.user_traits")).scalar()
    assert first == CLOCK.replace(minute=0) + timedelta(hours=15)
    engine.dispose()


def test_a_step_without_a_sync_before_changes_everyone(
    sandbox: EngageSandbox, engine: Engine
) -> None:
    sandbox.fill(200)
    assert sandbox.evolve().changed == set(expected(sandbox)) == set(Reader(engine).read())


def test_the_columns_are_those_of_profiles_sync(sandbox: EngageSandbox, engine: Engine) -> None:
    sandbox.fill(20)
    tables = inspect(engine)
    rest = ["seq", "received_at", "uuid_ts", "timestamp"]
    shapes = {name: [c["name"] for c in tables.get_columns(name)] for name in TABLES}
    assert shapes == {
        "user_traits": ["canonical_segment_id", "name", "value", *rest],
        "user_identifiers": ["canonical_segment_id", "type", "value", *rest],
        "profile_merges": ["canonical_segment_id", "segment_id", *rest],
    }


def test_times_are_utc_text_and_loads_come_on_the_hour(
    sandbox: EngageSandbox, engine: Engine
) -> None:
    sandbox.fill(300)
    before = {name: set(Reader(engine).rows(name)) for name in TABLES}
    sandbox.evolve(hours=2.5)
    new = [row for name in TABLES for row in set(Reader(engine).rows(name)) - before[name]]
    assert {row.uuid_ts for row in new} == {f"2026-03-04 {h}:00:00.000000" for h in (10, 11, 12)}
    assert sandbox.clock == CLOCK + timedelta(hours=2.5)
    for row in (*new, *before["user_traits"]):
        assert row.timestamp <= row.received_at <= row.uuid_ts
        seconds = datetime.strptime(row.timestamp + "+0000", "%Y-%m-%d %H:%M:%S.%f%z").timestamp()
        assert row.seq == pytest.approx(seconds * 1e6, abs=1)


def test_merged_profiles_are_gone_or_still_stand(sandbox: EngageSandbox, engine: Engine) -> None:
    """Both are there from the start, and every segment id has one row that names a living one."""
    sandbox.fill(500)
    reader = Reader(engine)
    for _ in range(3):
        merges = reader.rows("profile_merges")
        into = {row.segment_id: row.canonical_segment_id for row in merges}
        assert len(into) == len(merges)
        assert all(into[canonical] == canonical for canonical in into.values())
        stood = {row.canonical_segment_id for row in reader.rows("user_traits")}
        merged_away = {old for old, canonical in into.items() if old != canonical}
        assert merged_away & stood
        assert merged_away - stood
        sandbox.evolve()


def test_profiles_merge_again(sandbox: EngageSandbox, engine: Engine) -> None:
    """What merged into a profile that merges itself follows it; there are no chains to follow."""
    sandbox.fill(30)
    reader = Reader(engine)
    for _ in range(12):
        sandbox.evolve()
        into = {row.segment_id: row.canonical_segment_id for row in reader.rows("profile_merges")}
        assert all(into[canonical] == canonical for canonical in into.values())
        assert expected(sandbox) == reader.read()
    assert max(Counter(into.values()).values()) > 2


def test_a_late_merge_is_settled_by_the_next_step(sandbox: EngageSandbox, engine: Engine) -> None:
    sandbox.fill(500)
    reader = Reader(engine)

    def standing() -> set[str]:
        rows = {row.canonical_segment_id for row in reader.rows("user_traits")}
        return rows & {
            r.segment_id
            for r in reader.rows("profile_merges")
            if r.segment_id != r.canonical_segment_id
        }

    first = standing()
    sandbox.evolve()
    assert first
    assert not first & standing()


def test_ids_and_traits_are_of_every_sort(sandbox: EngageSandbox, engine: Engine) -> None:
    sandbox.fill(3000, audiences=12)
    reader = Reader(engine)
    by_profile: dict[str, list[str]] = {}
    for row in reader.rows("user_identifiers"):
        by_profile.setdefault(row.canonical_segment_id, [])
        if row.type == "user_id":
            by_profile[row.canonical_segment_id].append(row.value)
    ids = [user_id for user_ids in by_profile.values() for user_id in user_ids]
    assert len(set(ids)) == len(ids)
    for part in ("ü", "用户", "🦊", "/", " ", "+", "%", "'", '"', "\\", "?", "#"):
        assert any(part in user_id for user_id in ids), part
    share = Counter(min(len(user_ids), 2) for user_ids in by_profile.values())
    assert 0.03 < share[0] / 3000 < 0.07
    assert 0.02 < share[2] / 3000 < 0.06
    assert all(len(profile) == 31 and profile.startswith("use_") for profile in by_profile)

    values: dict[str, Counter[str]] = {}
    for row in reader.rows("user_traits"):
        values.setdefault(row.name, Counter())[row.value] += 1
    assert {"audience_011", "audience_012", "plan", "Campaign Name", "first_name"} < values.keys()
    for key in sandbox.audiences:
        assert values[key].keys() == {"true", "false"}
        assert 0.25 < values[key]["true"] / 3000 < 0.35
    kinds = {type(value) for customer in sandbox.expected() for value in customer.traits.values()}
    assert kinds == {bool, int, float, str, list}
    assert {customer.name is None for customer in sandbox.expected()} == {True, False}


def test_only_false_is_not_expected_unless_it_was_sent(
    sandbox: EngageSandbox, engine: Engine
) -> None:
    sandbox.fill(300, audiences=2)
    users = {row.value for row in Reader(engine).rows("user_identifiers") if row.type == "user_id"}
    never_sent = users - expected(sandbox).keys()
    assert never_sent
    sandbox.observe()
    for _ in range(3):
        sandbox.evolve(fraction=0.5, vanish=50)
        sandbox.observe()
    remaining = [
        traits for traits, _, _ in expected(sandbox).values() if True not in traits.values()
    ]
    assert any(traits and set(traits.values()) == {False} for traits in remaining)


def test_the_seed_decides(tmp_path: Path) -> None:
    def run(name: str, seed: int, clock: datetime = CLOCK) -> tuple[Any, ...]:
        path = tmp_path / name
        with closing(EngageSandbox(f"sqlite:///{path}", seed=seed, clock=clock)) as sandbox:
            sandbox.fill(200)
            sandbox.observe()
            steps = [sandbox.evolve(vanish=3) for _ in range(2)]
            told = list(sandbox.expected())
        with closing(sqlite3.connect(path)) as database:
            return steps, told, [list(database.execute(f"SELECT * FROM {t}")) for t in TABLES]

    first = run("a", 1)
    assert run("b", 1) == first
    assert run("c", 1, CLOCK - timedelta(days=9, minutes=17))[:2] == first[:2]
    assert run("d", 2)[1] != first[1]


def test_filling_again_starts_over(sandbox: EngageSandbox, url: str, engine: Engine) -> None:
    sandbox.fill(300)
    sandbox.observe()
    sandbox.evolve(fraction=0.5, vanish=50)
    sandbox.observe()
    sandbox.fill(300)
    assert expected(sandbox) == Reader(engine).read()
    with closing(EngageSandbox(url, clock=CLOCK - timedelta(days=1))) as another:
        another.fill(100)
        assert expected(another) == Reader(engine).read()


@pytest.mark.parametrize("users", [0, 1, 2, 5])
def test_a_tiny_space_works(sandbox: EngageSandbox, engine: Engine, users: int) -> None:
    sandbox.fill(users, audiences=1)
    for hours in (0.25, 0.25, 3):
        sandbox.evolve(hours, vanish=1)
        assert expected(sandbox) == Reader(engine).read()


def test_tables_of_a_real_warehouse_are_not_dropped(sandbox: EngageSandbox, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE user_traits (canonical_segment_id TEXT)"))
        connection.execute(text("INSERT INTO user_traits VALUES ('use_real')"))
    with pytest.raises(ConfigError, match="that no sandbox made"):
        sandbox.fill(10)
    assert len(Reader(engine).rows("user_traits")) == 1


def test_what_it_cannot_write_to_is_said() -> None:
    with pytest.raises(ConfigError, match="without a schema"):
        EngageSandbox("sqlite://", schema="my_space")
