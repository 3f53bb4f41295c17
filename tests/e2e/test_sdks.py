"""Segment's own SDKs against the receiver: each call is at Amberflo once, as it was made."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from segment.analytics import request as segment_request
from segment.analytics.client import Client

from tests.support.daemon import GOOD, KEY, Daemon, daemon
from tests.support.events import unique
from tests.support.installation import installed
from tests.support.processes import descendants, free_port, is_running, wait_until

NODE = Path(__file__).with_name("node")
#: Milliseconds that a call may be on its way: the receiver takes them for an error of the clock.
ON_ITS_WAY = 5000

Json = dict[str, Any]


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    address = f"127.0.0.1:{free_port()}"  # known before, so that /settings can tell it
    with (
        installed(tmp_path_factory.mktemp("sdks")) as installation,
        daemon(installation, listen=address, public_url=f"http://{address}") as found,
    ):
        yield found


def check(receiver: Daemon, made: list[tuple[Json, Json]]) -> None:
    """Each call, as its SDK made it, has its record and no other; beside it stands what of the
    record is not the call's own."""
    records = receiver.records(*(event["messageId"] for event, _ in made))
    assert len(records) == len(made)
    for record, (event, wanted) in zip(records, made, strict=True):
        at = datetime.fromisoformat(event["timestamp"]).timestamp() * 1000
        assert at - 1 <= record.pop("meterTimeInMillis") <= at + ON_ITS_WAY
        fields = {
            "uniqueId": event["messageId"],
            "customerId": event.get("userId") or event["anonymousId"],
            "meterValue": 1.0,
            "dimensions": {},
        }
        assert record == fields | wanted


# What the SDKs of a server are asked for, and what must come of it


def calls_of(user: str) -> list[tuple[str, Json, Json | None]]:
    """(kind, call, what its record must have; None for what is no meter)."""
    return [
        ("identify", {"userId": user, "traits": {"name": "Ada", "plan": "pro", "seats": 5}}, None),
        (
            "track",
            {"userId": user, "event": "ApiCalls", "properties": {"value": 2.5, "region": "us|a/b"}},
            {"meterApiName": "ApiCalls", "meterValue": 2.5, "dimensions": {"region": "us_a_b"}},
        ),
        (
            "track",
            {"userId": user, "event": "Ünï 🦊", "properties": {"n": 5, "b": True, "o": {"x": 1}}},
            {"meterApiName": "Ünï 🦊", "dimensions": {"n": "5", "b": "true", "o_x": "1"}},
        ),
        (
            "page",
            {"userId": user, "name": "Home", "properties": {"title": "Welcome | Initech"}},
            {"meterApiName": "page", "dimensions": {"name": "Home", "title": "Welcome _ Initech"}},
        ),
        (
            "screen",
            {"anonymousId": f"{user}-anonymous", "name": "Start"},
            {"meterApiName": "screen", "dimensions": {"name": "Start"}},
        ),
        ("group", {"userId": user, "groupId": "g1", "traits": {"name": "Initech"}}, None),
        ("alias", {"userId": user, "previousId": "before"}, None),
        (
            "track",
            {"userId": user, "event": "Elsewhere", "integrations": {"All": False}},
            None,
        ),
        (
            "identify",
            {"userId": user, "traits": {"email": "ada@example.com", "trial": False}},
            None,
        ),
    ]


def check_customer(receiver: Daemon, user: str, meters: int) -> None:
    assert receiver.customer(user) == {
        "customerName": "Ada",
        "customerEmail": "ada@example.com",
        "traits": {"plan": "pro", "seats": 5, "trial": False},
    }
    mine = [
        record
        for customer in (user, f"{user}-anonymous")
        for record in receiver.by_customer(customer)
    ]
    assert len(mine) == meters


# analytics-python


@contextmanager
def python_sdk(receiver: Daemon, **options: Any) -> Iterator[Client]:
    errors: list[Any] = []
    client = Client(
        KEY,
        host=receiver.url,
        on_error=lambda error, _: errors.append(error),
        upload_interval=0.1,
        **options,
    )
    try:
        yield client
        if not client.sync_mode:
            client.shutdown()
        assert errors == []
    finally:
        segment_request._session.close()


PYTHON_NAMES = {
    "userId": "user_id",
    "anonymousId": "anonymous_id",
    "groupId": "group_id",
    "previousId": "previous_id",
}


@pytest.mark.parametrize("options", [{}, {"gzip": True}, {"sync_mode": True}], ids=str)
def test_analytics_python(receiver: Daemon, options: Json) -> None:
    user = unique("python")
    made: list[tuple[Json, Json]] = []
    with python_sdk(receiver, **options) as client:
        for kind, call, wanted in calls_of(user):
            named = {PYTHON_NAMES.get(name, name): value for name, value in call.items()}
            _, event = getattr(client, kind)(**named)
            if wanted is not None:
                made.append((event, wanted))
    check(receiver, made)
    check_customer(receiver, user, len(made))


def test_analytics_python_in_bulk(receiver: Daemon) -> None:
    """More than one batch, and what its JSON writer makes of Python's values."""
    user = unique("python")
    made: list[tuple[Json, Json]] = []
    moment = datetime(2026, 11, 24, 6, 51, 4, 123000, tzinfo=UTC)
    odd = {"at": moment, "price": Decimal("1.5"), "nan": float("nan"), "tags": ["a", "b"]}
    with python_sdk(receiver) as client:
        for number in range(250):
            _, event = client.track(user, "Bulk", {"value": number})
            made.append((event, {"meterApiName": "Bulk", "meterValue": number}))
        _, event = client.track(user, "Odd", odd, timestamp=datetime.now(UTC))
        dimensions = {"at": "2026-11-24T06:51:04.123000+00:00", "price": "1.5", "tags": "a,b"}
        made.append((event, {"meterApiName": "Odd", "dimensions": dimensions}))
        client.track(user, "Nothing", {"value": float("inf")})
    check(receiver, made)
    assert len(receiver.by_customer(user)) == len(made)
    (failure,) = receiver.failures(user)
    assert failure["reason"] == "value is not a finite number"


def test_analytics_python_with_a_wrong_key_gives_up_at_once(receiver: Daemon) -> None:
    errors: list[Any] = []
    client = Client(
        "wrong",
        host=receiver.url,
        on_error=lambda error, _: errors.append(error),
        upload_interval=0.05,
    )
    client.track("u1", "Never")
    client.shutdown()
    segment_request._session.close()
    (error,) = errors
    assert (error.status, error.code) == (401, "invalid_write_key")


# analytics-node


def node_modules() -> Path:
    found = NODE / "node_modules" / "@segment"
    if not found.is_dir():
        pytest.skip("npm packages are missing: npm ci --prefix tests/e2e/node")
    return found


def test_analytics_node(receiver: Daemon) -> None:
    node_modules()
    node = shutil.which("node")
    if node is None:
        pytest.skip("analytics-node: there is no node on this machine")
    user = unique("node")
    calls = calls_of(user)
    environment = {
        **os.environ,
        "RECEIVER": receiver.url,
        "WRITE_KEY": KEY,
        "CALLS": json.dumps([(kind, call) for kind, call, _ in calls]),
    }
    done = subprocess.run(
        [node, "calls.mjs"], cwd=NODE, env=environment, capture_output=True, timeout=30
    )
    assert done.returncode == 0, done.stderr.decode()
    events = json.loads(done.stdout)
    assert len(events) == len(calls)
    made = [
        (the_one(events, kind, call), wanted) for kind, call, wanted in calls if wanted is not None
    ]
    check(receiver, made)
    check_customer(receiver, user, len(made))


def the_one(events: list[Json], kind: str, call: Json) -> Json:
    """The event that an SDK made of a call."""
    (found,) = [
        event
        for event in events
        if event["type"] == kind and call.items() <= {**event, **event.get("context", {})}.items()
    ]
    return found


# analytics.js


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
        (found,) = reports
        assert found.keys() == {"single", "batching"}, found
        mine = [event for events in found.values() for event in events]
        wait_until(
            lambda: (
                {e["messageId"] for e in mine if e["type"] in ("page", "screen")}
                <= {record["uniqueId"] for record in list(receiver.installation.amberflo.records)}
            ),
            what="the page's calls",
        )
    host = url.removeprefix("http://").replace("/", "_")
    for name, events in found.items():
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


# Plain HTTP


def test_plain_http(receiver: Daemon) -> None:
    """As with `curl -u KEY: -d '…' URL`."""
    user, one, two = unique("curl"), unique(), unique()
    body = {
        "track": f'{{"userId": "{user}", "event": "ApiCalls", "messageId": "{one}", '
        '"properties": {"value": 2.0, "region": "us-west-2"}, '
        '"timestamp": "2026-11-24T06:51:04.123Z"}',
        "page": f'{{"userId": "{user}", "name": "Home", "messageId": "{two}", '
        '"timestamp": "2026-11-24T06:51:05Z"}',
        "identify": f'{{"userId": "{user}", "traits": {{"name": "Ada", "plan": "pro"}}}}',
    }
    form = {"content-type": "application/x-www-form-urlencoded"}  # what curl -d says
    for route, text in body.items():
        answer = httpx.post(
            f"{receiver.url}/v1/{route}",
            content=text,
            auth=(KEY, ""),
            headers=form,
            trust_env=False,
        )
        assert (answer.status_code, answer.content) == (200, GOOD)
    assert receiver.records(one, two) == [
        {
            "uniqueId": one,
            "customerId": user,
            "meterApiName": "ApiCalls",
            "meterValue": 2.0,
            "meterTimeInMillis": 1795503064123,
            "dimensions": {"region": "us-west-2"},
        },
        {
            "uniqueId": two,
            "customerId": user,
            "meterApiName": "page",
            "meterValue": 1.0,
            "meterTimeInMillis": 1795503065000,
            "dimensions": {"name": "Home"},
        },
    ]
    assert receiver.customer(user)["traits"] == {"plan": "pro"}
