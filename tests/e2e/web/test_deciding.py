"""The operator's page in a browser: what a person decides, and what nobody else may."""

from __future__ import annotations

import http.server
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.web.helpers import Operator, heading, log_in
from tests.support.events import unique
from tests.support.processes import beside, wait_until

playwright = pytest.importorskip("playwright.sync_api", reason="the page: playwright is missing")
expect = playwright.expect

# Deciding


def test_approving_and_rejecting_what_is_held(page: Any, operator: Operator) -> None:
    run = operator.run("held")
    installation = operator.daemon.installation
    had = {customer_id: record["traits"].get(operator.lost) for customer_id, record in
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
    assert had == {customer_id: record["traits"].get(operator.lost) for customer_id, record in
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
    taken = [
        customer
        for customer in installation.amberflo.customers.values()
        if "strange" not in customer
    ]
    values = {record["traits"].get(operator.lost) for record in taken}
    assert values <= {False, None}


def test_sending_a_customer_again(page: Any, operator: Operator) -> None:
    installation = operator.daemon.installation
    done = next(
        customer_id for customer_id, record in sorted(installation.amberflo.customers.items())
        if customer_id.startswith("u") and "strange" not in record
        and record["traits"].get(operator.other)
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
