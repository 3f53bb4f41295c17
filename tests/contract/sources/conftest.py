"""A place of each source that can see what a test needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .places import PLACES, Place


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        needed = [name for mark in metafunc.definition.iter_markers("needs") for name in mark.args]
        names = [
            name
            for name, kind in sorted(PLACES.items())
            if all(getattr(kind.sight, each) for each in needed)
        ]
        metafunc.parametrize("place", names, indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty place that a source reads from."""
    with PLACES[request.param].make(request, tmp_path) as place:
        yield place
