"""The receiver: Segment's HTTP paths, answered once a request is durable (facts/segment.md §4).

It looks at a request only as far as its answer needs: may the caller send, can the body be read,
is it within the limits. Which calls are in it is found out later, from the same bytes.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from state.errors import StateError
from state.queue import Accepted
from syncer.passthrough.call import (
    BATCH,
    MAX_EVENTS,
    ROUTES,
    SINGLE,
    TOO_LARGE,
    WEBHOOK,
    BadRequest,
    Rejected,
    parse,
    split,
)
from syncer.passthrough.inbox import Full, Inbox
from syncer.passthrough.signature import key_matches, verify

#: Segment's limit for a request; an event's own is in call.py.
MAX_REQUEST = 500 * 1024
MAX_SINGLE = 32 * 1024
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
}
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


@dataclass
class Receiver:
    """The ASGI app. `write_keys` are what callers may use; none refuses all of them."""

    inbox: Inbox
    write_keys: tuple[str, ...]
    webhook_secret: str | None
    #: what keeps the service from working, if something does
    problem: Callable[[], str | None] = lambda: None
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

    def app(self) -> Starlette:
        """The app to serve."""
        return Starlette(
            routes=[
                Route("/v1/{route}", self._receive, methods=["POST", "OPTIONS"]),
                Route("/v1/projects/{key}/settings", self._settings, methods=["GET", "OPTIONS"]),
                Route("/healthz", self._healthy),
                Route("/readyz", self._ready),
                Route("/metrics", self._metrics),
            ]
        )

    async def _receive(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=_CORS)
        started = time.perf_counter()
        try:
            await self._take(request.path_params["route"], request)
            return _ACCEPTED
        except Refusal as refusal:
            self._refused.labels(refusal.code).inc()
            return _refused(refusal)
        except ClientDisconnect:
            self._refused.labels("disconnected").inc()
            return Response(status_code=400)
        finally:
            self._latency.observe(time.perf_counter() - started)

    async def _take(self, route: str, request: Request) -> None:
        """Check a request and bring it in, or raise `Refusal`."""
        if route == METRICS:  # of the SDKs themselves
            await _body(request, MAX_REQUEST)
            return
        if route not in ROUTES:
            raise Refusal(404, "unknown_path", f"there is no /v1/{route}")
        raw = await _body(request, MAX_SINGLE if route in SINGLE else MAX_REQUEST)
        if route == WEBHOOK:
            self._check_signature(request, raw)
        try:
            # The parsed body is let go of here, not kept while the commit runs: a hundred small
            # dicts per waiting request would push one another out of the processor's cache.
            events = self._check(route, request, parse(raw))
        except BadRequest as bad:
            raise Refusal(bad.status, bad.code, str(bad)) from None
        if not events:
            return
        try:
            await self.inbox.take(Accepted(route, self._without_key(raw), events, self.clock()))
        except Full:
            full = "the queue is full; send it again later"
            raise Refusal(429, "queue_full", full, COME_BACK) from None
        except StateError:
            lost = "it could not be stored; send it again later"
            raise Refusal(503, "not_stored", lost, COME_BACK) from None
        self._accepted.inc(events)

    def _check(self, route: str, request: Request, body: Any) -> int:
        """How many events a request has, where the caller may send them."""
        if route == WEBHOOK:
            if isinstance(body, list):
                # The signature covers the first event only.
                self._check_key(_key_of(request) or request.query_params.get("key"))
        else:
            in_body = body.get("writeKey") if isinstance(body, dict) else None
            given = in_body if isinstance(in_body, str) else _key_of(request)
            self._check_key(given)
        if route in BATCH or isinstance(body, list):
            # Only what refuses a request whole; its events are looked at one by one later.
            return count(route, body)
        (found,) = split(route, body, received_at=self.clock(), make_id=lambda: "none")
        if isinstance(found, Rejected) and route in SINGLE:
            large = found.reason == TOO_LARGE
            raise BadRequest(
                found.reason,
                status=413 if large else 400,
                code="too_large" if large else "invalid_event",
            )
        return 1

    def _without_key(self, raw: bytes) -> bytes:
        """The body as it is stored: no write key of ours is in it."""
        # Looked for as plain bytes: a regular expression would try every byte of the body.
        parts, start, at = [], 0, raw.find(_WRITE_KEY)
        while at >= 0:
            at += len(_WRITE_KEY)
            match = _TEXT_VALUE.match(raw, at)
            if match is not None and key_matches(self.write_keys, _text(match[1])):
                parts += [raw[start:at], b':""']
                start = match.end()
            at = raw.find(_WRITE_KEY, at)
        return b"".join([*parts, raw[start:]]) if parts else raw

    def _check_key(self, given: str | None) -> None:
        if not key_matches(self.write_keys, given):
            raise Refusal(401, "invalid_write_key", "the write key is not one of this receiver's")

    def _check_signature(self, request: Request, raw: bytes) -> None:
        """A webhook is signed; where no secret is set, a write key must do."""
        if self.webhook_secret is None:
            self._check_key(_key_of(request) or request.query_params.get("key"))
        elif not verify(self.webhook_secret, raw, request.headers.get("x-signature")):
            raise Refusal(401, "invalid_signature", "X-Signature does not match the body")

    async def _settings(self, request: Request) -> Response:
        """What analytics.js and the mobile SDKs ask Segment's CDN for at their start."""
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=_CORS)
        key = request.path_params["key"]
        if not key_matches(self.write_keys, key):
            return _refused(Refusal(404, "unknown_write_key", "no such write key"))
        settings = {
            "integrations": {"Segment.io": {"apiKey": key, "apiHost": f"{request.url.netloc}/v1"}},
            "plan": {},
            "metrics": {"sampleRate": 0},
        }
        return Response(orjson.dumps(settings), media_type="application/json", headers=_ALLOW)

    async def _healthy(self, _request: Request) -> Response:
        return Response(b"alive\n", media_type="text/plain")

    async def _ready(self, _request: Request) -> Response:
        problem = self.inbox.problem or self.problem()
        if problem is None:
            return Response(b"ready\n", media_type="text/plain")
        return Response(f"{problem}\n", status_code=503, media_type="text/plain")

    async def _metrics(self, _request: Request) -> Response:
        text = await asyncio.to_thread(generate_latest, self.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST.split(";")[0])


def count(route: str, body: Any) -> int:
    """The number of events in a batch; raises `BadRequest` as `split` would."""
    events = body if route == WEBHOOK else body.get("batch") if isinstance(body, dict) else None
    if not isinstance(events, list):
        raise BadRequest('the body is not an object with an array "batch"')
    if len(events) > MAX_EVENTS:
        reason = f"{len(events)} events; a request takes up to {MAX_EVENTS}"
        raise BadRequest(reason, status=413, code="too_large")
    return len(events)


async def _body(request: Request, limit: int) -> bytes:
    """The body, unzipped where it says so, within the limit. (The server bounds its time.)"""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip"):
        raise Refusal(415, "unknown_encoding", "the only content-encoding taken is gzip")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    raw = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    return _unzipped(raw, limit) if encoding == "gzip" else raw


def _unzipped(raw: bytes, limit: int) -> bytes:
    unzip = zlib.decompressobj(wbits=31)
    try:
        body = unzip.decompress(raw, limit + 1)
    except zlib.error:
        raise Refusal(400, "malformed", "the body is not gzip") from None
    if len(body) > limit:
        raise _too_large(limit)
    if not unzip.eof:
        raise Refusal(400, "malformed", "the gzip body ends early")
    return body


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is larger than {limit // 1024} KB")


def _key_of(request: Request) -> str | None:
    """The user name of Basic authorization: `base64(key:)`, the colon may be missing."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
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
