"""Nothing of a customer that was erased is left in the files of SQLite."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from random import Random

from state import erasure
from state.db.database import Database
from tests.support.state import NOW, put, row


def test_no_page_keeps_a_copy_of_an_erased_row(tmp_path: Path) -> None:
    """SQLite moves rows between pages as others go, and overwrites the last copy only."""
    file, draw = tmp_path / "syncer.db", Random(5)
    with closing(Database.open(f"sqlite:///{file}")) as database:
        ids = [f"customer-{number:04d}-{'x' * draw.randrange(200)}" for number in range(400)]
        put(database, *(row(customer_id, customer_id, plan=True) for customer_id in ids))
        assert database.scrub()
        draw.shuffle(ids)
        erased, others = ids[:200], ids[200:]
        with database.write(alone=True) as connection:
            for customer_id in erased:
                erasure.erase(connection, customer_id, NOW)
        assert database.scrub()
        content = file.read_bytes()
        assert not [it for it in erased if it[:13].encode() in content]
        assert all(it[:13].encode() in content for it in others)
    assert {it.name for it in tmp_path.iterdir()} == {"syncer.db"}
