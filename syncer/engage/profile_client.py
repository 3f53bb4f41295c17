"""Segment's Profile API: the traits of one profile at a time (docs/facts/segment.md §1.1)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote

import httpx
import orjson

from syncer import __version__, egress
from syncer.errors import SourceError
from syncer.json_text import printable

#: Traits of one page: the most that Segment documents for this route, and for all routes.
PAGE, GENERAL_PAGE = 200, 100
#: Pages of one profile; more are no profile any more.
PAGES = 1000
#: An id that no profile has: an answer about it says whether the token is good.
NOBODY = "syncer-check-nobody"


class Trait(NamedTuple):
    """A trait of a profile: its value as JSON has it, and Segment's time of it, if it says one."""

    name: str
    value: Any
    updated_at: str | None


class TryAgain(Exception):
    """This request failed now: the text says how. `throttled` is an answer 429."""

    def __init__(self, problem: str, *, throttled: bool = False) -> None:
        super().__init__(problem)
        self.throttled = throttled


class Unreadable(Exception):
    """Segment does not tell the traits of this one id: the text says why."""


class ProfileClient:
    """Reads profiles of one space, for `async with`.

    `permit` is awaited before each request: it keeps the pace. `id_type` is the external id type
    that the ids have. Ids are asked for in small letters: Segment knows them by no other.
    """

    def __init__(
        self,
        token: str,
        space_id: str,
        permit: Callable[[], Awaitable[None]],
        *,
        url: str,
        id_type: str,
        timeout: float,
        connections: int = 1,
    ) -> None:
        self._space_id, self._id_type, self._permit = space_id, id_type, permit
        self._url = url.rstrip("/")
        self._limit, self._timeout = PAGE, timeout
        #: a client a connection, as httpx's own pool takes time that grows with the square of its
        #: connections: 4.7 ms a request with 32 of them against 1.9 ms (docs/design.md §7)
        self._clients: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = []
        context = egress.certificates() or httpx.create_ssl_context(trust_env=False)
        self._new = partial(
            httpx.AsyncClient,
            auth=(token, ""),
            headers={"user-agent": f"engage-amberflo-sync/{__version__}"},
            timeout=timeout,
            proxy=egress.proxy(self._url),
            verify=context,
            trust_env=False,
        )
        for _ in range(connections):  # now, as to make one takes as long as some requests
            self._idle.append(self._new())
        self._clients += self._idle

    async def __aenter__(self) -> ProfileClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in self._clients:
            await client.aclose()

    async def traits(self, customer_id: str) -> list[Trait] | None:
        """Return all traits of the profile with an id; None if Segment knows no such profile.

        Raise `TryAgain` if a request failed now, `Unreadable` if it fails for this id alone, and
        `SourceError` if it would fail for every id.
        """
        traits: dict[str, Trait] = {}
        seen: set[str] = set()
        following = ""
        while True:
            document = await self._page(customer_id, following)
            if document is None:
                if following:
                    raise TryAgain("the profile vanished between two pages")
                return None
            page, cursor = _parts(document)
            traits.update((trait.name, trait) for trait in map(_trait, page.items()))
            limit = cursor.get("limit")
            if type(limit) is int and 0 < limit < self._limit:
                self._limit = limit
            if not cursor["has_more"]:
                return list(traits.values())
            following = cursor.get("next") or ""
            if not isinstance(following, str) or not following or following in seen:
                raise TryAgain(f"the page after {printable(cursor.get('next'))[:80]} does not come")
            seen.add(following)
            if len(seen) > PAGES:
                raise Unreadable(f"more than {PAGES:,} pages of traits")

    async def check(self) -> None:
        """Raise `SourceError` if the token does not read the space, `TryAgain` if nothing does."""
        await self._page(NOBODY, "", probing=True)

    async def _page(
        self, customer_id: str, following: str, *, probing: bool = False
    ) -> dict[str, Any] | None:
        """Return one page as it came; None if there is no such profile."""
        try:
            who = quote(customer_id.lower(), safe="")
        except UnicodeEncodeError:
            raise Unreadable("an id that is no Unicode") from None
        space, kind = quote(self._space_id, safe=""), quote(self._id_type, safe="")
        url = f"{self._url}/v1/spaces/{space}/collections/users/profiles/{kind}:{who}/traits"
        params = {"limit": str(self._limit), "verbose": "true"}
        if following:
            params["next"] = following
        await self._permit()
        try:
            async with asyncio.timeout(self._timeout):  # httpx bounds each piece of an answer
                response = await self._get(url, params)
        except TimeoutError:
            raise TryAgain(f"no whole answer within {self._timeout:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise TryAgain(reason) from None
        if response.status_code == 200:
            return _document(response)
        if response.status_code == 404:
            if not _is_error(response):  # of a proxy, say: it knows nothing of the profile
                raise TryAgain("status 404 without an error of the Profile API")
            return None
        await self._raise_for(response, probing)

    async def _get(self, url: str, params: dict[str, str]) -> httpx.Response:
        """Make a request by a client that nobody uses now."""
        if self._idle:
            client = self._idle.pop()
        else:
            client = self._new()
            self._clients.append(client)
        try:
            return await client.get(url, params=params)
        finally:
            self._idle.append(client)

    async def _raise_for(self, response: httpx.Response, probing: bool) -> NoReturn:
        """Raise what an answer without traits means."""
        status = response.status_code
        if status == 429:
            raise TryAgain("status 429: too many requests", throttled=True)
        if status == 408 or status >= 500:
            raise TryAgain(f"status {status}")
        if status in (401, 403):
            if probing:
                self._refused(status)
            await self.check()  # if that is let through, this id alone is refused
        if status < 300:
            raise TryAgain(f"status {status}, which has no profile")
        if status < 400:
            raise SourceError(
                f"the Profile API at {self._url} answers with a redirect (status {status}): set "
                "engage.profile_api.url to the address of Segment itself"
            )
        message = _message(response)
        if status == 400 and self._limit > GENERAL_PAGE and "limit" in message:
            self._limit = GENERAL_PAGE
            raise TryAgain(f"status 400: {message}")
        raise Unreadable(f"status {status}: {message}")

    def _refused(self, status: int) -> NoReturn:
        if status == 401:
            raise SourceError(
                "the Profile API refuses the token (status 401): set engage.profile_api.token to "
                "one that Unify settings, API access makes, and engage.profile_api.url to the "
                "region of the workspace"
            )
        raise SourceError(
            f"the Profile API does not let the token read the space {self._space_id!r} (status "
            "403): set engage.profile_api.token and engage.profile_api.space_id to those that "
            "Unify settings, API access shows"
        )


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise TryAgain("the answer is no JSON object")
    return document


def _is_error(response: httpx.Response) -> bool:
    """Return whether an answer is an error as the Profile API writes it."""
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and isinstance(document.get("error"), dict)


def _parts(document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the traits and the cursor of a page."""
    traits, cursor = document.get("traits"), document.get("cursor")
    if not isinstance(traits, dict) or not isinstance(cursor, dict):
        raise TryAgain("the answer has no traits with a cursor")
    if not isinstance(cursor.get("has_more"), bool):
        raise TryAgain("the answer does not say whether there are more traits")
    return traits, cursor


def _trait(item: tuple[str, Any]) -> Trait:
    """Return one trait: `verbose` wraps its value, with its source and time."""
    name, value = item
    if isinstance(value, dict) and "value" in value and value.keys() & {"source_id", "updated_at"}:
        updated_at = value.get("updated_at")
        return Trait(name, value["value"], updated_at if isinstance(updated_at, str) else None)
    return Trait(name, value, None)


def _message(response: httpx.Response) -> str:
    """Return the message of an answer's error, or its text."""
    try:
        return " ".join(str(orjson.loads(response.content)["error"]["message"]).split())[:200]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return " ".join(response.text.split())[:200] or "no reason given"
