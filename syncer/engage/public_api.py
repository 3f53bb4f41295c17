"""Segment's Public API: the audiences and computed traits of a space (docs/facts/segment.md §1.2).

It lists them, but not their members.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import quote

import httpx
import orjson

from syncer import __version__, egress
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Computation, Kind
from syncer.errors import SourceError, Stopped
from syncer.json_text import printable
from syncer.pause import sleep_thread
from syncer.retry import full_jitter, retry_after

#: Entries of one page of audiences, at most.
PAGE = 200
#: Seconds that the reading of the lists may wait in all.
PATIENCE = 180.0
#: Tries of one request if no answer says how long to wait.
TRIES = 5

#: The two lists: the path, the name in the answer, and the API version that has it.
_LISTS: tuple[tuple[Kind, str, str, str], ...] = (
    (AUDIENCE, "audiences", "audiences", "v1"),
    (COMPUTED_TRAIT, "computed-traits", "computedTraits", "v1alpha"),
)


class PublicApi:
    """Reads the lists of one space.

    `timeout` is the seconds of each step of a request, and `stop` returns whether the user asked to
    stop. `clock` (seconds), `sleep` and `chance` can be set by tests.
    """

    def __init__(
        self,
        token: str,
        space_id: str,
        *,
        url: str = "https://api.segmentapis.com",
        timeout: float = 30.0,
        stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._token, self._space_id = token, space_id
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._stop, self._clock, self._sleep, self._chance = stop, clock, sleep, chance

    def computations(self) -> list[Computation]:
        """Return every audience and computed trait of users, whatever its state.

        Raise `SourceError` if the lists cannot be read to their end, `Stopped` if the user asked to
        stop.
        """
        until = self._clock() + PATIENCE
        headers = {
            "authorization": f"Bearer {self._token}",
            "user-agent": f"engage-amberflo-sync/{__version__}",
        }
        with httpx.Client(
            headers=headers,
            timeout=self._timeout,
            proxy=egress.proxy(self._url),
            verify=egress.certificates() or True,
            trust_env=False,
        ) as client:
            return [
                entry
                for kind, path, name, stability in _LISTS
                for item in self._items(client, path, name, stability, until)
                if (entry := computation(item, kind)) is not None
            ]

    def _items(
        self, client: httpx.Client, path: str, name: str, stability: str, until: float
    ) -> Iterator[Any]:
        """Yield the entries of one list, page by page."""
        url = f"{self._url}/spaces/{quote(self._space_id, safe='')}/{path}"
        accept = f"application/vnd.segment.{stability}+json"
        params = {"pagination.count": str(PAGE)}
        seen: set[str] = set()
        while True:
            data = _data(self._get(client, url, params, accept, until), name)
            yield from data[name]
            cursor = data["pagination"].get("next")
            if cursor is None:
                return
            if not isinstance(cursor, str) or cursor in seen:
                _unreadable(f"{path}: the page after {cursor!r} does not come")
            seen.add(cursor)
            params["pagination.cursor"] = cursor

    def _get(
        self, client: httpx.Client, url: str, params: dict[str, str], accept: str, until: float
    ) -> httpx.Response:
        """Return the answer with status 200, after as many tries as it needs."""
        tries = 0
        while True:
            if self._stop():
                raise Stopped("stopped before anything was changed; the next run starts anew")
            tries += 1
            after = None
            try:
                response = client.get(url, params=params, headers={"accept": accept})
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                problem = str(error).strip().split("\n")[0] or type(error).__name__
            else:
                if response.status_code == 200:
                    return response
                problem = f"status {response.status_code}"
                after = retry_after(response.headers.get("retry-after"), datetime.now(UTC))
                if response.status_code < 500 and response.status_code not in (408, 429):
                    self._refused(url, response)
            if after is not None:
                pause = max(1.0, after)
            elif tries < TRIES:
                pause = full_jitter(tries, self._chance())
            else:
                raise SourceError(f"the Public API: GET {url}: {problem}, after {tries} tries")
            if self._clock() + pause > until:
                raise SourceError(
                    f"the Public API: GET {url}: {problem}; it wants another {pause:.0f} s, and "
                    f"{PATIENCE:.0f} s in all are the most that a run waits"
                )
            sleep_thread(pause, self._stop, self._sleep)

    def _refused(self, url: str, response: httpx.Response) -> NoReturn:
        status = response.status_code
        if status == 401:
            raise SourceError(
                "the Public API refuses the token (status 401): set engage.public_api.token to one "
                "that a workspace owner made, and engage.public_api.url to the region of the "
                "workspace"
            )
        if status == 403:
            raise SourceError(
                f"the Public API does not let the token read the space {self._space_id!r} (status "
                "403): set engage.public_api.token to one that may, or "
                "engage.public_api.space_id to a space it may read"
            )
        if status == 404:
            raise SourceError(
                f"the Public API has no {url.rpartition('/')[2]} of a space {self._space_id!r} "
                "(status 404): set "
                "engage.public_api.space_id to the id that Unify settings, API access shows, and "
                "engage.public_api.url to the region of the workspace"
            )
        raise SourceError(f"the Public API: GET {url} answered {status}: {_message(response)}")


def computation(item: Any, kind: Kind) -> Computation | None:
    """Return one entry of a list, None if it is not about users.

    Raise `SourceError` if it cannot be read.
    """
    if not isinstance(item, dict):
        _unreadable(f"an entry is {_shown(item)}, not an object")
    key = item.get("key")
    if not isinstance(key, str) or not key:
        _unreadable(f"an entry has the key {_shown(key)}")
    # The stable version has the population in `audienceType`, the others in the definition.
    definition = _optional(item, "definition", dict, key) or {}
    population = _optional(item, "audienceType", str, key) or _optional(
        definition, "type", str, key
    )
    if population not in (None, "USERS"):
        return None
    enabled = item.get("enabled")
    if not isinstance(enabled, bool):
        _unreadable(f"{key!r} has enabled = {_shown(enabled)}")
    return Computation(
        key=key,
        name=_optional(item, "name", str, key) or key,
        kind=kind,
        status=_optional(item, "status", str, key),
        enabled=enabled,
        size=_size(_optional(item, "size", dict, key) or {}, key),
    )


def _size(size: dict[str, Any], key: str) -> int | None:
    count = size.get("count")
    if count is None or _optional(size, "type", str, key) not in (None, "USERS"):
        return None
    if isinstance(count, bool) or not isinstance(count, int | float) or count < 0:
        _unreadable(f"{key!r} has size.count = {_shown(count)}")
    return round(count)


def _optional(item: dict[str, Any], name: str, kind: type, key: str) -> Any:
    """Return a field that may be missing or null; otherwise it must be of the kind."""
    value = item.get(name)
    if value is not None and not isinstance(value, kind):
        _unreadable(f"{key!r} has {name} = {_shown(value)}")
    return value


def _data(response: httpx.Response, name: str) -> dict[str, Any]:
    """Return `data` of an answer, checked to have the list and `pagination`."""
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        document = None
    data = document.get("data") if isinstance(document, dict) else None
    if (
        not isinstance(data, dict)
        or not isinstance(data.get(name), list)
        or not isinstance(data.get("pagination"), dict)
    ):
        _unreadable(f"{response.url.path}: no data.{name} with data.pagination")
    return data


def _unreadable(problem: str) -> NoReturn:
    raise SourceError(f"the Public API sent an answer that cannot be read: {problem}")


def _shown(value: Any) -> str:
    return printable(value)[:80]


def _message(response: httpx.Response) -> str:
    """Return the message of the first error of an answer, or its text."""
    try:
        return str(orjson.loads(response.content)["errors"][0]["message"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return " ".join(response.text.split())[:200] or "no reason given"
