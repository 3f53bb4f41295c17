"""Members of an audience, and a clock that may be moved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.holds.helpers import MANY
from tests.support.clock import Clock, moved
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse


@pytest.fixture
def clock() -> Iterator[Clock]:
    with moved() as clock:
        yield clock


@pytest.fixture
def members(installation: Installation, warehouse: Warehouse) -> list[str]:
    """Forty customers who are in two audiences, and Amberflo knows it."""
    ids = warehouse.users(MANY, ago=40, vip="true", other="true")
    installation.run("sync")
    assert installation.members("vip") == set(ids)
    return ids
