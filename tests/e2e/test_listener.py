"""The receiver's listener, by bytes on sockets: what it takes, and that nobody fills it up.

In this process, so that its bounds can be smaller; the app behind it is the real one.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import resource
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop

from state.db.database import Database
from syncer.passthrough import receiver as module
from syncer.passthrough.inbox import Inbox
from syncer.passthrough.receiver import Receiver
from syncer.passthrough.scopes import SCOPES, Caller
from syncer.process import limits, server
from syncer.process.runtime import tune_for_writers
from syncer.process.supervisor import Supervisor
from syncer.stop import Stop
from tests.support.daemon import GOOD, KEY
from tests.support.events import SECRET, unique
from tests.support.processes import wait_until

BASIC = f"authorization: Basic {base64.b64encode(f'{KEY}:'.encode()).decode()}\r\n".encode()
EVENT = {"userId": "u1", "event": "Tested"}


@dataclass
class Listener:
    """The receiver's server, with what it refused."""

    address: tuple[str, int]
    refused: Counter[str] = field(default_factory=Counter)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=10)

    def ask(self, request: bytes) -> list[tuple[int, bytes]]:
        """The answers to what is sent on a connection of its own, which the client does not use
        any more then."""
        with closing(self.connect()) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            return answers(connection)


def request(
    body: bytes = b"",
    *,
    path: str = "/v1/track",
    method: str = "POST",
    headers: bytes = BASIC,
    version: str = "1.1",
) -> bytes:
    head = f"{method} {path} HTTP/{version}\r\nhost: x\r\ncontent-length: {len(body)}\r\n".encode()
    return head + headers + b"\r\n" + body


def track(**more: Any) -> bytes:
    return orjson.dumps(EVENT | {"messageId": unique()} | more)


def answers(connection: socket.socket, most: int = 1000) -> list[tuple[int, bytes]]:
    """Status and body of each answer, until the connection ends or so many are there."""
    found: list[tuple[int, bytes]] = []
    with connection.makefile("rb") as stream:
        while len(found) < most and (line := stream.readline()):
            size = 0
            while (header := stream.readline()) not in (b"\r\n", b""):
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    size = int(value)
            found.append((int(line.split(b" ")[1]), stream.read(size)))
    return found


@contextmanager
def serving(
    folder: Path, loop: Callable[..., Any] = asyncio.run, app: Any = None
) -> Iterator[Listener]:
    with closing(Database.open(f"sqlite:///{folder / 'syncer.db'}", "queue")) as database:
        inbox = Inbox(database, 100_000)
        inbox.start(Supervisor())
        receiver = Receiver(inbox, (Caller("key", frozenset(SCOPES), KEY),), SECRET)
        listener = server.bind("127.0.0.1", 0)
        if app is not None:  # little room outside of this process
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        found, over = Listener(listener.getsockname()), Stop()

        def count(code: str) -> None:
            found.refused[code] += 1
            receiver.refused(code)

        def run() -> None:
            serves = app or receiver.app()
            loop(server.serve(serves, listener, over, on_refused=count))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield found
        finally:
            over.set()
            thread.join(20)
            inbox.stop()
            listener.close()
        assert not thread.is_alive()


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Listener]:
    with serving(tmp_path, request.param) as found:
        yield found


def refusal(answer: tuple[int, bytes]) -> tuple[int, str]:
    said = orjson.loads(answer[1])
    assert said.keys() == {"success", "code", "message"}
    return answer[0], said["code"]


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
        assert all(one == (200, GOOD) for one in good)
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

    with serving(tmp_path, loop, app) as found, closing(found.connect()) as connection:
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

    with serving(tmp_path, loop, app) as found:
        with closing(found.connect()) as connection:
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
    with serving(tmp_path) as found:
        yield found


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

    with serving(tmp_path, app=app) as found, closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(found.address)
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
    found = served.ask(sent)
    assert found[: len(found) - 1] == [(200, GOOD)] * (len(found) - 1)
    assert served.refused["not_http"] == 1
    assert served.ask(request(track()) * 20) == [(200, GOOD)] * 20


def test_requests_far_ahead_of_their_answers_are_not_kept(served: Listener) -> None:
    found = served.ask(request(track()) * 2000)
    assert len(found) < 2000
    assert {status for status, _ in found} <= {200, 503}
    assert served.refused == {"busy": 1}


# Many


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """A server with few places and little room."""
    monkeypatch.setattr(limits, "CONNECTIONS", 40)
    monkeypatch.setattr(limits, "MAX_HELD", 1024 * 1024)
    monkeypatch.setattr(limits, "EVICTABLE_AFTER", 0.3)
    with serving(tmp_path) as found:
        yield found


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
        time.sleep(0.6)
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
        with serving(tmp_path) as found:
            connection = open_.enter_context(closing(found.connect()))
            connection.sendall(request(track())[:-1])
            time.sleep(0.3)
        (answer,) = answers(connection)
    assert refusal(answer) == (503, "stopping")
    assert not [record for record in caplog.records if record.exc_info]
    assert json.loads(answer[1])["success"] is False
