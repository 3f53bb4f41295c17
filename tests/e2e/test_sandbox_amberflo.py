"""The stand-in for Amberflo over real HTTP, and Amberflo's own Python SDK against it."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from metering.customer import CustomerApiClient, create_customer_payload
from metering.exceptions import ApiError
from metering.ingest import IngestApiClient, create_ingest_client, create_ingest_payload
from metering.session import ApiSession, IngestSession

from syncer.sandbox.amberflo import AmberfloSandbox, running
from syncer.sandbox.faults import Faults

KEY = "key-1"
NOW = 1_767_225_600_000
DROPPED = (httpx.RemoteProtocolError, httpx.ReadError)


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


def client(url: str = "", key: str | None = KEY) -> httpx.Client:
    """Without TLS, whose certificates would take longer to load than most tests to run."""
    headers = {} if key is None else {"X-API-Key": key}
    return httpx.Client(base_url=url, headers=headers, trust_env=False, verify=False)


def customer(customer_id: str = "c1", **fields: Any) -> dict[str, Any]:
    return {"customerId": customer_id, "customerName": "Name", **fields}


def record(**fields: Any) -> dict[str, Any]:
    return {
        "uniqueId": "m1",
        "customerId": "c1",
        "meterApiName": "page",
        "meterValue": 1,
        "meterTimeInMillis": NOW,
        "dimensions": {"url": "https:__segment.com"},
        **fields,
    }


def message(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["errorMessage"])


# -- the key


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/customers"),
        ("GET", "/customers/"),
        ("GET", "/customers/c1"),
        ("GET", "/customers/paging"),
        ("POST", "/customers"),
        ("PUT", "/customers/"),
        ("DELETE", "/customers/c1"),
        ("POST", "/ingest"),
        ("POST", "/ingest/"),
        ("GET", "/meters"),
    ],
)
@pytest.mark.parametrize("headers", [{}, {"x-api-key": "key-2"}, {"x-api-key": ""}])
def test_a_wrong_key_is_401_everywhere(
    url: str, method: str, path: str, headers: dict[str, str]
) -> None:
    with client(url, None) as http:
        answer = http.request(method, path, headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"message": "Unauthorized"})


def test_the_key_header_is_case_insensitive_and_the_key_is_not(url: str) -> None:
    with client(url, None) as http:
        asked = [("x-api-key", KEY), ("X-API-KEY", KEY), ("x-api-key", KEY.upper())]
        answers = [http.get("/customers", headers=dict([header])) for header in asked]
    assert [answer.status_code for answer in answers] == [200, 200, 401]


def test_a_key_outside_ascii_is_refused_not_an_error(url: str) -> None:
    with client(url, None) as http:
        answer = http.get("/customers", headers={b"x-api-key": b"\xff\xfe"})
    assert answer.status_code == 401


def test_an_unknown_route_is_404(http: httpx.Client) -> None:
    for method, path in (("GET", "/meters"), ("PATCH", "/customers"), ("GET", "/customers/a/b")):
        assert http.request(method, path).status_code == 404


# -- customers


def test_create_then_read_in_every_way(http: httpx.Client) -> None:
    sent = customer(
        customerEmail="a@b.c",
        traits={"vip": True, "spent": 12.5, "plan": "pro", "tags": ["a", 1, False]},
        description="",
        test=True,
        address={"line1": "", "city": "Berlin"},
    )
    before = time.time() * 1000
    made = http.post("/customers", json=sent)
    assert made.status_code == 200
    stored = made.json()
    assert sent.items() <= stored.items()
    assert (stored["id"], stored["lifecycleStage"], stored["enabled"]) == ("c1", "ACTIVE", True)
    assert stored["createTime"] == stored["updateTime"] >= math.floor(before)

    for path in ("/customers/c1", "/customers/c1/", "/customers?customerId=c1"):
        assert http.get(path).json() == stored
    for path in ("/customers", "/customers/"):
        assert http.get(path).json() == [stored]


@pytest.mark.parametrize(
    "path", ["/customers/nobody", "/customers?customerId=nobody", "/customers/?customerId="]
)
def test_a_missing_customer_is_200_and_empty(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert (answer.status_code, answer.json()) == (200, {})


@pytest.mark.parametrize(
    "customer_id", ["a/b", "/", "a%2Fb", "50%", "ü ☃ 客", "a+b", "a?b=c&d#e", "x@y.z|w", "..a"]
)
def test_ids_survive_percent_encoding(http: httpx.Client, customer_id: str) -> None:
    assert http.put("/customers", json=customer(customer_id)).status_code == 200
    in_path = http.get(f"/customers/{quote(customer_id, safe='')}")
    in_query = http.get("/customers/", params={"customerId": customer_id})
    assert in_path.json()["customerId"] == in_query.json()["id"] == customer_id


def test_a_second_create_is_refused_and_changes_nothing(http: httpx.Client) -> None:
    stored = http.post("/customers", json=customer(traits={"a": "1"})).json()
    assert "already exists" in message(http.post("/customers/", json=customer(traits={"a": "2"})))
    assert http.get("/customers/c1").json() == stored


def test_stripe_adds_its_trait_on_create_only(http: httpx.Client) -> None:
    on = {"autoCreateCustomerInStripe": "true"}
    made = http.post("/customers", json=customer("s", traits={"a": "1"}), params=on).json()
    assert made["traits"].pop("stripeId").startswith("cus_")
    assert made["traits"] == {"a": "1"}
    off = {"autoCreateCustomerInStripe": "false"}
    assert "traits" not in http.post("/customers", json=customer("n"), params=off).json()
    assert "traits" not in http.put("/customers", json=customer("s"), params=on).json()


def test_put_replaces_the_whole_record(http: httpx.Client) -> None:
    full = customer(
        customerEmail="a@b.c", traits={"a": "1", "b": "2"}, description="d", enabled=False
    )
    made = http.put("/customers", json=full).json()
    smaller = http.put("/customers", json=customer(traits={"b": "3"})).json()
    assert smaller["traits"] == {"b": "3"}
    assert smaller.keys() & {"customerEmail", "description"} == set()
    assert smaller["enabled"] is True
    assert smaller["createTime"] == made["createTime"] <= smaller["updateTime"]

    bare = http.put("/customers/", json=customer()).json()
    assert "traits" not in bare
    assert http.get("/customers/c1").json() == bare


def test_put_takes_what_a_read_gave(http: httpx.Client) -> None:
    made = http.post("/customers", json=customer(traits={"a": "1"})).json()
    again = http.put("/customers", json={**made, "createTime": 5, "updateTime": 5}).json()
    assert again == {**made, "updateTime": again["updateTime"]}
    assert again["updateTime"] >= made["updateTime"]


def test_put_of_an_unknown_id_can_be_refused() -> None:
    sandbox = AmberfloSandbox(KEY, put_unknown="refuse")
    with running(sandbox) as url, client(url) as http:
        assert "not found" in message(http.put("/customers", json=customer()))
        assert sandbox.customers == {}
        assert http.post("/customers", json=customer()).status_code == 200
        assert http.put("/customers", json=customer(traits={"a": "1"})).status_code == 200
        assert sandbox.stats()["puts"] == {"c1": 1}


def test_put_unknown_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="'create' and 'refuse'"):
        AmberfloSandbox(KEY, put_unknown="upsert")


def test_the_stage_only_moves_forward(http: httpx.Client) -> None:
    def put(**fields: Any) -> httpx.Response:
        return http.put("/customers", json=customer(**fields))

    assert put(lifecycleStage="trial").json()["lifecycleStage"] == "TRIAL"
    assert "moves forward" in message(put(lifecycleStage="ONBOARDING"))
    assert put().json()["lifecycleStage"] == "TRIAL"
    assert put(lifecycleStage="OFFBOARDED").status_code == 200
    assert "moves forward" in message(put(lifecycleStage="ACTIVE"))
    assert http.get("/customers/c1").json()["lifecycleStage"] == "OFFBOARDED"
    assert "must be one of" in message(put(lifecycleStage="GONE"))


def test_delete_is_soft(http: httpx.Client) -> None:
    http.post("/customers", json=customer("a/b"))
    gone = http.delete("/customers/a%2Fb")
    assert (gone.status_code, gone.json()["customerId"]) == (200, "a/b")
    assert gone.json()["deleteTime"] > 0
    assert http.get("/customers").json() == []
    assert http.get("/customers/paging").json()["items"] == []
    assert http.get("/customers/a%2Fb").json()["lifecycleStage"] == "OFFBOARDED"
    assert "already exists" in message(http.post("/customers", json=customer("a/b")))
    replaced = http.put("/customers", json=customer("a/b")).json()
    assert replaced["deleteTime"] == gone.json()["deleteTime"]
    assert http.get("/customers").json() == []
    assert "not found" in message(http.delete("/customers/nobody"))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"customerId":"c1","customerName":"n","traits":{"a":NaN}}', "not JSON"),
        (b'{"customerId":"c1","customerName":"n","traits":{"a":-Infinity}}', "not JSON"),
        (b'{"customerId":"c1","customerName":"n","traits":{"a":1e999}}', "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"c1"', "not a JSON object"),
        (customer(custom="x"), "unknown field 'custom'"),
        ({"customerName": "n"}, "'customerId'"),
        (customer(" "), "'customerId'"),
        ({**customer(), "customerId": 5}, "'customerId'"),
        ({"customerId": "c1"}, "'customerName'"),
        (customer(customerName=""), "'customerName'"),
        (customer(customerName=None), "'customerName'"),
        (customer(customerEmail=""), "'customerEmail'"),
        (customer(customerEmail=" "), "'customerEmail'"),
        (customer(customerEmail=None), "'customerEmail'"),
        (customer(enabled="true"), "'enabled'"),
        (customer(test=1), "'test'"),
        (customer(address="Berlin"), "'address'"),
        (customer(description=None), "'description'"),
        (customer(lifecycleStage=1), "'lifecycleStage'"),
        (customer(traits=None), "'traits'"),
        (customer(traits=["a"]), "'traits'"),
        (customer(traits={" ": "x"}), "'traits' has a blank key"),
        (customer(traits={"a": None}), "trait 'a'"),
        (customer(traits={"ok": True, "a": " "}), "trait 'a'"),
        (customer(traits={"a": {"b": "c"}}), "trait 'a'"),
        (customer(traits={"a": [None]}), "trait 'a'"),
        (customer(traits={"a": [["b"]]}), "trait 'a'"),
        (customer(traits={"a": [{}]}), "trait 'a'"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_bad_customer_is_refused(
    sandbox: AmberfloSandbox, http: httpx.Client, method: str, body: Any, says: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    line = message(http.request(method, "/customers", content=content))
    assert line.startswith("Invalid request: ")
    assert says in line
    assert sandbox.customers == {}
    assert sandbox.stats()["puts"] == {}


@pytest.mark.parametrize("path", ["/customers", "/ingest"])
def test_a_body_may_be_one_mebibyte_and_no_more(http: httpx.Client, path: str) -> None:
    whole = json.dumps(customer() if path == "/customers" else record()).encode().ljust(1 << 20)
    assert http.post(path, content=whole).status_code == 200
    assert http.post(path, content=whole + b" ").status_code == 413
    assert http.get("/customers/c1").status_code == 200


# -- customers by page


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


def page(http: httpx.Client, **query: str) -> tuple[list[str], dict[str, Any]]:
    answer = http.get("/customers/paging", params=query)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return [item["customerId"] for item in found["items"]], found["metadata"]


@pytest.mark.usefixtures("many")
def test_paging_has_ten_by_id_by_default(http: httpx.Client) -> None:
    ids, metadata = page(http)
    assert ids == [f"c{n:02}" for n in range(11) if n != 9]
    assert metadata == {
        "totalRowCount": 22,
        "filteredRowCount": 22,
        "limit": 10,
        "page": 1,
        "totalFilteredPages": 3,
        "isAscending": True,
        "sort": "id",
        "search": "",
    }


@pytest.mark.usefixtures("many")
def test_pages_together_are_everyone_once(http: httpx.Client) -> None:
    pages = [page(http, limit="5", page=str(n))[0] for n in range(1, 7)]
    assert [len(ids) for ids in pages] == [5, 5, 5, 5, 2, 0]
    assert [one for ids in pages for one in ids] == [f"c{n:02}" for n in range(23) if n != 9]


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("query", "first"),
    [
        ({"sort": "id", "isAscending": "false"}, "c22"),
        ({"sort": "customerName"}, "c19"),
        ({"sort": "customerEmail", "isAscending": "false"}, "c07"),
        ({"sort": "createTime"}, "c22"),
        ({"sort": "updateTime", "isAscending": "false"}, "c04"),
    ],
)
def test_paging_sorts(http: httpx.Client, query: dict[str, str], first: str) -> None:
    assert page(http, **query)[0][0] == first


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("search", "found"),
    [("c2", ["c20", "c21", "c22"]), ("Name 7", ["c02", "c12", "c22"]), ("seven@", ["c07"])],
)
def test_paging_searches_id_name_and_email(
    http: httpx.Client, search: str, found: list[str]
) -> None:
    ids, metadata = page(http, search=search, limit="100")
    assert ids == found
    assert (metadata["totalRowCount"], metadata["filteredRowCount"]) == (22, len(found))
    assert (metadata["totalFilteredPages"], metadata["search"]) == (1, search)


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "ten"},
        {"page": "0"},
        {"page": "-1"},
        {"sort": "traits"},
        {"isAscending": "yes"},
    ],
)
def test_paging_refuses_what_it_does_not_know(http: httpx.Client, query: dict[str, str]) -> None:
    assert repr(next(iter(query))) in message(http.get("/customers/paging", params=query))


def test_the_list_comes_bit_by_bit_and_as_a_whole(
    http: httpx.Client, sandbox: AmberfloSandbox
) -> None:
    for number in range(2000):
        sandbox.customers[f"u{number}"] = customer(f"u{number}", traits={"text": "]" * 100})
    with http.stream("GET", "/customers") as answer:
        assert "content-length" not in answer.headers
        pieces = list(answer.iter_raw())
    assert len(pieces) > 1
    assert json.loads(b"".join(pieces)) == list(sandbox.customers.values())


@pytest.mark.parametrize("shown", [True, False])
def test_lists_may_leave_traits_out(
    http: httpx.Client, sandbox: AmberfloSandbox, shown: bool
) -> None:
    sandbox.paging_traits, sandbox.list_traits = shown, not shown
    stored = http.post("/customers", json=customer(traits={"vip": True})).json()
    bare = {name: value for name, value in stored.items() if name != "traits"}
    assert http.get("/customers/paging").json()["items"] == [stored if shown else bare]
    assert http.get("/customers").json() == [bare if shown else stored]
    for path in ("/customers/c1", "/customers?customerId=c1"):
        assert http.get(path).json() == stored


# -- ingest


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


# -- faults


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


# -- what was seen


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
        "puts": {"c1": 2},
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


# -- starting and stopping


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


# -- Amberflo's own SDK


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
    assert sandbox.stats()["puts"] == {"c/1": 1}


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
    one = create_ingest_payload("my meter", 2.5, NOW, "c1", {"region": "us east"}, "id-1")
    assert amberflo.send(one) == "1 records were ingested"
    many = [create_ingest_payload("my meter", n, NOW, "c1") for n in range(10)]
    assert amberflo.send(many) == "10 records were ingested"
    assert sandbox.records == [one, *many]


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
