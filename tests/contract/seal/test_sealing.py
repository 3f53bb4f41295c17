"""What is sealed, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import threading
import time
from hashlib import sha256
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from state.history import seal
from state.history.proof import Proof, prove
from tests.contract.seal.helpers import CHANGE_COLUMNS, NOW, Maker, proof, rows, run_sql, some


def test_a_seal_is_what_the_documents_say(maker: Maker) -> None:
    """Calculated anew here, by the rules of docs/audit.md."""
    maker.call(("u1", "vip", 'é\u2028\x7f\x01"\\/\n'))
    maker.sync(*some("u2", "ü3"), ("u1", "spent", 2.5), ("u4", "vip", False))
    maker.sync()
    seals = rows(maker.database, "SELECT * FROM seal ORDER BY number")
    assert [row["changes"] for row in seals] == [4, 3, 0]
    assert [row["run"] for row in seals] == [1, 1, 2]
    changes = rows(maker.database, "SELECT * FROM change ORDER BY id")
    assert len({row["salt"] for row in changes}) == 7
    assert all(len(row["salt"]) == 16 for row in changes)

    def pack(values: list[Any]) -> bytes:
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()

    def sealed(change: dict[str, Any]) -> list[Any]:
        values = [change[column] for column in CHANGE_COLUMNS]
        for _ in ("via", "source"):
            if values[-1] is None:
                values.pop()
        return values

    previous, first = "0" * 64, 1
    for row in seals:
        part = [change for change in changes if row["first_id"] <= change["id"] <= row["last_id"]]
        leaves = [sha256(pack(sealed(change))).digest() for change in part]
        assert row["first_id"] == first
        assert row["digest"] == sha256(b"".join(leaves)).hexdigest()
        assert bytes(row["marks"] or b"") == b"".join(leaf[:2] for leaf in leaves)
        assert row["until"] == max((change["recorded_at"] for change in part), default=None)
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
    report = proof(maker.database)
    assert (report.broken, report.changes, report.unsealed) == (None, 7, 0)


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
    report = proof(maker.database)
    assert (report.broken, report.changes, report.unsealed) == (None, 3, 0)
