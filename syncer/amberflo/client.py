"""Amberflo's HTTP API as far as we use it (docs/facts/amberflo.md §1). The only place that speaks
HTTP to Amberflo.

Every call gives its result or raises what to do next: `TryAgain`, `Refused` or `KeyRefused`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import httpx
import orjson

from syncer import __version__
from syncer.amberflo.pace import Pace
from syncer.amberflo.transport import Transport
from syncer.backoff import retry_after
from syncer.errors import AmberfloError, KeyRefused, Refused, TryAgain

#: Statuses that say "not now"; all other 4xx say "never".
_NOT_NOW = {408, 425, 429}
#: How much of an answer is kept for the list of failures.
_BODY_KEPT = 2000
#: What a request or its answer breaks off with; TimeoutError is an OSError.
_BROKEN = (httpx.TransportError, aiohttp.ClientError, OSError)

Record = dict[str, Any]


class AmberfloClient:
    """Use as `async with`; safe for many tasks of one event loop.

    `rate` is requests per second over all tasks (0: unlimited), `timeout` seconds for one request
    with its answer.
    """

    def __init__(
        self,
        api_key: str,
        *,
        customers_url: str,
        ingest_url: str = "",
        rate: float = 0.0,
        timeout: float = 30.0,
        connections: int = 16,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._customers_url = customers_url.rstrip("/")
        self._ingest_url = ingest_url.rstrip("/")
        # Headers and URLs that stay the same are made once: httpx is slow at both.
        self._headers = httpx.Headers(
            {
                "x-api-key": api_key,
                "accept": "application/json",
                "accept-encoding": "identity",  # so that an answer can be read as it comes
                "content-type": "application/json",
                "user-agent": f"engage-amberflo-sync/{__version__}",
            }
        )
        self._zipped = httpx.Headers({**self._headers, "content-encoding": "gzip"})
        self._customers = httpx.URL(self._customers_url)
        self._timeout = timeout
        self._connections = connections
        self._clock = clock
        self.pace = Pace(rate)
        #: how often each method was answered with each status; "none" where no answer came
        self.answers: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._transport = Transport(self._connections)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()

    async def get_customer(self, customer_id: str) -> Record | None:
        """The customer's whole record; None when there is none: Amberflo answers 200 `{}` then
        (docs/facts/amberflo.md §1.1), or 404."""
        url = f"{self._customers_url}?customerId={quote(customer_id, safe='')}"
        try:
            body = await self._request("GET", url)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise
        if not body.strip():
            return None
        try:
            record = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise TryAgain(f"GET {url} answered something that is not JSON") from None
        if isinstance(record, list):
            record = next((one for one in record if one.get("customerId") == customer_id), {})
        if not record:
            return None
        if not isinstance(record, dict) or record.get("customerId") != customer_id:
            # Writing this back would put one customer's data into another.
            raise Refused(
                "Amberflo answered with another customer's record",
                request=f"GET {url}",
                status=200,
                body=_kept(body),
            )
        return record

    async def page_of_customers(self, page: int, limit: int) -> list[Record]:
        """The `page`th (from 1) `limit` of all customers, by id. Whether the records have their
        traits is open (docs/facts/amberflo.md §1.1); a page after the last one is empty."""
        return await self._page(f"limit={limit}&page={page}&sort=id&isAscending=true")

    async def newest_customers(self, limit: int) -> list[Record]:
        """The `limit` customers that changed last, the newest first; as `page_of_customers`."""
        return await self._page(f"limit={limit}&page=1&sort=updateTime&isAscending=false")

    async def _page(self, query: str) -> list[Record]:
        url = f"{self._customers_url}/paging?{query}"
        body = await self._request("GET", url)
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise TryAgain(f"GET {url} answered something that is not JSON") from None
        items = found.get("items") if isinstance(found, dict) else None
        if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
            raise Refused(
                f"GET {url} answered something that is no page of customers",
                request=f"GET {url}",
                status=200,
                body=_kept(body),
            )
        return items

    async def all_customers(self) -> AsyncGenerator[bytes]:
        """All customers as one JSON array (docs/facts/amberflo.md §1.1), the bytes as they come: it
        may be large. Each piece has the `timeout` of a request."""
        await self._pace()
        url = self._customers
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._transport.handle_async_request(
                    httpx.Request("GET", url, headers=self._headers)
                )
                if not 200 <= response.status_code < 300:
                    raise self._problem("GET", url, None, response, await _read(response))
            assert isinstance(response.stream, httpx.AsyncByteStream)
            pieces, piece = aiter(response.stream), b"-"
            try:
                while piece:
                    async with asyncio.timeout(self._timeout):
                        piece = await anext(pieces, b"")
                    yield piece
            finally:
                await response.stream.aclose()
        except _BROKEN as error:
            raise self._broken("GET", url, error) from None
        self.pace.speed_up(self._clock())

    async def put_customer(self, record: Record) -> None:
        """Replace the customer's whole record; makes it where Amberflo upserts."""
        await self._request("PUT", self._customers, record)

    async def post_customer(self, record: Record) -> None:
        """Make a customer that is not there."""
        await self._request("POST", self._customers, record)

    async def ingest(self, body: bytes) -> None:
        """Send meter records: a gzipped JSON array. Amberflo answers with text
        (docs/facts/amberflo.md §2.1)."""
        await self._exchange("POST", self._ingest_url, body, self._zipped)

    async def check(self) -> None:
        """One harmless request that shows whether the key is good."""
        await self.get_customer("syncer-check")

    async def _request(
        self, method: str, url: httpx.URL | str, record: Record | None = None
    ) -> bytes:
        """A request to the customers API, at its pace."""
        await self._pace()
        content = None if record is None else orjson.dumps(record)
        return await self._exchange(method, url, content, self._headers)

    async def _pace(self) -> None:
        wait = self.pace.reserve(self._clock())
        if wait > 0:
            await asyncio.sleep(wait)

    async def _exchange(
        self, method: str, url: httpx.URL | str, content: bytes | None, headers: httpx.Headers
    ) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._transport.handle_async_request(
                    httpx.Request(method, url, headers=headers, content=content)
                )
                body = await _read(response)
        except _BROKEN as error:
            raise self._broken(method, url, error) from None
        self.answers[f"{method} {response.status_code}"] += 1
        if 200 <= response.status_code < 300:
            self.pace.speed_up(self._clock())
            return body
        raise self._problem(method, url, content, response, body)

    def _broken(self, method: str, url: httpx.URL | str, error: Exception) -> TryAgain:
        self.answers[f"{method} none"] += 1
        # The transport calls a connection that is refused or cut a timeout, too; aiohttp does not.
        cause = error.__cause__ if isinstance(error, httpx.TimeoutException) else error
        if cause is None or isinstance(cause, TimeoutError):
            return TryAgain(f"{method} {url} gave no answer in {self._timeout:g} s")
        return TryAgain(f"{method} {url}: {_first_line(cause)}")

    def _problem(
        self,
        method: str,
        url: httpx.URL | str,
        content: bytes | None,
        response: httpx.Response,
        body: bytes,
    ) -> AmberfloError:
        status = response.status_code
        said = f"{method} {url} answered {status}"
        if status in (401, 403):
            return KeyRefused(
                f"Amberflo refuses the API key (status {status}): set amberflo.api_key to a valid "
                "key; what is not sent yet stays due"
            )
        if status in _NOT_NOW or status >= 500:
            after = retry_after(response.headers.get("retry-after"), datetime.now(UTC))
            if status == 429 or after is not None:
                self.pace.slow_down(self._clock(), after)
            return TryAgain(said, after=after)
        return Refused(
            f"{said}: {_message(body)}",
            request=f"{method} {url} {_text(content)}".rstrip(),
            status=status,
            body=_kept(body),
        )


async def _read(response: httpx.Response) -> bytes:
    """The body, straight from the transport: httpx's own way costs a tenth of a request more."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    try:
        return b"".join([chunk async for chunk in response.stream])
    finally:
        await response.stream.aclose()


def _message(body: bytes) -> str:
    """What Amberflo says is wrong: `errorMessage` or `message` of its JSON, else the text."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, dict):
        for key in ("errorMessage", "message"):
            if isinstance(found.get(key), str):
                return str(found[key])
    return re.sub(r"\s+", " ", body.decode("utf-8", "replace")).strip()[:200] or "no reason given"


def _text(content: bytes | None) -> str:
    """A request's body for the list of failures; records of meters are listed one by one."""
    return (content or b"").decode("utf-8", "ignore") if content and content[:1] == b"{" else ""


def _kept(body: bytes) -> str:
    return body.decode("utf-8", "replace")[:_BODY_KEPT]


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
