"""The door of the page, over real HTTP: who comes in, and what every answer carries."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from state.db.database import Database
from syncer.config import Config
from syncer.process.server import bind, serve
from syncer.stop import Stop
from syncer.web.app import SecureApp
from syncer.web.context import Context
from syncer.web.render import Templates
from syncer.web.revoked import StoredRevocations
from syncer.web.server import READS, WRITES
from syncer.web.session import ATTEMPTS, Sessions
from syncer.web.tasks import Tasks

TOKEN = "the-token-of-the-page-0"
BEARER = {"authorization": f"Bearer {TOKEN}"}
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
SAME = {"sec-fetch-site": "same-origin"}


@contextmanager
def served(folder: Path) -> Iterator[httpx.Client]:
    """The page of an empty state, and a client that keeps its cookies."""
    url = f"sqlite:///{folder / 'syncer.db'}"
    state, calls = Database.open(url), Database.open(url, "queue")
    config = Config.model_validate(
        {
            "amberflo": {"api_key": "x"},
            "engage": {"profiles_sync": {"url": f"sqlite:///{folder / 'none.db'}"}},
            "state": {"url": url},
        }
    )
    tasks = Tasks(config)
    context = Context(state, calls, tasks)
    sessions = Sessions(TOKEN, revoked=StoredRevocations(state))
    secure = SecureApp(sessions, "127.0.0.1", ["syncer.example.com"], layout=context.layout)
    listener, over = bind("127.0.0.1", 0), Stop()
    app = secure.build(context.bind(READS), context.bind(WRITES))
    thread = threading.Thread(target=lambda: asyncio.run(serve(app, listener, over)))
    thread.start()
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=base, trust_env=False, timeout=30) as client:
            yield client
    finally:
        over.set()
        thread.join()
        tasks.close()
        listener.close()
        state.close()
        calls.close()


@pytest.fixture(scope="module")
def open_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with served(tmp_path_factory.mktemp("door")) as opened:
        yield opened


@pytest.fixture
def client(open_page: httpx.Client) -> httpx.Client:
    """A visitor that has no session."""
    open_page.cookies.clear()
    return open_page


def log_in(client: httpx.Client, token: str = TOKEN) -> httpx.Response:
    return client.post("/login", data={"token": token}, headers=SAME)


def form_token(client: httpx.Client) -> str:
    match = re.search(r'name="form_token" value="(\w+)"', client.get("/").text)
    assert match is not None
    return match[1]


def test_nobody_comes_in_without_the_token(client: httpx.Client) -> None:
    for path in READS:
        answer = client.get(path.replace("{which}", "1"))
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login")
        assert answer.content == b""
    for path in WRITES:
        answer = client.post(path.replace("{which}", "1"), headers=SAME)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    answer = client.get("/now/live", headers={"hx-request": "true"})
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/login")


def test_the_token_opens_a_session(client: httpx.Client) -> None:
    answer = log_in(client)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert re.fullmatch(
        r"syncer_session=[\w.]+; HttpOnly; Max-Age=43200; Path=/; SameSite=strict", cookie
    )
    assert TOKEN not in cookie
    assert client.get("/").status_code == 200
    answer = client.post("/logout", data={"form_token": form_token(client)}, headers=SAME)
    assert answer.headers["location"] == "/login"
    assert client.get("/").status_code == 303
    https = {**SAME, "x-forwarded-proto": "https"}
    answer = client.post("/login", data={"token": TOKEN}, headers=https)
    assert answer.headers["set-cookie"].endswith("; Secure")


def test_after_the_log_in_one_goes_on_where_one_wanted_to(client: httpx.Client) -> None:
    answer = client.get("/audience?key=a%26b")
    assert answer.headers["location"] == "/login?next=%2Faudience%3Fkey%3Da%2526b"
    assert 'value="/audience?key=a%26b"' in client.get(answer.headers["location"]).text
    for wanted, to in {
        "/audience?key=a%26b": "/audience?key=a%26b",
        "//evil.example": "/",
        "/\\evil.example": "/",
        "https://evil.example": "/",
        "/a\r\nb": "/",
    }.items():
        answer = client.post("/login", data={"token": TOKEN, "next": wanted}, headers=SAME)
        assert answer.headers["location"] == to


def test_a_bearer_needs_no_session(client: httpx.Client) -> None:
    assert client.get("/runs", headers=BEARER).status_code == 200
    answer = client.get("/runs", headers={"authorization": "Bearer wrong"})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    answer = client.post("/failures/discard", data={"which": "all", "newest": "9"}, headers=BEARER)
    assert answer.status_code == 303
    cross = {**BEARER, "sec-fetch-site": "cross-site"}
    assert client.post("/failures/discard", headers=cross).status_code == 403


def test_wrong_tries_are_slowed_down_and_the_right_one_never(tmp_path: Path) -> None:
    """Else anybody could keep the operator out."""
    with served(tmp_path) as client:
        for _ in range(ATTEMPTS):
            answer = log_in(client, "not-the-token-at-all")
            assert answer.status_code == 401
            assert "The token is wrong." in answer.text
        for answer in (
            log_in(client, "not-the-token-at-all"),
            client.get("/runs", headers={"authorization": "Bearer wrong"}),
        ):
            assert answer.status_code == 429
            assert 30 < int(answer.headers["retry-after"]) <= 60
        assert client.get("/runs", headers=BEARER).status_code == 200
        assert log_in(client).status_code == 303
        assert client.get("/runs").status_code == 200


def test_a_log_out_ends_the_session_for_whoever_has_it(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        log_in(client)
        copied = client.cookies["syncer_session"]
        client.cookies.clear()
        log_in(client)
        own = client.cookies["syncer_session"]

        def status(session: str) -> int:
            client.cookies.clear()
            return client.get("/", headers={"cookie": f"syncer_session={session}"}).status_code

        assert (status(copied), status(own)) == (200, 200)
        client.cookies.set("syncer_session", copied)
        answer = client.post("/logout", data={"form_token": form_token(client)}, headers=SAME)
        assert answer.headers["location"] == "/login"
        assert "Max-Age=0" in answer.headers["set-cookie"]
        assert (status(copied), status(own)) == (303, 200)
    with served(tmp_path) as client:  # a new start
        assert (status(copied), status(own)) == (303, 200)


def test_a_log_out_without_its_form_ends_nothing(client: httpx.Client) -> None:
    log_in(client)
    assert client.post("/logout", headers=SAME).status_code == 403
    assert client.get("/").status_code == 200
    # Nor does one of no session of ours.
    answer = client.post("/logout", headers={**BEARER, "cookie": "syncer_session=1.a.b"})
    assert answer.status_code == 303


@pytest.mark.parametrize("path", ["/", "/login", "/nothing", "/runs/1", "/static/style.css"])
def test_every_answer_carries_the_same_headers(client: httpx.Client, path: str) -> None:
    answer = client.get(path, headers=BEARER)
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "server" not in answer.headers
    kept = path.startswith("/static")
    assert answer.headers["cache-control"] == (
        "public, max-age=31536000, immutable" if kept else "no-store"
    )
    assert TOKEN not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/login", {"origin": "http://["}, 400),
        ("POST", "/login", {"origin": "http://[", "host": "["}, 421),
        ("GET", f"/runs/{'9' * 5000}", {}, 303),
        ("POST", "/", SAME, 405),
        ("PUT", "/runs", {}, 405),
        ("GET", "/login/", {}, 303),
        ("GET", "/runs/1/approve/", {}, 303),
        ("GET", "/static/..%2fdoor.py", {}, 303),
        ("POST", "/login", {**SAME, "content-type": "multipart/form-data"}, 401),
        ("GET", "/", {"authorization": "Bearer"}, 401),
        ("GET", "/", {"cookie": "syncer_session=\xff.\xff.\xff"}, 303),
    ],
)
def test_no_stranger_breaks_a_page(
    tmp_path: Path, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    with served(tmp_path) as client:
        sent = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = client.request(method, path, headers=sent)
    assert answer.status_code == status
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


def test_a_page_that_breaks_says_no_more_than_that(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Sessions, value: str) -> bool:
        raise ZeroDivisionError(value)

    monkeypatch.setattr(Sessions, "holds", broken)
    with served(tmp_path) as client:
        answer = client.get("/runs", headers={"cookie": "syncer_session=secret"})
    assert answer.status_code == 500
    assert "an error occurred; the log has the details" in answer.text
    assert "secret" not in answer.text
    assert answer.headers["content-security-policy"] == POLICY
    assert [record.message for record in caplog.records] == ["a page failed"]


def test_a_page_whose_template_breaks_is_a_page_still(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Templates.__call__

    def broken(self: Templates, name: str, data: dict[str, Any]) -> str:
        if name != "error.html":
            raise ZeroDivisionError(name)
        return whole(self, name, data)

    monkeypatch.setattr(Templates, "__call__", broken)
    with served(tmp_path) as client:
        log_in(client)
        answer = client.get("/runs")
    assert answer.status_code == 500
    assert "an error occurred; the log has the details" in answer.text
    assert 'action="/logout"' in answer.text
    assert [record.message for record in caplog.records] == ["a page failed"]


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("127.0.0.1:8401", True),
        ("localhost", True),
        ("LOCALHOST.:1", True),
        ("[::1]:8401", True),
        ("syncer.example.com", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:8401", False),
        ("evil.example@127.0.0.1", True),  # no browser sends it; the host is ours
        ("[::1", False),
        ("", False),
    ],
)
def test_other_host_names_are_refused(client: httpx.Client, host: str, good: bool) -> None:
    for path in ("/", "/login", "/static/style.css", "/nothing"):
        answer = client.get(path, headers={"host": host, **BEARER})
        assert (answer.status_code == 421) is not good
        if not good:
            assert "web.hosts" in answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, 303),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "SELF"}, 403),
        ({"origin": "SELF"}, 303),
        ({"origin": "https://syncer.example.com"}, 303),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({}, 403),
    ],
)
def test_what_changes_something_comes_from_our_own_page(
    client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    log_in(client)
    own = str(client.base_url).rstrip("/")
    data = {"form_token": form_token(client), "which": "all", "newest": "9"}
    sent = {name: value.replace("SELF", own) for name, value in headers.items()}
    assert client.post("/failures/discard", data=data, headers=sent).status_code == status


def test_a_form_needs_the_token_of_its_session(client: httpx.Client) -> None:
    log_in(client)
    mine = form_token(client)
    log_in(client)
    assert form_token(client) != mine
    for token in (mine, "", "x" * 64):
        data = {"form_token": token, "which": "all", "newest": "9"}
        answer = client.post("/failures/discard", data=data, headers=SAME)
        assert answer.status_code == 403
        assert "load the page again" in answer.text
    answer = client.post("/failures/discard", content=b"a" * 70_000, headers=SAME)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/nothing", 404, "there is no page /nothing"),
        ("/runs/7", 404, "there is no run 7"),
        (f"/runs/{'9' * 30}", 404, "there is no run 999"),
        (f"/runs/{'9' * 5000}", 400, "5,000 digits is too long"),
        ("/runs/x", 404, "there is no run &#39;x&#39;"),
        ("/runs/%D9%A7", 404, "there is no run"),
        ("/customer?id=<b>", 404, "the customer &#39;&lt;b&gt;&#39; is unknown"),
        ("/customer", 404, "the customer &#39;&#39; is unknown"),
        ("/customer?id=%00", 400, "id has a NUL character"),
        ("/audience?key=x", 404, "no audience or trait with the key"),
        ("/audience/members?key=x", 404, "no audience or trait with the key"),
        ("/runs?before=x", 400, "before is &#39;x&#39;; it must be a whole number"),
        ("/failures?before=-1", 400, "it must be a whole number"),
        (f"/failures?before={'0' * 20}{'9' * 30}", 400, f"it must be at most {2**63 - 1}"),
        (f"/runs?before={'9' * 5000}", 400, "it must be at most"),
        (f"/runs?before={2**63}", 400, "it must be at most"),
        (f"/runs?before={'0' * 5000}7", 200, "No run yet."),
        ("/customers?before=%E2%80%AE", 200, "No customer"),
    ],
)
def test_what_is_not_there_or_cannot_be_read_says_so(
    client: httpx.Client, path: str, status: int, says: str
) -> None:
    answer = client.get(path, headers=BEARER)
    assert answer.status_code == status
    assert says in answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_an_empty_state_is_told_of(client: httpx.Client) -> None:
    for path, says in {
        "/": "No run yet.",
        "/runs": "No run yet.",
        "/customers": "No customer is like this.",
        "/audiences": "No audience is synced yet.",
        "/failures": "Nothing failed.",
    }.items():
        assert says in client.get(path, headers=BEARER).text


def test_what_cannot_be_done_says_why(client: httpx.Client) -> None:
    for path, data, status, says in (
        ("/runs/7/approve", {}, 404, "there is no run 7"),
        ("/runs/7/reject", {"by": "Ada"}, 404, "there is no run 7"),
        (
            "/failures/retry",
            {"which": "3", "newest": "3"},
            404,
            "failure 3 does not exist",
        ),
        ("/failures/retry", {"which": "3"}, 400, "the form has no newest"),
        ("/failures/retry", {"which": "x", "newest": "3"}, 400, "must be a whole number"),
        ("/customer/send-again", {"id": "x"}, 404, "is unknown"),
    ):
        answer = client.post(path, data=data, headers=BEARER)
        assert (answer.status_code, says in answer.text) == (status, True), answer.text
