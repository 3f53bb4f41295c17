"""An installation for each end-to-end test, and what Engage is in it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from syncer.sandbox.engage import EngageSandbox
from tests.support.hurry import hurry
from tests.support.installation import Installation, installed
from tests.support.warehouse import Warehouse


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch.setattr)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    with installed(tmp_path) as installation:
        yield installation


@pytest.fixture
def engage(installation: Installation) -> Iterator[EngageSandbox]:
    """An empty stand-in for Engage on the installation's source."""
    engage = EngageSandbox(
        installation.source_url, seed=7, clock=datetime.now(UTC) - timedelta(days=30)
    )
    yield engage
    engage.close()


@pytest.fixture
def warehouse(installation: Installation) -> Iterator[Warehouse]:
    """An empty warehouse on the installation's source, row by row under control."""
    warehouse = Warehouse(installation.folder / "engage.db")
    yield warehouse
    warehouse.close()
