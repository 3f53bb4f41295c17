"""A strict stand-in for Segment's Profile API: the traits of one profile of a space at a time.

It follows docs/facts/segment.md §1.1. Where the sources leave a question open it takes the strict
side; each such choice is marked "open".

    with running(ProfileApiSandbox("token", "space", profiles=profiles_of(engage))) as url:
        ...  # GET {url}/v1/spaces/space/collections/users/profiles/user_id:u1/traits

The object shows what it received (`requests`, `stats()`); `profiles` and `faults` may be replaced
at any time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import orjson
from aiohttp import web

from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from syncer.sandbox.server import StandIn, running

__all__ = ["LIMIT", "ProfileApiSandbox", "Profiles", "profiles_of", "running"]

Json = dict[str, Any]
#: The traits of each profile by "type:value" of an external id: (value, updated_at) by name.
Profiles = Mapping[str, Mapping[str, tuple[Any, str]]]

#: Requests a second that a space allows; traits of a page, by default and at most.
LIMIT, DEFAULT, MOST = 100, 10, 200
#: Characters of a path that mean what they are; others must be percent-encoded (docs: "may give
#: 500").
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~%:")


def profiles_of(engage: EngageSandbox) -> Profiles:
    """Return the profiles of a space as this API knows them: by external ids in small letters."""
    return {
        f"{kind}:{value.lower()}": {
            name: (None if text is None else _typed(text), moment.timestamp)
            for name, (text, moment) in profile.newest().items()
        }
        for profile in engage.profiles()
        for kind, value in profile.external_ids()
    }


class ProfileApiSandbox(StandIn):
    """One space behind the real HTTP surface.

    More than `limit` requests in a second are answered with 429, as a sliding window has it, and
    without Retry-After. `page` bounds the traits of a page.
    """

    def __init__(
        self,
        token: str,
        space_id: str,
        *,
        profiles: Profiles | None = None,
        limit: int = LIMIT,
        page: int = MOST,
        faults: Faults | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.profiles: Profiles = profiles or {}
        self.faults = faults or Faults()
        self.limit, self.page = limit, page
        #: external ids ("user_id:u1") whose profile cannot be read, with the status
        self.broken: dict[str, int] = {}
        #: what is answered instead of a page of traits, if anything
        self.scripted: Callable[[], Json] | None = None
        #: (external id, query) of every request, the newest last
        self.requests: deque[tuple[str, dict[str, str]]] = deque(maxlen=1000)
        self.accept(token)
        self._space_id, self._clock = space_id, clock
        self.reset_stats()

    def accept(self, token: str) -> None:
        """Let this token in, and no other any more."""
        self._authorization = b"Basic " + base64.b64encode(f"{token}:".encode())

    def stats(self) -> Json:
        """Return the `answers` by status, and `reads` by external id, since the last reset."""
        return {"answers": dict(self._answers), "reads": dict(self._reads)}

    def reset_stats(self) -> None:
        """Set all counts to zero, including the requests of this second."""
        self._answers: Counter[int] = Counter()
        self._reads: Counter[str] = Counter()
        self._last: deque[float] = deque(maxlen=self.limit)
        self.requests.clear()

    async def _serve(self, request: web.BaseRequest) -> web.Response:
        fault = self.faults.draw()
        await asyncio.sleep(self.faults.slow_seconds if fault.slow else 0.0)
        if fault.failure == "drop_before":
            return _cut(request)
        if fault.failure in ("429", "500", "503"):
            answer = _error(int(fault.failure), "rate_limit_error", "Try again.")
        else:
            answer = self._answer(request)
        if fault.failure == "drop_after":
            return _cut(request)
        self._answers[answer.status] += 1
        answer.headers["Request-Id"] = secrets.token_hex(8)
        return answer

    def _answer(self, request: web.BaseRequest) -> web.Response:
        """Check limit, token, path, space and id, in order, and answer a page of traits."""
        path = request.raw_path.partition("?")[0]
        parts = path.strip("/").split("/")
        if not self._may_go():
            return _error(429, "rate_limit_error", "Too many requests.")
        sent = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if not hmac.compare_digest(sent, self._authorization):
            return _error(401, "authentication_error", "The token is not valid.")
        route = (*parts[:2], *parts[3:6], *parts[7:])
        if request.method != "GET" or len(parts) != 8 or route != _ROUTE:
            return _error(404, "not_found", "Unknown route.")
        if unquote(parts[2]) != self._space_id:
            # Open: the answer about a space that the token does not read.
            return _error(403, "authentication_error", "The token does not read this space.")
        if not {*parts[6]} <= _PLAIN:
            return _error(500, "internal_error", "Something went wrong.")
        external_id = unquote(parts[6])
        self.requests.append((external_id, dict(request.query)))
        self._reads[external_id] += 1
        if (status := self.broken.get(external_id)) is not None:
            return _error(status, "validation_error", "This profile cannot be read.")
        traits = self.profiles.get(external_id)
        if traits is None:
            return _error(404, "not_found", "Profile was not found.")
        if self.scripted is not None:
            return _json(self.scripted())
        return self._page(request, path, traits)

    def _may_go(self) -> bool:
        now = self._clock()
        if len(self._last) == self.limit and now - self._last[0] < 1.0:
            return False
        self._last.append(now)
        return True

    def _page(
        self, request: web.BaseRequest, path: str, traits: Mapping[str, tuple[Any, str]]
    ) -> web.Response:
        """Return the traits from the cursor on, in the order of their names."""
        query = request.query
        text = query.get("limit", str(DEFAULT))
        if not (text.isascii() and text.isdecimal() and int(text)):
            return _error(400, "validation_error", "The parameter `limit` is not a number.")
        limit = min(int(text), self.page, MOST)
        following = _name(query.get("next", ""))
        if following is None:
            return _error(400, "validation_error", "The parameter `next` is not a cursor.")
        names = sorted(name for name in traits if name >= following)
        names, rest = names[:limit], names[limit:]
        cursor: Json = {"url": path, "has_more": bool(rest), "next": "", "limit": limit}
        if rest:
            cursor["next"] = base64.urlsafe_b64encode(rest[0].encode()).decode()
        verbose = query.get("verbose") == "true"
        page = {
            name: {"value": value, "source_id": "sandbox", "updated_at": updated_at}
            if verbose
            else value
            for name in names
            for value, updated_at in (traits[name],)
        }
        return _json({"traits": page, "cursor": cursor})


_ROUTE = ("v1", "spaces", "collections", "users", "profiles", "traits")


def _typed(text: str) -> Any:
    """Return the value of a stored trait: a boolean, a number, a list, or the text."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _name(cursor: str) -> str | None:
    try:
        return base64.urlsafe_b64decode(cursor.encode()).decode()
    except (binascii.Error, ValueError):
        return None


def _cut(request: web.BaseRequest) -> web.Response:
    """Close the connection at once; the returned answer goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _error(status: int, code: str, message: str) -> web.Response:
    return _json({"error": {"code": code, "message": message}}, status)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")
