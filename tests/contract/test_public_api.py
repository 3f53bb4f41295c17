"""The client of the Public API against the strict stand-in, over real HTTP."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import orjson
import pytest

from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Computation
from syncer.engage.public_api import PATIENCE, TRIES, PublicApi
from syncer.errors import SourceError, Stopped
from syncer.retry import full_jitter
from syncer.sandbox.faults import Faults
from syncer.sandbox.public_api import Listed, PublicApiSandbox, running

TOKEN, SPACE = "sgp_token", "9aQ1Lj62S4bomZKLF4DPqW"


@dataclass
class Time:
    """A clock that goes on by what is slept."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.5, "a longer one would not look whether to stop"
        self.now += seconds
        self.slept.append(seconds)

    @property
    def waited(self) -> float:
        return sum(self.slept)


@pytest.fixture
def sandbox() -> PublicApiSandbox:
    return PublicApiSandbox(TOKEN, SPACE, per_minute={})


@pytest.fixture
def url(sandbox: PublicApiSandbox) -> Iterator[str]:
    with running(sandbox) as url:
        yield url


@pytest.fixture
def time() -> Time:
    return Time()


def client(url: str, time: Time, **more: Any) -> PublicApi:
    settings: dict[str, Any] = {"token": TOKEN, "space_id": SPACE, "chance": lambda: 0.5, **more}
    return PublicApi(url=url, clock=time, sleep=time.sleep, **settings)


def failed(url: str, time: Time, **more: Any) -> str:
    """The one line of what goes wrong."""
    with pytest.raises(SourceError) as error:
        client(url, time, **more).computations()
    assert "\n" not in str(error.value)
    assert TOKEN not in str(error.value)
    return str(error.value)


def test_all_audiences_and_computed_traits_of_users(
    sandbox: PublicApiSandbox, url: str, time: Time
) -> None:
    sandbox.listed = [
        Listed("vip", "Very important", size=12),
        Listed("new", status="Backfilling", size=0),
        Listed("off", status="Disabled", enabled=False),
        Listed("bare", status=None),
        Listed("teams", of="ACCOUNTS", size=3),
        Listed("linked", of="LINKED", size=3),
        Listed("spent", "Spent", "computed_trait", status="Computing"),
        Listed("team_spent", kind="computed_trait", of="ACCOUNTS"),
    ]
    assert client(url, time).computations() == [
        Computation("vip", "Very important", AUDIENCE, "Live", True, 12),
        Computation("new", "new", AUDIENCE, "Backfilling", True, 0),
        Computation("off", "off", AUDIENCE, "Disabled", False, None),
        Computation("bare", "bare", AUDIENCE, None, True, None),
        Computation("spent", "Spent", COMPUTED_TRAIT, "Computing", True, None),
    ]
    assert sandbox.stats() == {
        "requests": {"audiences": 1, "computed-traits": 1},
        "answers": {200: 2},
        "faults": {},
    }
    assert time.slept == []


def test_an_empty_space(url: str, time: Time) -> None:
    assert client(url, time).computations() == []


@pytest.mark.parametrize(("count", "pages"), [(199, 1), (200, 1), (201, 2), (401, 3)])
def test_every_page_is_read(
    sandbox: PublicApiSandbox, url: str, time: Time, count: int, pages: int
) -> None:
    keys = [f"a{n:04d}" for n in range(count)]
    traits = [f"t{n:04d}" for n in range(count)]
    sandbox.listed = [Listed(key) for key in keys]
    sandbox.listed += [Listed(key, kind="computed_trait") for key in traits]
    assert [computation.key for computation in client(url, time).computations()] == keys + traits
    assert sandbox.stats()["requests"] == {"audiences": pages, "computed-traits": pages}
    assert all(query["pagination.count"] == "200" for _, query in sandbox.requests)


def test_a_space_id_is_escaped(time: Time) -> None:
    """It is the user's, and part of a path."""
    with running(PublicApiSandbox(TOKEN, "a/b?c", per_minute={}, listed=[Listed("vip")])) as url:
        assert len(client(url, time, space_id="a/b?c").computations()) == 1


# Trouble that passes


def test_too_many_requests_wait_as_long_as_they_are_told(time: Time) -> None:
    now = [0.0]
    sandbox = PublicApiSandbox(
        TOKEN,
        SPACE,
        listed=[Listed(f"a{n}") for n in range(401)],
        per_minute={"audiences": 2, "computed-traits": 25},
        clock=lambda: now[0],
    )
    now[0] = 7.0

    def sleep(seconds: float) -> None:
        now[0] += seconds
        time.sleep(seconds)

    with running(sandbox) as url:
        computations = PublicApi(
            TOKEN, SPACE, url=url, clock=time, sleep=sleep, chance=lambda: 0.5
        ).computations()
    assert len(computations) == 401
    assert sandbox.stats()["answers"] == {200: 4, 429: 1}
    assert time.waited == 60


@pytest.mark.parametrize("fault", ["500", "503", "drop_before", "drop_after"])
def test_trouble_is_tried_again_with_jitter(
    sandbox: PublicApiSandbox, url: str, time: Time, fault: str
) -> None:
    """Each wait is half of its bound, which doubles."""
    sandbox.faults = Faults({fault: 1.0})
    line = failed(url, time)
    assert line.startswith(f"the Public API: GET {url}/spaces/{SPACE}/audiences: ")
    assert line.endswith(f", after {TRIES} tries")
    assert sandbox.stats()["requests"] == {"audiences": TRIES}
    assert time.waited == pytest.approx(sum(full_jitter(tries, 0.5) for tries in range(1, TRIES)))


@pytest.mark.parametrize("seed", range(4))
def test_with_trouble_now_and_then_the_lists_are_whole(
    sandbox: PublicApiSandbox, url: str, time: Time, seed: int
) -> None:
    sandbox.listed = [Listed(f"a{n}") for n in range(2001)]
    sandbox.faults = Faults.parse("429=0.1,500=0.1,503=0.1,drop=0.1", seed=seed)
    computations = client(url, time).computations()
    assert [computation.key for computation in computations] == [f"a{n}" for n in range(2001)]
    assert sandbox.stats()["faults"]
    assert 0 < time.waited <= PATIENCE


@pytest.mark.parametrize("after", [PATIENCE + 1, 500])
def test_a_wait_that_is_too_long_is_not_begun(
    sandbox: PublicApiSandbox, url: str, time: Time, after: int
) -> None:
    sandbox.faults = Faults({"429": 1.0}, retry_after=int(after))
    line = failed(url, time)
    assert f": status 429; it wants another {after:.0f} s, and 180 s in all are " in line
    assert time.slept == []


def test_all_waits_together_are_bounded(sandbox: PublicApiSandbox, url: str, time: Time) -> None:
    """Also where it never says how long, or says at once."""
    for after in (0, 50):
        before = time.now
        sandbox.faults = Faults({"429": 1.0}, retry_after=after)
        assert "status 429" in failed(url, time)
        assert time.now - before <= PATIENCE
        assert time.now - before > PATIENCE / 2


def test_nobody_there(time: Time) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        line = failed(f"http://127.0.0.1:{held.getsockname()[1]}", time)
    assert line.endswith(f", after {TRIES} tries")
    assert failed("http://127.0.0.1:99999", time).startswith("the Public API: GET ")


def test_no_answer_in_time(time: Time) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        line = failed(f"http://127.0.0.1:{silent.getsockname()[1]}", time, timeout=0.05)
    assert line.endswith(f"timed out, after {TRIES} tries")


def test_a_stop_is_seen_while_it_waits(sandbox: PublicApiSandbox, url: str, time: Time) -> None:
    sandbox.faults = Faults({"429": 1.0}, retry_after=100)
    with pytest.raises(Stopped):
        client(url, time, stop=lambda: time.now > 1002).computations()
    assert time.waited <= 3
    assert sandbox.stats()["requests"] == {"audiences": 1}


# Trouble that does not


def test_a_wrong_token(sandbox: PublicApiSandbox, url: str, time: Time) -> None:
    line = failed(url, time, token="wrong")
    assert line.startswith("the Public API refuses the token (status 401): set engage.public_api.t")
    assert sandbox.stats()["answers"] == {401: 1}


def test_a_wrong_space(url: str, time: Time) -> None:
    line = failed(url, time, space_id="other")
    said = "the Public API has no audiences of a space 'other' (status 404): set engage.public_api"
    assert line.startswith(said)
    assert "engage.public_api.url" in line


Answers = Callable[[str], tuple[int, bytes]]


@contextmanager
def answering(answers: Answers) -> Iterator[str]:
    """A server that says what no good one does; `answers` gets the path with its query."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, b'{"errors": []}', f"does not let the token read the space '{SPACE}' (status 403)"),
        (422, b'{"errors": [{"message": "bad count"}]}', "answered 422: bad count"),
        (400, b"<p>\n no </p>", "answered 400: <p> no </p>"),
        (302, b"", "answered 302: no reason given"),
        (204, b"", "answered 204: no reason given"),
        (422, b'{"errors": {"message": 5}}', "answered 422: "),
    ],
)
def test_other_refusals_are_told_at_once(time: Time, status: int, body: bytes, said: str) -> None:
    with answering(lambda _: (status, body)) as url:
        assert said in failed(url, time)
    assert time.slept == []


def page(*items: Any, name: str = "audiences", **pagination: Any) -> bytes:
    return orjson.dumps({"data": {name: items, "pagination": pagination}})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"[]",
        b"{}",
        b'{"data": []}',
        b'{"data": {"audiences": [], "pagination": null}}',
        b'{"data": {"audiences": []}}',
        b'{"data": {"audiences": {}, "pagination": {}}}',
        page(name="computedTraits"),
        page(5),
        page({"key": "vip"}),
        page(next=5),
    ],
)
def test_an_answer_that_cannot_be_read(time: Time, body: bytes) -> None:
    """Half a list must not look as though the other half had been deleted."""
    with answering(lambda _: (200, body)) as url:
        assert failed(url, time).startswith("the Public API sent an answer that cannot be read: ")
    assert time.slept == []


def test_pages_that_go_in_a_circle(time: Time) -> None:
    with answering(lambda _: (200, page(next="MA=="))) as url:
        assert failed(url, time).endswith("audiences: the page after 'MA==' does not come")


def test_a_last_page_may_say_null(time: Time) -> None:
    def answers(path: str) -> tuple[int, bytes]:
        name = "audiences" if "/audiences" in path else "computedTraits"
        return 200, page(name=name, current="MA==", next=None, previous=None)

    with answering(answers) as url:
        assert client(url, time).computations() == []
