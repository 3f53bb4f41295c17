"""Takes the pictures of the operator's page in docs/images, on this machine alone:

    python docs/screenshots.py [FOLDER]

A sandbox lives through thirty days in some seconds: people enter and exit audiences, runs deliver
it. What was delivered when is then set back to where it would have been. FOLDER keeps the state.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from syncer.app import App
from syncer.config import Config
from syncer.errors import SyncerError
from syncer.progress import LineProgress
from syncer.sandbox.environment import Environment, environment

IMAGES = Path(__file__).with_name("images")
TOKEN = "for-the-pictures-only"
USERS, DAYS, HOURS = 1200, 29, 12
#: The audience whose chart is shown, and the one that the guard holds.
SHOWN, HELD = "cart_abandoned_7_days", "vip"


def live(on: Environment, config: str) -> None:
    """Thirty days of runs, the last of which holds an audience."""
    app = App(Config.model_validate(tomllib.loads(config)), LineProgress(lambda text: None))
    with app.runs() as runs:
        runs.clock = lambda: int(on.engage.clock.timestamp() * 1000)
        runs.sync()
        for step in range(DAYS * 24 // HOURS):
            on.engage.evolve(HOURS, 0.05)
            on.engage.clock += timedelta(minutes=7)
            runs.sync(full=step % 3 == 2)
        puzzled = list(on.amberflo.customers.values())[5:400:160]
        for record in puzzled:
            record["strange"] = 1
        on.engage.evolve(1, 0.2)
        runs.sync()


def lose_members(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "engage.db")) as source, source:
        source.execute(
            "DELETE FROM user_traits WHERE name = ? AND value = 'true' AND rowid % 2", (HELD,)
        )


def set_back(folder: Path) -> None:
    """Deliveries to moments after what they delivered was recorded."""
    with contextlib.closing(sqlite3.connect(folder / "syncer.db")) as state, state:
        state.execute(
            "UPDATE change SET delivered_at = recorded_at + 400 + id % 3700"
            " WHERE delivered_at IS NOT NULL"
        )
        state.execute(
            "UPDATE customer SET acked_at = (SELECT max(delivered_at) FROM change"
            " WHERE change.customer_id = customer.customer_id)"
        )


@contextlib.contextmanager
def daemon(folder: Path, config: str) -> Iterator[str]:
    """The daemon with its page; gives the page's URL."""
    file = folder / "config.toml"
    slow = config.replace("rate = 0", "rate = 30")  # so that there is something to see
    file.write_text(slow + f'\n[web]\nlisten = "127.0.0.1:0"\ntoken = "{TOKEN}"\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "syncer", "daemon", "--config", str(file)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        url = next((line.split()[-1] for line in lines if "the page is at" in line), None)
        if url is None:
            raise SyncerError("the daemon did not start")
        yield url
    finally:
        process.terminate()
        process.communicate()


def logged_in(browser: Browser, url: str, *, dark: bool = False, phone: bool = False) -> Page:
    size = {"width": 390, "height": 844} if phone else {"width": 1200, "height": 800}
    page = browser.new_page(viewport=size, color_scheme="dark" if dark else "light")  # type: ignore[arg-type]
    page.goto(url)
    page.fill("#token", TOKEN)
    page.click("button.first")
    return page


def approve(browser: Browser, url: str, run: int) -> None:
    """Press the button, and wait until some of it is delivered."""
    page = logged_in(browser, url)
    page.goto(f"{url}/runs/{run}")
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Reason").fill("The campaign is over.")
    page.get_by_role("button", name="Approve").click()
    page.goto(url)
    page.locator("progress[value]:not([value='0'])").wait_for(timeout=60_000)
    page.locator(".progress", has_text=re.compile(r"Delivering [1-9]\d\d")).wait_for(timeout=60_000)
    page.close()


def pictures(folder: Path, config: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / "syncer.db")) as state:
        (held,) = state.execute("SELECT max(id) FROM run WHERE state = 'held'").fetchone()
        (customer,) = state.execute(
            "SELECT customer_id FROM change WHERE run > 1 GROUP BY 1 ORDER BY count(*) DESC LIMIT 1"
        ).fetchone()
    chromium = shutil.which("chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with daemon(folder, config) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)

        def shot(name: str, path: str, *, dark: bool = False, phone: bool = False) -> None:
            page = logged_in(browser, url, dark=dark, phone=phone)
            if name == "page-audience":
                page.set_viewport_size({"width": 1200, "height": 668})
            page.goto(url + path)
            page.screenshot(path=IMAGES / f"{name}.png")
            page.close()

        shot("page-run", f"/runs/{held}")
        shot("page-customer", f"/customer?id={customer}")
        shot("page-audience", f"/audience?key={SHOWN}", dark=True)
        shot("page-failures", "/failures")
        shot("page-phone", f"/runs/{held}", phone=True)
        approve(browser, url, held)
        shot("page-now", "/")
        browser.close()


def main() -> None:
    with contextlib.ExitStack() as cleanup:
        named = sys.argv[1:]
        folder = Path(named[0] if named else cleanup.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        IMAGES.mkdir(exist_ok=True)
        on = cleanup.enter_context(environment(folder, users=USERS, audiences=10, seed=12))
        live(on, on.config)
        set_back(folder)
        lose_members(folder)
        app = App(Config.model_validate(tomllib.loads(on.config)), LineProgress())
        with app.runs() as runs:
            runs.sync(full=True)
        pictures(folder, on.config)


if __name__ == "__main__":
    main()
