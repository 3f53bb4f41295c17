"""A sealed history, and the program of the docs that checks its export."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation

DOCS = Path(__file__).parents[3] / "docs" / "audit.md"


@pytest.fixture(scope="package")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of the docs, to the letter."""
    (program,) = re.findall(
        r"^```python\n(.*?)^```", DOCS.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    path = tmp_path_factory.mktemp("checker") / "check.py"
    path.write_text(program, encoding="utf-8")
    return path


@pytest.fixture
def synced(installation: Installation, engage: EngageSandbox) -> Installation:
    """Three runs with changes."""
    engage.fill(60, 4)
    installation.run("sync")
    for _ in range(2):
        engage.evolve(fraction=0.3)
        installation.run("sync", "--full")
    return installation
