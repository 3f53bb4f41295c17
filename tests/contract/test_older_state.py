"""A state that an older program wrote, on both databases: what it sealed holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import Engine, text

from state.db import migrations
from state.db.database import Database
from state.history import listings, seal
from state.history.proof import prove
from tests.support.state import NOW

#: The migrations of the last program that knew no source of a change.
OLDER = 6
CHANGE = (
    *("id", "run", "customer_id", "rev", "key", "trait", "before", "after", "step"),
    *("observed_at", "recorded_at", "salt"),
)
CHANGES = [
    (1, 1, "u1", 1, "vip", "vip", None, "true", 1, NOW - 5, NOW, "c2FsdA=="),
    (2, None, "ü2", 1, "vip", "vip", None, "false", 0, None, NOW + 1, None),
]


def packed(values: Sequence[Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def test_what_it_sealed_holds_and_goes_on(
    url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = {**migrations.MIGRATIONS, "state": migrations.MIGRATIONS["state"][:OLDER]}
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "MIGRATIONS", older)
        Database.open(url).close()
    head = write(engine)
    with closing(Database.open(url)) as database:
        with database.read() as connection:
            proof = prove(connection, expect=head)
            assert (proof.broken, proof.changes, proof.head) == (None, 2, head)
            sources = [one.told_by for one in listings.of_key(connection, "vip")]
            assert sources == ["pull", "call"]
        with database.write(alone=True) as connection:
            connection.execute(
                text(
                    "INSERT INTO change (id, customer_id, rev, key, trait, recorded_at, source)"
                    f" VALUES (3, 'u1', 2, 'name', 'customerName', {NOW}, 'identify')"
                )
            )
            seal.seal(connection, None, NOW + 3)
        with database.write() as connection:
            proof = prove(connection, expect=head)
            assert (proof.broken, proof.changes, proof.seals) == (None, 3, 2)
            # A source cannot be put on what was sealed without one.
            connection.execute(text("UPDATE change SET source = 'amberflo' WHERE id = 1"))
            broken = prove(connection).broken
            assert broken is not None
            assert broken.what == "change 1 is not as it was sealed"
            connection.rollback()


def write(engine: Engine) -> str:
    """A run with its changes and their seal, as the rules were; gives the head."""
    leaves = [sha256(packed(one)).digest() for one in CHANGES]
    digest = sha256(b"".join(leaves)).hexdigest()
    link = ["0" * 64, 1, "changes", 1, 1, 2, 2, digest, NOW + 1, NOW + 2]
    head = sha256(packed(link)).hexdigest()
    seal_of = (
        *("previous", "number", "kind", "run", "first_id", "last_id", "changes", "digest"),
        *("until", "sealed_at"),
    )
    with engine.begin() as connection:
        put(connection, "change", [dict(zip(CHANGE, one, strict=True)) for one in CHANGES])
        marks = b"".join(leaf[:2] for leaf in leaves)
        values = dict(zip(seal_of, link, strict=True)) | {"hash": head, "marks": marks}
        put(connection, "seal", [values])
        put(connection, "memo", [{"name": "head", "value": f"1 {head}"}])
        run = {"id": 1, "kind": "initial", "state": "done", "started_at": NOW, "committed_at": NOW}
        put(connection, "run", [run])
    return head


def put(connection: Any, table: str, rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0])
    names, places = ", ".join(columns), ", ".join(f":{one}" for one in columns)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), rows)
