"""A daemon with the page, and a browser before it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncer.sandbox.engage import EngageSandbox
from tests.e2e.web.helpers import FLAGS, TOKEN, Operator, visiting
from tests.support.daemon import daemon
from tests.support.events import unique
from tests.support.installation import installed


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """A daemon for each file: who decides something changes what others see."""
    folder = tmp_path_factory.mktemp("page")
    with installed(folder) as installation:
        began = datetime.now(UTC) - timedelta(days=30)
        with closing(EngageSandbox(installation.source_url, seed=7, clock=began)) as engage:
            engage.fill(300, 5)
            installation.run("sync")
            lost, other = engage.audiences[:2]
        with closing(sqlite3.connect(folder / "engage.db")) as source, source:
            ids = [
                value
                for (value,) in source.execute(
                    "SELECT value FROM user_identifiers WHERE type = 'user_id'"
                    " AND value GLOB 'u[0-9]*' AND canonical_segment_id IN (SELECT"
                    " canonical_segment_id FROM user_traits WHERE name = ?) ORDER BY value LIMIT 4",
                    (other,),
                )
            ]
            source.execute("DELETE FROM user_traits WHERE name = ?", (lost,))
            source.execute(
                "UPDATE user_traits SET value = CASE value WHEN 'true' THEN 'false' ELSE 'true' END"
                " WHERE name = ? AND canonical_segment_id IN (SELECT canonical_segment_id"
                f" FROM user_identifiers WHERE value IN ({','.join('?' * len(ids))}))",
                (other, *ids),
            )
        for id_ in ids:
            installation.amberflo.customers[id_]["strange"] = 1
        more = (
            f'[web]\nlisten = "127.0.0.1:0"\ntoken = "{TOKEN}"\n'
            "[guard]\nmin_exits = 20\n[schedule]\nevery = '9d'\n"
        )
        installation.configure(more=more)
        installation.run("sync", "--full", exit_code=1)
        with daemon(installation, more=more) as running:
            (line,) = [line for line in running.log if "the page is at" in line]
            user = unique("bad")
            running.send("track", {"userId": user, "event": "x", "properties": {"value": "NaN"}})
            running.settle()
            yield Operator(running, line.split()[-1], lost, other, ids)
            assert TOKEN not in "\n".join(running.log)


@pytest.fixture(scope="module")
def browser(operator: Operator) -> Iterator[Any]:
    """(While it is there, its event loop runs in this thread: no command with one may.)"""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("the page: there is no chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    playwright.expect.set_options(timeout=20_000)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, operator: Operator) -> Iterator[Any]:
    with visiting(browser, operator) as page:
        yield page
