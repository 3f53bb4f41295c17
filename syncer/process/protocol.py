"""One HTTP/1.1 connection: uvicorn's protocol with limits.

It waits for a request, receives one, or is answering. Each of these has limits of time and size.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from syncer.process import limits
from syncer.process.pool import Pool, Use

#: The bytes that the parser gets at a time.
_PIECE = limits.MAX_HEAD
#: Headers that only offer another protocol.
_UPGRADE_HEADERS = (b"upgrade", b"http2-settings")


class LimitedProtocol(HttpToolsProtocol):
    """A connection in a pool."""

    def __init__(self, *arguments: Any, pool: Pool, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._pool = pool
        #: whether the app knows who sends the request under way
        self.known = False
        #: whether the client has closed it
        self.lost = False
        #: the bytes that its unanswered requests hold
        self.held = 0
        #: since when a request is being received (the first: since the connection), else None
        self.receiving_since: float | None = None
        self._idle_since = 0.0
        self._begun = self._in_head = False
        #: bytes since the last one of a body; bytes of the body, and of its framing
        self._overhead = self._body = self._framing = 0
        #: whether the piece in the parser went beyond a head
        self._progressed = False
        self._running: Any = None
        #: since when its responses wait to be read, it is refused, it is being closed
        self._blocked_since: float | None = None
        self._refused_since: float | None = None
        self._refusal = ""
        self._unread = 0
        self._closed_since: float | None = None

    def now(self) -> float:
        return self.loop.time()

    # Receiving

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.receiving_since = self.now()
        if not self._pool.admit(self):
            self.refuse(limits.BUSY)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.members.discard(self)
        self.lost = True
        super().connection_lost(exc)
        if not self._answering():
            self._let_go()
        else:
            # uvicorn notifies the newest request only; this one may be an earlier one.
            self._running.disconnected = True
            self._running.message_event.set()
        # Without these references to itself it is freed at once. The garbage collector would be too
        # late: a flood of new connections outruns it.
        self._running = None
        self.pipeline.clear()
        self.scope = self.cycle = cast("Any", None)

    def data_received(self, data: bytes) -> None:
        if self._refused_since is not None:
            self._unread += len(data)
            if self._unread > limits.MAX_UNREAD:
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
        self._progressed, size = False, len(piece)
        self._piece = size
        request = self.cycle if self._begun and not self._in_head else None
        body = self._body
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(piece[upgrade.args[0] :])
            return
        except httptools.HttpParserError:  # also from our own callbacks: a refusal stops the parser
            self.refuse(limits.NOT_HTTP)
            return
        if self._refused_since is not None:
            return
        if not self._progressed:
            self._overhead += size
            self._hold(size)
            if self._overhead > limits.MAX_HEAD:
                self.refuse(limits.LARGE_HEAD)
        elif request is not None and request is self.cycle:  # the piece has only this body
            self._framing += size - (self._body - body)
            if self._framing > limits.MAX_FRAMING + self._body // limits.BODY_PER_FRAMING:
                self.refuse(limits.SMALL_CHUNKS)

    def on_message_begin(self) -> None:
        if self.receiving_since is None:
            self.receiving_since = self.now()
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self.known = False
        self._begun = self._in_head = True
        self._overhead = self._body = self._framing = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: nothing needs it
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > limits.MAX_HEADERS:
            self._stop_parser(limits.LARGE_HEAD)

    def on_headers_complete(self) -> None:
        if self._refused_since is not None:
            raise _Stopped
        if self.parser.should_upgrade():
            return
        if self._overhead + self._piece > limits.MAX_HEAD:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > limits.MAX_HEAD:
                self._stop_parser(limits.LARGE_HEAD)
        if len(self.pipeline) >= limits.MAX_PIPELINED:
            self._stop_parser(limits.BUSY)
        self._progressed, self._in_head = True, False
        self._hold(self._overhead + limits.HEADER_OVERHEAD * len(self.headers))
        self._overhead = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._progressed, self._overhead = True, 0
        self._body += len(body)
        if not self.cycle.response_complete:
            self._hold(len(body))
            if self._refused_since is not None:
                raise _Stopped
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._progressed, self.receiving_since, self._begun = True, None, False
        self._idle_since = self.now()
        super().on_message_complete()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open for writing while the client waits for answers."""
        if self._answering() and self.receiving_since is None:
            self.cycle.keep_alive = False
            return True
        return False

    def _answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Continue with HTTP/1.1, as RFC 9110, 7.8 allows.

        The parser takes the rest for another protocol, so the request is parsed again without the
        headers that offer one.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.refuse(limits.NOT_HTTP)
            return
        head = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                kept = [token for token in tokens if token.lower() not in _UPGRADE_HEADERS]
                value = b", ".join(kept)
            if name not in _UPGRADE_HEADERS and (value or name != b"connection"):
                head.append(b"%s: %s" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._feed(b"\r\n".join([*head, b"\r\n"]))
        self.data_received(rest)

    # Answering

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, partial(self._work, app))

    async def _work(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        """Let the app answer.

        The request holds its memory until the app has ended, even if the connection is lost.
        """
        try:
            await app(scope, receive, send)
        finally:
            if self.lost:
                self._let_go()

    def on_response_complete(self) -> None:
        # As uvicorn does, but without a timer per request: `enforce_timeouts` closes idle ones.
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
        """Refuse the request that is being received, after answering those before it, and close."""
        if self._refused_since is not None or self.transport.is_closing():
            return
        self._pool.on_refused(code)
        in_body = self._begun and not self._in_head
        self._refused_since, self.receiving_since = self.now(), None
        if in_body and self.pipeline:
            self.pipeline.popleft()  # the newest, which is incomplete
        elif in_body and self._answering() and not self._running.response_started:
            self._running.disconnected = True
            self._running.message_event.set()
            self._running = None
        elif in_body:
            code = ""  # it is answered already
        self._refusal = code
        if not self._answering():
            self._end()

    def _end(self) -> None:
        """Write the refusal and close our side.

        What the client still sends is read for a moment: else the refusal might not reach it.
        """
        self._let_go()
        self._refused_since = self.now()
        if self._refusal:
            self.transport.write(_refusal(self._refusal))
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _stop_parser(self, code: str) -> None:
        self.refuse(code)
        raise _Stopped

    # Limits

    def charge(self, size: int) -> bool:
        """Count memory that the app holds until it answers; return whether there is room."""
        return self._hold(size)

    def _hold(self, size: int) -> bool:
        self.held += size
        return self._pool.hold(size, self.loop)

    def _let_go(self) -> None:
        self._pool.held -= self.held
        self.held = 0

    def use(self, now: float) -> tuple[Use, float]:
        """Return how it uses its place, and since when."""
        if self._refused_since is not None:
            return Use.REFUSED, self._refused_since
        since = self.receiving_since
        if since is not None:
            if not self._begun:
                return Use.IDLE, since
            return (
                Use.SENDING_SLOWLY if now - since > limits.EVICTABLE_AFTER else Use.ACTIVE
            ), since
        return (Use.ACTIVE if self._answering() else Use.IDLE), self._idle_since

    def evict(self) -> None:
        """Give up its place at once."""
        self._pool.members.discard(self)
        if self.receiving_since is not None and self._begun:
            self.refuse(limits.BUSY)
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def enforce_timeouts(self, now: float) -> None:
        """Close it if something took too long."""
        since = self.receiving_since
        if self._writes_too_slowly(now):
            self.transport.abort()
        elif self.transport.is_closing() or (self._answering() and since is None):
            pass
        elif self._refused_since is not None:
            if now - self._refused_since > limits.LINGER_TIMEOUT:
                self.transport.close()
        elif since is not None:
            if now - since > limits.REQUEST_TIMEOUT + self._body / limits.MIN_BODY_RATE:
                if self._begun:
                    self.refuse(limits.TOO_SLOW)
                else:
                    self.transport.close()
        elif now - self._idle_since > limits.IDLE_TIMEOUT:
            self.transport.close()

    def _writes_too_slowly(self, now: float) -> bool:
        """Whether the client does not read what was written for it."""
        if self.transport.is_closing():
            self._closed_since = self._closed_since or now
            since = self._closed_since
        elif self._blocked_since is not None:
            since = self._blocked_since
        elif self.use(now)[0] is Use.IDLE and self.transport.get_write_buffer_size():
            since = self._idle_since
        else:
            return False
        return now - since > limits.WRITE_TIMEOUT


class _Stopped(Exception):
    """Raised in a callback of the parser to stop it: nothing more of this connection is read."""


def _refusal(code: str) -> bytes:
    status, message = limits.REFUSALS[code]
    body = orjson.dumps({"success": False, "code": code, "message": message})
    come_back = b"retry-after: 5\r\n" if status == 503 else b""
    return b"%scontent-type: application/json\r\ncontent-length: %d\r\n%s%s%s" % (
        STATUS_LINE[status],
        len(body),
        come_back,
        b"access-control-allow-origin: *\r\nconnection: close\r\n\r\n",
        body,
    )
