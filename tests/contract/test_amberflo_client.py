"""Every kind of answer, and of none, to every request that the client makes."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from syncer import __version__
from syncer.amberflo.client import AmberfloClient
from syncer.errors import AmberfloError, KeyRefused, Refused, TryAgain
from tests.support.answers import Asked, Reply, answering, http

RECORD = {"customerId": "u1", "customerName": "One", "traits": {"vip": True}}
GOOD = b'{"customerId": "u1", "customerName": "One", "traits": {"vip": true}}'
PAGE = b'{"items": []}'
BATCH = gzip.compress(b"[{}, {}]")

Request = Callable[[AmberfloClient], Awaitable[Any]]


async def _listed(client: AmberfloClient) -> bytes:
    return b"".join([piece async for piece in client.all_customers()])


REQUESTS: dict[str, Request] = {
    "get": lambda client: client.get_customer("u1"),
    "put": lambda client: client.put_customer(dict(RECORD)),
    "post": lambda client: client.post_customer(dict(RECORD)),
    "page": lambda client: client.page_of_customers(1, 10),
    "newest": lambda client: client.newest_customers(10),
    "all": _listed,
    "ingest": lambda client: client.ingest(BATCH, 2),
    "check": lambda client: client.check(),
}
each = pytest.mark.parametrize("name", REQUESTS)


def ask(request: Request, reply: Reply, **how: Any) -> tuple[Any, list[Asked]]:
    """What a request gives or raises, and what was asked."""
    with answering(reply) as (url, asked):
        return asyncio.run(ask_at(url, request, **how)), asked


def for_all(answer: bytes) -> Reply:
    return lambda asked: answer


def is_probe(asked: Asked) -> bool:
    return "customerId=syncer-check" in asked.path


def test_a_location_that_is_no_text_is_shown_as_one() -> None:
    """What is said of a refusal goes to the database and to terminals."""
    answer = http(302, b"", "Location: http://x/caf\udce9")
    problem, _ = ask(REQUESTS["get"], for_all(answer))
    assert isinstance(problem, Refused)
    assert "http://x/caf\ufffd" in str(problem)


@each
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_names_the_setting(name: str, status: int) -> None:
    answer = http(status, b"", "Location: https://login.example/?next=1")
    result, asked = ask(REQUESTS[name], for_all(answer))
    assert isinstance(result, Refused)
    assert (result.status, len(asked)) == (status, 1)
    setting = "ingest_url" if name == "ingest" else "customers_url"
    assert f"amberflo.{setting} answers {status} to https://login.example/?next=1" in str(result)


@each
@pytest.mark.parametrize("status", [400, 402, 405, 409, 410, 413, 415, 422, 451])
def test_another_4xx_refuses_what_was_sent(name: str, status: int) -> None:
    result, asked = ask(REQUESTS[name], for_all(http(status, b'{"errorMessage": "too odd"}')))
    assert isinstance(result, Refused)
    assert (result.status, len(asked)) == (status, 1)
    assert f"answered {status}: too odd" in str(result)
    assert result.body == '{"errorMessage": "too odd"}'


@each
@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_not_now_is_tried_again(name: str, status: int) -> None:
    result, _ = ask(REQUESTS[name], for_all(http(status, b"busy", "Retry-After: 7")))
    assert isinstance(result, TryAgain)
    assert (result.status, result.after, result.body) == (status, 7.0, "busy")


@each
@pytest.mark.parametrize("status", [401, 403])
def test_it_is_the_key_where_the_keys_own_request_is_refused_too(name: str, status: int) -> None:
    result, asked = ask(REQUESTS[name], for_all(http(status, b'{"message": "no"}')))
    assert isinstance(result, KeyRefused)
    assert is_probe(asked[-1])


@pytest.mark.parametrize("name", sorted(REQUESTS.keys() - {"check"}))
@pytest.mark.parametrize("status", [401, 403])
def test_it_is_about_what_was_sent_where_the_key_is_good(name: str, status: int) -> None:
    def reply(asked: Asked) -> bytes:
        return http(200, b"{}") if is_probe(asked) else http(status, b'{"message": "no"}')

    result, _ = ask(REQUESTS[name], reply)
    assert isinstance(result, Refused)
    assert (result.status, result.body) == (status, '{"message": "no"}')


def test_a_request_says_what_it_is_and_keeps_no_cookie() -> None:
    async def twice(url: str) -> None:
        urls = {"customers_url": f"{url}/customers", "ingest_url": f"{url}/ingest"}
        async with AmberfloClient("key", **urls) as client:
            for _ in range(2):
                await REQUESTS["get"](client)
                await REQUESTS["put"](client)
                await REQUESTS["ingest"](client)

    def reply(asked: Asked) -> bytes:
        body = b"2 records were ingested" if asked.path == "/ingest" else GOOD
        return http(200, body, "Set-Cookie: session=1; Path=/")

    with answering(reply) as (url, asked):
        named = url.replace("127.0.0.1", "localhost")  # an address has no cookies anyway
        asyncio.run(twice(named))
    same = {
        "host": named.removeprefix("http://"),
        "x-api-key": "key",
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "user-agent": f"engage-amberflo-sync/{__version__}",
    }
    for request in asked:
        headers = same.copy()
        if request.method != "GET":
            headers["content-length"] = str(len(request.body))
        if request.path == "/ingest":
            headers["content-encoding"] = "gzip"
        assert request.headers == headers
    assert len(asked) == 6


BREAKS = {
    "closes": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half a body": http(200, GOOD[:20], size=500),
    "bad chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}",
    "chunks end early": b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a"',
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
}


@each
@pytest.mark.parametrize("how", BREAKS)
def test_a_connection_that_breaks_is_tried_again(name: str, how: str) -> None:
    result, _ = ask(REQUESTS[name], for_all(BREAKS[how]))
    assert isinstance(result, TryAgain), result
    assert "\n" not in str(result)


async def ask_at(url: str, request: Request, **how: Any) -> Any:
    """What a request gives or raises."""
    urls = {"customers_url": f"{url}/customers", "ingest_url": f"{url}/ingest"}
    async with AmberfloClient("key", **urls, **how) as client:
        try:
            return await request(client)
        except AmberfloError as error:
            return error


@each
def test_no_answer_in_time_is_tried_again(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        result = asyncio.run(ask_at(url, REQUESTS[name], timeout=0.05))
    assert isinstance(result, TryAgain)
    assert "gave no answer in 0.05 s" in str(result)


@each
def test_nobody_listens(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    assert isinstance(asyncio.run(ask_at(url, REQUESTS[name])), TryAgain)


NO_CUSTOMER = [
    b"<html>Please log in</html>",
    b"[1]",
    b"[null]",
    b'["u1"]',
    b"1",
    b"null",
    b"true",
    b'"u1"',
    b'{"message": "all is well"}',
    b'{"customerId": "u2", "customerName": "Two"}',
    b'[{"customerId": "u2"}]',
    b'{"customerId": null}',
    GOOD[:-5],
    b"\xff\xfe{}",
    b"[" * 100_000,
    b'{"customerId": "u1", "traits": {"a": NaN}}',
    gzip.compress(GOOD),
]


@pytest.mark.parametrize("name", ["get", "put", "post"])
@pytest.mark.parametrize("body", NO_CUSTOMER, ids=range(len(NO_CUSTOMER)))
def test_what_is_no_record_of_the_customer_is_no_answer(name: str, body: bytes) -> None:
    result, _ = ask(REQUESTS[name], for_all(http(200, body)))
    assert isinstance(result, TryAgain), result
    assert result.status == 200
    assert "\n" not in str(result)


@pytest.mark.parametrize("body", [b"", b" ", b"{}", b"[]"])
def test_a_missing_customer_has_no_record_and_none_was_written(body: bytes) -> None:
    result, _ = ask(REQUESTS["get"], for_all(http(200, body)))
    assert result is None
    for name in ("put", "post"):
        assert isinstance(ask(REQUESTS[name], for_all(http(200, body)))[0], TryAgain)


@pytest.mark.parametrize("body", [GOOD, b"[" + GOOD + b"]"])
def test_a_customer_is_read_and_written(body: bytes) -> None:
    assert ask(REQUESTS["get"], for_all(http(200, body)))[0] == RECORD
    for name in ("put", "post"):
        result, (asked,) = ask(REQUESTS[name], for_all(http(200, body)))
        assert result is None
        assert (asked.method, asked.path) == (name.upper(), "/customers")


def test_an_id_that_is_a_number_there_is_the_same() -> None:
    result, _ = ask(
        lambda client: client.get_customer("17"), for_all(http(200, b'{"customerId": 17}'))
    )
    assert result == {"customerId": 17}


def test_404_says_that_a_customer_is_missing_where_it_says_so_of_nobody() -> None:
    def reply(asked: Asked) -> bytes:
        return http(200, PAGE) if "/paging" in asked.path else http(404, b"{}")

    async def twice(client: AmberfloClient) -> list[Any]:
        return [await client.get_customer("u1"), await client.get_customer("u2")]

    result, asked = ask(twice, reply)
    assert result == [None, None]
    assert len(asked) == 4  # how Amberflo says it is found out once


def test_404_is_a_refusal_where_a_missing_customer_is_answered_otherwise() -> None:
    result, _ = ask(
        REQUESTS["get"], lambda asked: http(200, b"{}") if is_probe(asked) else http(404)
    )
    assert isinstance(result, Refused)
    assert result.status == 404


@pytest.mark.parametrize("name", ["get", "check", "page"])
def test_404_for_everything_is_a_wrong_url(name: str) -> None:
    result, _ = ask(REQUESTS[name], for_all(http(404, b"<h1>nginx</h1>")))
    assert isinstance(result, Refused)
    assert "is amberflo.customers_url right?" in str(result)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"items": {}}', b'{"items": [1]}'])
def test_what_is_no_page_is_none(body: bytes) -> None:
    for name in ("page", "newest"):
        assert isinstance(ask(REQUESTS[name], for_all(http(200, body)))[0], Refused | TryAgain)


@pytest.mark.parametrize(
    "body",
    [
        b"2 records were ingested",
        b'{"message": "2 records were ingested"}',
        b" 2 Records Were Ingested.",
    ],
)
def test_all_were_ingested(body: bytes) -> None:
    assert ask(REQUESTS["ingest"], for_all(http(200, body)))[0] is None


@pytest.mark.parametrize("count", [b"0", b"1", b"3", b"2,000"])
def test_another_number_than_was_sent_was_not_ingested(count: bytes) -> None:
    body = count + b" records were ingested"
    result, _ = ask(REQUESTS["ingest"], for_all(http(200, body)))
    assert isinstance(result, Refused)
    assert str(result) == f"2 records were sent, and Amberflo says: {body.decode()}"


@pytest.mark.parametrize(
    "body", [b"", b"OK", b"<html>", b'{"ingested": 2}', b"records were ingested"]
)
def test_an_answer_without_a_number_is_none(body: bytes) -> None:
    assert isinstance(ask(REQUESTS["ingest"], for_all(http(200, body)))[0], TryAgain)


def test_a_429_of_ingest_slows_down_ingest_alone() -> None:
    async def many(client: AmberfloClient) -> tuple[float, float]:
        for _ in range(4):
            with pytest.raises(TryAgain):
                await client.ingest(BATCH, 2)
        return client.pace.reserve(0.0), client.ingest_pace.reserve(0.0)

    def clock() -> float:
        return 0.0

    (customers, ingest), _ = ask(
        many, for_all(http(429, b"", "Retry-After: 500")), rate=10, clock=clock
    )
    assert customers == 0
    assert ingest == 500
