"""Amberflo's HTTP API as far as the service uses it (docs/facts/amberflo.md §1).

Only this module speaks HTTP to Amberflo. Every call returns its result or raises what to do next:
`TryAgain`, `Refused` or `KeyRefused`. An answer in another form than expected is no answer: a proxy
or a maintenance page may also say 200.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from syncer import __version__
from syncer.amberflo.answer import Answer, text
from syncer.amberflo.codec import Record, read, written
from syncer.amberflo.transport import Transport
from syncer.amberflo.under_way import UnderWay
from syncer.errors import AmberfloError, KeyRefused, Refused, TryAgain
from syncer.rate_limit import RateLimiter

#: Bytes of an answer that are read at most.
_LARGEST = 16 << 20
#: Bytes of the list of all customers that are read at a time, at most.
_PIECE = 16 << 10
#: The header of a body that is compressed.
_ZIPPED = {"content-encoding": "gzip"}
#: What a request or its answer breaks off with; TimeoutError is an OSError.
_BROKEN = (aiohttp.ClientError, OSError)
#: A customer that nobody has: to read it shows the key, and how Amberflo says that one is missing.
_NOBODY = "syncer-check"
#: What ingest answers: "3 records were ingested".
_INGESTED = re.compile(rb"([0-9][0-9,]*) records? (?:was|were) ingested", re.IGNORECASE)


class AmberfloClient:
    """Use as `async with`; safe for many tasks of one event loop.

    `rate` is requests per second over all tasks (0: unlimited), `timeout` seconds for one request
    with its answer. At most `connections` requests are under way at a time, and fewer where that
    fits better (in_flight.py).
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
        self._headers = {
            "x-api-key": api_key,
            "accept": "application/json",
            "accept-encoding": "identity",  # so that an answer can be read as it comes
            "content-type": "application/json",
            "user-agent": f"engage-amberflo-sync/{__version__}",
        }
        self._timeout = timeout
        self._connections = connections
        self._clock = clock
        self.pace = RateLimiter(rate)
        #: of meter records: a 429 there is no customer's
        self.ingest_pace = RateLimiter(0.0)
        #: whether Amberflo answers so for a customer that is missing; None: not seen yet
        self._missing_is_404: bool | None = None
        #: whether POST refuses a customer that is there; None: not tried yet (writer.py)
        self.post_refuses_existing: bool | None = None
        self.post_tries = 0
        self.trying_post = asyncio.Lock()
        #: how often each method was answered with each status; "none" where no answer came
        self.answers: Counter[str] = Counter()
        #: those of meter records apart
        self._under_way = {
            pace: UnderWay(timeout, connections) for pace in (self.pace, self.ingest_pace)
        }

    def unanswered(self, pace: RateLimiter) -> float:
        """Return for how many seconds the oldest request at this pace has had no answer."""
        return self._under_way[pace].longest

    async def __aenter__(self) -> Self:
        self._transport = Transport(self._headers, self._connections)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    async def get_customer(self, customer_id: str, *, requests: int = 1) -> Record | None:
        """Return the customer's whole record, or None if Amberflo has none.

        Amberflo answers 200 `{}` for a missing customer (docs/facts/amberflo.md §1.1), or 404. With
        more `requests` the rate limiter admits that many at once, and the requests that follow pass
        `paced`.
        """
        answer = await self._ask_for(customer_id, requests)
        if answer.status == 404 and not await self._says_404_for_missing():
            raise self._refused(answer)
        return None if answer.status == 404 else self._record(answer, customer_id)

    async def _ask_for(self, customer_id: str, requests: int = 1) -> Answer:
        """Amberflo's answer for a customer: a good one, or 404."""
        url = f"{self._customers_url}?customerId={quote(customer_id, safe='')}"
        await self._wait(self.pace, requests)
        answer = await self._answer("GET", url, self.pace)
        if not answer.good and answer.status != 404:
            raise await self._problem(answer)
        return answer

    def _record(self, answer: Answer, customer_id: str) -> Record | None:
        """Return the record that an answer holds, or None if it holds none.

        A record of another customer is an error: the next write would put that customer's data into
        this one. So is an unreadable answer: the next write would wipe what it hides.
        """
        if not answer.body.strip():
            return None
        try:
            record = read(answer.body)
        except ValueError:
            raise answer.unreadable("something that is not JSON") from None
        if isinstance(record, list):
            ours = [item for item in record if isinstance(item, dict) and _is_of(item, customer_id)]
            record = {} if not record else ours[0] if ours else record
        if record == {}:
            return None
        if not isinstance(record, dict):
            raise answer.unreadable("something that is no customer")
        if not _is_of(record, customer_id):
            raise answer.unreadable("another customer's record")
        return record

    async def _says_404_for_missing(self) -> bool:
        """Return whether a 404 means that a customer is missing.

        It may also mean that the URL is wrong, or come from a proxy. Then an id that nobody has
        gets another answer, or the pages of customers are missing too.
        """
        if self._missing_is_404 is None:
            missing_is_404 = (await self._ask_for(_NOBODY)).status == 404
            if missing_is_404:
                await self.page_of_customers(1, 1)
            self._missing_is_404 = missing_is_404
        return self._missing_is_404

    async def page_of_customers(self, page: int, limit: int, *, requests: int = 1) -> list[Record]:
        """Return a page of all customers, by id: `page` counts from 1, `limit` is its size.

        A page after the last one is empty. Whether the records contain traits is open
        (docs/facts/amberflo.md §1.1). With more `requests` the rate limiter admits that many at
        once, and the requests that follow pass `paced`.
        """
        query = f"limit={limit}&page={page}&sort=id&isAscending=true"
        return (await self._page(query, requests))[0]

    async def count_customers(self) -> int | None:
        """Return how many customers Amberflo lists; None if its pages do not say."""
        _, metadata = await self._page("limit=1&page=1&sort=id&isAscending=true")
        totals = [value for name, value in metadata.items() if name.lower() == "totalrowcount"]
        return totals[0] if totals and type(totals[0]) is int else None

    async def newest_customers(self, limit: int) -> list[Record]:
        """Return the `limit` customers that changed last, the newest first."""
        query = f"limit={limit}&page=1&sort=updateTime&isAscending=false"
        return (await self._page(query))[0]

    async def _page(self, query: str, requests: int = 1) -> tuple[list[Record], dict[str, Any]]:
        """Return the records of a page, and its metadata; {} if it has none."""
        url = f"{self._customers_url}/paging?{query}"
        await self._wait(self.pace, requests)
        answer = await self._answer("GET", url, self.pace)
        if not answer.good:
            raise await self._problem(answer)
        try:
            content = read(answer.body)
        except ValueError:
            raise answer.unreadable("something that is not JSON") from None
        items = content.get("items") if isinstance(content, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise Refused(
                f"GET {url} answered something that is no page of customers", **answer.kept()
            )
        metadata = content.get("metadata")
        return items, metadata if isinstance(metadata, dict) else {}

    async def all_customers(self) -> AsyncGenerator[bytes]:
        """Yield all customers as the bytes of one JSON array (docs/facts/amberflo.md §1.1).

        The array may be larger than memory. Each piece has the `timeout` of a request.
        """
        await self._wait(self.pace)
        url = self._customers_url
        try:
            with self._under_way[self.pace].begin():
                response = await self._transport.request("GET", url)
            async with response:
                if not 200 <= response.status < 300:
                    with self._under_way[self.pace].begin():
                        body = await _read(response)
                    answer = Answer("GET", url, None, response.status, response.headers, body)
                    raise await self._problem(answer)
                piece = b"-"
                while piece:
                    with self._under_way[self.pace].begin():
                        piece = await response.content.read(_PIECE)
                    yield piece
        except _BROKEN as error:
            raise self._broken("GET", url, None, error) from None
        self.pace.speed_up(self._clock())

    async def put_customer(self, record: Record, *, paced: bool = False) -> None:
        """Replace the customer's whole record; makes it where Amberflo upserts."""
        await self._write("PUT", record, paced)

    async def post_customer(self, record: Record) -> None:
        """Make a customer that is not there."""
        await self._write("POST", record, False)

    async def _write(self, method: str, record: Record, paced: bool) -> None:
        """Written is what Amberflo says that it has written: it answers with the record."""
        if not paced:
            await self._wait(self.pace)
        url = self._customers_url
        answer = await self._answer(method, url, self.pace, written(record), at_once=paced)
        if not answer.good:
            raise await self._problem(answer)
        if self._record(answer, record["customerId"]) is None:
            raise answer.unreadable("nothing of the customer")

    async def ingest(self, body: bytes, records: int | None = None) -> None:
        """Send meter records as a gzipped JSON array.

        Amberflo answers with a text that says how many it took (docs/facts/amberflo.md §2.1). If
        `records` is given and the numbers differ, the batch counts as not taken.
        """
        await self._wait(self.ingest_pace)
        url = self._ingest_url
        answer = await self._answer("POST", url, self.ingest_pace, body, _ZIPPED)
        if not answer.good:
            raise await self._problem(answer)
        taken = _INGESTED.search(answer.body)
        if taken is None:
            raise answer.unreadable("something that does not say how many records were ingested")
        if records is not None and int(taken[1].replace(b",", b"")) != records:
            reason = f"{records:,} records were sent, and Amberflo says: {answer.message}"
            raise Refused(reason, **answer.kept())

    async def check(self) -> None:
        """Harmless requests that show whether the key is good and the URL is that of customers."""
        await self.get_customer(_NOBODY)

    async def _wait(self, pace: RateLimiter, requests: int = 1) -> None:
        wait = pace.reserve(self._clock(), requests)
        if wait > 0:
            await asyncio.sleep(wait)

    async def _answer(
        self,
        method: str,
        url: str,
        pace: RateLimiter,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        at_once: bool = False,
    ) -> Answer:
        """Return the answer to a request, whatever it is, and tell the rate limiter about it.

        It waits until as few others are under way as fits, but not where it must go `at_once`.
        """
        under_way = self._under_way[pace]
        await under_way.turn(at_once=at_once)
        try:
            with under_way.begin() as request:
                answering = await self._transport.request(method, url, content, headers)
                async with answering as response:
                    body = await _read(response)
            under_way.answered(request, method + url.partition("?")[0], response.status)
        except _BROKEN as error:
            raise self._broken(method, url, content, error) from None
        finally:
            under_way.leave()
        self.answers[f"{method} {response.status}"] += 1
        answer = Answer(method, url, content, response.status, response.headers, body)
        if answer.good:
            pace.speed_up(self._clock())
        elif (after := answer.after) is not None or answer.status == 429:
            pace.slow_down(self._clock(), after)
        return answer

    def _broken(self, method: str, url: str, content: bytes | None, error: Exception) -> TryAgain:
        self.answers[f"{method} none"] += 1
        request = Answer(method, url, content, 0, {}, b"").request
        if isinstance(error, TimeoutError):
            what = f" gave no answer in {self._timeout:g} s"
        else:
            what = f": {_broken_by(error)}"
        named = isinstance(error, aiohttp.ClientConnectorError)  # it says to whom
        cause = _broken_by(error) if named else f"{method} {url.partition('?')[0]}{what}"
        return TryAgain(f"{method} {url}{what}", request=request, cause=cause)

    async def _problem(self, answer: Answer) -> AmberfloError:
        """Return the error that an answer stands for."""
        status = answer.status
        reason = f"{answer.method} {answer.url} answered {status}"
        if status in (401, 403) and not await self._key_is_good():
            return KeyRefused(
                f"{KeyRefused.BEGINS} (status {status}): set amberflo.api_key to a valid "
                "key; what is not sent yet stays due"
            )
        if answer.is_not_now:
            after = answer.after
            return TryAgain(reason, after=after, cause=answer.answered, **answer.kept())
        return self._refused(answer)

    async def _key_is_good(self) -> bool:
        """Return whether Amberflo accepts a request that only shows the key.

        A firewall may refuse other requests for what they contain.
        """
        url = f"{self._customers_url}?customerId={_NOBODY}"
        await self._wait(self.pace)
        answer = await self._answer("GET", url, self.pace)
        return answer.status not in (401, 403)

    def _refused(self, answer: Answer) -> Refused:
        setting = "ingest_url" if answer.url == self._ingest_url else "customers_url"
        reason = f"{answer.method} {answer.url} answered {answer.status}"
        cause = f"{answer.answered}: {answer.message}"
        if 300 <= answer.status < 400:
            to = text(answer.headers.get("location", "somewhere else"))[:200]
            cause = (
                f"amberflo.{setting} answers {answer.status} to {to}: it must be where Amberflo "
                "itself answers"
            )
            reason = f"{cause} ({reason})"
        elif answer.status == 404:
            reason = f"{reason}: {answer.message}; is amberflo.{setting} right?"
        else:
            reason = f"{reason}: {answer.message}"
        return Refused(reason, cause=cause, **answer.kept())


def _is_of(record: Record, customer_id: str) -> bool:
    theirs = record.get("customerId")
    return isinstance(theirs, str | int) and str(theirs) == customer_id


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of an answer; raise OSError if it has more than _LARGEST bytes."""
    content = response.content
    if content.is_eof() and (content.total_bytes or 0) <= _LARGEST:
        return content.read_nowait()  # a small answer comes in one piece with its head
    pieces, size = [], 0
    while piece := await content.readany():
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST:
            raise OSError(f"the answer is larger than {_LARGEST:,} bytes")
    return b"".join(pieces)


def _broken_by(error: Exception) -> str:
    """Return in few words why no answer came."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {error.host} is not found (DNS)"
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, ConnectionRefusedError):
            return f"connection refused by {error.host}:{error.port}"
        if type(error) is aiohttp.ClientConnectorError:
            reason = error.os_error.strerror or _first_line(error.os_error)
            return f"no connection to {error.host}:{error.port}: {reason}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed without an answer"
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return text(str(error)).strip().split("\n")[0] or type(error).__name__
