"""The receiver: Segment's HTTP paths, answered once a request is durable.

The paths and limits are those of docs/facts/segment.md §4. The receiver looks at a request only as
far as its answer needs: whether the caller may send, whether the body can be read, whether it is
within the limits. The processor later reads the calls from the same bytes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from state.errors import StateError
from state.queue import Accepted
from syncer.clock import now_ms
from syncer.passthrough import openapi, scopes
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
from syncer.passthrough.request import RETRY_LATER, Refusal, Request, unzipped
from syncer.passthrough.scopes import SIGNED, WEBHOOK, Caller
from syncer.passthrough.signature import Signed, verify

T = TypeVar("T")

log = logging.getLogger("syncer.receiver")

#: Segment's limits for a request; call.py has those of an event. A signed batch of a webhook that
#: has a key may be as large as Segment makes it.
MAX_REQUEST = 500 * 1024
MAX_SINGLE = 32 * 1024
MAX_WEBHOOK = 8 * 1024 * 1024
#: Bytes from which a body is unzipped, checked and read outside of the event loop, since each step
#: could block the loop for more than 5 ms; and how many bodies are at a time.
ON_LOOP, THREADS = 64 * 1024, 2
#: How many write keys of others may stand in a body before one of ours.
OTHER_KEYS = 256
#: The route for figures that the SDKs send about themselves; the receiver drops them.
METRICS = "m"

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
#: One answer serves all requests: it depends on none.
_ACCEPTED = Response(b'{"success": true}', media_type="application/json", headers=_ALLOW)


@dataclass
class Receiver:
    """The ASGI app that takes calls in.

    `callers` may send, each with its key; with none, every request is refused. Without a
    `webhook_secret` the route of webhooks does not exist. `public_url` is the address that callers
    reach, for SDKs that ask for it. `clock` returns epoch milliseconds.
    """

    inbox: Inbox
    callers: tuple[Caller, ...]
    webhook_secret: str | None
    public_url: str | None = None
    clock: Callable[[], int] = now_ms
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self._accepted = Counter(
            "syncer_calls_received",
            "Calls that were taken in and are durable",
            registry=self.registry,
        )
        self._refused = Counter(
            "syncer_requests_refused",
            "Requests that were refused, by the code of the answer",
            ["code"],
            registry=self.registry,
        )
        self._latency = Histogram(
            "syncer_request_duration_seconds",
            "From the first byte of a request to its answer",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 20),
            registry=self.registry,
        )
        self._threads = ThreadPoolExecutor(THREADS, "receiver")
        self._free_threads = asyncio.Semaphore(THREADS)

    def app(self) -> ASGIApp:
        """Return the app to serve."""
        return self._serve

    def refused(self, code: str) -> None:
        """Count a refused request by its code; the server refuses some itself."""
        self._refused.labels(code).inc()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(Request(scope, receive))
        except Refusal as refusal:
            response = self._refuse(refusal)
        except ClientDisconnect:
            self.refused("disconnected")
            return
        except asyncio.CancelledError:  # the time that a stop allows is over
            stopping = "the receiver stops; send it again later"
            response = self._refuse(Refusal(503, "stopping", stopping, RETRY_LATER))
        except Exception:
            log.exception("a request could not be answered")
            failed = "the receiver failed; send it again later"
            response = self._refuse(Refusal(500, "internal", failed))
        await response(scope, receive, send)

    def _refuse(self, refusal: Refusal) -> Response:
        self.refused(refusal.code)
        body = {"success": False, "code": refusal.code, "message": str(refusal)}
        return Response(
            orjson.dumps(body),
            status_code=refusal.status,
            media_type="application/json",
            headers={**_ALLOW, **refusal.headers},
        )

    async def _answer(self, request: Request) -> Response:
        match request.path:
            case ["v1", route] if self._is_route(route):
                if request.method == "OPTIONS":
                    return _preflight(request)
                request.check_method("POST")
                started = time.perf_counter()
                try:
                    await self._take(route, request)
                finally:
                    self._latency.observe(time.perf_counter() - started)
                return _ACCEPTED
            case ["v1", "projects", key, "settings"]:
                if request.method == "OPTIONS":
                    return _preflight(request)
                request.check_method("GET", "HEAD")
                return self._settings(key)
            case ["openapi.json"]:
                if request.method == "OPTIONS":
                    return _preflight(request)
                request.check_method("GET", "HEAD")
                return Response(openapi.document(), media_type="application/json", headers=_ALLOW)
        raise Refusal(404, "unknown_path", "there is no such path; Segment's begin with /v1/")

    def _is_route(self, route: str) -> bool:
        if route == WEBHOOK:
            return self.webhook_secret is not None
        return route in ROUTES or route == METRICS

    async def _take(self, route: str, request: Request) -> None:
        """Check a request and store it, or raise `Refusal`."""
        if route == METRICS:
            await request.drop_body(MAX_REQUEST)
            return
        zipped = request.is_zipped()
        caller = self._caller(route, request)
        if caller is not None:
            request.mark_known()
        limit = self._limit(route, request, caller)
        raw = await request.body(limit)
        if zipped:
            raw = await self._unzipped(request, raw, limit)
        if route == WEBHOOK:
            caller = await self._signed_by(request, caller, raw)
        try:
            try:
                if len(raw) > ON_LOOP:
                    raise SlowToRead
                body, events, sender = self._read(route, caller, raw, parse_quickly)
            except SlowToRead:
                reading = (self._read, route, caller, raw, parse)
                body, events, sender = await self._in_thread(request, *reading)
        except BadRequest as bad:
            raise Refusal(bad.status, bad.code, str(bad)) from None
        if events:
            del raw  # not kept twice while the commit runs
            now, name = self.clock(), sender.name
            await self._store(Accepted(route, body, events, now, name, sender.scopes))

    def _limit(self, route: str, request: Request, caller: Caller | None) -> int:
        """Return the bytes that the body may have, before and after it is unzipped."""
        if route == WEBHOOK:
            if not request.header(b"x-signature"):
                raise _unsigned()
            return MAX_REQUEST if caller is None else MAX_WEBHOOK
        return MAX_SINGLE if route in SINGLE else MAX_REQUEST

    async def _unzipped(self, request: Request, zipped: bytes, limit: int) -> bytes:
        if limit > MAX_REQUEST:
            raw = await self._in_thread(request, unzipped, zipped, limit)
        else:
            raw = unzipped(zipped, limit)
        request.charge(len(raw) - len(zipped))
        return raw

    async def _signed_by(self, request: Request, caller: Caller | None, raw: bytes) -> Caller:
        """Return the caller of a webhook; raise `Refusal` unless the signature is valid.

        A signature that covers the first element only proves nothing of the others, so then a key
        must say who sends.
        """
        assert self.webhook_secret is not None
        signature = request.header(b"x-signature").decode("latin-1")
        if len(raw) > ON_LOOP:
            signed = await self._in_thread(request, verify, self.webhook_secret, raw, signature)
        else:
            signed = verify(self.webhook_secret, raw, signature)
        if signed is Signed.NOT:
            raise _unsigned()
        return self._known(SIGNED if signed is Signed.WHOLE or caller else None)

    async def _store(self, accepted: Accepted) -> None:
        try:
            await self.inbox.take(accepted)
        except Full:
            full = "the queue is full; send it again later"
            raise Refusal(429, "queue_full", full, RETRY_LATER) from None
        except StateError:
            lost = "it could not be stored; send it again later"
            raise Refusal(503, "not_stored", lost, RETRY_LATER) from None
        self._accepted.inc(accepted.events)

    async def _in_thread(self, request: Request, work: Callable[..., T], *arguments: Any) -> T:
        """Do a large piece of work outside of the event loop, in its turn.

        It is not done if its client went away meanwhile: a client that goes and comes again would
        have all of it done each time.
        """
        async with self._free_threads:
            request.check_wanted()
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _read(
        self, route: str, caller: Caller | None, raw: bytes, parsed: Callable[..., Any]
    ) -> tuple[bytes, int, Caller]:
        """Return the body as it is stored, the number of its events, and its sender.

        Nothing is parsed before the sender is known, if only by a key that stands in the body.
        """
        body, in_body = self._without_keys(raw, OTHER_KEYS if caller is None else len(raw))
        self._known(caller or in_body)
        # The parsed body ends here and is not kept while the commit runs: a hundred small dicts
        # a waiting request would push one another out of the processor's cache.
        document = parsed(raw, exactly=route in SINGLE)
        if route != WEBHOOK and isinstance(document, dict):
            key = document.get("writeKey")
            if isinstance(key, str) and key.strip():
                caller = scopes.find(self.callers, key)
        caller = self._known(caller)
        return body, self._check(route, caller, document), caller

    def _check(self, route: str, caller: Caller, body: Any) -> int:
        """Return the number of events of a request; raise `BadRequest` if it cannot be taken."""
        if route in BATCH or isinstance(body, list):
            # Only for reasons to refuse the whole request; the processor checks single events.
            return count(route, body, MAX_WEBHOOK_EVENTS if route == WEBHOOK else MAX_EVENTS)
        (event,) = split(route, body, received_at=self.clock(), make_id=lambda: "none")
        if isinstance(event, Rejected) and route in SINGLE:
            large = event.reason == TOO_LARGE
            raise BadRequest(
                event.reason,
                status=413 if large else 400,
                code="too_large" if large else "invalid_event",
            )
        if isinstance(event, Call) and (scope := event.scope) not in caller.may:
            raise BadRequest(scopes.NOT_ALLOWED[scope], status=403, code="not_allowed")
        return 1

    def _without_keys(self, raw: bytes, others: int) -> tuple[bytes, Caller | None]:
        """Return the body without any write key of ours, and the caller with the first such key.

        The search ends after `others` keys that are not ours.
        """
        # A search for plain bytes: a regular expression would try every byte of the body.
        first: Caller | None = None
        parts, start, at = list[bytes | memoryview](), 0, raw.find(_WRITE_KEY)
        view = memoryview(raw)  # copied once, when the parts are put together
        while at >= 0:
            at += len(_WRITE_KEY)
            match = _TEXT_VALUE.match(raw, at)
            caller = None if match is None else scopes.find(self.callers, _text(match[1]))
            if match is not None and caller is not None:
                first = first or caller
                parts += [view[start:at], b':""']
                start = match.end()
            elif not parts:
                others -= 1
                if others < 0:
                    break
            at = raw.find(_WRITE_KEY, at)
        return (b"".join([*parts, view[start:]]), first) if parts else (raw, None)

    def _caller(self, route: str, request: Request) -> Caller | None:
        """Return the caller whose key stands outside of the body."""
        caller = scopes.find(self.callers, request.basic_user())
        if caller is None and route == WEBHOOK:
            caller = scopes.find(self.callers, request.query("key"))
        return caller

    def _known(self, caller: Caller | None) -> Caller:
        if caller is None:
            raise Refusal(401, "invalid_write_key", "the write key is not one of this receiver's")
        return caller

    def _settings(self, key: str) -> Response:
        """Return the settings that analytics.js and the mobile SDKs ask Segment's CDN for.

        Without `apiHost` they keep the address that the app has set.
        """
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
    """Return the number of events in a batch; raise `BadRequest` where `split` would."""
    events = body if route == WEBHOOK else body.get("batch") if isinstance(body, dict) else None
    if not isinstance(events, list):
        raise BadRequest('the body is not an object with an array "batch"')
    if len(events) > most:
        reason = f"{len(events)} events; a request takes up to {most}"
        raise BadRequest(reason, status=413, code="too_large")
    known = WEBHOOK_TYPES if route == WEBHOOK else TYPES
    if events and not any(type(event) is dict and event.get("type") in known for event in events):
        raise BadRequest("nothing in the batch is a call: each is an object with a known type")
    return len(events)


def _preflight(request: Request) -> Response:
    """Answer what a browser asks before it sends: it may send the headers that it names."""
    names = request.header(b"access-control-request-headers")
    if len(names) > 4096 or not _HEADER_NAMES.fullmatch(names):
        return Response(status_code=204, headers=_CORS)
    headers = _CORS | {"access-control-allow-headers": names.decode()}
    return Response(status_code=204, headers=headers)


def _unsigned() -> Refusal:
    return Refusal(401, "invalid_signature", "X-Signature does not match the body")


def _text(raw: bytes) -> str | None:
    """Return the text of a JSON string, however it is escaped; None if it is not JSON."""
    try:
        return str(orjson.loads(raw))
    except orjson.JSONDecodeError:
        return None
