"""A place of each source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .places import PLACES, Place


@pytest.fixture(params=sorted(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty place that a source reads from."""
    with PLACES[request.param](request, tmp_path) as place:
        yield place
