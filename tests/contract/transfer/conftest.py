"""A state that is full of everything."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests.contract.transfer.helpers import fill, opened, url_of


@pytest.fixture
def full(tmp_path: Path) -> URL:
    """The URL of a SQLite state with rows in every table."""
    url = url_of(tmp_path / "syncer.db")
    with opened(url) as parts:
        fill(*parts)
    return url
