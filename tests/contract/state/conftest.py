"""What the tests of the state share."""

from __future__ import annotations

import pytest

from state.db.schema import PARTS


@pytest.fixture(params=sorted(PARTS))
def part(request: pytest.FixtureRequest) -> str:
    """The parts of the state; on SQLite each is a file of its own."""
    return str(request.param)
