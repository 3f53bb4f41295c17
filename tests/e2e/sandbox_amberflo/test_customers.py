"""The stand-in takes customers as Amberflo does, and gives them back by page."""

from __future__ import annotations

import json
import math
import time
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from syncer.sandbox.amberflo import AmberfloSandbox, running
from tests.e2e.sandbox_amberflo.helpers import KEY, client, customer, message, record

# the key


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


# customers


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
        assert sandbox.stats()["puts"] == {"c1": 2}


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


# customers by page


def page(http: httpx.Client, **query: str) -> tuple[list[str], dict[str, Any]]:
    answer = http.get("/customers/paging", params=query)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    return [item["customerId"] for item in document["items"]], document["metadata"]


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
    assert [id_ for ids in pages for id_ in ids] == [f"c{n:02}" for n in range(23) if n != 9]


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
    ("search", "matching"),
    [("c2", ["c20", "c21", "c22"]), ("Name 7", ["c02", "c12", "c22"]), ("seven@", ["c07"])],
)
def test_paging_searches_id_name_and_email(
    http: httpx.Client, search: str, matching: list[str]
) -> None:
    ids, metadata = page(http, search=search, limit="100")
    assert ids == matching
    assert (metadata["totalRowCount"], metadata["filteredRowCount"]) == (22, len(matching))
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
