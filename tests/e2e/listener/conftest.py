"""A listener on each loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from tests.e2e.listener.helpers import Listener, serving


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Listener]:
    with serving(tmp_path, request.param) as listener:
        yield listener
