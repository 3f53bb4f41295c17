"""The same population through each source ends in the same customers of Amberflo.

docs/sources.md has the table of it, which this test holds.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from syncer.engage.sources import SOURCES
from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import expected_records, installed
from tests.support.population import WAYS
from tests.support.reference import code, document, tables

USERS, AUDIENCES = 60, 4


def outcome(records: dict[str, dict[str, object]]) -> tuple[str, str, str]:
    """The customers, their memberships, and their other traits, as the page writes them."""
    traits = [record["traits"] for record in records.values()]
    values = [value for each in traits if isinstance(each, dict) for value in each.values()]
    members = sum(value is True for value in values)
    others = sum(not isinstance(value, bool) for value in values)
    return f"{len(records)}", f"{members}", f"{others}"


def shown() -> dict[str, tuple[str, ...]]:
    """The rows of the table on the page, by source."""
    (table,) = (
        table
        for table in tables(document("docs/sources.md"))
        if table.columns == ("source", "customers", "memberships", "computed traits")
    )
    return {code(row[0]): row[1:] for row in table.rows}


@pytest.mark.parametrize("source", list(WAYS))
def test_it_ends_in_the_same_customers(tmp_path: Path, source: str) -> None:
    """At first, and after some hours of changes, merges, new users and traits that vanished."""
    start = datetime.now(UTC) - timedelta(days=30)
    with (
        ExitStack() as stack,
        installed(tmp_path) as installation,
        closing(EngageSandbox(installation.source_url, seed=7, clock=start)) as engage,
    ):
        engage.fill(USERS, AUDIENCES)
        way = WAYS[source](engage, installation, stack)
        name = source.partition(",")[0]
        installation.configure(
            engage=f'source = "{name}"\ncomputed_traits = ["total_revenue_*"]\n{way.engage}',
            more=way.section,
        )
        way.publish()
        installation.run("sync")
        assert installation.holds() == expected_records(engage)
        assert shown()[source] == outcome(installation.holds())
        engage.observe()
        engage.evolve(fraction=0.1, vanish=4)
        way.publish()
        installation.run("sync", "--full")
        assert installation.holds() == expected_records(engage)


def test_the_page_has_a_row_for_each_source_and_they_are_the_same() -> None:
    assert sorted(shown()) == sorted(WAYS)
    assert {way.partition(",")[0] for way in WAYS} == set(SOURCES)
    assert len(set(shown().values())) == 1
