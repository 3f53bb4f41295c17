"""A config file of its own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config.helpers import LEAST


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A config file with the least that it needs."""
    path = tmp_path / "config.toml"
    path.write_text(LEAST, encoding="utf-8")
    return path
