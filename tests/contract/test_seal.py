"""Seals, compaction and erasure of the history: one suite, run on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, event, insert, select, text

from state import alerts, erasure, failures, outbox, snapshot, suppression
from state.db import workers
from state.db.database import Database
from state.db.tables import CHANGE, HELD_CHANGE, HOLD, PARTS, RUN
from state.errors import Locked, NotKept, StateError
from state.history import compaction, listings, past, retention, seal
from state.history.proof import Proof, prove
from state.history.record import ChangeRow, add_changes, last_observed
from state.snapshot import CustomerRow, TraitRow
from tests.support import postgres

NOW = 1_790_000_000_000
DAY = 86_400_000


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A database for all tests; `database` empties it."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('seal') / 'syncer.db'}"
    else:
        url = str(request.getfixturevalue("postgres_database"))
        postgres.clear(url)
    with closing(Database.open(url)) as database:
        if request.param == "sqlite":
            # An fsync for every step of every example takes too long.
            event.listen(
                database.engine,
                "connect",
                lambda connection, _: connection.execute("PRAGMA synchronous = OFF"),
            )
            database.engine.dispose()
        yield database


def empty(database: Database) -> None:
    with database.write() as connection:
        for table in PARTS["state"]:
            connection.execute(table.delete())


@pytest.fixture
def database(shared: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """An empty database, of small seals."""
    monkeypatch.setattr(seal, "SEGMENT", 4)
    monkeypatch.setattr(seal, "CHUNK", 2)
    monkeypatch.setattr(compaction, "CHUNK", 3)
    monkeypatch.setattr(compaction, "PAUSE", 0.0)
    empty(shared)
    return shared


def run_sql(database: Database, statement: str, **values: Any) -> int:
    """Past the product."""
    with database.write() as connection:
        return connection.execute(text(statement), values).rowcount


def rows(database: Database, statement: str, **values: Any) -> list[dict[str, Any]]:
    with database.read() as connection:
        return [dict(row) for row in connection.execute(text(statement), values).mappings()]


def proof(database: Database, **options: Any) -> Proof:
    with database.read() as connection:
        return prove(connection, **options)


def broken(database: Database, **options: Any) -> tuple[str, int | None, int | None, int | None]:
    """What is wrong, and at which seal, run and change."""
    found = proof(database, **options).broken
    assert found is not None
    return found.what, found.seal, found.run, found.change


CHANGE_COLUMNS = [
    *("id", "run", "customer_id", "rev", "key", "trait", "before", "after", "step"),
    *("observed_at", "recorded_at", "salt", "source", "via"),
]


# -- making a history


@dataclass
class Maker:
    """Makes changes as runs and calls do. `told` is every change that was made, in order."""

    database: Database
    now: int = NOW
    run: int = 0
    traits: dict[str, dict[str, Any]] = field(default_factory=dict)

    def changes(
        self, connection: Connection, told: list[tuple[str, str, Any]], run: int | None, at: int
    ) -> None:
        """(customer, key, value after) each."""
        for customer_id, key, after in told:
            traits = self.traits.setdefault(customer_id, {})
            before = traits.get(key)
            if before == after:
                continue  # no change
            traits[key] = after
            held = {name: value for name, value in traits.items() if value is not None}
            state = CustomerRow(customer_id, json.dumps(held), None, None, None, None)
            if snapshot.known(connection, [customer_id]):
                snapshot.update_customers(connection, [state], at)
            else:
                snapshot.insert_customers(connection, [state], at)
            texts = [None if value is None else json.dumps(value) for value in (before, after)]
            row = ChangeRow(customer_id, key, key.lower(), texts[0], texts[1], at - 1000)
            add_changes(connection, [row], run, at)
            if after is False:
                newest = (
                    "UPDATE change SET source = 'deleted' WHERE id = (SELECT max(id) FROM change)"
                )
                connection.execute(text(newest))

    def call(self, *told: tuple[str, str, Any], at: int | None = None) -> None:
        self.now += 1000
        with self.database.write(alone=True) as connection:
            self.changes(connection, list(told), None, self.now if at is None else at)

    def sync(self, *told: tuple[str, str, Any], at: int | None = None) -> str:
        """A run; gives the head."""
        self.now += 1000
        self.run += 1
        at = self.now if at is None else at
        with self.database.write(alone=True) as connection:
            values = {"id": self.run, "kind": "incremental", "state": "done", "at": at}
            connection.execute(
                text(
                    "INSERT INTO run (id, kind, state, started_at, committed_at)"
                    " VALUES (:id, :kind, :state, :at, :at)"
                ),
                values,
            )
            self.changes(connection, list(told), self.run, at)
            head = seal.seal(connection, self.run, at)
        assert head is not None
        return head

    def deliver(self) -> None:
        """Amberflo has acknowledged all."""
        self.now += 1000
        run_sql(
            self.database,
            "UPDATE change SET delivered_at = :at WHERE delivered_at IS NULL",
            at=self.now,
        )

    def compact(self, before: int | None = None) -> compaction.Compacted:
        return compaction.compact(
            self.database, self.now + 1 if before is None else before, lambda: self.now
        )

    def erase(self, customer_id: str) -> erasure.Erased:
        self.now += 1000
        self.traits.pop(customer_id, None)
        with self.database.write(alone=True) as connection:
            return erasure.erase(connection, customer_id, self.now)


@pytest.fixture
def maker(database: Database) -> Maker:
    return Maker(database)


def some(*customers: str, value: Any = True) -> list[tuple[str, str, Any]]:
    return [(customer, key, value) for customer in customers for key in ("vip", "Churn")]


# -- sealing


def test_a_seal_is_what_the_documents_say(maker: Maker) -> None:
    """Calculated anew here, by the rules of docs/audit.md."""
    maker.call(("u1", "vip", 'é\u2028\x7f\x01"\\/\n'))
    maker.sync(*some("u2", "ü3"), ("u1", "spent", 2.5), ("u4", "vip", False))
    maker.sync()
    found = rows(maker.database, "SELECT * FROM seal ORDER BY number")
    assert [row["changes"] for row in found] == [4, 3, 0]
    assert [row["run"] for row in found] == [1, 1, 2]
    changes = rows(maker.database, "SELECT * FROM change ORDER BY id")
    assert len({row["salt"] for row in changes}) == 7
    assert all(len(row["salt"]) == 16 for row in changes)

    def pack(values: list[Any]) -> bytes:
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()

    def sealed(change: dict[str, Any]) -> list[Any]:
        values = [change[one] for one in CHANGE_COLUMNS]
        for _ in ("via", "source"):
            if values[-1] is None:
                values.pop()
        return values

    previous, first = "0" * 64, 1
    for row in found:
        part = [one for one in changes if row["first_id"] <= one["id"] <= row["last_id"]]
        leaves = [sha256(pack(sealed(one))).digest() for one in part]
        assert row["first_id"] == first
        assert row["digest"] == sha256(b"".join(leaves)).hexdigest()
        assert bytes(row["marks"] or b"") == b"".join(leaf[:2] for leaf in leaves)
        assert row["until"] == max((one["recorded_at"] for one in part), default=None)
        assert row["previous"] == previous
        link = [row["previous"], row["number"], row["kind"], row["run"], row["first_id"]]
        link += [row["last_id"], row["changes"], row["digest"], row["until"], row["sealed_at"]]
        assert row["hash"] == sha256(pack(link)).hexdigest()
        previous, first = row["hash"], row["last_id"] + 1
    found_proof = proof(maker.database)
    assert found_proof.broken is None
    assert (found_proof.head, found_proof.seals, found_proof.changes) == (previous, 3, 7)


@given(st.lists(st.none() | st.integers(-(2**62), 2**62) | st.text(st.characters(codec="utf-8"))))
def test_a_list_is_packed_as_the_standard_library_does(values: list[Any]) -> None:
    packed = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    assert seal.packed(tuple(values)) == sha256(packed).digest()


def test_nothing_sealed_is_nothing_wrong(maker: Maker) -> None:
    assert proof(maker.database) == Proof()
    maker.call(("u1", "vip", True))
    assert proof(maker.database) == Proof(unsealed=1)
    head = maker.sync(("u1", "vip", False))
    maker.call(("u1", "vip", True))
    assert proof(maker.database) == Proof(head=head, seals=1, changes=2, unsealed=1)


def test_every_run_is_in_the_chain_even_without_a_change(maker: Maker) -> None:
    heads = [maker.sync() for _ in range(3)]
    assert len(set(heads)) == 3
    with maker.database.read() as connection:
        assert [seal.head(connection, run) for run in (1, 2, 3, 4)] == [*heads, None]


def test_when_amberflo_acknowledged_is_not_sealed(maker: Maker) -> None:
    maker.sync(*some("u1", "u2"))
    maker.deliver()
    assert proof(maker.database).broken is None
    run_sql(maker.database, "UPDATE change SET delivered_at = 5")
    assert proof(maker.database).broken is None


def test_a_history_from_before_the_seals_is_sealed_by_the_next_run(maker: Maker) -> None:
    run_sql(
        maker.database,
        "INSERT INTO run (id, kind, state, started_at, committed_at)"
        " VALUES (7, 'initial', 'done', 1, 1)",
    )
    maker.run = 7
    with maker.database.write() as connection:
        maker.changes(connection, some("u1", "u2", "u3"), 7, NOW)
        connection.execute(text("UPDATE change SET salt = NULL"))
    maker.sync(("u1", "vip", False))
    found = proof(maker.database)
    assert (found.broken, found.changes, found.unsealed) == (None, 7, 0)


def test_where_a_change_comes_from_is_sealed(maker: Maker) -> None:
    maker.sync(("u1", "vip", True), ("u2", "vip", False))
    for edit in (
        "UPDATE change SET source = 'amberflo' WHERE source IS NULL",
        "UPDATE change SET source = NULL",
        "UPDATE change SET source = 'renamed' WHERE source IS NOT NULL",
    ):
        with maker.database.write() as connection:
            connection.execute(text(edit))
            assert prove(connection).broken is not None, edit
            connection.rollback()
        assert proof(maker.database).broken is None


def test_a_seal_waits_for_calls_that_have_lower_ids(maker: Maker) -> None:
    """Without that, a call that commits after the seal would look like one added later."""
    maker.sync(("u0", "vip", True))
    added, may_commit = threading.Event(), threading.Event()

    def call() -> None:
        other = Maker(maker.database, now=maker.now)
        with maker.database.write(alone=True) as connection:
            other.changes(connection, [("slow", "vip", True)], None, NOW)
            added.set()
            may_commit.wait(10)

    calling = threading.Thread(target=call)
    calling.start()
    assert added.wait(10)
    running = threading.Thread(target=lambda: maker.sync(("u1", "vip", True)))
    running.start()
    time.sleep(0.3)
    assert running.is_alive()
    may_commit.set()
    for thread in (calling, running):
        thread.join(10)
        assert not thread.is_alive()
    found = proof(maker.database)
    assert (found.broken, found.changes, found.unsealed) == (None, 3, 0)


# -- what is edited is found


SEAL_COLUMNS = [
    *("number", "kind", "run", "first_id", "last_id", "changes", "digest", "until"),
    *("previous", "hash", "sealed_at", "marks"),
]
COLUMNS = {"change": CHANGE_COLUMNS, "seal": SEAL_COLUMNS, "erased": ["id", "leaf", "seal"]}
#: What may stand where nothing stands.
SOMETHING = {
    **{"run": 1, "until": 1, "observed_at": 1},
    **{"before": "x", "after": "x", "salt": "x", "source": "x", "via": "x", "marks": b"x"},
}


def random_history(maker: Maker, rng: random.Random) -> None:
    """Runs, calls, deliveries, compactions, erasures."""
    customers = [f"u{number}" for number in range(5)]

    def told() -> list[tuple[str, str, Any]]:
        return [
            (rng.choice(customers), rng.choice(["vip", "Churn"]), rng.choice([True, False, None]))
            for _ in range(rng.randrange(4))
        ]

    for _ in range(rng.randrange(2, 7)):
        for _ in range(rng.randrange(3)):
            maker.call(*told())
        maker.sync(*told())
        if rng.random() < 0.7:
            maker.deliver()
        what = rng.random()
        if what < 0.25:
            maker.compact(rng.choice([None, maker.now - 3000]))
        elif what < 0.5:
            maker.erase(rng.choice(customers))
    if rng.random() < 0.5:
        maker.call(*told())


def edit(connection: Connection, rng: random.Random) -> str | None:
    """Edit a sealed row somewhere; gives what was done, None where there was nothing to do."""
    table = rng.choice(["change", "change", "seal", "erased"])
    columns, key = COLUMNS[table], "number" if table == "seal" else "id"
    where = f"WHERE id <= {seal.sealed_to(connection)}" if table == "change" else ""
    statement = text(f'SELECT * FROM "{table}" {where} ORDER BY {key}')
    found = [dict(row) for row in connection.execute(statement).mappings()]
    if not found:
        return None
    row, other = rng.choice(found), rng.choice(found)
    taken = set(connection.execute(text(f'SELECT {key} FROM "{table}"')).scalars())
    free = rng.choice([-1, 0, max(taken) + 1, max(taken) + 1000])

    def put(which: Any, values: dict[str, Any]) -> None:
        sets = ", ".join(f"{name} = :{name}" for name in values)
        statement = text(f'UPDATE "{table}" SET {sets} WHERE {key} = {which}')
        connection.execute(statement, values)

    how = rng.choice(["column", "column", "delete", "copy", "swap", "move"])
    if how == "column":
        column = rng.choice(columns)
        new = another(row[column], column, rng)
        if column == key and new in taken:
            return None
        put(row[key], {column: new})
        how = f"{column} is {new!r}"
    elif how == "delete":
        connection.execute(text(f'DELETE FROM "{table}" WHERE {key} = {row[key]}'))
    elif how == "move":
        put(row[key], {key: free})
    elif how == "copy":
        # A change that looks like one of a call after the last seal is one: that is counted.
        copy = {**row, key: free} | ({"run": 1} if table == "change" else {})
        names, values = ", ".join(copy), ", ".join(f":{name}" for name in copy)
        connection.execute(text(f'INSERT INTO "{table}" ({names}) VALUES ({values})'), copy)
    else:
        rest = [name for name in columns if name != key]
        if all(row[name] == other[name] for name in rest):
            return None
        put(row[key], {name: other[name] for name in rest})
        put(other[key], {name: row[name] for name in rest})
    return f"{how}: {table} {row}"


def another(value: Any, column: str, rng: random.Random) -> Any:
    """A value that differs, often by little."""
    if value is None:
        return SOMETHING[column]
    if isinstance(value, int):
        return value ^ (1 << rng.randrange(3))
    place = rng.randrange(len(value) + 1)
    if not isinstance(value, str):
        return bytes(value[:place]) + b"x" + bytes(value[place:])
    if len(value) > 5 and rng.random() < 0.5:
        return value[1:]
    return value[:place] + "0" + value[place:]


class _Undo(Exception):
    pass


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32))
def test_whatever_is_edited_is_found(database: Database, seed: int) -> None:
    empty(database)
    rng = random.Random(seed)
    random_history(Maker(database), rng)
    found = proof(database)
    assert found.broken is None
    for _ in range(15):
        with suppress(_Undo), database.write() as connection:
            what = edit(connection, rng)
            assert what is None or prove(connection).broken is not None, what
            raise _Undo
    assert proof(database) == found


@pytest.fixture
def sealed(maker: Maker) -> Maker:
    """Runs 1 to 3 with 6 changes each, ids from `first`, seals of 4 and 2 changes."""
    for _ in range(3):
        maker.sync(*some("u1", "u2", "u3", value=maker.run % 2 == 0))
        maker.deliver()
    return maker


def first_id(maker: Maker) -> int:
    return int(rows(maker.database, "SELECT min(id) AS id FROM change")[0]["id"])


def test_the_changed_row_is_named(sealed: Maker) -> None:
    this = first_id(sealed) + 8
    run_sql(sealed.database, "UPDATE change SET after = 'true ' WHERE id = :id", id=this)
    assert broken(sealed.database) == (f"change {this} is not as it was sealed", 3, 2, this)


@pytest.mark.parametrize(("place", "where"), [(7, "before or at change {}"), (9, "at the end")])
def test_where_a_row_is_gone_is_named(sealed: Maker, place: int, where: str) -> None:
    first = first_id(sealed)
    run_sql(sealed.database, "DELETE FROM change WHERE id = :id", id=first + place)
    what, at, run, change = broken(sealed.database)
    assert what == (
        f"1 of the changes {first + 6} to {first + 9} are gone, {where.format(first + place + 1)}"
    )
    assert (at, run, change) == (3, 2, first + place + 1 if place == 7 else None)


def test_an_added_row_is_named(sealed: Maker) -> None:
    """Where a gap of the numbers gives it a place between others."""
    first = first_id(sealed)
    with sealed.database.write() as connection:
        connection.execute(text("DELETE FROM memo"))
        connection.execute(text("DELETE FROM seal"))
        connection.execute(text("UPDATE change SET id = -2 * id"))
        connection.execute(text("UPDATE change SET id = -id"))
        connection.execute(text("UPDATE change SET run = NULL"))
        connection.execute(text("DELETE FROM run"))
        seal.seal(connection, None, NOW)
    assert proof(sealed.database).broken is None
    this = 2 * first + 5
    run_sql(
        sealed.database,
        "INSERT INTO change (id, run, customer_id, rev, key, trait, recorded_at)"
        " VALUES (:id, 1, 'u1', 1, 'vip', 'vip', 5)",
        id=this,
    )
    what = f"change {this} was added, or is not where it was"
    assert broken(sealed.database) == (what, 1, None, this)


def test_the_last_row_of_all_is_missed(sealed: Maker) -> None:
    run_sql(sealed.database, "DELETE FROM change WHERE id = (SELECT max(id) FROM change)")
    what, at, run, _ = broken(sealed.database)
    assert (at, run) == (6, 3)
    assert "are gone, at the end" in what


def test_two_rows_that_were_exchanged_are_named(sealed: Maker) -> None:
    first = first_id(sealed)
    one, other = rows(
        sealed.database, f"SELECT * FROM change WHERE id IN ({first}, {first + 1}) ORDER BY id"
    )
    for this, values in ((first, other), (first + 1, one)):
        run_sql(
            sealed.database,
            "UPDATE change SET key = :key, trait = :trait, salt = :salt WHERE id = :this",
            this=this,
            **{name: values[name] for name in ("key", "trait", "salt")},
        )
    assert broken(sealed.database) == (f"change {first} is not as it was sealed", 1, 1, first)


def test_bytes_that_are_no_text_are_named(sealed: Maker) -> None:
    if sealed.database.engine.dialect.name != "sqlite":
        with pytest.raises(StateError):
            run_sql(sealed.database, "UPDATE change SET after = convert_from('\\xff', 'UTF8')")
        return
    this = first_id(sealed) + 8
    for value in ("CAST(x'ff' AS TEXT)", "x'7472'"):
        run_sql(sealed.database, f"UPDATE change SET after = {value} WHERE id = {this}")
        assert broken(sealed.database) == (f"change {this} cannot be read", 3, 2, this)


def rewrite(connection: Connection, number: int) -> None:
    """Make one seal agree with its changes again, and with the one before it."""
    statement = text("SELECT * FROM seal WHERE number = :number")
    link = dict(connection.execute(statement, {"number": number}).mappings().one())
    before = connection.execute(statement, {"number": number - 1}).mappings().first()
    found = seal.Sum()
    for part in seal.read(connection, link["first_id"] - 1, link["last_id"]):
        found.add([seal.leaf(row[:-1]) for row in part])
    del link["marks"]
    link |= {"digest": found.digest, "changes": found.changes}
    link["previous"] = before["hash"] if before else seal.GENESIS
    link["hash"] = seal.hash_of(seal.Link(**link))
    sets = ", ".join(f"{name} = :{name}" for name in link)
    statement = text(f"UPDATE seal SET {sets}, marks = :marks WHERE number = :number")
    connection.execute(statement, {**link, "marks": bytes(found.marks)})


def test_a_seal_that_was_written_anew_is_found_at_the_next(sealed: Maker) -> None:
    this = first_id(sealed) + 7
    run_sql(sealed.database, "UPDATE change SET after = '1' WHERE id = :id", id=this)
    with sealed.database.write() as connection:
        rewrite(connection, 3)
    assert broken(sealed.database) == ("seal 4 does not follow the one before it", 4, 2, None)


def test_a_chain_that_was_written_anew_is_found_by_a_head_kept_elsewhere(sealed: Maker) -> None:
    """That is the limit of a chain that lies in the database itself."""
    heads = {number: row["hash"] for number, row in enumerate(all_seals(sealed), start=1)}
    this = first_id(sealed) + 7
    run_sql(sealed.database, "UPDATE change SET after = '1' WHERE id = :id", id=this)
    with sealed.database.write() as connection:
        for number in (3, 4, 5, 6):
            rewrite(connection, number)
        now = seal.head(connection)
        connection.execute(
            text("UPDATE memo SET value = :to WHERE name = 'head'"), {"to": f"6 {now}"}
        )
    assert proof(sealed.database).broken is None
    for number, head in heads.items():
        found = proof(sealed.database, expect=head).broken
        assert (found is None) == (number < 3)
        if found:
            assert found.what == f"the hash {head} is not in the chain: it was cut, or written anew"


def all_seals(maker: Maker) -> list[dict[str, Any]]:
    return rows(maker.database, "SELECT * FROM seal ORDER BY number")


def test_a_seal_that_is_gone_is_named(sealed: Maker) -> None:
    run_sql(sealed.database, "DELETE FROM seal WHERE number = 2")
    assert broken(sealed.database)[0] == "seal 2 is gone"


def test_a_chain_that_was_cut_is_found(sealed: Maker) -> None:
    """At the end: by the noted head, by changes of a run, by the runs, by a head kept elsewhere."""
    head = all_seals(sealed)[-1]["hash"]
    run_sql(sealed.database, "DELETE FROM seal WHERE number > 4")
    assert broken(sealed.database)[0].startswith("the chain ends with seal 4, its head is noted as")
    with sealed.database.write() as connection:
        kept = seal.head(connection)
        connection.execute(text("UPDATE memo SET value = :to"), {"to": f"4 {kept}"})
    what, _, _, change = broken(sealed.database)
    assert what == f"change {change} is of a run that did not seal it"
    run_sql(sealed.database, "DELETE FROM change WHERE run = 3")
    assert broken(sealed.database)[0] == "the seal of run 3 is gone"
    run_sql(sealed.database, "DELETE FROM run WHERE id = 3")
    assert proof(sealed.database).broken is None
    assert broken(sealed.database, expect=head)[0].startswith(
        f"the hash {head} is not in the chain"
    )


def test_a_row_that_looks_like_a_calls_is_counted(sealed: Maker) -> None:
    run_sql(
        sealed.database,
        "INSERT INTO change (run, customer_id, rev, key, trait, recorded_at)"
        " VALUES (NULL, 'u1', 1, 'vip', 'vip', 5)",
    )
    found = proof(sealed.database)
    assert (found.broken, found.unsealed) == (None, 1)


# -- compaction


def told(database: Database) -> list[dict[str, Any]]:
    return rows(database, "SELECT * FROM change ORDER BY id")


def members(changes: list[dict[str, Any]], key: str, at: int) -> list[str]:
    """Who was in by the newest entry or exit, replayed from the whole history."""
    inside: dict[str, bool] = {}
    for change in changes:
        if change["key"] == key and change["recorded_at"] <= at:
            before, after = change["before"] == "true", change["after"] == "true"
            if before != after:
                inside[change["customer_id"]] = after
    return sorted(customer for customer, is_in in inside.items() if is_in)


def in_force(changes: list[dict[str, Any]], customer_id: str, at: int) -> dict[str, Any]:
    """The newest change of each key of a customer."""
    return {
        change["key"]: change
        for change in changes
        if change["customer_id"] == customer_id and change["recorded_at"] <= at
    }


def check_answers(connection: Connection, changes: list[dict[str, Any]], at: int) -> None:
    """All that the history says of a moment, against the replay."""
    customers = sorted({one["customer_id"] for one in changes})
    for key in ("vip", "Churn"):
        expected = members(changes, key, at)
        assert list(past.members_at(connection, key, at)) == expected
        assert (
            list(past.members_at(connection, key, at, after="u1", limit=1))
            == [one for one in expected if one > "u1"][:1]
        )
        assert past.count_at(connection, key, at) == len(expected)
        for one in customers:
            assert past.member_at(connection, one, key, at) == (one in expected)
    for one in customers:
        replayed = in_force(changes, one, at)
        assert past.traits_at(connection, one, at) == {
            change["trait"]: change["after"]
            for change in replayed.values()
            if change["after"] is not None
        }
        for key in ("vip", "Churn"):
            found = past.in_force(connection, one, key, at)
            assert (found and found.id) == (replayed[key]["id"] if key in replayed else None)


def check_refusals(connection: Connection, begins: int) -> None:
    """Before the history begins it says so in one line, whatever is asked."""
    for ask in (
        lambda at: past.members_at(connection, "vip", at),
        lambda at: past.count_at(connection, "vip", at),
        lambda at: past.member_at(connection, "u1", "vip", at),
        lambda at: past.traits_at(connection, "u1", at),
        lambda at: past.in_force(connection, "u1", "vip", at),
        lambda at: past.sizes(connection, "vip", at, begins + 5, 3),
    ):
        with pytest.raises(NotKept, match=r"^the history begins 20\d\d-.*Z with "):
            ask(begins - 1)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32))
def test_a_compaction_changes_no_answer_since_it(database: Database, seed: int) -> None:
    """Against an independent replay; recorded times are out of order here and there, as two
    processes write them."""
    empty(database)
    rng, maker = random.Random(seed), Maker(database)
    for _ in range(rng.randrange(3, 9)):
        for _ in range(rng.randrange(1, 4)):
            changes = [
                (
                    f"u{rng.randrange(4)}",
                    rng.choice(["vip", "Churn"]),
                    rng.choice([True, False, None]),
                )
                for _ in range(rng.randrange(4))
            ]
            how = maker.sync if rng.random() < 0.6 else maker.call
            how(*changes, at=maker.now + rng.randrange(-3000, 3000))
        if rng.random() < 0.7:
            maker.deliver()
    before = told(database)
    last = {}
    with database.read() as connection:
        for change in before:
            which = change["customer_id"], change["key"]
            last[which] = last_observed(connection, *which)
        first = past.known_since(connection)
        for at in {one["recorded_at"] for one in before}:
            if first is not None and at >= first.at:
                check_answers(connection, before, at)
    limits = sorted(NOW + rng.randrange(0, maker.now - NOW + 4000) for _ in range(2))
    for limit in limits:
        done = maker.compact(limit)
        assert proof(database).broken is None
        after = told(database)
        with database.read() as connection:
            begins = retention.begins(connection)
            assert begins == done.begins
            if begins is None:
                assert after == before
                continue
            known = past.known_since(connection)
            assert known is not None
            assert known.at >= begins
            moments = {known.at, *(one["recorded_at"] for one in before)}
            for at in moments:
                if at >= known.at:
                    check_answers(connection, before, at)
            check_refusals(connection, known.at)
            for key in ("vip", "Churn"):
                sizes = past.sizes(connection, key, known.at, max(moments), 5)
                assert [one.members for one in sizes] == [
                    len(members(before, key, one.at)) for one in sizes
                ]
                assert listings.key_of(connection, key) == (
                    key if any(one["key"] == key for one in before) else None
                )
            for (customer_id, key), observed in last.items():
                assert last_observed(connection, customer_id, key) == observed
        # Nothing but what is superseded, acknowledged and old is gone, and nothing is different.
        left = {one["id"]: one for one in after}
        for change in before:
            if change["id"] in left:
                assert left[change["id"]] == change
                continue
            assert change["recorded_at"] <= begins < limit
            assert change["delivered_at"] <= begins
            assert any(
                one["id"] > change["id"]
                and (one["customer_id"], one["key"]) == (change["customer_id"], change["key"])
                for one in after
            )
    maker.sync(("u1", "vip", True))
    assert proof(database).broken is None


def test_what_was_not_acknowledged_is_kept(maker: Maker) -> None:
    maker.sync(("u1", "vip", True))
    maker.deliver()
    maker.sync(("u1", "vip", False))
    maker.sync(("u1", "vip", True))
    done = maker.compact()
    assert (done.removed, done.kept) == (1, 2)
    maker.deliver()
    maker.sync(("u2", "vip", True))
    maker.sync()
    done = maker.compact()
    assert (done.removed, done.kept) == (1, 2)
    assert proof(maker.database).compacted == 5


def test_the_last_entry_is_kept_where_what_follows_does_not_go_on_from_it(maker: Maker) -> None:
    """Where `before` is what Amberflo had, a change is no exit though the one before it entered."""
    maker.sync(("u1", "vip", True), ("u2", "vip", True))
    run_sql(
        maker.database,
        "INSERT INTO change (customer_id, rev, key, trait, after, recorded_at, source)"
        " VALUES ('u1', 2, 'vip', 'vip', 'null', :at, 'amberflo')",
        at=maker.now + 1,
    )
    maker.sync(("u2", "vip", False))
    maker.deliver()
    maker.sync(("u3", "vip", False))
    with maker.database.read() as connection:
        inside = list(past.members_at(connection, "vip", maker.now))
    assert maker.compact().removed == 1
    with maker.database.read() as connection:
        assert list(past.members_at(connection, "vip", maker.now)) == inside == ["u1"]


def test_only_whole_seals_before_the_moment_are_taken(maker: Maker) -> None:
    for number in range(4):
        maker.sync(("u1", "vip", number % 2 == 0), at=NOW + number * DAY)
        run_sql(
            maker.database,
            "UPDATE change SET delivered_at = recorded_at + 5 WHERE delivered_at IS NULL",
        )
    done = maker.compact(NOW + 2 * DAY + 1)
    assert (done.removed, done.begins) == (2, NOW + 2 * DAY)
    assert [one["run"] for one in told(maker.database)] == [3, 4]
    again = maker.compact(NOW + 2 * DAY + 1)
    assert (again.removed, again.kept, again.begins) == (0, 1, NOW + 2 * DAY)
    found = proof(maker.database)
    assert (found.compacted, found.begins, found.changes) == (3, NOW + 2 * DAY, 2)


def test_a_changed_row_that_a_compaction_kept_is_found(sealed: Maker) -> None:
    sealed.sync()
    sealed.compact()
    assert proof(sealed.database).broken is None
    run_sql(sealed.database, "UPDATE change SET after = 'x' WHERE run = 3 AND key = 'vip'")
    what, at, _, _ = broken(sealed.database)
    assert (at, what) == (
        9,
        f"the changes up to {all_seals(sealed)[6]['last_id']} that the compaction kept are not as "
        "they were: 6 of 6 are there, or some were changed",
    )


def test_sqlite_looks_through_the_changes_of_one_customer_for_each(database: Database) -> None:
    """Not of one key: with a million changes that took hours."""
    if database.engine.dialect.name != "sqlite":
        return  # PostgreSQL decides by its statistics
    statement = select(CHANGE.c.id).where(retention.removable(10, 10))
    literal = {"literal_binds": True}
    plan = str(statement.compile(database.engine, compile_kwargs=literal))
    steps = [row["detail"] for row in rows(database, f"EXPLAIN QUERY PLAN {plan}")]
    assert any("later USING INDEX" in step and "(customer_id=?" in step for step in steps), steps


def test_where_the_history_begins_is_looked_up(database: Database) -> None:
    """It is asked for each answer about a moment: not by going through all seals."""
    if database.engine.dialect.name != "sqlite":
        return
    asked = "SELECT number FROM seal WHERE kind IN ('compaction', 'compacted')"
    steps = rows(database, f"EXPLAIN QUERY PLAN {asked} ORDER BY number DESC LIMIT 1")
    assert any("seal USING" in step["detail"] and "seal_kind" in step["detail"] for step in steps)


def test_a_history_that_does_not_hold_is_not_compacted(sealed: Maker) -> None:
    this = first_id(sealed) + 3
    run_sql(sealed.database, "UPDATE change SET after = '1' WHERE id = :id", id=this)
    before = told(sealed.database)
    done = sealed.compact()
    assert done.broken is not None
    assert done.broken.change == this
    assert (done.removed, told(sealed.database)) == (0, before)
    assert proof(sealed.database).begins is None


def test_a_compaction_that_is_stopped_while_it_looks_touches_nothing(sealed: Maker) -> None:
    before = everything(sealed.database)
    for looks in (0, 1, 5, 8):
        asked = iter([False] * looks)
        done = compaction.compact(
            sealed.database, sealed.now + 1, lambda: sealed.now, partial(next, asked, True)
        )
        assert done == (0, 0, None, None)
    assert everything(sealed.database) == before


def test_a_compaction_that_is_cut_off_goes_on(sealed: Maker) -> None:
    sealed.sync()
    replayed = told(sealed.database)
    done = compaction.compact(
        sealed.database,
        sealed.now + 1,
        lambda: sealed.now,
        lambda: len(told(sealed.database)) < len(replayed),
    )
    assert 0 < done.removed < 12
    found = proof(sealed.database)
    assert (found.broken, found.unfinished, found.begins) == (None, True, done.begins)
    with sealed.database.read() as connection:
        assert done.begins is not None
        assert list(past.members_at(connection, "vip", sealed.now)) == members(
            replayed, "vip", sealed.now
        )
    # What Amberflo acknowledges or runs add meanwhile does not matter.
    sealed.sync(("u1", "vip", False))
    sealed.deliver()
    assert proof(sealed.database).broken is None
    rest = sealed.compact(before=0)
    assert done.removed + rest.removed == 12
    found = proof(sealed.database)
    assert (found.broken, found.unfinished, found.changes) == (None, False, 7)


# -- erasure


def everything(database: Database) -> str:
    """All that the tables hold, as one text."""
    with database.read() as connection:
        return repr([connection.execute(table.select()).all() for table in PARTS["state"]])


def fail(database: Database, customer_id: str | None, request: str, ref: str) -> None:
    failure = {
        **{"ref": ref, "kind": failures.METER, "customer_id": customer_id, "message_id": None},
        **{"reason": "?", "status": 400, "request": request, "body": None, "attempts": 1},
        "failed_at": NOW,
    }
    with database.write() as connection:
        failures.put(connection, [failure])


@pytest.mark.parametrize("customer_id", ["secret-7f3a", 'it\'s "so" 50% é_', "12345678901"])
def test_nothing_of_an_erased_customer_is_left(maker: Maker, customer_id: str) -> None:
    database, value = maker.database, "a value of theirs"
    with database.write() as connection:
        snapshot.put_traits(
            connection,
            [TraitRow("vip", "vip", "audience", 2), TraitRow("city", "city", "computed_trait", 1)],
        )
    maker.sync(("other", "vip", True), (customer_id, "vip", True), (customer_id, "city", value))
    maker.call((customer_id, "vip", False), ("other", "city", "London"))
    maker.call((customer_id, "vip", True))
    quoted = json.dumps(customer_id)
    fail(database, customer_id, "{}", "customer:1")
    fail(database, None, f'{{"userId": {quoted}, "deep": [{{}}]}}', "call:1")
    fail(database, None, f'{{"deep": [{{"a": {quoted}}}]}}', "call:2")
    fail(database, None, f'{{"userId": {quoted}, cut', "call:3")
    fail(database, None, f'{{"userId": {json.dumps(customer_id + "0")}}}', "call:4")
    fail(database, customer_id[:-1], "{}", "customer:2")
    url = f"GET http://a/customers?customerId={quote(customer_id, safe='')}"
    error = f"{customer_id!r} came after 'other'; {url} answered 503, {url}0 too"
    run_sql(database, "UPDATE run SET error = :error", error=error)
    with database.write() as connection:
        alerts.see(connection, {"runs": f"2 runs in a row failed: {error}"}, NOW)
    with database.write() as connection:
        for number in (1, 2):
            values = {"trait": f"t{number}", "key": "k", "reason": "r", "since_run": 1, "since": 1}
            values |= {"last_run": 1, "members": 2, "leaving": 2}
            connection.execute(insert(HOLD).values(id=number, **values))
            kept = {"hold": number, "trait": "t", "after": f'"{value}"', "run": 1, "since_run": 1}
            of_theirs = {"customer_id": customer_id, "ended_at": None if number == 1 else 5}
            connection.execute(insert(HELD_CHANGE).values(**kept, **of_theirs))
        connection.execute(
            insert(HELD_CHANGE).values(hold=1, customer_id="other", trait="t", run=1, since_run=1)
        )
    before = proof(database)
    assert before.unsealed == 3

    erased = maker.erase(customer_id)
    assert [row["customer_id"] for row in rows(database, "SELECT * FROM held_change")] == ["other"]
    assert erased == (True, 4, 4)
    left = everything(database)
    assert value not in left
    other = json.dumps(customer_id + "0")
    for form in (customer_id, json.dumps(customer_id)[1:-1]):
        assert form not in left.replace(other, "").replace(repr(other)[1:-1], "").replace(url, "")
    told_now = "GET http://a/customers?customerId=(forgotten)"
    (alert,) = rows(database, "SELECT text FROM alert")
    assert alert["text"].startswith("2 runs in a row failed: '(forgotten)' came after 'other'; GET")
    (run,) = rows(database, "SELECT error FROM run")
    assert run["error"] == f"'(forgotten)' came after 'other'; {told_now} answered 503, {url}0 too"
    assert [one["ref"] for one in rows(database, "SELECT ref FROM failure ORDER BY ref")] == [
        "call:4",
        "customer:2",
    ]
    assert rows(database, "SELECT key, members FROM trait ORDER BY key") == [
        {"key": "city", "members": 0},
        {"key": "vip", "members": 1},
    ]
    found = proof(database)
    assert (found.broken, found.changes, found.erased, found.erasures) == (None, 6, 4, 1)
    assert found.unsealed == 0
    with database.read() as connection:
        gone = suppression.load(connection)
        assert (customer_id in gone, "other" in gone) == (True, False)
        assert suppression.forgotten_at(connection, customer_id) == maker.now
    # The hash that stands for it is not one of the id alone.
    (hashed,) = rows(database, "SELECT hash FROM forgotten")
    assert hashed["hash"] != sha256(customer_id.encode()).hexdigest()
    assert erased_again(maker, customer_id) == (False, 0, 0)


def erased_again(maker: Maker, customer_id: str) -> erasure.Erased:
    found = maker.erase(customer_id)
    assert proof(maker.database).broken is None
    assert len(rows(maker.database, "SELECT * FROM forgotten")) == 1
    return found


def test_every_table_with_a_customers_id_is_erased_from() -> None:
    """Whoever adds a table that names customers adds it to state/erasure.py, and here."""
    naming = {
        table.name
        for tables in PARTS.values()
        for table in tables
        if any("customer" in column.name for column in table.columns)
    }
    assert naming == {"customer", "change", "held_change", "failure", "erasure", "run"} | {
        "early_call"
    }
    assert "without_customer_id" in RUN.c  # a count


def test_an_erasure_that_no_seal_is_about_is_found(sealed: Maker) -> None:
    """A change cannot be made to look erased."""
    this = first_id(sealed) + 7
    with sealed.database.write() as connection:
        for (row,) in seal.read(connection, this - 1, this):
            values = {"id": this, "leaf": seal.leaf(row[:-1]).hex()}
        connection.execute(text("DELETE FROM change WHERE id = :id"), values)
        connection.execute(text("INSERT INTO erased VALUES (:id, :leaf, 3)"), values)
    assert broken(sealed.database)[0] == "there are erased changes that no seal is about"


def test_a_customer_is_taken_from_delivery_until_it_is_erased_or_given_back(maker: Maker) -> None:
    database = maker.database
    maker.sync(*some("u1", "u2"))
    with database.write() as connection:
        (claimed,) = outbox.claim(connection, 7, maker.now, 1)
    assert claimed.customer_id == "u1"
    with (
        pytest.raises(Locked, match="'u1' is just being sent"),
        database.write(alone=True) as connection,
    ):
        erasure.take(connection, "u1", 8, maker.now)
    with database.write() as connection:
        outbox.acknowledge(connection, [claimed], maker.now)
    with database.write(alone=True) as connection:
        taken = erasure.take(connection, "u1", 8, maker.now)
        last = claimed._replace(
            name="u1", email="", acked_rev=claimed.rev, acked_at=maker.now,
            due_at=None, claimed_by=None,
        )  # fmt: skip
        assert taken == erasure.Taken(last, snapshot.owned(connection))
        # Nobody else gets it; but should this worker die, it is free like any other.
        assert [one.customer_id for one in outbox.claim(connection, 7, maker.now, 9)] == ["u2"]
        workers.free_customers(connection, 8)
        assert erasure.take(connection, "u1", 9, maker.now) == taken._replace(
            row=last._replace(due_at=maker.now)
        )
        erasure.release(connection, taken)
    columns = "customer_id, claimed_by, due_at"
    where = "WHERE customer_id = 'u1'"
    assert rows(database, f"SELECT {columns} FROM customer {where}") == [
        {"customer_id": "u1", "claimed_by": None, "due_at": None}
    ]
    with database.write(alone=True) as connection:
        taken = erasure.take(connection, "u1", 8, maker.now)
    maker.call(("u1", "vip", False))
    with database.write(alone=True) as connection:
        erasure.release(connection, taken)
        # A call made it due meanwhile.
        assert [one.customer_id for one in outbox.claim(connection, 7, maker.now, 9)] == ["u1"]


def test_who_is_not_known_cannot_come_in_while_it_is_taken(maker: Maker) -> None:
    database = maker.database
    with database.write(alone=True) as connection:
        suppression.ask(connection, "asked", 5)
        for who, new in (("nobody", True), ("asked", False)):
            taken = erasure.take(connection, who, 8, maker.now)
            assert (taken.known, taken.asked, taken.row.name) == (False, new, who)
            assert who in suppression.load(connection)
            erasure.release(connection, taken)
        # As it was: what was asked for before still is.
        assert suppression.asked(connection) == ["asked"]


def test_the_last_write_has_the_traits_of_engage_and_nothing_personal(maker: Maker) -> None:
    said = '{"city": ["Rome", 5], "vip": ["no", 6]}'
    state = CustomerRow("u1", '{"vip": false}', "Ada", "ada@x.com", said, None)
    with maker.database.write(alone=True) as connection:
        snapshot.insert_customers(connection, [state], NOW)
        snapshot.put_traits(connection, [TraitRow("vip", "vip", "audience", 0)])
        snapshot.mark_compared(connection, ["u1"], 1)
        row, owned, *_ = erasure.take(connection, "u1", 8, NOW)
    assert (row.customer_id, row.name, row.email) == ("u1", "u1", "")
    assert (json.loads(row.traits), owned) == ({"vip": False}, {"vip"})
    assert json.loads(row.called or "") == {"city": [None, 5, True], "vip": [None, 6, True]}


@pytest.mark.parametrize("first", ["erase", "compact"])
def test_erasure_and_compaction_go_together(sealed: Maker, first: str) -> None:
    sealed.sync()
    steps: list[Callable[[], object]] = [lambda: sealed.erase("u1"), sealed.compact]
    for step in steps if first == "erase" else reversed(steps):
        step()
        assert proof(sealed.database).broken is None
    sealed.sync(*some("u2", "u4", value=7))
    sealed.erase("u2")
    sealed.deliver()
    sealed.sync()
    assert proof(sealed.database).broken is None
    done = sealed.compact()
    assert proof(sealed.database).broken is None
    assert done.kept == len(told(sealed.database)) == 4


def test_what_was_asked_for_is_remembered_until_it_is_done(maker: Maker) -> None:
    maker.sync(("u1", "vip", True))
    with maker.database.write() as connection:
        for customer_id, at in (("u2", 7), ("u1", 5), ("u2", 9)):
            suppression.ask(connection, customer_id, at)
        assert suppression.asked(connection) == ["u1", "u2"]
        gone = suppression.load(connection)
        assert ("u1" in gone, "u3" in gone, bool(gone)) == (True, False, True)
        erasure.erase(connection, "u1", NOW)
        assert suppression.asked(connection) == ["u2"]
        suppression.ask(connection, "u1", NOW)
        assert suppression.asked(connection) == ["u2"]
        assert [suppression.lift(connection, one) for one in ("u1", "u2", "u3")] == [
            True,
            True,
            False,
        ]
        assert not suppression.load(connection)


def test_nobody_comes_in_while_an_erasure_waits(maker: Maker) -> None:
    """A call that looked before the erasure must not bring the customer back after it."""
    maker.sync(("u1", "vip", True))
    looked, may_commit = threading.Event(), threading.Event()

    def call() -> None:
        with maker.database.write(alone=True) as connection:
            assert "u1" not in suppression.load(connection)
            looked.set()
            may_commit.wait(10)
            maker.changes(connection, [("u1", "vip", False)], None, NOW)

    calling = threading.Thread(target=call)
    calling.start()
    assert looked.wait(10)
    erasing = threading.Thread(target=lambda: maker.erase("u1"))
    erasing.start()
    time.sleep(0.3)
    assert erasing.is_alive()
    may_commit.set()
    for thread in (calling, erasing):
        thread.join(10)
        assert not thread.is_alive()
    assert told(maker.database) == rows(maker.database, "SELECT * FROM customer") == []
    found = proof(maker.database)
    assert (found.broken, found.erased) == (None, 2)
