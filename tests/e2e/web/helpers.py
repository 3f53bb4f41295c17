"""An operator before the page, and how a browser visits it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.daemon import Daemon

TOKEN = "the-token-of-the-page-0"
PHONE = {"width": 360, "height": 740}
#: What a browser says of a page that is not there; all else on the console is trouble.
NO_TROUBLE = "the server responded with a status of 404"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP evil.test 127.0.0.1",
]


@dataclass
class Operator:
    """A daemon with the page at `url`, and what is there to be seen: an audience that the guard
    holds, customers that were refused, one of them of a given id."""

    daemon: Daemon
    url: str
    lost: str
    other: str
    refused: list[str]

    def run(self, state: str) -> int:
        """The newest run in a state."""
        rows = self.daemon.installation.json("runs")
        return next(int(row["run"]) for row in rows if row["state"] == state)

    def state(self, run: int) -> str:
        rows = self.daemon.installation.json("runs")
        return next(str(row["state"]) for row in rows if row["run"] == run)

    def holds(self, customer_id: str) -> dict[str, Any]:
        traits: dict[str, Any] = self.daemon.installation.amberflo.customers[customer_id]["traits"]
        return traits


@contextmanager
def visiting(browser: Any, operator: Operator, **options: Any) -> Iterator[Any]:
    """A page that is logged in. Nothing may be said on the console or break the policy there."""
    context = browser.new_context(base_url=operator.url, **options)
    context.set_default_timeout(15_000)
    troubles: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: NO_TROUBLE in message.text or troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.add_init_script(
        "addEventListener('securitypolicyviolation', (e) => console.error(e.violatedDirective))"
    )
    try:
        log_in(page)
        yield page
        assert troubles == []
    finally:
        context.close()


def log_in(page: Any) -> None:
    page.goto("/login")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    heading(page).to_have_text("Now")


def paths(operator: Operator) -> list[str]:
    return [
        "/", "/runs", f"/runs/{operator.run('held')}", "/runs/1?step=entered", "/customers?q=u",
        f"/customer?id={operator.refused[0]}", "/audiences", f"/audience?key={operator.other}",
        f"/audience?key={operator.lost}&step=exited", f"/audience/members?key={operator.other}",
        "/failures", "/nothing", "/login",
    ]  # fmt: skip


def overflow(page: Any) -> int:
    """How far the page can be scrolled sideways."""
    pixels = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return int(pixels)


def heading(page: Any) -> Any:
    """What is expected of it."""
    from playwright.sync_api import expect  # (without it these tests are skipped)

    return expect(page.get_by_role("heading", level=1))
