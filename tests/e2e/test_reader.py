"""Reading all of Amberflo, against a server that answers what a test says, piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web

from syncer.amberflo import reader
from syncer.amberflo.client import AmberfloClient, Record
from syncer.amberflo.reader import CustomerReader
from syncer.errors import AmberfloError, KeyRefused, Refused, Stopped, TryAgain

CUSTOMERS: list[Record] = [
    {"customerId": f"u{number}", "traits": {"a]b": '"[{é'}} for number in range(25)
]
LIST = orjson.dumps(CUSTOMERS)


class Server:
    """Gives its `answers` in order: bytes and statuses; a number within one is a pause in seconds,
    and None cuts the connection."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.raw_path)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, int):
            return web.Response(status=answer, text="no")
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in [answer] if isinstance(answer, bytes) else answer:
            if isinstance(piece, bytes):
                await response.write(piece)
            elif piece is None:
                assert request.transport is not None
                request.transport.abort()
            else:
                await asyncio.sleep(piece)
        return response

    @asynccontextmanager
    async def holdings(self, **settings: Any) -> AsyncIterator[CustomerReader]:
        runner = web.ServerRunner(web.Server(self.serve, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/customers"
        timeout = settings.pop("timeout", 5.0)
        try:
            async with AmberfloClient("key", customers_url=url, timeout=timeout) as client:
                yield CustomerReader(client, **{"patience": 0.2, "chance": lambda: 0.0, **settings})
        finally:
            await runner.cleanup()


def run(
    server: Server, work: Callable[[CustomerReader], Coroutine[Any, Any, Any]], **settings: Any
) -> Any:
    async def connected() -> Any:
        async with server.holdings(**settings) as customers:
            return await work(customers)

    return asyncio.run(connected())


async def everybody(customers: CustomerReader) -> list[list[Record]]:
    async with aclosing(customers.everybody()) as batches:
        return [batch async for batch in batches]


async def pages(customers: CustomerReader) -> list[list[Record]]:
    async with aclosing(customers.pages()) as batches:
        return [batch async for batch in batches]


def page(*customers: Record) -> bytes:
    return orjson.dumps({"items": customers, "metadata": {}})


# The list of all


def test_a_list_comes_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BATCH", 10)
    server = Server([LIST[:100], LIST[100:101], LIST[101:1000], LIST[1000:]])
    batches = run(server, everybody)
    assert [record for batch in batches for record in batch] == CUSTOMERS
    assert len(batches) > 1
    assert all(len(batch) >= 10 for batch in batches[:-1])
    assert run(Server(b" []\n"), everybody) == [[]]


def test_a_list_may_take_longer_than_a_request() -> None:
    pieces = [part for at in range(0, len(LIST), 300) for part in (LIST[at : at + 300], 0.1)]
    (batch,) = run(Server(pieces), everybody, timeout=0.3)
    assert batch == CUSTOMERS
    with pytest.raises(TryAgain, match=r"gave no answer in 0\.3 s"):
        run(Server([LIST[:300], 0.6, LIST[300:]]), everybody, timeout=0.3)


def test_a_list_that_breaks_off_is_read_from_its_beginning() -> None:
    server = Server([LIST[:500], None], LIST[:500], 503, LIST)
    with pytest.raises(TryAgain):  # three times are enough
        run(server, everybody)
    assert len(server.asked) == 3
    (batch,) = run(Server([LIST[:500], None], 503, LIST), everybody)
    assert batch == CUSTOMERS


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (b'{"items": []}', TryAgain, "not a JSON array of objects"),
        (b"<html>", TryAgain, "broke off"),
        (b"", TryAgain, "broke off"),
        (413, Refused, "answered 413: no"),
        (404, Refused, "answered 404: no"),
        (401, KeyRefused, "refuses the API key"),
        ([b"[", 0.2, None], TryAgain, "GET http"),
    ],
)
def test_what_is_no_list(answer: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        run(Server(answer), everybody)


def test_who_stops_reading_leaves_nothing_open() -> None:
    async def first(customers: CustomerReader) -> list[Record]:
        async with aclosing(customers.everybody()) as batches:
            async for batch in batches:
                return batch
        raise AssertionError

    async def twice(customers: CustomerReader) -> list[Record]:
        await first(customers)
        return await first(customers)

    assert run(Server([LIST, 0.1]), twice) == CUSTOMERS


# Pages


def test_pages_end_with_an_empty_one() -> None:
    first, second, third = ({"customerId": str(number)} for number in range(3))
    server = Server(page(first, second), page(third), page())
    assert run(server, pages) == [[first, second], [third]]
    assert [path.partition("?")[2] for path in server.asked] == [
        f"limit=10&page={number}&sort=id&isAscending=true" for number in (1, 2, 3)
    ]
    assert run(Server(page()), pages) == []
    # A server that has no end gives the last page again.
    assert run(Server(page(first, second), page(third), page(third)), pages) == [
        [first, second],
        [third],
    ]


def test_what_does_not_get_through_is_asked_again() -> None:
    first, second = {"customerId": "1"}, {"customerId": "2"}
    server = Server(503, page(first), [b"{", None], b"<html>", page(second), 429, page())
    assert run(server, pages) == [[first], [second]]


def limits(server: Server) -> list[str]:
    return [path.partition("limit=")[2].partition("&")[0] for path in server.asked]


def test_a_limit_that_is_refused_is_lowered() -> None:
    ten, last = [{"customerId": str(number)} for number in range(10)], {"customerId": "x"}
    server = Server(page(*ten), 400, 422, page(last), page())
    assert run(server, pages) == [ten, [last]]
    assert limits(server) == ["10", "1000", "100", "10", "10"]


@pytest.mark.parametrize(("size", "limit"), [(100, "1000"), (2000, "100"), (20_000, "10")])
def test_pages_are_as_large_as_there_is_room_for(size: int, limit: str) -> None:
    ten = [{"customerId": str(number), "customerName": "x" * size} for number in range(10)]
    server = Server(page(*ten), page(*ten), page())
    batches = run(server, pages)
    assert batches[0] == ten
    assert limits(server)[:2] == ["10", limit]


@pytest.mark.parametrize("answer", [404, b"{}", b"[]", b'{"items": {}}', b'{"items": [1]}'])
def test_where_there_are_no_pages(answer: Any) -> None:
    with pytest.raises(Refused):
        run(Server(answer), pages)


# One


async def read_one(customers: CustomerReader) -> Record | None:
    return await customers.one("u1")


@pytest.mark.parametrize(
    ("answer", "exists"),
    [
        (b'{"customerId": "u1"}', True),
        (b'{"customerId": "u1", "deleteTime": null}', True),
        (b'{"customerId": "u1", "deleteTime": 1790000000000}', False),
        (b"{}", False),
    ],
)
def test_one_that_is_deleted_is_not_there(answer: Any, exists: bool) -> None:
    assert (run(Server(answer), read_one) is not None) == exists


def test_one_that_is_answered_404_is_not_there_where_there_are_pages() -> None:
    assert run(Server(404, 404, page(), 404), read_one) is None
    with pytest.raises(AmberfloError, match=r"is amberflo\.customers_url right\?"):
        run(Server(404), read_one)


def test_patience_ends() -> None:
    with pytest.raises(AmberfloError, match=r"sent no usable answer for 0\.2 s: GET .* 503"):
        run(Server(503), read_one)


def test_a_stop_ends_a_pause() -> None:
    server = Server(503)
    with pytest.raises(Stopped):
        run(server, read_one, patience=60, chance=lambda: 1e9, stop=lambda: bool(server.asked))
