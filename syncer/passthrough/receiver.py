"""The receiver: Segment's HTTP paths, answered once a request is durable
(docs/facts/segment.md §4).

It looks at a request only as far as its answer needs: may the caller send, can the body be read,
is it within the limits. Which calls are in it is found out later, from the same bytes.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from state.errors import StateError
from state.queue import Accepted
from syncer.passthrough import scopes
from syncer.passthrough.call import (
    BATCH,
    MAX_EVENTS,
    MAX_WEBHOOK_EVENTS,
    ROUTES,
    SINGLE,
    TOO_LARGE,
    TYPES,
    WEBHOOK_TYPES,
    Call,
    Rejected,
    split,
)
from syncer.passthrough.inbox import Full, Inbox
from syncer.passthrough.parsing import BadRequest, SlowToRead, parse, parse_quickly
from syncer.passthrough.scopes import SIGNED, WEBHOOK, Caller
from syncer.passthrough.signature import Signed, verify

T = TypeVar("T")

log = logging.getLogger("syncer.receiver")

#: Segment's limit for a request; an event's own is in call.py. A signed webhook's batch of a caller
#: with a key may be as large as Segment makes it.
MAX_REQUEST = 500 * 1024
MAX_SINGLE = 32 * 1024
MAX_WEBHOOK = 8 * 1024 * 1024
#: Bodies that are larger are unzipped, checked and read beside the event loop, so many at a time:
#: each could take it more than 5 ms.
ON_LOOP, ASIDE = 64 * 1024, 2
#: Keys that are none of ours which a body may name before one that is.
OTHER_KEYS = 256
#: Members that a gzip body may have; bytes that are unzipped at a time.
MAX_MEMBERS, UNZIPPED = 64, 1024 * 1024
#: The SDKs send figures about themselves there: taken and dropped.
METRICS = "m"
#: What a caller is told to wait when it has to come back.
COME_BACK = {"retry-after": "30"}

_WRITE_KEY = b'"writeKey"'
_TEXT_VALUE = re.compile(rb'\s*:\s*("(?:[^"\\]|\\.)*+")')
_CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-headers": "Authorization, Content-Type, X-Retry-Count",
    "access-control-allow-methods": "POST, GET, OPTIONS",
    "access-control-expose-headers": "Retry-After",
    "access-control-max-age": "86400",
    "vary": "Access-Control-Request-Headers",
}
#: Header names as a browser lists them before it sends them.
_HEADER_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?: *, *[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
_ALLOW = {"access-control-allow-origin": "*", "access-control-expose-headers": "Retry-After"}
#: One answer for all: it holds nothing of its request.
_ACCEPTED = Response(b'{"success": true}', media_type="application/json", headers=_ALLOW)


class Refusal(Exception):
    """A request that is refused: status, code, message and further headers of the answer."""

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}


class Request:
    """What the receiver asks of a request."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.method: str = scope["method"]
        #: the path's parts; it may have further slashes at its end and between them
        self.path = [part for part in scope["path"].split("/") if part]
        self._scope, self._receive = scope, receive
        #: the server's own, where it serves: see server.py
        self._connection = scope.get("state", {}).get("connection")

    def header(self, name: bytes) -> bytes:
        """A header's value, the first one; b"" when it is not there."""
        for found, value in self._scope["headers"]:
            if found == name:
                return bytes(value)
        return b""

    def query(self, name: str) -> str | None:
        """A parameter of the query; the last one wins."""
        found = parse_qsl(self._scope["query_string"].decode("latin-1"), keep_blank_values=True)
        return dict(found).get(name)

    def is_known(self) -> None:
        """Its caller has a key: when there is no room for all, others go first."""
        if self._connection is not None:
            self._connection.known = True

    def is_wanted(self) -> None:
        """Somebody still waits for its answer, or `ClientDisconnect`."""
        if self._connection is not None and self._connection.lost:
            raise ClientDisconnect

    def holds(self, size: int) -> None:
        """It holds so many bytes more than it sent, until it is answered."""
        if size > 0 and self._connection is not None and not self._connection.charge(size):
            busy = "too many requests at the same time; send it again later"
            raise Refusal(503, "busy", busy, COME_BACK)

    async def body(self, limit: int) -> bytes:
        """The body as it came. (The server bounds its time.)"""
        chunks, size = [], 0
        if self.header(b"content-length").isdigit():
            self._check_size(int(self.header(b"content-length")), limit)
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            self._check_size(size, limit)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def drop_body(self, limit: int) -> None:
        """Let the body pass by."""
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
            self._check_size(size, limit)

    def _check_size(self, size: int, limit: int) -> None:
        if size > limit:
            raise _too_large(limit)


@dataclass
class Receiver:
    """The ASGI app. `callers` are those that may send, by their keys; none refuses all of them.
    Without a `webhook_secret` there is no route for webhooks. `public_url` is where callers reach
    it, for those that ask."""

    inbox: Inbox
    callers: tuple[Caller, ...]
    webhook_secret: str | None
    public_url: str | None = None
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self._accepted = Counter(
            "syncer_calls_received", "Calls taken in and durable", registry=self.registry
        )
        self._refused = Counter(
            "syncer_requests_refused", "Requests refused", ["code"], registry=self.registry
        )
        self._latency = Histogram(
            "syncer_request_seconds",
            "From the first byte of a request to its answer",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 20),
            registry=self.registry,
        )
        self._aside, self._turns = ThreadPoolExecutor(ASIDE, "receiver"), asyncio.Semaphore(ASIDE)

    def app(self) -> ASGIApp:
        """The app to serve."""
        return self._serve

    def refused(self, code: str) -> None:
        """Count a request that is refused, by its code; the server has some of its own."""
        self._refused.labels(code).inc()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(Request(scope, receive))
        except Refusal as refusal:
            self.refused(refusal.code)
            response = _refused(refusal)
        except ClientDisconnect:
            self.refused("disconnected")
            return
        except asyncio.CancelledError:  # the time that a stop gives is over
            ends = Refusal(503, "stopping", "the receiver stops; send it again later", COME_BACK)
            self.refused(ends.code)
            response = _refused(ends)
        except Exception:
            log.exception("a request could not be answered")
            failed = Refusal(500, "internal", "the receiver failed; send it again later")
            self.refused(failed.code)
            response = _refused(failed)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        match request.path:
            case ["v1", route] if self._is_route(route):
                if request.method == "OPTIONS":
                    return _preflight(request)
                _check_method(request, "POST")
                started = time.perf_counter()
                try:
                    await self._take(route, request)
                finally:
                    self._latency.observe(time.perf_counter() - started)
                return _ACCEPTED
            case ["v1", "projects", key, "settings"]:
                if request.method == "OPTIONS":
                    return _preflight(request)
                _check_method(request, "GET", "HEAD")
                return self._settings(key)
        raise Refusal(404, "unknown_path", "there is no such path; Segment's begin with /v1/")

    def _is_route(self, route: str) -> bool:
        if route == WEBHOOK:
            return self.webhook_secret is not None
        return route in ROUTES or route == METRICS

    async def _take(self, route: str, request: Request) -> None:
        """Check a request and bring it in, or raise `Refusal`."""
        if route == METRICS:  # of the SDKs themselves
            await request.drop_body(MAX_REQUEST)
            return
        zipped = _zipped(request)
        caller = self._caller(route, request)
        if caller is not None:
            request.is_known()
        signature = request.header(b"x-signature").decode("latin-1")
        limit = MAX_SINGLE if route in SINGLE else MAX_REQUEST
        if route == WEBHOOK:
            if not signature:
                raise _unsigned()
            if caller is not None:
                limit = MAX_WEBHOOK
        raw = await request.body(limit)
        if zipped:
            sent = len(raw)
            raw = await self._beside(request, limit > MAX_REQUEST, _unzipped, raw, limit)
            request.holds(len(raw) - sent)
        large = len(raw) > ON_LOOP
        if route == WEBHOOK:
            assert self.webhook_secret is not None
            secret = self.webhook_secret
            signed = await self._beside(request, large, verify, secret, raw, signature)
            if signed is Signed.NOT:
                raise _unsigned()
            caller = self._known(SIGNED if signed is Signed.WHOLE or caller else None)
        try:
            try:
                if large:
                    raise SlowToRead
                body, events, by = self._read(route, caller, raw, parse_quickly)
            except SlowToRead:
                reading = (self._read, route, caller, raw, parse)
                body, events, by = await self._beside(request, True, *reading)
        except BadRequest as bad:
            raise Refusal(bad.status, bad.code, str(bad)) from None
        if events:
            del raw  # not kept twice while the commit runs
            await self._bring_in(Accepted(route, body, events, self.clock(), by.name, by.scopes))

    async def _bring_in(self, accepted: Accepted) -> None:
        try:
            await self.inbox.take(accepted)
        except Full:
            full = "the queue is full; send it again later"
            raise Refusal(429, "queue_full", full, COME_BACK) from None
        except StateError:
            lost = "it could not be stored; send it again later"
            raise Refusal(503, "not_stored", lost, COME_BACK) from None
        self._accepted.inc(accepted.events)

    async def _beside(
        self, request: Request, large: bool, work: Callable[..., T], *arguments: Any
    ) -> T:
        """Do a piece of work: what may be large beside the event loop, in its turn and only while
        somebody waits for it. (Who goes away at once and comes again would else have all done.)"""
        if not large:
            return work(*arguments)
        async with self._turns:
            request.is_wanted()
            return await asyncio.get_running_loop().run_in_executor(self._aside, work, *arguments)

    def _read(
        self, route: str, caller: Caller | None, raw: bytes, parsed: Callable[..., Any]
    ) -> tuple[bytes, int, Caller]:
        """The body as it is stored, how many events it has, and who sent it. Nothing is parsed
        before its caller is known, be it by a key that stands in the body."""
        body, in_body = self._without_key(raw, OTHER_KEYS if caller is None else len(raw))
        self._known(caller or in_body)
        # The parsed body is let go of here, not kept while the commit runs: a hundred small dicts
        # per waiting request would push one another out of the processor's cache.
        found = parsed(raw, exactly=route in SINGLE)
        if route != WEBHOOK and isinstance(found, dict):
            key = found.get("writeKey")
            if isinstance(key, str) and key.strip():
                caller = scopes.find(self.callers, key)
        caller = self._known(caller)
        return body, self._check(route, caller, found), caller

    def _check(self, route: str, caller: Caller, body: Any) -> int:
        """How many events a request has, where it may be taken."""
        if route in BATCH or isinstance(body, list):
            # Only what refuses a request whole; its events are looked at one by one later.
            return count(route, body, MAX_WEBHOOK_EVENTS if route == WEBHOOK else MAX_EVENTS)
        (found,) = split(route, body, received_at=self.clock(), make_id=lambda: "none")
        if isinstance(found, Rejected) and route in SINGLE:
            large = found.reason == TOO_LARGE
            raise BadRequest(
                found.reason,
                status=413 if large else 400,
                code="too_large" if large else "invalid_event",
            )
        if isinstance(found, Call) and (need := found.scope) not in caller.may:
            raise BadRequest(scopes.NOT_ALLOWED[need], status=403, code="not_allowed")
        return 1

    def _without_key(self, raw: bytes, others: int) -> tuple[bytes, Caller | None]:
        """The body without any write key of ours; and whose the first one was. The search for it
        ends after so many keys of others."""
        # Looked for as plain bytes: a regular expression would try every byte of the body.
        first: Caller | None = None
        parts, start, at = list[bytes | memoryview](), 0, raw.find(_WRITE_KEY)
        view = memoryview(raw)  # copied once, when the parts are put together
        while at >= 0:
            at += len(_WRITE_KEY)
            match = _TEXT_VALUE.match(raw, at)
            found = None if match is None else scopes.find(self.callers, _text(match[1]))
            if match is not None and found is not None:
                first = first or found
                parts += [view[start:at], b':""']
                start = match.end()
            elif not parts:
                others -= 1
                if others < 0:
                    break
            at = raw.find(_WRITE_KEY, at)
        return (b"".join([*parts, view[start:]]), first) if parts else (raw, None)

    def _caller(self, route: str, request: Request) -> Caller | None:
        """Whose key stands outside of the body."""
        found = scopes.find(self.callers, _key_of(request))
        if found is None and route == WEBHOOK:
            found = scopes.find(self.callers, request.query("key"))
        return found

    def _known(self, caller: Caller | None) -> Caller:
        if caller is None:
            raise Refusal(401, "invalid_write_key", "the write key is not one of this receiver's")
        return caller

    def _settings(self, key: str) -> Response:
        """What analytics.js and the mobile SDKs ask Segment's CDN for at their start. Without
        `apiHost` they go on with the one that the app has set."""
        if scopes.find(self.callers, key) is None:
            raise Refusal(404, "unknown_write_key", "no such write key")
        segment = {"apiKey": key}
        if self.public_url is not None:
            segment["apiHost"] = f"{self.public_url.partition('://')[2]}/v1"
        settings = {
            "integrations": {"Segment.io": segment},
            "plan": {},
            "metrics": {"sampleRate": 0},
        }
        return Response(orjson.dumps(settings), media_type="application/json", headers=_ALLOW)


def count(route: str, body: Any, most: int) -> int:
    """The number of events in a batch; raises `BadRequest` as `split` would."""
    events = body if route == WEBHOOK else body.get("batch") if isinstance(body, dict) else None
    if not isinstance(events, list):
        raise BadRequest('the body is not an object with an array "batch"')
    if len(events) > most:
        reason = f"{len(events)} events; a request takes up to {most}"
        raise BadRequest(reason, status=413, code="too_large")
    known = WEBHOOK_TYPES if route == WEBHOOK else TYPES
    if events and not any(type(one) is dict and one.get("type") in known for one in events):
        raise BadRequest("nothing in the batch is a call: each is an object with a known type")
    return len(events)


def _check_method(request: Request, *methods: str) -> None:
    if request.method not in methods:
        message = f"this path takes {methods[0]} only"
        raise Refusal(405, "unknown_method", message, {"allow": ", ".join((*methods, "OPTIONS"))})


def _preflight(request: Request) -> Response:
    """What a browser asks before it sends: it may send the headers that it names."""
    asked = request.header(b"access-control-request-headers")
    if len(asked) > 4096 or not _HEADER_NAMES.fullmatch(asked):
        return Response(status_code=204, headers=_CORS)
    headers = _CORS | {"access-control-allow-headers": asked.decode()}
    return Response(status_code=204, headers=headers)


def _zipped(request: Request) -> bool:
    encoding = request.header(b"content-encoding").strip().lower()
    if encoding not in (b"", b"identity", b"gzip", b"x-gzip"):
        raise Refusal(415, "unknown_encoding", "the only content-encoding taken is gzip")
    return encoding.endswith(b"gzip")


def _unzipped(raw: bytes, limit: int) -> bytes:
    """What a gzip body holds, in all its members (RFC 1952, 2.2); zeros may follow them."""
    parts, size, rest = list[bytes](), 0, raw
    for _ in range(MAX_MEMBERS):
        unzip = zlib.decompressobj(wbits=31)
        while not unzip.eof:
            try:
                part = unzip.decompress(rest, UNZIPPED)
            except zlib.error:
                raise Refusal(400, "malformed", "the body is not gzip") from None
            if not part and not unzip.eof:
                raise Refusal(400, "malformed", "the gzip body ends early")
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
            rest = unzip.unconsumed_tail
        rest = unzip.unused_data.lstrip(b"\0")
        if not rest:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise Refusal(400, "malformed", f"the gzip body has more than {MAX_MEMBERS} members")


def _unsigned() -> Refusal:
    return Refusal(401, "invalid_signature", "X-Signature does not match the body")


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is larger than {limit // 1024} KB")


def _key_of(request: Request) -> str | None:
    """The user name of Basic authorization: `base64(key:)`, the colon may be missing."""
    scheme, _, text = request.header(b"authorization").partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        return base64.b64decode(text.strip()).decode().partition(":")[0]
    except ValueError:  # not base64, not ASCII, not UTF-8
        return None


def _text(raw: bytes) -> str | None:
    """The text that a JSON string stands for, however it is escaped."""
    try:
        return str(orjson.loads(raw))
    except orjson.JSONDecodeError:
        return None


def _refused(refusal: Refusal) -> Response:
    body = {"success": False, "code": refusal.code, "message": str(refusal)}
    return Response(
        orjson.dumps(body),
        status_code=refusal.status,
        media_type="application/json",
        headers={**_ALLOW, **refusal.headers},
    )
