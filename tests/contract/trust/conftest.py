"""What the tests of keys share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from state.db.database import Database
from tests.contract.trust.helpers import Desk


@pytest.fixture
def desk(database: Database, calls: Database) -> Iterator[Desk]:
    return Desk(database, calls)
