"""The receiver's listener, by bytes on sockets: nobody fills it up.

In this process, so that its bounds can be smaller; the app behind it is the real one."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from syncer.process import limits, server
from tests.e2e.listener.helpers import (
    BASIC,
    EVENT,
    Listener,
    answers,
    refusal,
    request,
    serving,
    track,
)
from tests.support.daemon import GOOD, KEY
from tests.support.processes import wait_until

# Time


@pytest.fixture
def hasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """A server that has little time for anything."""
    times = {
        "REQUEST_TIMEOUT": 0.5,
        "WRITE_TIMEOUT": 0.5,
        "IDLE_TIMEOUT": 1.0,
        "LINGER_TIMEOUT": 0.3,
    }
    for name, seconds in times.items():
        monkeypatch.setattr(limits, name, seconds)
    monkeypatch.setattr(limits, "MIN_BODY_RATE", 2000)
    with serving(tmp_path) as listener:
        yield listener


def test_slow_clients_are_told_and_let_go(hasty: Listener) -> None:
    """Who does not get to the end of a request is let go; who sends in time is not."""
    body = track(writeKey=KEY)
    full = request(body, headers=b"")
    head = full[: -len(body)]
    slow = [b"POST /v1/tr", head[:-4], head, full[:-1], full + head[:9]]
    with ExitStack() as open_:
        silent, good, *slow_ones = (
            open_.enter_context(closing(hasty.connect())) for _ in range(len(slow) + 2)
        )
        began = time.monotonic()
        for connection, start in zip(slow_ones, slow, strict=True):
            connection.sendall(start)
        for _ in range(4):
            good.sendall(full[:-9])
            time.sleep(0.2)
            good.sendall(full[-9:])
            assert answers(good, 1) == [(200, GOOD)]
        assert silent.recv(100) == b""
        for connection in slow_ones:
            *_, answer = answers(connection)
            assert refusal(answer) == (408, "too_slow")
        assert time.monotonic() - began < 3
    assert hasty.refused == {"too_slow": len(slow)}


def test_a_large_body_may_take_longer(hasty: Listener) -> None:
    """As long as it comes on."""
    body = orjson.dumps({"batch": [EVENT | {"type": "track"}] * 100})
    full = request(body, path="/v1/batch")
    with closing(hasty.connect()) as connection:
        for start in range(0, len(full), 600):
            connection.sendall(full[start : start + 600])
            time.sleep(0.12)
        assert answers(connection, 1) == [(200, GOOD)]


def test_an_idle_connection_is_closed_whatever_it_sends_between_requests(hasty: Listener) -> None:
    with closing(hasty.connect()) as connection:
        connection.sendall(request(track()))
        assert answers(connection, 1) == [(200, GOOD)]
        began = time.monotonic()

        def closed() -> bool:
            try:
                connection.sendall(b"\r\n")
            except OSError:  # reset or closed, as the moment has it
                return True
            return False

        wait_until(closed, 5, what="its end")
        assert time.monotonic() - began > 0.5


@pytest.mark.parametrize("size", [50_000, 20_000_000])
def test_who_reads_no_answer_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """While the answer is written, and when what is left of it waits in a buffer of ours."""
    monkeypatch.setattr(limits, "WRITE_TIMEOUT", 0.5)
    body = b"x" * size

    async def app(scope: Any, receive: Any, send: Any) -> None:
        head = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    with serving(tmp_path, app=app) as listener, closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(listener.address)
        connection.sendall(request(method="GET"))
        began = time.monotonic()
        wait_until(lambda: not listed(connection), 10, what="the end of its connection")
        assert time.monotonic() - began < 5


def listed(connection: socket.socket) -> bool:
    """Whether the other side of a connection has it still."""
    host, port = connection.getsockname()
    ours = f"{int.from_bytes(socket.inet_aton(host), 'little'):08X}:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2] == ours and row[3] == "01" for row in rows)


def test_answers_in_their_order_before_a_refusal(served: Listener) -> None:
    sent = request(track()) * 20 + b"GARBAGE\r\n\r\n"
    pairs = served.ask(sent)
    assert pairs[: len(pairs) - 1] == [(200, GOOD)] * (len(pairs) - 1)
    assert served.refused["not_http"] == 1
    assert served.ask(request(track()) * 20) == [(200, GOOD)] * 20


def test_requests_far_ahead_of_their_answers_are_not_kept(served: Listener) -> None:
    pairs = served.ask(request(track()) * 2000)
    assert len(pairs) < 2000
    assert {status for status, _ in pairs} <= {200, 503}
    assert served.refused == {"busy": 1}


# Many


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """A server with few places and little room."""
    monkeypatch.setattr(limits, "CONNECTIONS", 40)
    monkeypatch.setattr(limits, "MAX_HELD", 1024 * 1024)
    monkeypatch.setattr(limits, "EVICTABLE_AFTER", 0.1)
    monkeypatch.setattr(limits, "LINGER_TIMEOUT", 0.5)
    with serving(tmp_path) as listener:
        yield listener


@pytest.mark.parametrize(
    "start",
    [b"", request(b""), b"POST /v1/track HTTP/1.1\r\n", request(track())[:-1]],
    ids=["silent", "idle", "in the head", "in the body"],
)
def test_who_keeps_a_place_without_using_it_goes_first(small: Listener, start: bytes) -> None:
    with ExitStack() as open_:
        held = [open_.enter_context(closing(small.connect())) for _ in range(40)]
        for connection in held:
            if start:
                connection.sendall(start)
        time.sleep(0.2)
        for _ in range(20):
            assert small.ask(request(track())) == [(200, GOOD)]
        for connection in held:
            connection.settimeout(0.01)
        ends = [_ended(connection) for connection in held]
    assert 0 < sum(ends) < 40  # not more than had to, and the oldest
    assert ends == sorted(ends, reverse=True)


def _ended(connection: socket.socket) -> bool:
    """Whether it was closed, be it with a word why or after its answer."""
    read = b""
    try:
        while chunk := connection.recv(10_000):
            read += chunk
    except TimeoutError:
        return b"connection: close" in read
    except ConnectionResetError:
        pass
    return True


def test_who_is_in_use_stays_and_one_too_many_is_told(
    small: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EVICTABLE_AFTER", 60.0)
    with ExitStack() as open_:
        full = request(track())
        held = [open_.enter_context(closing(small.connect())) for _ in range(40)]
        for connection in held:
            connection.sendall(full[:-1])
        time.sleep(0.3)
        with closing(small.connect()) as connection:
            (answer,) = answers(connection)
            assert refusal(answer) == (503, "busy")
        for connection in held:
            connection.sendall(full[-1:])
            assert answers(connection, 1) == [(200, GOOD)]


@pytest.mark.parametrize("unknown", [True, False])
def test_bodies_that_never_end_have_little_room(small: Listener, unknown: bool) -> None:
    """The oldest go first, and before a caller with a key does anybody else."""
    stuck = request(b"{" + b" " * 400_000, path="/v1/batch", headers=b"" if unknown else BASIC)
    large = orjson.dumps({"batch": [EVENT | {"type": "track"}] * 2000})
    good = request(large, path="/v1/batch")
    with ExitStack() as open_:
        mine = open_.enter_context(closing(small.connect()))
        mine.sendall(good[:60_000])
        held = [open_.enter_context(closing(small.connect())) for _ in range(20)]
        for connection in held:
            connection.sendall(stuck[:-200_000])
        wait_until(lambda: small.refused["busy"] >= 14, 10, what="the end of some")
        if unknown:
            mine.sendall(good[60_000:])
            assert answers(mine, 1) == [(200, GOOD)]
        assert small.ask(request(large, path="/v1/batch")) == [(200, GOOD)]


def test_no_more_connections_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit, often 1,024, is raised as far as the hard one lets it."""
    rlimits = [(1024, 4096)]

    def set_limit(_: int, pair: tuple[int, int]) -> None:
        rlimits.append(pair)

    monkeypatch.setattr(resource, "getrlimit", lambda _: rlimits[-1])
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    assert server.allowed(500) == 500
    assert rlimits == [(1024, 4096)]
    assert server.allowed(2000) == 2000
    assert rlimits[-1] == (2128, 4096)
    assert server.allowed(9000) == 4096 - limits.OTHER_FILES
    rlimits.append((200, 200))
    assert server.allowed(2000) == 200 - limits.OTHER_FILES


def test_a_stop_answers_what_does_not_come_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """503, so that an SDK sends it again; and no traceback."""
    monkeypatch.setattr(limits, "DRAIN_TIMEOUT", 0.5)
    with ExitStack() as open_:
        with serving(tmp_path) as listener:
            connection = open_.enter_context(closing(listener.connect()))
            connection.sendall(request(track())[:-1])
            time.sleep(0.3)
        (answer,) = answers(connection)
    assert refusal(answer) == (503, "stopping")
    assert not [record for record in caplog.records if record.exc_info]
    assert json.loads(answer[1])["success"] is False
