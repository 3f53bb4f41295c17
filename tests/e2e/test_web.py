"""The operator's page in a browser, served by a running daemon: what a person sees and does."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from syncer.sandbox.engage import EngageSandbox
from tests.support.daemon import Daemon, daemon
from tests.support.events import unique
from tests.support.installation import installed
from tests.support.processes import beside, wait_until

playwright = pytest.importorskip("playwright.sync_api", reason="the page: playwright is missing")
expect = playwright.expect
expect.set_options(timeout=20_000)

AXE = Path(__file__).with_name("node") / "node_modules" / "axe-core" / "axe.min.js"
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


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("page")
    with installed(folder) as found:
        began = datetime.now(UTC) - timedelta(days=30)
        with closing(EngageSandbox(found.source_url, seed=7, clock=began)) as engage:
            engage.fill(300, 5)
            found.run("sync")
            lost, other = engage.audiences[:2]
        with closing(sqlite3.connect(folder / "engage.db")) as source, source:
            ids = [
                one
                for (one,) in source.execute(
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
        for one in ids:
            found.amberflo.customers[one]["strange"] = 1
        more = (
            f'[web]\nlisten = "127.0.0.1:0"\ntoken = "{TOKEN}"\n'
            "[guard]\nmin_exits = 20\n[schedule]\nevery = '9d'\n"
        )
        found.configure(more=more)
        found.run("sync", "--full", exit_code=1)
        with daemon(found, more=more) as running:
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
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=chromium, args=FLAGS)
        yield found
        found.close()


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
    expect(page.get_by_role("heading", level=1)).to_have_text("Now")


@pytest.fixture
def page(browser: Any, operator: Operator) -> Iterator[Any]:
    with visiting(browser, operator) as found:
        yield found


def paths(operator: Operator) -> list[str]:
    return [
        "/", "/runs", f"/runs/{operator.run('held')}", "/runs/1?step=entered", "/customers?q=u",
        f"/customer?id={operator.refused[0]}", "/audiences", f"/audience?key={operator.other}",
        f"/audience?key={operator.lost}&step=exited", f"/audience/members?key={operator.other}",
        "/failures", "/nothing", "/login",
    ]  # fmt: skip


def overflow(page: Any) -> int:
    """How far the page can be scrolled sideways."""
    found = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return int(found)


def heading(page: Any) -> Any:
    return expect(page.get_by_role("heading", level=1))


# Looking


def test_a_wrong_token_and_logging_out(browser: Any, operator: Operator) -> None:
    context = browser.new_context(base_url=operator.url)
    page = context.new_page()
    page.goto("/runs/1")
    page.get_by_label("Token").fill("not the token")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The token is wrong.")
    assert context.cookies() == []
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    heading(page).to_have_text("Run 1")  # where one wanted to go
    (cookie,) = context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert TOKEN not in cookie["value"]
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Log out").click()
    page.goto("/runs/1")
    expect(page.get_by_label("Token")).to_be_focused()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible(browser: Any, operator: Operator, scheme: str) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is missing: npm ci --prefix tests/e2e/node")
    axe = AXE.read_text(encoding="utf-8")
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if scheme == "dark":  # it differs in its colours alone
        options["runOnly"] = ["color-contrast", "link-in-text-block"]
    backgrounds = set()
    with visiting(browser, operator, color_scheme=scheme) as page:
        for path in paths(operator):
            page.goto(path)
            if page.locator("details").count():
                page.locator("summary").first.click()
            page.evaluate(axe)
            found = page.evaluate("(options) => axe.run(document, options)", options)
            serious = [
                (one["id"], one["nodes"][0]["html"], one["nodes"][0]["failureSummary"])
                for one in found["violations"]
                if one["impact"] in ("serious", "critical")
            ]
            assert serious == [], path
            assert "color-contrast" in {one["id"] for one in found["passes"]}, path
            backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.goto("/")
    assert backgrounds == {"rgb(247, 248, 250)" if scheme == "light" else "rgb(18, 22, 28)"}


#: The lists of a page that are wider than their place.
CUT_OFF = """[...document.querySelectorAll('.scroll')].filter(it => it.scrollWidth > it.clientWidth)
.map(it => it.ariaLabel || it.getAttribute('aria-labelledby'))"""


def test_a_phone_never_scrolls_sideways(browser: Any, operator: Operator) -> None:
    with visiting(browser, operator, viewport=PHONE, has_touch=True, is_mobile=True) as page:
        for path in paths(operator):
            page.goto(path)
            assert overflow(page) <= 0, path
            assert page.evaluate(CUT_OFF) == [], path
        page.goto("/")


def test_now_tells_what_needs_somebody_and_keeps_up(page: Any, operator: Operator) -> None:
    page.goto("/")
    main = page.get_by_role("main")
    expect(main).to_contain_text("receives, schedules and delivers")
    held = operator.run("held")
    expect(main.get_by_role("link", name=f"run {held}", exact=True)).to_be_visible()
    link = page.locator("#to-failures")
    before = link.text_content()
    link.focus()
    user = unique("bad")
    event = {"userId": user, "event": "x", "properties": {"value": "no number"}}
    operator.daemon.send("track", event)
    expect(page.locator("#to-failures")).not_to_have_text(before)
    expect(page.locator("#to-failures")).to_be_focused()  # though the part was put in anew
    page.locator("#to-failures").click()
    heading(page).to_have_text("Failures")


def test_from_a_run_to_a_customer_and_back(page: Any, operator: Operator) -> None:
    page.goto("/runs")
    page.get_by_role("link", name="1", exact=True).click()
    heading(page).to_have_text("Run 1")
    rows = page.get_by_role("region", name="Changes of this run").locator("tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_label("Trait", exact=True).select_option(operator.other)
    page.get_by_label("Change", exact=True).select_option("entered")
    page.get_by_role("button", name="Show").click()
    expect(rows.first).to_contain_text("entered")
    for text in rows.all_text_contents():
        assert operator.other in text
    first = rows.first.get_by_role("link").first.text_content()
    page.get_by_role("link", name="Next page").click()
    expect(rows.first.get_by_role("link").first).not_to_have_text(first)
    page.get_by_role("link", name="First page").click()
    expect(rows.first.get_by_role("link").first).to_have_text(first)
    rows.first.get_by_role("link").first.click()
    heading(page).to_have_text(first)
    history = page.get_by_role("region", name="History").locator("tbody tr")
    (mine,) = [row for row in history.all() if operator.other in row.text_content()][-1:]
    assert len(mine.locator("time").all()) == 3  # in Segment, recorded, delivered
    mine.get_by_role("link", name="1", exact=True).click()
    heading(page).to_have_text("Run 1")


def test_what_the_next_run_would_change(page: Any, operator: Operator) -> None:
    before = operator.daemon.installation.json("runs")
    page.goto("/")
    page.get_by_role("button", name="What would the next run change?").click()
    tasks = page.get_by_role("region", name="Tasks")
    expect(tasks).to_contain_text("What the next run would change: ")
    expect(tasks).to_contain_text("unchanged", timeout=30_000)
    expect(tasks).to_contain_text("to send: ")
    assert operator.daemon.installation.json("runs") == before


def test_searching_as_one_types(page: Any, operator: Operator) -> None:
    page.goto("/customers")
    wanted = operator.refused[1]
    box = page.get_by_label("Part of the id, name or email")
    box.press_sequentially(wanted, delay=10)
    rows = page.get_by_role("region", name="List of customers").locator("tbody tr")
    expect(rows).to_have_count(1)
    expect(page).to_have_url(re.compile(rf"\?q={wanted}$"))
    expect(box).to_be_focused()
    rows.get_by_role("link").click()
    heading(page).to_have_text(wanted)
    expect(page.get_by_role("main")).to_contain_text("out of step")
    expect(page.get_by_role("heading", name="Failures")).to_be_visible()
    page.goto("/customers?q=nobody-has-this-id")
    expect(page.get_by_role("main")).to_contain_text("No customer is like this.")
    page.goto(f"/customers?q={wanted[1:]}")
    expect(rows.filter(has_text=wanted)).to_have_count(1)
    expect(page.get_by_role("main")).to_contain_text("all customers were looked at")
    page.goto(f"/customers?q={wanted[1:3]}")
    expect(page.get_by_role("main")).to_contain_text("With three letters or more")


def test_an_audience_over_time(page: Any, operator: Operator) -> None:
    page.goto("/audiences")
    row = page.get_by_role("row", name=operator.lost)
    expect(row).to_contain_text("held")
    page.get_by_role("link", name=operator.other, exact=True).click()
    expect(page.get_by_role("img", name=f"Members of {operator.other} over time")).to_be_visible()
    members = page.locator(".figures dd").first.text_content()
    sizes = page.get_by_role("region", name="Size over time as a table").locator("tbody tr")
    expect(sizes.first.locator("td")).to_have_text(members)
    page.get_by_role("button", name="List members").click()
    listed = page.locator(".members li")
    expect(listed.first).to_be_visible()
    assert listed.count() == min(50, int(members.replace(",", "")))
    page.goto(f"/audience?key={operator.other}")
    page.get_by_label("Until").fill("2001-01-01T00:00")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("main")).to_contain_text("No such change in this time.")


def test_what_is_wrong_is_told(browser: Any, operator: Operator) -> None:
    """(The browser says on the console that there was a 404, so it may.)"""
    context = browser.new_context(
        base_url=operator.url, extra_http_headers={"authorization": f"Bearer {TOKEN}"}
    )
    page = context.new_page()
    for path, status, text in (
        ("/customer?id=nobody", 404, "the customer 'nobody' is unknown"),
        ("/runs/999", 404, "there is no run 999"),
        (f"/audience/members?key={operator.other}&at=2001-01-01", 404, "it cannot tell who was in"),
        (f"/audience?key={operator.other}&since=yesterday", 400, "which is not a time"),
        (f"/audience?key={operator.other}&since=2026-02-02&until=2026-01-01", 400, "before until"),
    ):
        answer = page.goto(path)
        assert answer.status == status
        expect(page.get_by_role("main")).to_contain_text(text)
    context.close()


def test_all_is_read_and_done_without_javascript(browser: Any, operator: Operator) -> None:
    with visiting(browser, operator, java_script_enabled=False) as page:
        for path in paths(operator)[:-2]:
            page.goto(path)
            assert page.get_by_role("main").text_content().strip()
        page.goto("/customers")
        page.get_by_label("Part of the id, name or email").fill(operator.refused[2])
        page.get_by_role("button", name="Search").click()
        page.get_by_role("link", name=operator.refused[2]).click()
        heading(page).to_have_text(operator.refused[2])
        page.get_by_role("button", name="Retry").click()
        heading(page).to_have_text("Failures")
        page.wait_for_timeout(100)
        expect(page.get_by_role("region", name="Tasks")).to_contain_text("Sending")


def test_the_keyboard_is_enough(page: Any, operator: Operator) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.goto("/")
    seen = []
    for _ in range(8):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        seen.append(focused.text_content().strip().split("\n")[0])
        outline = focused.evaluate("(one) => getComputedStyle(one).outlineStyle")
        assert outline == "solid"
    names = ["Syncer", "Now", "Runs", "Customers", "Audiences", "Failures", "Log out"]
    assert [one.split(" ")[0] for one in seen[1:]] == [one.split(" ")[0] for one in names]
    page.goto("/failures")
    page.get_by_text("Discard all", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Yes, discard all")).to_be_visible()


# Deciding


def test_approving_and_rejecting_what_is_held(page: Any, operator: Operator) -> None:
    run = operator.run("held")
    installation = operator.daemon.installation
    had = {one: record["traits"].get(operator.lost) for one, record in
           installation.amberflo.customers.items()}  # fmt: skip
    page.goto("/runs")
    page.get_by_role("row", name=re.compile(rf"^{run} ")).get_by_role("link").click()
    expect(page.get_by_role("heading", name="A decision is needed")).to_be_visible()
    expect(page.get_by_text("Who is concerned")).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text(re.compile(r"\d → 0 members \(−100 %\)"))
    page.get_by_role("button", name="Reject").click()  # the browser asks who decides, and why
    assert operator.state(run) == "held"
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Reason").fill("the load broke")
    page.get_by_role("button", name="Reject").click()
    expect(page.get_by_role("main")).to_contain_text("nothing that it held will be sent")
    assert operator.state(run) == "rejected"
    expect(page.get_by_role("main")).to_contain_text("Rejected by Ada (“the load broke”)")
    assert page.get_by_role("button", name="Approve").count() == 0
    assert had == {one: record["traits"].get(operator.lost) for one, record in
                   installation.amberflo.customers.items()}  # fmt: skip

    # A rejection lasts; lifted, the next run finds the same again.
    with installation.start("sync", "--full") as process:
        assert process.wait(60) in (0, 1)  # who is refused still is
    with installation.start("runs", "lift", str(run)) as process:
        assert process.wait(60) == 0
    with installation.start("sync", "--full") as process:
        assert process.wait(60) in (1, 3)
    run = operator.run("held")
    page.goto(f"/runs/{run}")
    page.get_by_label("Your name").fill("-- Ada")
    page.get_by_label("Reason").fill("they did leave")
    page.get_by_role("button", name="Approve").click()
    tasks = page.get_by_role("region", name="Tasks")
    expect(tasks).to_contain_text(f"Approval of run {run}: under way")
    expect(tasks).to_contain_text(
        re.compile(rf"Approval of run {run}: run \d+ done"), timeout=30_000
    )
    heading(page).to_have_text(f"Run {run}")
    expect(page.locator(".title .state")).to_have_text("approved")  # it loaded itself again
    assert operator.state(run) == "approved"
    expect(page.get_by_role("main")).to_contain_text("Approved by -- Ada (“they did leave”), run")
    taken = [one for one in installation.amberflo.customers.values() if "strange" not in one]
    left = {record["traits"].get(operator.lost) for record in taken}
    assert left <= {False, None}


def test_sending_a_customer_again(page: Any, operator: Operator) -> None:
    installation = operator.daemon.installation
    done = next(
        one for one, record in sorted(installation.amberflo.customers.items())
        if one.startswith("u") and "strange" not in record and record["traits"].get(operator.other)
    )  # fmt: skip
    installation.amberflo.customers[done]["traits"] = {"stripeId": "cus_1"}
    page.goto(f"/customer?id={done}")
    page.get_by_role("button", name="Send again").click()
    tasks = page.get_by_role("region", name="Tasks")
    expect(tasks).to_contain_text(f"Sending {done} again: run")
    assert operator.holds(done)[operator.other] is True
    assert operator.holds(done)["stripeId"] == "cus_1"


def test_retrying_and_discarding_failures(page: Any, operator: Operator) -> None:
    installation = operator.daemon.installation
    page.goto("/failures")
    rows = page.locator(".failure")
    total = rows.count()
    assert total >= 3
    mended, stays = operator.refused[0], operator.refused[3]
    installation.amberflo.customers[mended].pop("strange")
    row = rows.filter(has_text=mended)
    row.get_by_text("Request and answer").click()
    expect(row).to_contain_text("unknown field 'strange'")
    row.get_by_role("button", name="Retry").click()
    expect(rows.filter(has_text=mended)).to_have_count(0, timeout=30_000)
    expect(page.get_by_role("region", name="Tasks")).to_contain_text("1 delivered")
    call = rows.filter(has_text="value is not a finite number").first
    expect(call).to_contain_text("it can only be discarded")
    assert call.get_by_role("button", name="Retry").count() == 0
    expect(page.get_by_role("main")).to_contain_text(re.compile("[1-9] invalid calls"))
    page.get_by_role("button", name="Retry what Amberflo refused").wait_for()
    rows.filter(has_text=stays).get_by_role("button", name="Discard").click()
    expect(rows.filter(has_text=stays)).to_have_count(0)
    page.get_by_text("Discard all", exact=True).click()
    page.get_by_role("button", name="Yes, discard all").click()
    expect(page.get_by_role("main")).to_contain_text("Nothing failed.")
    assert installation.json("failures") == []


# Attacking


@contextmanager
def attacker(body: Callable[[], str]) -> Iterator[str]:
    """Another site on loopback, that a logged-in operator visits."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = body().encode()
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_a_form_of_another_site_does_nothing(browser: Any, operator: Operator) -> None:
    user = unique("bad")
    operator.daemon.send("track", {"userId": user, "event": "x", "properties": {"value": "no"}})
    assert operator.daemon.failures(user)
    context = browser.new_context(base_url=operator.url)
    page = context.new_page()
    log_in(page)
    stolen = page.locator("input[name=form_token]").first.input_value()
    form = (
        f'<form method="post" action="{operator.url}/failures/discard">'
        '<input name="which" value="all"><input name="newest" value="999999">'
        f'<input name="form_token" value="{stolen}"></form>'
        "<script>document.forms[0].submit()</script>"
    )
    with attacker(lambda: form) as url:
        page.goto(url)
        expect(page.get_by_role("main")).to_contain_text("this form comes from another site")
    # From a page of ours, but without what only our own forms know.
    page.goto("/failures")
    page.evaluate("document.querySelectorAll('input[name=form_token]').forEach(i => i.value = 'x')")
    page.get_by_role("button", name=re.compile("Discard failure")).first.click()
    expect(page.get_by_role("main")).to_contain_text("this form belongs to another session")
    with attacker(lambda: f'<iframe src="{operator.url}/"></iframe>') as url:
        page.goto(url)
        frame = page.frames[1]
        assert "Syncer" not in frame.content()
    context.close()
    assert operator.daemon.failures(user)


def test_another_host_name_is_refused(browser: Any, operator: Operator) -> None:
    """As when a site lets its own name point at this machine (DNS rebinding)."""
    context = browser.new_context()
    page = context.new_page()
    answer = page.goto(operator.url.replace("127.0.0.1", "evil.test"))
    assert answer.status == 421
    expect(page.get_by_role("main")).to_contain_text("this page has another host name")
    assert page.goto(operator.url.replace("127.0.0.1", "localhost")).status == 200
    context.close()


def test_the_page_comes_back_when_its_process_dies(page: Any, operator: Operator) -> None:
    def serving() -> list[int]:
        return beside(operator.daemon.process.pid, "page")

    (served,) = serving()
    os.kill(served, signal.SIGKILL)
    wait_until(lambda: serving() not in ([], [served]), what="the page's process")
    page.goto("/runs")
    heading(page).to_have_text("Runs")  # the session is good still
    operator.daemon.send("page", {"userId": unique(), "name": "Home"})
