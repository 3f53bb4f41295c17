"""A synced installation before an Amberflo that may be changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from syncer.sandbox.amberflo import running
from syncer.sandbox.engage import EngageSandbox
from tests.e2e.verify.helpers import FOREIGN, Amberflo
from tests.support.installation import Installation


@pytest.fixture
def amberflo() -> Amberflo:
    return Amberflo()


@pytest.fixture
def installation(tmp_path: Path, amberflo: Amberflo) -> Iterator[Installation]:
    with running(amberflo) as url:
        installation = Installation(tmp_path, amberflo, url)
        installation.configure()
        yield installation


@pytest.fixture
def engage(installation: Installation) -> Iterator[EngageSandbox]:
    engage = EngageSandbox(
        installation.source_url, seed=7, clock=datetime.now(UTC) - timedelta(days=30)
    )
    engage.fill(300, 6)
    yield engage
    engage.close()


@pytest.fixture
def synced(installation: Installation, amberflo: Amberflo, engage: EngageSandbox) -> list[str]:
    """Everybody is sent, and others have put traits of their own there; the ids."""
    installation.run("sync")
    for record in amberflo.customers.values():
        record["traits"] = record["traits"] | FOREIGN
    amberflo.reset_stats()
    return sorted(amberflo.customers)
