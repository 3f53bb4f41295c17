"""The operator's page in a browser, served by a running daemon: what a person sees."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.web.helpers import PHONE, TOKEN, Operator, heading, overflow, paths, visiting
from tests.support.events import unique

playwright = pytest.importorskip("playwright.sync_api", reason="the page: playwright is missing")
expect = playwright.expect

AXE = Path(__file__).parents[1] / "node" / "node_modules" / "axe-core" / "axe.min.js"


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
            report = page.evaluate("(options) => axe.run(document, options)", options)
            serious = [
                (
                    violation["id"],
                    violation["nodes"][0]["html"],
                    violation["nodes"][0]["failureSummary"],
                )
                for violation in report["violations"]
                if violation["impact"] in ("serious", "critical")
            ]
            assert serious == [], path
            assert "color-contrast" in {rule["id"] for rule in report["passes"]}, path
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
    assert [row.split(" ")[0] for row in seen[1:]] == [name.split(" ")[0] for name in names]
    page.goto("/failures")
    page.get_by_text("Discard all", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Yes, discard all")).to_be_visible()
