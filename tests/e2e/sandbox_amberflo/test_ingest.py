"""The stand-in takes meter records as Amberflo does, by HTTP and from its SDK."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from metering.customer import CustomerApiClient, create_customer_payload
from metering.exceptions import ApiError
from metering.ingest import IngestApiClient, create_ingest_client, create_ingest_payload
from metering.session import ApiSession, IngestSession

from syncer.sandbox.amberflo import AmberfloSandbox, running
from syncer.sandbox.faults import Faults
from tests.e2e.sandbox_amberflo.helpers import KEY, NOW, client, message, record

# ingest


def test_ingest_answers_text(sandbox: AmberfloSandbox, http: httpx.Client) -> None:
    answer = http.post("/ingest", json=record())
    assert (answer.status_code, answer.text) == (200, "1 records were ingested")
    assert answer.headers["content-type"].startswith("text/plain")
    assert sandbox.records == [record()]


def lines(*records: dict[str, Any]) -> bytes:
    return b"\r\n\n".join(json.dumps(item).encode() for item in records)


@pytest.mark.parametrize("path", ["/ingest", "/ingest/", "/ingest?schemaDetection=AUTO"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("body", "count"),
    [
        (lines(record()), 1),
        (json.dumps([record(), record(uniqueId="m2")], indent=1).encode(), 2),
        (lines(record(), record(uniqueId="m2"), record(uniqueId="m3")) + b"\n", 3),
        (b"[]", 0),
    ],
    ids=["object", "array", "ndjson", "empty"],
)
def test_every_shape_is_taken(
    sandbox: AmberfloSandbox, http: httpx.Client, path: str, zipped: bool, body: bytes, count: int
) -> None:
    headers = {"content-encoding": "gzip"} if zipped else {}
    answer = http.post(path, content=gzip.compress(body) if zipped else body, headers=headers)
    assert (answer.status_code, answer.text) == (200, f"{count} records were ingested")
    assert [item["uniqueId"] for item in sandbox.records] == ["m1", "m2", "m3"][:count]


@pytest.mark.parametrize(
    ("content", "encoding", "status"),
    [
        (lines(record()), "gzip", 400),
        (gzip.compress(lines(record()))[:-4], "gzip", 400),
        (gzip.compress(lines(record())) + b"more", "gzip", 400),
        (gzip.compress(b" " * (64 << 20)), "gzip", 413),
        (lines(record()), "br", 415),
    ],
    ids=["plain", "cut", "trailing", "bomb", "brotli"],
)
def test_a_bad_encoding_is_refused_and_the_connection_lives(
    sandbox: AmberfloSandbox, http: httpx.Client, content: bytes, encoding: str, status: int
) -> None:
    answer = http.post("/ingest", content=content, headers={"content-encoding": encoding})
    assert answer.status_code == status
    assert sandbox.records == []
    assert http.get("/customers").status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"meterValue": -2.5},
        {"meterValue": 0},
        {"meterTimeInMillis": 1},
        {"meterTimeInMillis": int(time.time() * 1000) + 3_600_000},
        {"uniqueId": "not a uuid"},
        {"dimensions": {}},
        {"dimensions": {"any/key": "ok"}},
        {"dimensions": {"a": r"AZaz09 !-_.*'()&$@=;:+,?"}},
        {"dimensions": {"a": "x" * 200}},
    ],
)
def test_a_good_record_is_taken_as_it_is(
    sandbox: AmberfloSandbox, http: httpx.Client, fields: dict[str, Any]
) -> None:
    assert http.post("/ingest", json=record(**fields)).status_code == 200
    assert sandbox.records == [record(**fields)]


def test_optional_fields_may_be_missing_and_unknown_ones_are_dropped(
    sandbox: AmberfloSandbox, http: httpx.Client
) -> None:
    least = {"customerId": "c1", "meterApiName": "m", "meterValue": 1, "meterTimeInMillis": NOW}
    assert http.post("/ingest", json={**least, "path": "/home", "extra": {}}).status_code == 200
    assert sandbox.records == [least]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"customerId": ""}, "'customerId'"),
        ({"customerId": 5}, "'customerId'"),
        ({"meterApiName": " "}, "'meterApiName'"),
        ({"meterApiName": None}, "'meterApiName'"),
        ({"meterValue": True}, "'meterValue'"),
        ({"meterValue": "1"}, "'meterValue'"),
        ({"meterValue": None}, "'meterValue'"),
        ({"meterTimeInMillis": 0}, "'meterTimeInMillis'"),
        ({"meterTimeInMillis": True}, "'meterTimeInMillis'"),
        ({"meterTimeInMillis": 1.5}, "'meterTimeInMillis'"),
        ({"meterTimeInMillis": "1"}, "'meterTimeInMillis'"),
        ({"uniqueId": None}, "'uniqueId'"),
        ({"dimensions": None}, "'dimensions'"),
        ({"dimensions": {"": "a"}}, "'dimensions' has a blank key"),
        ({"dimensions": {"a": ""}}, "dimension 'a'"),
        ({"dimensions": {"a": "  "}}, "dimension 'a'"),
        ({"dimensions": {"a": 1}}, "dimension 'a'"),
        ({"dimensions": {"a": None}}, "dimension 'a'"),
        ({"dimensions": {"a": "x/y"}}, "dimension 'a'"),
        ({"dimensions": {"a": "x|y"}}, "dimension 'a'"),
        ({"dimensions": {"a": "x\n"}}, "dimension 'a'"),
        ({"dimensions": {"a": "ü"}}, "dimension 'a'"),
        ({"dimensions": {"a": "x" * 201}}, "dimension 'a'"),
    ],
)
def test_one_bad_record_refuses_all_of_them(
    sandbox: AmberfloSandbox, http: httpx.Client, bad: dict[str, Any], says: str
) -> None:
    batch = [record(), record(uniqueId="m2"), record(**bad)]
    line = message(http.post("/ingest", json=batch))
    assert line.startswith("Invalid request: record 2: ")
    assert says in line
    assert sandbox.records == []
    assert sandbox.stats()["records"] == 0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"a,b,c", "not JSON"),
        (b"7", "record 0: not a JSON object"),
        (b"[[]]", "record 0: not a JSON object"),
        (lines(record()) + b"\nnonsense", "record 1: not JSON"),
        (lines(record()) + b"\n[]", "record 1: not a JSON object"),
        (lines(record()).replace(b": 1,", b": NaN,"), "not JSON"),
    ],
)
def test_what_is_no_record_is_refused(
    sandbox: AmberfloSandbox, http: httpx.Client, body: bytes, says: str
) -> None:
    assert says in message(http.post("/ingest", content=body))
    assert sandbox.records == []


@pytest.mark.parametrize(
    "other",
    [
        {"uniqueId": "m2"},
        {"customerId": "c2"},
        {"meterApiName": "screen"},
        {"meterValue": 2},
        {"meterTimeInMillis": NOW + 1},
        {"dimensions": {"url": "https:__amberflo.io"}},
        {"dimensions": {}},
    ],
)
def test_only_records_equal_in_every_attribute_are_duplicates(
    sandbox: AmberfloSandbox, http: httpx.Client, other: dict[str, Any]
) -> None:
    assert http.post("/ingest", json=[record(), record()]).text == "2 records were ingested"
    reordered = dict(reversed(record(meterValue=1.0).items()))
    assert http.post("/ingest", json=reordered).text == "1 records were ingested"
    assert http.post("/ingest", json=record(**other)).text == "1 records were ingested"
    assert sandbox.records == [record(), record(**other)]
    stats = sandbox.stats()
    assert (stats["records"], stats["duplicates"]) == (2, 2)


def test_the_records_of_a_request_can_be_bounded() -> None:
    sandbox = AmberfloSandbox(KEY, max_records=2)
    batch = [record(uniqueId=f"m{n}") for n in range(3)]
    with running(sandbox) as url, client(url) as http:
        assert "takes up to 2" in message(http.post("/ingest", json=batch))
        assert sandbox.records == []
        assert http.post("/ingest", json=batch[:2]).text == "2 records were ingested"


# Amberflo's own SDK


@pytest.fixture
def sdk(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ApiSession, "root_url", url)
    monkeypatch.setattr(IngestSession, "root_url", url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.usefixtures("sdk")
def test_sdk_customers(sandbox: AmberfloSandbox) -> None:
    amberflo = CustomerApiClient(KEY)
    assert amberflo.list() == []
    assert amberflo.get("c/1") == {}

    added = amberflo.add(create_customer_payload("c/1", "One", "one@example.com", True, {"a": "b"}))
    assert added["customerId"] == "c/1"
    assert amberflo.get("c/1") == added
    assert amberflo.list() == [added]
    with pytest.raises(ApiError, match="already exists"):
        amberflo.add(create_customer_payload("c/1", "One"))

    updated = amberflo.update(create_customer_payload("c/1", "Uno", traits={"c": "d"}))
    assert (updated["customerName"], updated["traits"]) == ("Uno", {"c": "d"})
    assert "customerEmail" not in updated
    assert sandbox.stats()["puts"] == {"c/1": 2}  # made and updated


@pytest.mark.usefixtures("sdk")
def test_sdk_upsert_without_traits_wipes_them() -> None:
    amberflo = CustomerApiClient(KEY)
    made = amberflo.add_or_update(
        create_customer_payload("c1", "One", traits={"region": "midwest"})
    )
    assert made["traits"] == {"region": "midwest"}
    again = amberflo.add_or_update(create_customer_payload("c1", "One"))
    assert not again.get("traits")
    assert not amberflo.get("c1").get("traits")


@pytest.mark.usefixtures("sdk")
def test_sdk_can_create_in_stripe() -> None:
    made = CustomerApiClient(KEY).add(create_customer_payload("c1", "One"), create_in_stripe=True)
    assert made["traits"]["stripeId"].startswith("cus_")


@pytest.mark.usefixtures("sdk")
def test_sdk_sees_blank_and_unknown_customers() -> None:
    amberflo = CustomerApiClient(KEY)
    with pytest.raises(ApiError, match=r"400: .*customerName"):
        amberflo.update({"customerId": "c1", "customerName": " "})
    assert amberflo.get("unknown") == {}
    assert amberflo.update(create_customer_payload("unknown", "New"))["customerId"] == "unknown"


@pytest.mark.usefixtures("sdk")
def test_sdk_with_a_wrong_key() -> None:
    with pytest.raises(ApiError) as refused:
        CustomerApiClient("wrong").list()
    assert refused.value.status_code == 401
    with pytest.raises(ApiError) as refused:
        IngestApiClient("wrong").send(create_ingest_payload("page", 1, NOW, "c1"))
    assert refused.value.status_code == 401


@pytest.mark.usefixtures("sdk")
def test_sdk_ingests_one_and_many_gzipped(sandbox: AmberfloSandbox) -> None:
    amberflo = IngestApiClient(KEY)
    payload = create_ingest_payload("my meter", 2.5, NOW, "c1", {"region": "us east"}, "id-1")
    assert amberflo.send(payload) == "1 records were ingested"
    many = [create_ingest_payload("my meter", n, NOW, "c1") for n in range(10)]
    assert amberflo.send(many) == "10 records were ingested"
    assert sandbox.records == [payload, *many]


def at_once(*_: object, **__: object) -> Iterator[float | None]:
    yield None
    while True:
        yield 0.001


@pytest.mark.usefixtures("sdk")
def test_sdk_threaded_client_flushes_through_faults(
    sandbox: AmberfloSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    sandbox.faults = Faults.parse("429=0.2,500=0.2,drop=0.3", seed=2)
    failed: list[object] = []
    amberflo = create_ingest_client(
        KEY,
        batch_size=10,
        retries=30,
        send_interval_in_secs=0.02,
        sleep_interval_in_secs=0.01,
        backoff_delay=at_once,
        on_error=lambda error, batch: failed.append(error),
    )
    for n in range(200):
        assert amberflo.meter("page", n, NOW, "c1", unique_id=f"m{n}")
    amberflo.flush()
    amberflo.shutdown()
    assert failed == []
    assert sorted(item["meterValue"] for item in sandbox.records) == list(range(200))
    stats = sandbox.stats()
    assert stats["duplicates"] > 0
    assert stats["requests"]["POST /ingest"] > 20
