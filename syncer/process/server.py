"""Serves HTTP: one server in this process, until told to stop. Nobody can fill it up.

All connections of a server are its crowd. Each waits for a request, sends one, or is answered; how
long and how large each of these may be is bounded, and so is what all of them hold together. Where
the crowd is at a bound, who keeps a place without using it goes first.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import httptools
import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from syncer.errors import ConfigError

#: Connections at a time; files that the process needs beside them.
CONNECTIONS, OTHER_FILES = 2000, 128
#: A request's first line and headers: bytes, and how many headers.
MAX_HEAD, MAX_HEADERS = 64 * 1024, 500
#: What may stand between the parts of a chunked body: bytes, and of so many of the body one more.
#: In chunks of a byte each, a body costs a hundred times what it costs in one piece.
MAX_FRAMING, PER_FRAMING = 16 * 1024, 16
#: Bytes that all requests without an answer may hold; what a header takes beside its own bytes.
ROOM, PER_HEADER = 48 * 1024 * 1024, 200
#: Requests that a connection may send before the first of them is answered.
AHEAD = 32
#: Seconds that a request has from its first byte (the first one from its connection) to its last;
#: a body has a second more for so many bytes.
REQUEST_TIME, SLOWEST = 20.0, 8 * 1024
#: Seconds that an answer may wait for its client to read it.
WRITE_TIME = 20.0
#: Seconds that a connection may wait for its next request.
IDLE = 75.0
#: Seconds after which a request that is still being sent may have to make place for others.
STUCK = 5.0
#: Seconds that a client has to read why it was refused, and bytes that it may send meanwhile.
LINGER, UNHEARD = 2.0, 512 * 1024
#: Seconds that requests under way get to end after a stop.
DRAIN = 10

#: Codes of what is refused here, before an app sees it.
NOT_HTTP, LARGE_HEAD, TOO_SLOW, BUSY = "not_http", "headers_too_large", "too_slow", "busy"
SMALL_CHUNKS = "small_chunks"
_REFUSALS = {
    NOT_HTTP: (400, "this is not HTTP"),
    LARGE_HEAD: (431, f"the headers are larger than {MAX_HEAD // 1024} KB or too many"),
    SMALL_CHUNKS: (400, "the body's chunks are too small or say too much; send larger ones"),
    TOO_SLOW: (408, "the request did not come to its end in time; send it again"),
    BUSY: (503, "too many requests at the same time; send it again later"),
}
#: Bytes that the parser gets at a time.
_PIECE = MAX_HEAD
_OF_UPGRADES = (b"upgrade", b"http2-settings")


class Crowd:
    """The connections of one server, and what they hold; `refused` is told the code of each refusal
    that no app sees."""

    def __init__(self, limit: int, refused: Callable[[str], None]) -> None:
        self.limit, self.refused = limit, refused
        self.members: set[_Protocol] = set()
        #: bytes of requests that are not answered yet
        self.held = 0
        self._making_room = False

    def admit(self, one: _Protocol) -> bool:
        """Whether there is a place for it; others may have to go for that."""
        if len(self.members) >= self.limit:
            self._make_way(one.now())
        if len(self.members) >= self.limit:
            return False
        self.members.add(one)
        return True

    def _make_way(self, now: float) -> None:
        """Close some that do not use their place, the oldest first: several at once, since looking
        for them takes a look at all."""
        idle = [(*one.uselessness(now), number, one) for number, one in enumerate(self.members)]
        idle = sorted(entry for entry in idle if entry[0] < _USEFUL)
        for *_, one in idle[: self.limit // 20 + 1]:
            one.leave()

    def make_room_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make room once the app has seen whose requests have just come."""
        if not self._making_room:
            self._making_room = True
            loop.call_soon(self._make_room)

    def _make_room(self) -> None:
        """Let go of requests that are still being sent, until what is held fits: those of unknown
        callers first, the oldest first."""
        self._making_room = False
        sending = [
            (one.known, one.sending_since, number, one)
            for number, one in enumerate(self.members)
            if one.sending_since is not None and one.held
        ]
        for *_, one in sorted(sending):
            if self.held <= ROOM * 0.9:
                return
            one.refuse(BUSY)

    def look(self, now: float) -> None:
        """Close what took too long; to be called several times a second."""
        for one in list(self.members):
            one.look(now)


#: How little a connection uses its place: refused already, idle, sending for long; or it does.
_GONE, _WAITS, _LINGERS, _USEFUL = range(4)


class _Protocol(HttpToolsProtocol):
    """One connection. uvicorn's own, with bounds."""

    def __init__(self, *arguments: Any, crowd: Crowd, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._crowd = crowd
        #: whether the app knows who sends the request under way
        self.known = False
        #: whether there is nobody left to answer
        self.lost = False
        #: bytes that its requests without an answer hold
        self.held = 0
        #: since when a request, or the first one, is awaited to its end; None between requests
        self.sending_since: float | None = None
        self._idle_since = 0.0
        self._begun = self._in_head = False
        #: bytes since the last that belonged to a body; bytes of the body, and between its parts
        self._overhead = self._body = self._framing = 0
        #: whether the piece in the parser's hands has come further than a head
        self._moved = False
        self._running: Any = None
        #: since when its answers wait to be read, it is refused, it is closed
        self._blocked_since: float | None = None
        self._refused_since: float | None = None
        self._refusal = ""
        self._unheard = 0
        self._closed_since: float | None = None

    def now(self) -> float:
        return self.loop.time()

    # What comes

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.sending_since = self.now()
        if not self._crowd.admit(self):
            self.refuse(BUSY)

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.members.discard(self)
        self.lost = True
        super().connection_lost(exc)
        if not self._answering():
            self._let_go()
        else:
            # It is the newest request that uvicorn tells; this one may come before it.
            self._running.disconnected = True
            self._running.message_event.set()
        # These name this connection: without them it is gone at once, and does not wait for the
        # collector of garbage, which a flood of new ones outruns.
        self._running = None
        self.pipeline.clear()
        self.scope = self.cycle = cast("Any", None)

    def data_received(self, data: bytes) -> None:
        if self._refused_since is not None:
            self._unheard += len(data)
            if self._unheard > UNHEARD:
                self.transport.abort()
            return
        if len(data) <= _PIECE:
            self._feed(data)
            return
        for start in range(0, len(data), _PIECE):
            self._feed(data[start : start + _PIECE])

    def _feed(self, piece: bytes) -> None:
        if self._refused_since is not None or self.transport.is_closing():
            return
        self._moved, size = False, len(piece)
        self._piece = size
        request = self.cycle if self._begun and not self._in_head else None
        body = self._body
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(piece[upgrade.args[0] :])
            return
        except httptools.HttpParserError:  # ours, too: a refusal stops the parser
            self.refuse(NOT_HTTP)
            return
        if self._refused_since is not None:
            return
        if not self._moved:
            self._overhead += size
            self._hold(size)
            if self._overhead > MAX_HEAD:
                self.refuse(LARGE_HEAD)
        elif request is not None and request is self.cycle:  # nothing but this body
            self._framing += size - (self._body - body)
            if self._framing > MAX_FRAMING + self._body // PER_FRAMING:
                self.refuse(SMALL_CHUNKS)

    def on_message_begin(self) -> None:
        if self.sending_since is None:
            self.sending_since = self.now()
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self.known = False
        self._begun = self._in_head = True
        self._overhead = self._body = self._framing = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # after the body: nothing that anybody asks for stands there
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > MAX_HEADERS:
            self._stop_parser(LARGE_HEAD)

    def on_headers_complete(self) -> None:
        if self._refused_since is not None:
            raise _Stopped
        if self.parser.should_upgrade():
            return
        if self._overhead + self._piece > MAX_HEAD:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MAX_HEAD:
                self._stop_parser(LARGE_HEAD)
        if len(self.pipeline) >= AHEAD:
            self._stop_parser(BUSY)
        self._moved, self._in_head = True, False
        self._hold(self._overhead + PER_HEADER * len(self.headers))
        self._overhead = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._moved, self._overhead = True, 0
        self._body += len(body)
        if not self.cycle.response_complete:
            self._hold(len(body))
            if self._refused_since is not None:
                raise _Stopped
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._moved, self.sending_since, self._begun = True, None, False
        self._idle_since = self.now()
        super().on_message_complete()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Who has no more to send may still want its answers."""
        if self._answering() and self.sending_since is None:
            self.cycle.keep_alive = False
            return True
        return False

    def _answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Go on with HTTP/1.1, as a server may (RFC 9110, 7.8): read the request once more as if
        nothing else had been offered. (The parser takes what follows for another protocol's.)"""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.refuse(NOT_HTTP)
            return
        head = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                kept = [token for token in tokens if token.lower() not in _OF_UPGRADES]
                value = b", ".join(kept)
            if name not in _OF_UPGRADES and (value or name != b"connection"):
                head.append(b"%s: %s" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._feed(b"\r\n".join([*head, b"\r\n"]))
        self.data_received(rest)

    # What goes

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, partial(self._work, app))

    async def _work(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        """Let the app answer. What the request holds, it holds until the app is done with it, also
        where its connection is gone."""
        try:
            await app(scope, receive, send)
        finally:
            if self.lost:
                self._let_go()

    def on_response_complete(self) -> None:
        # As uvicorn does, without a timer for each request: `look` closes what idles.
        self._let_go()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._idle_since = self.now()
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refused_since is not None:
            self._end()

    def pause_writing(self) -> None:
        self._blocked_since = self.now()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._blocked_since = None
        super().resume_writing()

    def refuse(self, code: str) -> None:
        """Answer a request that is still being sent, after those before it, and close."""
        if self._refused_since is not None or self.transport.is_closing():
            return
        self._crowd.refused(code)
        in_body = self._begun and not self._in_head
        self._refused_since, self.sending_since = self.now(), None
        if in_body and self.pipeline:
            self.pipeline.popleft()  # the newest, which will not be there whole
        elif in_body and self._answering() and not self._running.response_started:
            self._running.disconnected = True
            self._running.message_event.set()
            self._running = None
        elif in_body:
            code = ""  # it has its answer already
        self._refusal = code
        if not self._answering():
            self._end()

    def _end(self) -> None:
        """Say why it was refused, and that nothing more comes; what its client still sends is read
        for a moment, or the answer might not reach it."""
        self._let_go()
        self._refused_since = self.now()
        if self._refusal:
            self.transport.write(_refusal(self._refusal))
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _stop_parser(self, code: str) -> None:
        self.refuse(code)
        raise _Stopped

    # Bounds

    def charge(self, size: int) -> bool:
        """The app is to hold so many bytes more until it answers; gives whether there is room."""
        self._hold(size)
        return self._crowd.held <= ROOM

    def _hold(self, size: int) -> None:
        self.held += size
        self._crowd.held += size
        if self._crowd.held > ROOM:
            self._crowd.make_room_soon(self.loop)

    def _let_go(self) -> None:
        self._crowd.held -= self.held
        self.held = 0

    def uselessness(self, now: float) -> tuple[int, float]:
        """How little it uses its place (the less, the smaller), and since when."""
        if self._refused_since is not None:
            return _GONE, self._refused_since
        since = self.sending_since
        if since is not None:
            if not self._begun:
                return _WAITS, since
            return (_LINGERS if now - since > STUCK else _USEFUL), since
        return (_USEFUL if self._answering() else _WAITS), self._idle_since

    def leave(self) -> None:
        """Make place, at once."""
        self._crowd.members.discard(self)
        if self.sending_since is not None and self._begun:
            self.refuse(BUSY)
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def look(self, now: float) -> None:
        """Close it where something took too long."""
        since = self.sending_since
        if self.transport.is_closing():
            # Its last answer is written as far as its client reads.
            self._closed_since = self._closed_since or now
            if now - self._closed_since > WRITE_TIME:
                self.transport.abort()
        elif self._blocked_since is not None and now - self._blocked_since > WRITE_TIME:
            self.transport.abort()
        elif self._answering() and since is None:
            pass
        elif self._refused_since is not None:
            if now - self._refused_since > LINGER:
                self.transport.close()
        elif since is not None:
            if now - since > REQUEST_TIME + self._body / SLOWEST:
                if self._begun:
                    self.refuse(TOO_SLOW)
                else:
                    self.transport.close()
        elif now - self._idle_since > IDLE:
            self.transport.close()
        elif now - self._idle_since > WRITE_TIME and self.transport.get_write_buffer_size():
            self.transport.abort()


class _Stopped(Exception):
    """Raised in a parser's callback: nothing more of this connection is read."""


def _refusal(code: str) -> bytes:
    status, message = _REFUSALS[code]
    body = orjson.dumps({"success": False, "code": code, "message": message})
    come_back = b"retry-after: 5\r\n" if status == 503 else b""
    return b"%scontent-type: application/json\r\ncontent-length: %d\r\n%s%s%s" % (
        STATUS_LINE[status],
        len(body),
        come_back,
        b"access-control-allow-origin: *\r\nconnection: close\r\n\r\n",
        body,
    )


def bind(host: str, port: int, setting: str = "passthrough.listen") -> socket.socket:
    """The listening socket; `ConfigError` where the address of the setting is not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or the event loop leaves Nagle's algorithm on and every answer waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{setting}: cannot listen on {host}:{port}: {error.strerror}; free it or name another"
        ) from None
    return listener


def allowed(connections: int) -> int:
    """How many of so many connections this process has files for; it takes what it may get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(min(connections, soft - OTHER_FILES), 1)


async def serve(
    app: Any,
    listener: socket.socket,
    stop: Callable[[], bool],
    *,
    connections: int | None = None,
    refused: Callable[[str], None] = lambda code: None,
) -> None:
    """Serve until `stop` says so, then let requests under way end. `refused` is told the code of
    each request that is refused before the app sees it."""
    crowd = Crowd(allowed(connections or CONNECTIONS), refused)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=cast("type[asyncio.Protocol]", partial(_Protocol, crowd=crowd)),
            interface="asgi3",
            ws="none",
            lifespan="off",
            proxy_headers=False,
            access_log=False,
            log_config=None,
            log_level="error",
            server_header=False,
            timeout_graceful_shutdown=DRAIN,
        )
    )
    loop = asyncio.get_running_loop()
    # It takes SIGINT and SIGTERM itself while it serves, and raises them again for us at its end.
    serving = asyncio.create_task(server.serve([listener]))
    while not serving.done():
        server.should_exit = server.should_exit or stop()
        crowd.look(loop.time())
        await asyncio.wait([serving], timeout=0.1)
    serving.result()
