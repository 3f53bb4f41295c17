"""Whatever is edited of a sealed history is found."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from state.db.database import Database
from state.errors import StateError
from state.history import seal
from state.history.proof import prove
from tests.contract.seal.helpers import (
    NOW,
    Maker,
    all_seals,
    broken,
    edit,
    empty,
    first_id,
    proof,
    rows,
    run_sql,
)
from tests.support.examples import examples


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


class _Undo(Exception):
    pass


@examples(4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_whatever_is_edited_is_found(database: Database, seed: int) -> None:
    empty(database)
    rng = random.Random(seed)
    random_history(Maker(database), rng)
    report = proof(database)
    assert report.broken is None
    for _ in range(15):
        with suppress(_Undo), database.write() as connection:
            what = edit(connection, rng)
            assert what is None or prove(connection).broken is not None, what
            raise _Undo
    assert proof(database) == report


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
        connection.execute(text("DELETE FROM metadata"))
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
    row, other = rows(
        sealed.database, f"SELECT * FROM change WHERE id IN ({first}, {first + 1}) ORDER BY id"
    )
    for this, values in ((first, other), (first + 1, row)):
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
    total = seal.Sum()
    for part in seal.read(connection, link["first_id"] - 1, link["last_id"]):
        total.add([seal.leaf(row[:-1]) for row in part])
    del link["marks"]
    link |= {"digest": total.digest, "changes": total.changes}
    link["previous"] = before["hash"] if before else seal.GENESIS
    link["hash"] = seal.hash_of(seal.Link(**link))
    sets = ", ".join(f"{name} = :{name}" for name in link)
    statement = text(f"UPDATE seal SET {sets}, marks = :marks WHERE number = :number")
    connection.execute(statement, {**link, "marks": bytes(total.marks)})


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
            text("UPDATE metadata SET value = :to WHERE name = 'head'"), {"to": f"6 {now}"}
        )
    assert proof(sealed.database).broken is None
    for number, head in heads.items():
        finding = proof(sealed.database, expect=head).broken
        assert (finding is None) == (number < 3)
        if finding:
            assert (
                finding.what == f"the hash {head} is not in the chain: it was cut, or written anew"
            )


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
        connection.execute(text("UPDATE metadata SET value = :to"), {"to": f"4 {kept}"})
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
    report = proof(sealed.database)
    assert (report.broken, report.unsealed) == (None, 1)
