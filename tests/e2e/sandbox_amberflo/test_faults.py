"""The faults of the stand-in, what it saw, and how it starts and stops."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from syncer.sandbox.amberflo import AmberfloSandbox, running
from syncer.sandbox.faults import Faults
from tests.e2e.sandbox_amberflo.helpers import KEY, client, customer, message, record

DROPPED = (httpx.RemoteProtocolError, httpx.ReadError)


# faults


@pytest.mark.parametrize(
    ("spec", "status", "retry_after"),
    [
        ("429=1", 429, "1"),
        ("429=1,retry_after=7", 429, "7"),
        ("429=1,retry_after=0", 429, "0"),
        ("500=1", 500, None),
        ("503=1", 503, None),
    ],
)
def test_a_failed_request_is_not_processed(
    sandbox: AmberfloSandbox, http: httpx.Client, spec: str, status: int, retry_after: str | None
) -> None:
    sandbox.faults = Faults.parse(spec)
    answer = http.put("/customers", json=customer())
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_after)
    assert answer.json().keys() == {"message"}
    assert sandbox.customers == {}
    stats = sandbox.stats()
    assert (stats["faults"], stats["puts"]) == ({str(status): 1}, {})
    assert stats["requests"] == {"PUT /customers": 1}


@pytest.mark.parametrize(("kind", "processed"), [("drop_before", 0), ("drop_after", 1)])
def test_a_dropped_request_has_no_answer(
    sandbox: AmberfloSandbox, http: httpx.Client, kind: str, processed: int
) -> None:
    sandbox.faults = Faults.parse(f"{kind}=1")
    with pytest.raises(DROPPED):
        http.put("/customers", json=customer())
    with pytest.raises(DROPPED):
        http.post("/ingest", json=record())
    with pytest.raises(DROPPED):
        http.put("/customers", json={})
    assert len(sandbox.customers) == len(sandbox.records) == processed
    stats = sandbox.stats()
    assert stats["puts"] == ({"c1": 1} if processed else {})
    assert stats["faults"] == {kind: 3}

    sandbox.faults = Faults()
    assert http.get("/customers/c1").status_code == 200


def test_drop_is_one_or_the_other(sandbox: AmberfloSandbox, http: httpx.Client) -> None:
    sandbox.faults = Faults.parse("drop=1")
    for n in range(30):
        with pytest.raises(DROPPED):
            http.put("/customers", json=customer(f"c{n}"))
    seen = sandbox.stats()["faults"]
    assert seen.keys() == {"drop_before", "drop_after"}
    assert len(sandbox.customers) == seen["drop_after"] == 30 - seen["drop_before"]


@pytest.mark.parametrize(
    ("spec", "status"), [("slow=1,slow_seconds=0.1", 200), ("500=1,slow=1,slow_seconds=0.1", 500)]
)
def test_a_slow_answer_comes_late(
    sandbox: AmberfloSandbox, http: httpx.Client, spec: str, status: int
) -> None:
    http.get("/customers")
    sandbox.faults = Faults.parse(spec)
    for method, path in (("GET", "/customers"), ("PUT", "/customers")):
        began = time.monotonic()
        answer = http.request(method, path, json=customer())
        assert time.monotonic() - began >= 0.1
        assert answer.status_code == status
    assert sandbox.stats()["faults"]["slow"] == 2


def test_a_seed_repeats_over_http() -> None:
    def run(seed: int) -> list[int]:
        sandbox = AmberfloSandbox(KEY, faults=Faults.parse("429=0.3,500=0.3", seed=seed))
        with (
            running(sandbox) as url,
            client(url) as http,
        ):
            return [http.get("/customers").status_code for _ in range(40)]

    first = run(3)
    assert first == run(3)
    assert first != run(4)
    assert set(first) == {200, 429, 500}


def test_faults_come_after_the_key_and_not_to_the_controls(
    sandbox: AmberfloSandbox, url: str
) -> None:
    sandbox.faults = Faults.parse("500=1")
    with client(url, None) as http:
        assert http.get("/customers").status_code == 401
        assert http.get("/_sandbox/stats").status_code == 200
        assert http.get("/_sandbox/stats").json()["faults"] == {}


# what was seen


def test_stats_count_requests_by_route(sandbox: AmberfloSandbox, http: httpx.Client) -> None:
    http.get("/customers/")
    http.get("/customers?customerId=c1")
    http.get("/customers/c1")
    http.get("/customers/paging")
    http.post("/customers", json=customer())
    for _ in range(2):
        http.put("/customers/", json=customer())
    http.put("/customers", json={})
    http.post("/ingest/", json=record())
    http.get("/nowhere")
    expected = {
        "requests": {
            "GET /customers": 2,
            "GET /customers/{id}": 1,
            "GET /customers/paging": 1,
            "POST /customers": 1,
            "PUT /customers": 3,
            "POST /ingest": 1,
        },
        "puts": {"c1": 3},
        "records": 1,
        "duplicates": 0,
        "overlapping_writes": 0,
        "faults": {},
    }
    assert http.get("/_sandbox/stats").json() == sandbox.stats() == expected
    assert http.get("/_sandbox/records").json() == [record()]

    assert http.post("/_sandbox/reset-stats").status_code == 200
    assert sandbox.stats() == {
        "requests": {},
        "puts": {},
        "records": 0,
        "duplicates": 0,
        "overlapping_writes": 0,
        "faults": {},
    }
    assert len(sandbox.records) == len(sandbox.customers) == 1


@pytest.mark.parametrize(("ids", "overlapping"), [(["c1", "c1", "c1"], 2), (["a", "b", "c"], 0)])
def test_writes_of_one_customer_at_a_time_are_told_from_overlapping_ones(
    sandbox: AmberfloSandbox, http: httpx.Client, ids: list[str], overlapping: int
) -> None:
    def put(customer_id: str) -> int:
        return http.put("/customers", json=customer(customer_id)).status_code

    sandbox.faults = Faults.parse("slow=1,slow_seconds=0.3")
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(put, ids)) == [200, 200, 200]
    assert sandbox.stats()["overlapping_writes"] == overlapping

    sandbox.faults = Faults()
    sandbox.reset_stats()
    assert [put(customer_id) for customer_id in ids] == [200, 200, 200]
    assert sandbox.stats()["overlapping_writes"] == 0


def test_faults_are_replaced_over_http(sandbox: AmberfloSandbox, http: httpx.Client) -> None:
    answer = http.post("/_sandbox/faults", content="503=1,retry_after=2")
    assert Faults.parse(answer.json()["faults"]) == sandbox.faults
    assert http.get("/customers").status_code == 503
    assert "'404=1' names no fault; good are 429" in message(
        http.post("/_sandbox/faults", content="404=1")
    )
    assert message(http.post("/_sandbox/faults", content=b"\xff"))
    assert http.get("/customers").status_code == 503
    assert http.post("/_sandbox/faults").status_code == 200
    assert http.get("/customers").status_code == 200


def test_seeded_customers_are_not_counted(sandbox: AmberfloSandbox, url: str) -> None:
    seeds = [
        {"customerId": "a", "traits": {"stripeId": "cus_1"}, "customerEmail": ""},
        {"customerId": "b", "customerName": "B", "createTime": 7, "lifecycleStage": "TRIAL"},
        *({"customerId": f"filler-{n}", "description": "x" * 200} for n in range(10_000)),
    ]
    with client(url, None) as http:
        assert http.post("/_sandbox/customers", json=seeds).json() == {"customers": 10_002}
    assert sandbox.stats()["requests"] == sandbox.stats()["puts"] == {}
    a, b = sandbox.customers["a"], sandbox.customers["b"]
    assert (a["id"], a["customerName"], a["lifecycleStage"]) == ("a", "a", "ACTIVE")
    assert (a["traits"], a["customerEmail"], a["enabled"]) == ({"stripeId": "cus_1"}, "", True)
    assert (b["customerName"], b["createTime"], b["lifecycleStage"]) == ("B", 7, "TRIAL")


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        ({}, "array"),
        ([{"customerId": "ok"}, 5], "customer 1"),
        ([{"customerId": "ok"}, {"customerName": "n"}], "customer 1"),
        ([{"customerId": "a", "lifecycleStage": "GONE"}], "customer 0"),
        ([{"customerId": "a", "customerName": 5}], "customer 0"),
    ],
)
def test_bad_seeds_are_refused_and_none_is_taken(
    sandbox: AmberfloSandbox, http: httpx.Client, seeds: Any, says: str
) -> None:
    assert says in message(http.post("/_sandbox/customers", json=seeds))
    assert "not JSON" in message(http.post("/_sandbox/customers", content=b"{"))
    assert sandbox.customers == {}


def test_an_unknown_control_names_the_good_ones(http: httpx.Client) -> None:
    answer = http.post("/_sandbox/stats")
    assert answer.status_code == 404
    assert "GET /_sandbox/stats" in answer.json()["message"]


def test_controls_answer_on_loopback_only(sandbox: AmberfloSandbox) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a datagram socket sends nothing by connecting
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    with running(sandbox, host="0.0.0.0") as url, client() as http:
        port = httpx.URL(url).port
        assert http.get(f"http://127.0.0.1:{port}/_sandbox/stats").status_code == 200
        assert http.get(f"http://{address}:{port}/_sandbox/stats").status_code == 403


# starting and stopping


def test_it_stops_cleanly_and_starts_again_with_what_it_holds(sandbox: AmberfloSandbox) -> None:
    threads = threading.active_count()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with running(sandbox) as url, client() as http:
            http.put(f"{url}/customers", json=customer())
    assert threading.active_count() == threads
    with client(url) as http, pytest.raises(httpx.ConnectError):
        http.get("/customers")
    port = httpx.URL(url).port
    assert port is not None
    with running(sandbox, port=port) as again, client(again) as http:
        assert again == url
        assert [item["customerId"] for item in http.get("/customers").json()] == ["c1"]


def test_it_stops_while_a_slow_answer_is_due(sandbox: AmberfloSandbox) -> None:
    sandbox.faults = Faults.parse("slow=1,slow_seconds=60")
    with ThreadPoolExecutor(1) as pool, client() as http:
        with running(sandbox) as url:
            waiting = pool.submit(http.put, f"{url}/customers", json=customer())
            deadline = time.monotonic() + 5
            while not sandbox.customers and time.monotonic() < deadline:
                time.sleep(0.005)
            began = time.monotonic()
        assert time.monotonic() - began < 5
        with pytest.raises(DROPPED):
            waiting.result()


def test_an_error_inside_stops_it_too(sandbox: AmberfloSandbox) -> None:
    threads = threading.active_count()
    with pytest.raises(LookupError, match="mine"), running(sandbox):
        raise LookupError("mine")
    assert threading.active_count() == threads


def test_a_taken_port_is_the_callers_error(url: str) -> None:
    port = httpx.URL(url).port
    assert port is not None
    threads = threading.active_count()
    other = AmberfloSandbox(KEY)
    with pytest.raises(OSError, match="address already in use"), running(other, port=port):
        pytest.fail("the port is taken")
    assert threading.active_count() == threads
    with running(other) as elsewhere:
        assert elsewhere != url


def test_start_and_stop_in_a_loop_of_ones_own(sandbox: AmberfloSandbox) -> None:
    async def story() -> int:
        await sandbox.stop()
        url = await sandbox.start()
        with pytest.raises(RuntimeError, match="running already"):
            await sandbox.start()
        async with httpx.AsyncClient(headers={"x-api-key": KEY}, trust_env=False) as http:
            status = (await http.get(f"{url}/customers")).status_code
        await sandbox.stop()
        await sandbox.stop()
        return status

    assert asyncio.run(story()) == 200
