"""analytics.js in a browser against the receiver: each call is at Amberflo once, as it was made."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.e2e.sdks.helpers import Json, check, node_modules
from tests.support.daemon import KEY, Daemon
from tests.support.events import unique
from tests.support.processes import descendants, is_running, wait_until

PAGE = """<!doctype html>
<title>Shop | Home</title>
<script src="/umd/index.js"></script>
<script>
const { receiver, host, key, user } = JSON.parse('SETTINGS')
const load = (segment) => AnalyticsNext.AnalyticsBrowser.load(
  { writeKey: key, cdnURL: receiver },
  { integrations: { 'Segment.io': { protocol: 'http', ...segment } } },
)
const run = async (name, analytics) => {
  const calls = [
    () => analytics.page('Shop', 'Home', { section: 'a/b' }),
    () => analytics.track(`${name} anonymous`, { value: 2 }),
    () => analytics.identify(`${user}-${name}`,
      { name: 'Ada', email: 'ada@example.com', plan: 'pro' }),
    () => analytics.track(`${name} known`, { price: 9.5, tags: ['x', 'y'], nothing: null }),
    () => analytics.track(`${name} elsewhere`, {},
      { integrations: { All: false, 'Segment.io': true } }),
    () => analytics.screen('Start'),
    () => analytics.group('g1'),
  ]
  const events = []
  for (const call of calls) events.push((await call()).event)
  return events
}
const report = async () => {
  try {
    const single = await run('single', load({}))
    const batching = await run('batching', load({
      apiHost: host,
      deliveryStrategy: { strategy: 'batching', config: { size: 3, timeout: 100 } },
    }))
    return { single, batching }
  } catch (error) {
    return { error: String(error) }
  }
}
report().then((found) => fetch('/report', { method: 'POST', body: JSON.stringify(found) }))
</script>
"""


class Shop(BaseHTTPRequestHandler):
    """Serves the page and the SDK, and takes the page's report."""

    page: ClassVar[bytes]
    bundle: ClassVar[Path]
    reports: ClassVar[list[Json]]

    def do_GET(self) -> None:
        file = self.bundle / self.path.removeprefix("/umd/")
        if self.path == "/page.html":
            self._answer(self.page, "text/html; charset=utf-8")
        elif self.path.startswith("/umd/") and file.parent == self.bundle and file.is_file():
            self._answer(file.read_bytes(), "text/javascript")
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        self.reports.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self._answer(b"", "text/plain")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def shop(bundle: Path, settings: Json) -> Iterator[tuple[str, list[Json]]]:
    """The page on loopback: its URL and what it reports."""
    reports: list[Json] = []
    page = PAGE.replace("SETTINGS", json.dumps(settings)).encode()
    handler = type("Handler", (Shop,), {"page": page, "bundle": bundle, "reports": reports})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/page.html", reports
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def browser(url: str, profile: Path) -> Iterator[None]:
    """Headless Chromium on a page, with a new profile."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("analytics.js: there is no chromium on this machine")
    flags = [
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "disable-dev-shm-usage"),
        *("no-first-run", "disable-background-networking", "disable-component-update"),
        *("disable-sync", f"user-data-dir={profile}"),
    ]
    process = subprocess.Popen(
        [chromium, *(f"--{flag}" for flag in flags), url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        below = descendants(process.pid)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not any(map(is_running, below)), 10, what="the browser's end")


def test_analytics_js_in_a_browser(receiver: Daemon, tmp_path: Path) -> None:
    """One request a call, and in batches; where to send it is told by the page or by /settings."""
    bundle = node_modules() / "analytics-next" / "dist" / "umd"
    user = unique("browser")
    settings = {
        "receiver": receiver.url,
        "host": receiver.url.removeprefix("http://") + "/v1",
        "key": KEY,
        "user": user,
    }
    with shop(bundle, settings) as (url, reports), browser(url, tmp_path / "profile"):
        wait_until(lambda: reports, what="the page's report")
        (report,) = reports
        assert report.keys() == {"single", "batching"}, report
        mine = [event for events in report.values() for event in events]
        wait_until(
            lambda: (
                {e["messageId"] for e in mine if e["type"] in ("page", "screen")}
                <= {record["uniqueId"] for record in list(receiver.installation.amberflo.records)}
            ),
            what="the page's calls",
        )
    host = url.removeprefix("http://").replace("/", "_")
    for name, events in report.items():
        page, anonymous, _, known, _, screen, _ = events
        # The second one finds what the first one has kept of the user.
        assert anonymous.get("userId") == (None if name == "single" else f"{user}-single")
        made: list[tuple[Json, Json]] = [
            (
                page,
                {
                    "meterApiName": "page",
                    "dimensions": {
                        "name": "Home",
                        "category": "Shop",
                        "section": "a_b",
                        "path": "_page.html",
                        "title": "Shop _ Home",
                        "url": f"http:__{host}",
                    },
                },
            ),
            (anonymous, {"meterApiName": f"{name} anonymous", "meterValue": 2}),
            (
                known,
                {
                    "meterApiName": f"{name} known",
                    "dimensions": {"price": "9.5", "tags": "x,y"},
                },
            ),
            (screen, {"meterApiName": "screen", "dimensions": {"name": "Start"}}),
        ]
        check(receiver, made)
        assert known["userId"] == f"{user}-{name}"
        assert receiver.customer(f"{user}-{name}") == {
            "customerName": "Ada",
            "customerEmail": "ada@example.com",
            "traits": {"plan": "pro"},
        }
        names = {record["meterApiName"] for record in receiver.installation.amberflo.records}
        assert f"{name} elsewhere" not in names
