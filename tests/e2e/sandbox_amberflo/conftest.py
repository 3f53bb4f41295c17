"""The stand-in of Amberflo, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from syncer.sandbox.amberflo import AmberfloSandbox, running
from tests.e2e.sandbox_amberflo.helpers import KEY, client


@pytest.fixture
def sandbox() -> AmberfloSandbox:
    return AmberfloSandbox(KEY)


@pytest.fixture
def url(sandbox: AmberfloSandbox) -> Iterator[str]:
    with running(sandbox) as url:
        yield url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with client(url) as http:
        yield http


@pytest.fixture
def many(http: httpx.Client) -> None:
    seeds = [
        {
            "customerId": f"c{n:02}",
            "customerName": f"Name {9 - n % 10}",
            "createTime": 1000 - n,
            "updateTime": n % 5,
        }
        for n in range(23)
    ]
    seeds[7]["customerEmail"] = "seven@example.com"
    seeds[9]["deleteTime"] = 5
    assert http.post("/_sandbox/customers", json=seeds).json() == {"customers": 23}
