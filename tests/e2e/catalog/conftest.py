"""A space of the Public API before an installation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.public_api import PublicApiSandbox, listed_by, running
from tests.e2e.catalog.helpers import SPACE, TOKEN, section
from tests.support.installation import Installation, expected_records


@pytest.fixture
def space() -> PublicApiSandbox:
    return PublicApiSandbox(TOKEN, SPACE, per_minute={})


@pytest.fixture
def url(installation: Installation, space: PublicApiSandbox) -> Iterator[str]:
    """The Public API, and an installation that asks it."""
    with running(space) as url:
        installation.configure(more=section(url))
        yield url


@pytest.fixture
def synced(
    installation: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> Installation:
    """After the first run over 300 users and 4 audiences, all of them live."""
    engage.fill(300, 4)
    space.listed = listed_by(engage)
    run = installation.json("sync")
    assert (run["state"], run["waiting"], run["mismatches"]) == ("done", {}, [])
    assert installation.holds() == expected_records(engage)
    engage.observe()
    installation.amberflo.reset_stats()
    return installation
