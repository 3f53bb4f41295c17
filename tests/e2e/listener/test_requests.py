"""The receiver's listener, by bytes on sockets: what it takes.

In this process, so that its bounds can be smaller; the app behind it is the real one."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop

from syncer.passthrough import receiver as module
from syncer.process import limits
from syncer.process.runtime import tune_for_writers
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
from tests.support.daemon import GOOD
from tests.support.processes import wait_until

# Upgrades


H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQ\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        H2C,
        H2C.replace(b"Upgrade, HTTP2-Settings", b"upgrade,keep-alive,http2-settings"),
        H2C.replace(b"connection: Upgrade, HTTP2", b"connection: upgrade\r\nconnection: HTTP2"),
        b"upgrade: TLS/1.0\r\nconnection: upgrade\r\n",
        b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n",
        b"upgrade: h2c\r\n",
    ],
)
@pytest.mark.parametrize("pieces", [1, 7, 10_000])
def test_an_upgrade_is_ignored(served: Listener, headers: bytes, pieces: int) -> None:
    """What `curl --http2` and Java's client offer on plain HTTP; with the call in it."""
    first = request(track(), headers=headers + BASIC)
    chunked = request(headers=headers + BASIC).replace(
        b"content-length: 0", b"transfer-encoding: chunked"
    )
    body = track()
    chunked += b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    sent = first + request(track()) + chunked + request(track())
    size = max(len(sent) // pieces, 1)
    with closing(served.connect()) as connection:
        for start in range(0, len(sent), size):
            connection.sendall(sent[start : start + size])
        assert answers(connection, 4) == [(200, GOOD)] * 4
    assert not served.refused


def test_a_tunnel_is_no_upgrade(served: Listener) -> None:
    (answer,) = served.ask(b"CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n\x16\x03\x01")
    assert refusal(answer) == (400, "not_http")


def test_the_end_of_a_connection_is_kept_beside_an_upgrade(served: Listener) -> None:
    headers = BASIC + b"connection: close, Upgrade\r\nupgrade: h2c\r\n"
    with closing(served.connect()) as connection:
        connection.sendall(request(track(), headers=headers))
        assert answers(connection) == [(200, GOOD)]


# Heads


def test_heads_up_to_a_bound(served: Listener) -> None:
    room = limits.MAX_HEAD - len(request(headers=BASIC)) - 100
    large = b"cookie: " + b"c" * (room - 20) + b"\r\n"
    many = b"".join(b"x-%d: y\r\n" % number for number in range(490))
    for headers in (large, many):
        assert served.ask(request(track(), headers=headers + BASIC)) == [(200, GOOD)]


TOO_LARGE = {
    "a header": b"POST /v1/track HTTP/1.1\r\nhost: x\r\na: " + b"b" * 70_000,
    "headers": b"POST /v1/track HTTP/1.1\r\nhost: x\r\n" + b"abcd: efgh\r\n" * 6000,
    "many headers": b"POST /v1/track HTTP/1.1\r\nhost: x\r\n" + b"a:b\r\n" * 600,
    "the path": b"POST /v1/track?" + b"a" * 70_000,
    "with an end": request(headers=b"a: " + b"b" * 66_000 + b"\r\n"),
    "after another": request(track()) + b"POST / HTTP/1.1\r\na: " + b"b" * 150_000,
    "upgrades": request(headers=H2C + b"a: " + b"b" * 66_000 + b"\r\n"),
    "a name": b"POST /v1/track HTTP/1.1\r\n" + b"a" * 70_000,
}


@pytest.mark.parametrize("head", TOO_LARGE.values(), ids=TOO_LARGE)
@pytest.mark.parametrize("size", [200_000, 1000])
def test_a_head_beyond_it_is_answered_and_no_longer_read(
    served: Listener, head: bytes, size: int
) -> None:
    with closing(served.connect()) as connection:
        for start in range(0, len(head), size):
            connection.sendall(head[start : start + size])
        *good, answer = answers(connection)
        assert refusal(answer) == (431, "headers_too_large")
        assert all(reply == (200, GOOD) for reply in good)
    assert served.refused == {"headers_too_large": 1}


def test_what_follows_a_body_is_no_header(served: Listener) -> None:
    """Trailers are not asked for; who sends too many is let go of."""
    chunked = request(headers=b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    body = track()
    chunks = b"%x;a=b\r\n%s\r\n0\r\n" % (len(body), body)
    trailers = BASIC + b"x-checksum: 1\r\n\r\n"
    assert refusal(served.ask(chunked + chunks + trailers)[0]) == (401, "invalid_write_key")
    endless = chunked + chunks + b"a: b\r\n" * 30_000
    assert refusal(served.ask(endless)[0]) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "text",
    [b"GARBAGE\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"POST\r\n\r\n",
     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"],
)  # fmt: skip
def test_what_is_not_http_is_counted_and_not_logged(
    served: Listener, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        (answer,) = served.ask(text)
    assert refusal(answer) == (400, "not_http")
    assert served.refused == {"not_http": 1}
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


def in_chunks(body: bytes, size: int, said: bytes = b"") -> bytes:
    """A request whose body comes in chunks of so many bytes, each with what is `said` beside it."""
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x%s\r\n%s\r\n" % (len(part), said, part) for part in parts)
    head = request(path="/v1/batch").replace(b"content-length: 0", b"transfer-encoding: chunked")
    return head + chunks + b"0\r\n\r\n"


def test_a_body_in_chunks_is_taken(served: Listener) -> None:
    """Also in many, and beside others."""
    small = orjson.dumps({"batch": [EVENT | {"type": "track"}] * 10})
    sent = in_chunks(small, 1) + in_chunks(small, 10, b";a=b") + request(track())
    assert served.ask(sent) == [(200, GOOD)] * 3
    large = small + b" " * (module.MAX_REQUEST - len(small))
    for size in (128, 1000, 60_000):
        assert served.ask(in_chunks(large, size) * 2) == [(200, GOOD)] * 2
    assert served.refused == {}


@pytest.mark.parametrize(("size", "said"), [(1, b""), (5, b";e=" + b"x" * 3000)])
@pytest.mark.parametrize("piece", [200_000, 1400])
def test_a_body_that_is_dear_for_its_chunks_is_not_read(
    served: Listener, size: int, said: bytes, piece: int
) -> None:
    sent = in_chunks(b"x" * (300_000 if size == 1 else 1000), size, said)
    with closing(served.connect()) as connection:
        for start in range(0, len(sent), piece):
            with suppress(OSError):  # nobody reads it any more
                connection.sendall(sent[start : start + piece])
        (answer,) = answers(connection)
    assert refusal(answer) == (400, "small_chunks")
    assert served.refused == {"small_chunks": 1}


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_an_answer_to_nobody_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, loop: Callable[..., Any]
) -> None:
    """Its connection ends while others behind it wait."""
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection = scope["state"]["connection"]
        while not connection.pipeline:
            await asyncio.sleep(0.01)
        connection.transport.abort()
        while connection.scope is not None:
            await asyncio.sleep(0.01)
        over.set()
        head = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"ok"})

    with serving(tmp_path, loop, app) as listener, closing(listener.connect()) as connection:
        connection.sendall(request(track()) * 3)
        assert over.wait(10)
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_what_a_request_holds_counts_until_the_app_is_done(
    tmp_path: Path, loop: Callable[..., Any]
) -> None:
    """Who goes away and comes again does not get room anew each time."""
    held: list[int] = []
    gone = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection = scope["state"]["connection"]
        pool = connection._pool
        asyncio.current_task().add_done_callback(lambda _: held.append(pool.held))
        while (await receive()).get("more_body"):
            pass
        gone.set()
        while not connection.lost:
            await asyncio.sleep(0.01)
        held.append(pool.held)

    with serving(tmp_path, loop, app) as listener:
        with closing(listener.connect()) as connection:
            connection.sendall(request(b"x" * 30_000))
            assert gone.wait(10)
            reset(connection)
        wait_until(lambda: len(held) == 2, 10, what="the end of the request")
    assert held[0] > 30_000
    assert held[1] == 0


def reset(connection: socket.socket) -> None:
    """Make its end sudden."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_nothing_is_done_for_who_is_gone(served: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies that are dear to read wait for their turn, and not for more than their clients."""
    parse, gate, begun = module.parse, threading.Event(), list[int]()

    def slowly(body: bytes, **more: Any) -> Any:
        begun.append(len(body))
        assert gate.wait(20)
        return parse(body, **more)

    monkeypatch.setattr(module, "parse", slowly)
    large = request(track() + b" " * (module.ON_LOOP + 1), path="/v1/batch")
    with ExitStack() as open_:
        for _ in range(20):
            connection = open_.enter_context(closing(served.connect()))
            connection.sendall(large)
            reset(connection)
        wait_until(lambda: len(begun) == module.THREADS, 10, what="the first of them")
        assert served.ask(request(track())) == [(200, GOOD)]
    assert served.ask(request(track())) == [(200, GOOD)]
    gate.set()
    assert refusal(served.ask(large)[0])[0] == 400
    assert len(begun) == module.THREADS + 1


# Keys before bodies


def test_nothing_is_unzipped_or_parsed_of_whom_nobody_knows(
    served: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that is dear to parse is refused for its bytes alone."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(module, "parse", never)
    monkeypatch.setattr(module, "parse_quickly", never)
    dear = b'{"x":NaN,"v":[' + b"1," * 240_000 + b"1]}"
    for body in (dear, b'{"writeKey":"other","v":' + dear + b"}", b'{"writeKey":"x",' * 2000):
        for zipped in (False, True):
            headers = b"content-encoding: gzip\r\n" if zipped else b""
            sent = gzip.compress(body) if zipped else body
            (answer,) = served.ask(request(sent, path="/v1/batch", headers=headers))
            assert refusal(answer) == (401, "invalid_write_key")


def test_a_webhook_without_a_signature_is_refused_before_it_is_read(served: Listener) -> None:
    with closing(served.connect()) as connection:
        connection.sendall(request(b"x" * 100_000, path="/v1/webhook")[:500])
        (answer,) = answers(connection, 1)
    assert refusal(answer) == (401, "invalid_signature")


def test_a_dear_body_of_a_caller_keeps_no_other_waiting(
    served: Listener, as_in_the_daemon: None
) -> None:
    dear = b'{"batch":[],"x":NaN,"v":[' + b"1," * 240_000 + b"1]}"
    sent = request(dear, path="/v1/batch")

    def send() -> None:
        for _ in range(2):
            assert served.ask(sent) == [(200, GOOD)]

    senders = [threading.Thread(target=send) for _ in range(2)]
    for sender in senders:
        sender.start()
    waits = []
    with closing(served.connect()) as connection:
        while any(sender.is_alive() for sender in senders):
            began = time.perf_counter()
            connection.sendall(request(b"{}", headers=b""))
            assert refusal(answers(connection, 1)[0])[0] == 401
            waits.append(time.perf_counter() - began)
    for sender in senders:
        sender.join()
    assert sorted(waits)[len(waits) // 2] < 0.05, waits


@pytest.fixture
def as_in_the_daemon() -> Iterator[None]:
    before = sys.getswitchinterval()
    tune_for_writers()
    yield
    sys.setswitchinterval(before)
