"""A space behind the stand-in of the Profile API, and a source of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncer.sandbox.profile_api import ProfileApiSandbox, running

from .helpers import ProfileApiSpace


@pytest.fixture
def space(tmp_path: Path) -> Iterator[ProfileApiSpace]:
    """An empty space with no limit to speak of."""
    sandbox = ProfileApiSandbox("token", "a space", limit=100_000)
    with running(sandbox) as url:
        yield ProfileApiSpace(sandbox, url, tmp_path)
