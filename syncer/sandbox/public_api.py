"""A strict stand-in for Segment's Public API: the lists of a space's audiences and computed traits.

It follows docs/facts/segment.md §1.2. Where the sources leave a question open it takes one side,
usually the strict one; each such choice is marked "open".

    with running(PublicApiSandbox("token", "space", listed=[Listed("vip")])) as url:
        ...  # GET {url}/spaces/space/audiences

The object shows what it received (`requests`, `stats()`); `listed` and `faults` may be replaced at
any time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, NoReturn
from urllib.parse import unquote

import orjson
from aiohttp import web

from syncer.sandbox.engage import COMPUTED_PREFIX, EngageSandbox
from syncer.sandbox.faults import Faults
from syncer.sandbox.server import StandIn, running

__all__ = ["LIMITS", "Listed", "PublicApiSandbox", "listed_by", "running"]

Json = dict[str, Any]

#: Requests a minute that each list allows.
LIMITS = {"audiences": 60, "computed-traits": 25}
#: The versions that have each list.
VERSIONS = {"audiences": ("v1", "v1beta", "v1alpha"), "computed-traits": ("v1alpha",)}
#: The name of each list in the answer.
NAMES = {"audiences": "audiences", "computed-traits": "computedTraits"}
MOST = 200
MINUTE = 60.0
_WHEN = "2006-01-02T15:04:05.000Z"


@dataclass(frozen=True)
class Listed:
    """An audience or a computed trait of the space.

    `of` is its population: USERS, ACCOUNTS or LINKED. A `status` or `size` of None is left out of
    the answer.
    """

    key: str
    name: str | None = None
    kind: str = "audience"
    status: str | None = "Live"
    enabled: bool = True
    size: int | None = None
    of: str = "USERS"


def listed_by(engage: EngageSandbox) -> list[Listed]:
    """Return the list of a space: all of it live, each audience with its size."""
    sizes = engage.sizes()
    computed = sorted(key for key in sizes if key.startswith(COMPUTED_PREFIX))
    return [
        *(Listed(key, size=sizes[key]) for key in engage.audiences),
        *(Listed(key, kind="computed_trait") for key in computed),
    ]


class Refusal(Exception):
    """A request that is answered with an error status and Segment's error envelope."""

    def __init__(self, status: int, error: Json, **headers: str) -> None:
        super().__init__(status, error)
        self.status, self.error, self.headers = status, error, headers

    def answer(self) -> web.Response:
        """Return the error as an answer."""
        answer = _json({"errors": [self.error]}, self.status)
        answer.headers.update({name.replace("_", "-"): v for name, v in self.headers.items()})
        return answer


class PublicApiSandbox(StandIn):
    """One space behind the real HTTP surface.

    `per_minute` bounds the requests to each list that it names.
    """

    def __init__(
        self,
        token: str,
        space_id: str,
        *,
        listed: Iterable[Listed] = (),
        per_minute: Mapping[str, int] | None = None,
        faults: Faults | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.listed: Sequence[Listed] = list(listed)
        self.faults = faults or Faults()
        self.per_minute = dict(LIMITS if per_minute is None else per_minute)
        #: (list, query) of every request that named a list, the newest last
        self.requests: deque[tuple[str, dict[str, str]]] = deque(maxlen=1000)
        self._token, self._space_id = token.encode(), space_id
        self._clock = clock
        self.reset_stats()

    def stats(self) -> Json:
        """Return the counts since the start or the last `reset_stats`.

        They are `requests` by list, including refused and dropped ones, `answers` by status, and
        `faults` by fault.
        """
        return {
            "requests": dict(self._requests),
            "answers": dict(self._answers),
            "faults": dict(self._faults_seen),
        }

    def reset_stats(self) -> None:
        """Set all counts to zero, including the requests of this minute."""
        self._requests: Counter[str] = Counter()
        self._answers: Counter[int] = Counter()
        self._faults_seen: Counter[str] = Counter()
        self._minutes: dict[str, tuple[float, int]] = {}
        self.requests.clear()

    async def _serve(self, request: web.BaseRequest) -> web.Response:
        fault = self.faults.draw()
        self._faults_seen.update([fault.failure] if fault.failure else [])
        self._faults_seen.update(["slow"] if fault.slow else [])
        await asyncio.sleep(self.faults.slow_seconds if fault.slow else 0.0)
        try:
            which = self._list(request)
            if fault.failure == "drop_before":
                return _cut(request)
            if fault.failure == "429":
                raise _too_many(self.faults.retry_after, 0)
            if fault.failure in ("500", "503"):
                raise Refusal(int(fault.failure), {"type": "RequestError", "message": "Try again"})
            answer = self._answer(request, which)
        except Refusal as refusal:
            answer = refusal.answer()
        if fault.failure == "drop_after":
            return _cut(request)
        self._answers[answer.status] += 1
        return answer

    def _list(self, request: web.BaseRequest) -> str:
        """Return the list that a request asks for; check token, path, space, version, in order."""
        parts = request.raw_path.partition("?")[0].strip("/").split("/")
        which = parts[2] if len(parts) == 3 else ""
        if which in NAMES:
            self._requests[which] += 1
            self.requests.append((which, dict(request.query)))
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        sent = token.encode(errors="surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(sent, self._token):
            raise Refusal(401, {"type": "Unauthorized", "message": "Invalid token"})
        if request.method != "GET" or parts[0] != "spaces" or which not in NAMES:
            raise Refusal(404, {"type": "NotFound", "message": "Unknown endpoint"})
        if unquote(parts[1]) != self._space_id:
            raise Refusal(404, {"type": "NotFound", "message": "Space not found"})
        if _version(request) not in VERSIONS[which]:
            # Open: the status and text of a version that does not have the endpoint.
            raise Refusal(
                404,
                {"type": "NotFound", "message": f"good are {', '.join(VERSIONS[which])}"},
            )
        return which

    def _answer(self, request: web.BaseRequest, which: str) -> web.Response:
        headers = self._take_turn(which)
        known = {"pagination.count", "pagination.cursor"} | (
            {"include"} if which == "audiences" else set()
        )
        query = dict(request.query)
        if unknown := sorted(query.keys() - known):  # open
            _invalid(unknown[0], "is not a parameter")
        if query.get("include", "schedules") != "schedules":
            _invalid("include", "must be schedules")
        count = query.get("pagination.count", str(MOST))
        if not (count.isascii() and count.isdecimal() and 1 <= int(count) <= MOST):
            _invalid("pagination.count", f"must be from 1 to {MOST}")
        kind = "audience" if which == "audiences" else "computed_trait"
        entries = [entry for entry in self.listed if entry.kind == kind]
        start = _start(query["pagination.cursor"]) if "pagination.cursor" in query else 0
        if start and start >= len(entries):
            raise Refusal(404, {"type": "NotFound", "message": "No such page"})
        end = start + int(count)
        pagination: Json = {"current": _cursor(start), "totalEntries": len(entries)}
        if end < len(entries):
            pagination["next"] = _cursor(end)
        stable = _version(request) != "v1alpha"
        items = [self._item(entry, stable) for entry in entries[start:end]]
        answer = _json({"data": {NAMES[which]: items, "pagination": pagination}})
        answer.headers.update(headers)
        return answer

    def _take_turn(self, which: str) -> dict[str, str]:
        """Count the request in its minute; return the headers with how many remain."""
        if which not in self.per_minute:
            return {}
        now, limit = self._clock(), self.per_minute[which]
        since, taken = self._minutes.get(which, (now, 0))
        if now - since >= MINUTE:
            since, taken = now, 0
        seconds = since + MINUTE - now
        if taken >= limit:
            raise _too_many(math.ceil(seconds), taken + 1, seconds)
        self._minutes[which] = since, taken + 1
        return {
            "X-RateLimit-Consumed": str(taken + 1),
            "X-RateLimit-Remaining": str(limit - taken - 1),
            "X-RateLimit-Reset": formatdate(since + MINUTE, usegmt=True),
        }

    def _item(self, entry: Listed, stable: bool) -> Json:
        """Return an entry of a version: the stable one moved `type` and added the size."""
        item: Json = {
            "id": f"{'aud' if entry.kind == 'audience' else 'tra'}_{entry.key}",
            "spaceId": self._space_id,
            "name": entry.name or entry.key,
            "key": entry.key,
            "enabled": entry.enabled,
            "definition": {"query": "event('Purchased').count() >= 1"},
            "createdBy": "somebody",
            "updatedBy": "somebody",
            "createdAt": _WHEN,
            "updatedAt": _WHEN,
        }
        if entry.status is not None:
            item["status"] = entry.status
        if entry.kind == "audience" and stable:
            item |= {"audienceType": entry.of, "computeCadence": {"type": "REALTIME"}}
            if entry.size is not None:
                item["size"] = {"count": entry.size, "type": entry.of.replace("LINKED", "ENTITIES")}
        else:
            item["definition"]["type"] = entry.of
        return item


def _version(request: web.BaseRequest) -> str:
    accept = request.headers.get("Accept", "")
    return accept.removeprefix("application/vnd.segment.").removesuffix("+json")


def _cursor(start: int) -> str:
    return base64.b64encode(str(start).encode()).decode()


def _start(cursor: str) -> int:
    try:
        text = base64.b64decode(cursor, validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    if not (text.isascii() and text.isdecimal()):
        _invalid("pagination.cursor", "is not a cursor of this list")
    return int(text)


def _invalid(field: str, why: str) -> NoReturn:
    raise Refusal(422, {"type": "Invalid", "message": f"{field} {why}", "field": field})


def _too_many(after: int, taken: int, seconds: float | None = None) -> Refusal:
    data = {
        "remainingPoints": 0,
        "msBeforeNext": round(1000 * (after if seconds is None else seconds)),
        "consumedPoints": taken,
    }
    error = {"type": "RequestError", "message": "Too many requests", "data": data}
    return Refusal(429, error, Retry_After=str(after))


def _cut(request: web.BaseRequest) -> web.Response:
    """Close the connection at once; the returned answer goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")
