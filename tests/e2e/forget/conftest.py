"""What the tests of forgetting share."""

from __future__ import annotations

import pytest

from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation


@pytest.fixture
def synced(installation: Installation, engage: EngageSandbox) -> Installation:
    engage.fill(80, 4)
    installation.run("sync")
    engage.observe()
    engage.evolve(fraction=0.3)
    installation.run("sync", "--full")
    engage.observe()
    return installation
