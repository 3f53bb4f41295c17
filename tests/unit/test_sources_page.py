"""docs/sources.md says of each source what the source declares of itself."""

from __future__ import annotations

import pytest

from syncer.engage.sources import SOURCES
from tests.support.reference import code, document, tables

#: The columns of the page, and the field of `Sight` that each is about.
COLUMNS = {
    "a value that is gone": "vanished_traits",
    "deleted in Segment": "deletions",
    "profiles without an id": "anonymous",
    "merges": "merges",
}


def test_every_source_is_on_the_page() -> None:
    every = [table for table in tables(document("docs/sources.md")) if table.columns[0] == "source"]
    for table in every[:2]:
        assert sorted(map(code, table.column("source"))) == sorted(SOURCES)


@pytest.mark.parametrize("source", list(SOURCES))
def test_the_page_says_what_a_source_sees(source: str) -> None:
    (table,) = (table for table in tables(document("docs/sources.md")) if "merges" in table.columns)
    row = table.column("source").index(f"`{source}`")
    sight = SOURCES[source].SIGHT
    for column, field in COLUMNS.items():
        cell = table.column(column)[row]
        assert cell.startswith("no") != getattr(sight, field), (column, cell)
    assert table.column("how late")[row] == sight.lag
    assert table.column("what a pull costs")[row] == sight.cost
