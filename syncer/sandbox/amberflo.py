"""A strict stand-in for Amberflo's customers and ingest APIs, for the demo and the tests.

It follows Amberflo's own SDKs and documents (docs/facts/amberflo.md §1, §2, §3). Where they leave a
question open it takes one side, usually the strict one; each such choice is marked "open".

    with running(AmberfloSandbox("key")) as url:
        ...  # PUT {url}/customers, POST {url}/ingest

The object shows what it received (`customers`, `records`, `stats()`), and so do, for another
process on the same machine, the paths under `/_sandbox/`: GET `stats`, GET `records`, POST
`faults`, POST `customers`, POST `reset-stats`, POST `odd`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote

import orjson
from aiohttp import web

from syncer.sandbox.faults import Fault, Faults
from syncer.sandbox.server import StandIn, running

__all__ = ["AmberfloSandbox", "running"]

Json = dict[str, Any]

PIECE = 1 << 16
MAX_BODY = 1 << 20  # aiohttp bounds the body before unzipping to the same size
STAGES = ("ONBOARDING", "TRIAL", "ACTIVE", "OFFBOARDED")
SERVER_OWNED = frozenset({"id", "createTime", "updateTime", "deleteTime", "deactivateTimeStamp"})
OPTIONAL: dict[str, type] = {
    "customerEmail": str,
    "traits": dict,
    "description": str,
    "enabled": bool,
    "lifecycleStage": str,
    "test": bool,
    "address": dict,
}
CUSTOMER_FIELDS = frozenset({"customerId", "customerName", *OPTIONAL})
SORTS = ("id", "customerName", "customerEmail", "createTime", "updateTime")
SEARCHED = ("customerId", "customerName", "customerEmail")

STORES = ("native", "text", "text only")
#: The odd answers: see `AmberfloSandbox`.
ODD = (
    "302",
    "400",
    "402",
    "403",
    "404",
    "413",
    "429",
    "500",
    "503",
    "html",
    "[1]",
    "other",
    "cut",
    "short",
)

RECORD_FIELDS = (
    "uniqueId",
    "customerId",
    "meterApiName",
    "meterValue",
    "meterTimeInMillis",
    "dimensions",
)
DIMENSION_VALUE = re.compile(r"[ !\-_.*'()&$@=;:+,?0-9a-zA-Z]{1,200}")
"""The documented regex for dimension values, as far as it is known: no `/` and no `|`
(docs/facts/amberflo.md §2.3)."""


class Refusal(Exception):
    """A request that is answered with an error status and Amberflo's error body.

    Source: docs/facts/amberflo.md §1.7.
    """

    def __init__(self, status: int, body: Json) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body

    def answer(self) -> web.Response:
        """Return the error as an answer."""
        return _json(self.body, self.status)


def refuse(why: str) -> NoReturn:
    """Raise the refusal of an invalid request."""
    raise Refusal(400, {"errorMessage": f"Invalid request: {why}"})


@dataclass(slots=True)
class Call:
    """One request; `customer` is the id in its path or, in a write, in its body."""

    query: Mapping[str, str]
    customer: str
    body: bytes = b""
    writes: bool = False


class AmberfloSandbox(StandIn):
    """Amberflo's customers and meter records in memory, behind the real HTTP surface.

    The options are questions that the sources leave open (docs/facts/amberflo.md):

    - `put_unknown`: a PUT of an unknown id will "create" it or "refuse" it
      (docs/facts/amberflo.md §1.3);
    - `max_records`: the records of one ingest request at most (docs/facts/amberflo.md §2.2);
    - `paging_traits`, `list_traits`: whether pages and the list contain traits
      (docs/facts/amberflo.md §1.1);
    - `stores`: a trait that is not text is stored "native", as "text", or, with "text only", its
      write is refused (docs/facts/amberflo.md §1.5);
    - `missing`: the answer for a missing customer is "empty" or "404"
      (docs/facts/amberflo.md §1.1).

    `odd` maps a customer's id, or "*" for all requests, to what goes wrong with requests about the
    customer or its meter records. It is one of `ODD`: a status, a page with status 200 ("html"),
    JSON that is not a record, another customer's record, a body that ends early ("cut"), or a
    record that is not stored and not counted ("short"). With "PUT " before it, only writes go
    wrong. `after_read` is called with the id when a customer was read, before the answer: it does
    what others do in that moment.

    `faults` and all of these may be replaced at any time.
    """

    UNZIPS = False

    def __init__(
        self,
        api_key: str,
        *,
        faults: Faults | None = None,
        put_unknown: str = "create",
        max_records: int | None = None,
        paging_traits: bool = True,
        list_traits: bool = True,
        stores: str = "native",
        missing: str = "empty",
    ) -> None:
        _check("put_unknown", put_unknown, ("create", "refuse"))
        _check("stores", stores, STORES)
        _check("missing", missing, ("empty", "404"))
        self.faults = faults or Faults()
        self.put_unknown = put_unknown
        self.max_records = max_records
        self.paging_traits, self.list_traits = paging_traits, list_traits
        self.stores, self.missing = stores, missing
        self.odd: dict[str, str] = {}
        self.after_read: Callable[[str], None] = lambda customer_id: None
        self.customers: dict[str, Json] = {}
        self.records: list[Json] = []
        self._key = api_key.encode()
        self._known_records: set[tuple[object, ...]] = set()
        self._writing: Counter[str] = Counter()
        self._routes: dict[str, Callable[[Call], web.Response]] = {
            "GET /customers": self._get_customers,
            "GET /customers/paging": self._page_customers,
            "GET /customers/{id}": self._get_customer,
            "POST /customers": self._create_customer,
            "PUT /customers": self._replace_customer,
            "PUT /customers/stage": self._move_stage,
            "DELETE /customers/{id}": self._delete_customer,
            "POST /ingest": self._ingest,
        }
        self._controls: dict[str, Callable[[bytes], web.Response]] = {
            "GET /_sandbox/stats": lambda _: _json(self.stats()),
            "GET /_sandbox/records": lambda _: _json(self.records),
            "POST /_sandbox/faults": self._set_faults,
            "POST /_sandbox/customers": self._seed_customers,
            "POST /_sandbox/reset-stats": self._reset,
            "POST /_sandbox/odd": self._set_odd,
        }
        self.reset_stats()

    # -- counts

    def stats(self) -> Json:
        """Return the counts since the start or the last `reset_stats`.

        `requests` are all requests to a known route, including refused and dropped ones; `puts` are
        the processed PUTs and POSTs by customer. `records` are the ingested records, `duplicates`
        the discarded ones. `overlapping_writes` are writes that began while another write of the
        same customer was in progress. `faults` counts by fault; a `drop` is one of its two kinds.
        """
        return {
            "requests": dict(self._requests),
            "puts": dict(self._puts),
            "records": self._taken,
            "duplicates": self._duplicates,
            "overlapping_writes": self._overlapping_writes,
            "faults": dict(self._faults_seen),
        }

    def reset_stats(self) -> None:
        """Set all counts to zero; customers and records stay."""
        self._requests: Counter[str] = Counter()
        self._puts: Counter[str] = Counter()
        self._faults_seen: Counter[str] = Counter()
        self._taken = self._duplicates = self._overlapping_writes = 0

    # -- one request

    async def _serve(self, request: web.BaseRequest) -> web.Response:
        path = request.raw_path.partition("?")[0].removesuffix("/")
        try:
            if path.startswith("/_sandbox/"):
                return await self._control(request, path)
            return await self._product(request, path)
        except Refusal as refusal:
            return refusal.answer()

    async def _product(self, request: web.BaseRequest, path: str) -> web.Response:
        """Answer a request of the API: key, fault, body, route, answer, in this order."""
        label, customer = f"{request.method} {path}", ""
        if label not in self._routes and path.startswith("/customers/"):
            label, customer = f"{request.method} /customers/{{id}}", path[len("/customers/") :]
        route = self._routes.get(label)
        if route is not None:
            self._requests[label] += 1
        key = request.headers.get("x-api-key", "").encode(errors="surrogateescape")
        if not hmac.compare_digest(key, self._key):
            raise Refusal(401, {"message": "Unauthorized"})
        if route is None or "/" in customer:
            raise Refusal(404, {"message": "Not Found"})

        fault = self.faults.draw()
        delay = self.faults.slow_seconds if fault.slow else 0.0
        self._note(fault)
        if fault.failure == "drop_before":
            await asyncio.sleep(delay)
            return _cut(request)
        if fault.failure in _FAILED:
            await asyncio.sleep(delay)
            return self._fail(fault.failure)

        call = Call(request.query if "?" in request.raw_path else {}, unquote(customer))
        try:
            call.body = await _read(request)
            odd = self._odd_answer(request, call)
            answer = odd if odd is not None else route(call)
        except Refusal as refusal:
            answer = refusal.answer()
        if call.writes:
            await self._linger(call.customer, delay)
        elif delay:
            await asyncio.sleep(delay)
        return _cut(request) if fault.failure == "drop_after" else answer

    async def _linger(self, customer: str, delay: float) -> None:
        """Stay in progress for a moment, so that an overlapping write is noticed."""
        self._overlapping_writes += bool(self._writing[customer])
        self._writing[customer] += 1
        try:
            await asyncio.sleep(delay)
        finally:
            self._writing[customer] -= 1
            if not self._writing[customer]:
                del self._writing[customer]

    def _note(self, fault: Fault) -> None:
        if fault.failure:
            self._faults_seen[fault.failure] += 1
        if fault.slow:
            self._faults_seen["slow"] += 1

    def _fail(self, failure: str) -> web.Response:
        if failure == "html":
            return web.Response(
                text="<html><h1>Please log in</h1></html>", content_type="text/html"
            )
        answer = _json({"message": _FAILED[failure]}, int(failure))
        if failure == "429":
            answer.headers["Retry-After"] = str(self.faults.retry_after)
        if failure == "302":
            answer.headers["Location"] = "/moved"
        return answer

    def _odd_answer(self, request: web.BaseRequest, call: Call) -> web.Response | None:
        """Return the odd answer for the customers or meter records of a request, if any."""
        ids = {"*", *self._ids(call)} if self.odd else set()
        answers = [self.odd[customer] for customer in sorted(ids) if customer in self.odd]
        if request.method not in ("PUT", "POST"):
            answers = [answer for answer in answers if not answer.startswith("PUT ")]
        if not answers or answers[0].endswith("short"):
            return None
        match odd := answers[0].removeprefix("PUT "):
            case "[1]":
                return _json([1])
            case "other":
                return _json({"customerId": "somebody else", "customerName": "Somebody Else"})
            case "cut":
                return _cut_short(request)
        return self._fail(odd)

    @staticmethod
    def _ids(call: Call) -> set[str]:
        """Return the ids of the customers that a request names."""
        if call.customer or "customerId" in call.query:
            return {call.customer or call.query["customerId"]}
        try:
            document = orjson.loads(call.body) if call.body else []
        except orjson.JSONDecodeError:
            document = []
        items = document if isinstance(document, list) else [document]
        return {str(item.get("customerId")) for item in items if isinstance(item, dict)}

    # -- customers (docs/facts/amberflo.md §1)

    def _get_customers(self, call: Call) -> web.Response:
        """Return all customers in one array, in pieces; with `customerId` that one, or `{}`."""
        if "customerId" in call.query:
            return self._one_customer(call.query["customerId"])
        return _json_array(self._shown(self._listed(), self.list_traits))

    def _get_customer(self, call: Call) -> web.Response:
        return self._one_customer(call.customer)

    def _one_customer(self, customer_id: str) -> web.Response:
        customer = self.customers.get(customer_id)
        if customer is None and self.missing == "404":
            raise Refusal(404, {"message": "Customer not found"})
        answer = _json(customer or {})
        self.after_read(customer_id)
        return answer

    def _page_customers(self, call: Call) -> web.Response:
        """Return one page of customers.

        By default `limit` is 10, `page` 1, `sort` id and `isAscending` true
        (docs/facts/amberflo.md §1.1).
        """
        limit, page = _positive(call.query, "limit", 10), _positive(call.query, "page", 1)
        sort = call.query.get("sort", "id")
        ascending = call.query.get("isAscending", "true")
        search = call.query.get("search", "")
        if sort not in SORTS:
            refuse(f"'sort' must be one of {', '.join(SORTS)}")
        if ascending not in ("true", "false"):
            refuse("'isAscending' must be true or false")
        listed = self._listed()
        rows = [c for c in listed if any(search in c.get(name, "") for name in SEARCHED)]
        absent = 0 if sort.endswith("Time") else ""
        rows.sort(key=lambda c: c["customerId"])  # so that equal ones have one order each time
        rows.sort(key=lambda c: c.get(sort, absent), reverse=ascending == "false")
        metadata = {
            "totalRowCount": len(listed),
            "filteredRowCount": len(rows),
            "limit": limit,
            "page": page,
            "totalFilteredPages": -(-len(rows) // limit),
            "isAscending": ascending == "true",
            "sort": sort,
            "search": search,
        }
        items = list(self._shown(rows[(page - 1) * limit : page * limit], self.paging_traits))
        return _json({"items": items, "metadata": metadata})

    def _create_customer(self, call: Call) -> web.Response:
        customer = self._given(call.body)
        call.customer, call.writes = customer["customerId"], True
        if call.customer in self.customers:
            refuse("Customer already exists with this 'customerId'")
        if call.query.get("autoCreateCustomerInStripe") == "true":
            stripe_id = "cus_" + hashlib.sha256(call.customer.encode()).hexdigest()[:14]
            customer["traits"] = {**customer.get("traits", {}), "stripeId": stripe_id}
        answer = self._store(customer, {})
        self._puts[call.customer] += 1
        return answer

    def _replace_customer(self, call: Call) -> web.Response:
        """Replace the whole record: missing fields are gone (docs/facts/amberflo.md §1.4).

        Open: a missing stage, which only moves forward, stays; a deleted customer is replaced and
        stays deleted.
        """
        customer = self._given(call.body)
        call.customer, call.writes = customer["customerId"], True
        before = self.customers.get(call.customer)
        if before is None and self.put_unknown == "refuse":
            refuse("Customer not found")
        answer = self._store(customer, before or {})
        self._puts[call.customer] += 1
        return answer

    def _move_stage(self, call: Call) -> web.Response:
        """Move a customer's stage, forward only (docs/facts/amberflo.md §1.1)."""
        asked = _parsed(call.body)
        if not isinstance(asked, dict):
            refuse("not a JSON object")
        customer = self.customers.get(str(asked.get("customerId")))
        if customer is None:
            refuse("Customer not found")
        fields = {name: customer[name] for name in CUSTOMER_FIELDS & customer.keys()}
        stage = str(asked.get("lifecycleStage")).upper()
        if stage not in STAGES:
            refuse(f"'lifecycleStage' must be one of {', '.join(STAGES)}")
        return self._store({**fields, "lifecycleStage": stage}, customer)

    def _delete_customer(self, call: Call) -> web.Response:
        """Delete softly: offboard, and hide from the lists (docs/facts/amberflo.md §1.6)."""
        customer = self.customers.get(call.customer)
        if customer is None:
            refuse("Customer not found")
        customer |= {"lifecycleStage": "OFFBOARDED", "deleteTime": _now(), "updateTime": _now()}
        return _json(customer)

    def _given(self, body: bytes) -> Json:
        """Return the customer of a body, with its traits as they are stored."""
        customer = _customer(body)
        traits = customer.get("traits", {})
        if self.stores == "text only":
            for name, value in traits.items():
                if not isinstance(value, str):
                    refuse(f"trait {name!r} must be a string")
        if self.stores == "text" and traits:
            customer["traits"] = {name: _as_text(value) for name, value in traits.items()}
        return customer

    def _store(self, customer: Json, before: Json) -> web.Response:
        reached = before.get("lifecycleStage", "ONBOARDING")
        stage = customer.get("lifecycleStage", reached if before else "ACTIVE")
        if STAGES.index(stage) < STAGES.index(reached):
            refuse(f"'lifecycleStage' is {reached} and only moves forward")
        now = _now()
        customer |= {
            "id": customer["customerId"],
            "enabled": customer.get("enabled", True),
            "lifecycleStage": stage,
            "createTime": before.get("createTime", now),
            "updateTime": now,
        }
        if "deleteTime" in before:
            customer["deleteTime"] = before["deleteTime"]
        self.customers[customer["customerId"]] = customer
        return _json(customer)

    def _listed(self) -> list[Json]:
        return [c for c in self.customers.values() if "deleteTime" not in c]

    def _shown(self, customers: Iterable[Json], traits: bool) -> Iterator[Json]:
        for customer in customers:
            yield customer if traits else {k: customer[k] for k in customer if k != "traits"}

    # -- meter records (docs/facts/amberflo.md §2)

    def _ingest(self, call: Call) -> web.Response:
        """Store all of the records or, if one is bad, none; the answer is text, not JSON."""
        records = [_record(index, raw) for index, raw in enumerate(_documents(call.body))]
        if self.max_records is not None and len(records) > self.max_records:
            refuse(f"{len(records)} records; one request takes up to {self.max_records}")
        taken = [record for record in records if self.odd.get(record["customerId"]) != "short"]
        for record in taken:
            identity = _identity(record)
            if identity in self._known_records:
                self._duplicates += 1
            else:
                self._known_records.add(identity)
                self.records.append(record)
                self._taken += 1
        return web.Response(text=f"{len(taken)} records were ingested")

    # -- control, for the same machine

    async def _control(self, request: web.BaseRequest, path: str) -> web.Response:
        if not ipaddress.ip_address(request.remote or "0.0.0.0").is_loopback:
            raise Refusal(403, {"message": "/_sandbox/ answers on loopback only"})
        control = self._controls.get(f"{request.method} {path}")
        if control is None:
            raise Refusal(404, {"message": f"good are {', '.join(self._controls)}"})
        return control(await request.content.read())

    def _set_faults(self, body: bytes) -> web.Response:
        try:
            self.faults = Faults.parse(body.decode())
        except ValueError as error:
            refuse(str(error))
        return _json({"faults": str(self.faults)})

    def _seed_customers(self, body: bytes) -> web.Response:
        """Store records as they are, and fill in missing fields that the server owns."""
        seeds = _parsed(body)
        if not isinstance(seeds, list):
            refuse("not a JSON array of customers")
        for index, seed in enumerate(seeds):
            if not isinstance(seed, dict) or not _is_text(seed.get("customerId")):
                refuse(f"customer {index}: needs a 'customerId'")
            if not all(isinstance(seed.get(name, ""), str) for name in SEARCHED):
                refuse(f"customer {index}: {', '.join(SEARCHED)} must be strings")
            if seed.get("lifecycleStage", "ACTIVE") not in STAGES:
                refuse(f"customer {index}: 'lifecycleStage' must be one of {', '.join(STAGES)}")
        now = _now()
        for seed in seeds:
            owned = {"id": seed["customerId"], "createTime": now, "updateTime": now}
            defaults = {"customerName": seed["customerId"], "lifecycleStage": "ACTIVE"}
            self.customers[seed["customerId"]] = {**defaults, "enabled": True, **owned, **seed}
        return _json({"customers": len(seeds)})

    def _set_odd(self, body: bytes) -> web.Response:
        odd = _parsed(body)
        if not isinstance(odd, dict):
            refuse("not a JSON object of odd answers by customer id")
        for answer in odd.values():
            if not isinstance(answer, str) or answer.removeprefix("PUT ") not in ODD:
                refuse(f"{answer!r} is not an odd answer; good are {', '.join(ODD)}")
        self.odd = odd
        return _json({"odd": odd})

    def _reset(self, _: bytes) -> web.Response:
        self.reset_stats()
        return _json({})


# -- what a body may contain


def _customer(body: bytes) -> Json:
    """Return the customer in a POST or PUT body, without the fields that the server owns.

    Source: docs/facts/amberflo.md §1.2, §3.
    """
    customer = _parsed(body)
    if not isinstance(customer, dict):
        refuse("not a JSON object")
    customer = {name: value for name, value in customer.items() if name not in SERVER_OWNED}
    _check_fields(customer)
    _check_traits(customer.get("traits", {}))
    if "lifecycleStage" in customer:
        # The Go SDK sends it in lower case (docs/facts/amberflo.md §1.2).
        customer["lifecycleStage"] = customer["lifecycleStage"].upper()
        if customer["lifecycleStage"] not in STAGES:
            refuse(f"'lifecycleStage' must be one of {', '.join(STAGES)}")
    return customer


def _check_fields(customer: Json) -> None:
    if unknown := sorted(customer.keys() - CUSTOMER_FIELDS):
        refuse(f"unknown field {unknown[0]!r}")
    for name in ("customerId", "customerName"):
        if not _is_text(customer.get(name)):
            refuse(f"{name!r} must be a string that is not blank")
    for name, kind in OPTIONAL.items():
        if name in customer and not isinstance(customer[name], kind):
            refuse(f"{name!r} must be a {_KINDS[kind]}")
    if "customerEmail" in customer and not _is_text(customer["customerEmail"]):
        refuse("'customerEmail' must not be blank; leave it out")


def _check_traits(traits: Json) -> None:
    for name, value in traits.items():
        if not name.strip():
            refuse("'traits' has a blank key")
        if not _is_trait(value):
            refuse(
                f"trait {name!r} must be a string that is not blank, a boolean, a number or a list"
            )


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _is_trait(value: object) -> bool:
    """Return whether a trait may have a value.

    Open (docs/facts/amberflo.md §1.5): Segment's sample has a number, the SDKs want strings.
    """
    if isinstance(value, list):
        return all(isinstance(item, str | bool | int | float) for item in value)
    return isinstance(value, bool | int | float) or _is_text(value)


def _documents(body: bytes) -> list[object]:
    """Return the records of a body: one object, an array, or an object a line.

    Source: docs/facts/amberflo.md §2.1.
    """
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        lines = [line for line in body.splitlines() if line.strip()]
        if len(lines) < 2:
            refuse("not JSON")
        return [_parsed(line, f"record {index}: ") for index, line in enumerate(lines)]
    return parsed if isinstance(parsed, list) else [parsed]


def _record(index: int, raw: object) -> Json:
    """Return one meter record with the fields of the default schema; others are dropped.

    Source: docs/facts/amberflo.md §2.1.
    """
    if not isinstance(raw, dict):
        refuse(f"record {index}: not a JSON object")
    for problem in _record_problems(raw):
        refuse(f"record {index}: {problem}")
    return {name: raw[name] for name in RECORD_FIELDS if name in raw}


def _record_problems(raw: Json) -> Iterator[str]:
    for name in ("customerId", "meterApiName"):
        if not _is_text(raw.get(name)):
            yield f"{name!r} must be a string that is not blank"
    value, moment = raw.get("meterValue"), raw.get("meterTimeInMillis")
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield "'meterValue' must be a number"
    # Open (docs/facts/amberflo.md §2.2): only one SDK refuses a time in the future; so it is good.
    if isinstance(moment, bool) or not isinstance(moment, int) or moment < 1:
        yield "'meterTimeInMillis' must be a positive integer"
    if not isinstance(raw.get("uniqueId", ""), str):
        yield "'uniqueId' must be a string"
    dimensions = raw.get("dimensions", {})
    if not isinstance(dimensions, dict):
        yield "'dimensions' must be an object"
        return
    for name, text in dimensions.items():
        if not name.strip():
            yield "'dimensions' has a blank key"
        if not (_is_text(text) and DIMENSION_VALUE.fullmatch(text)):
            yield f"dimension {name!r} must match {DIMENSION_VALUE.pattern} and not be blank"


def _identity(record: Json) -> tuple[object, ...]:
    """Return every attribute: a record is a duplicate only if none differs.

    Source: docs/facts/amberflo.md §2.4.
    """
    dimensions = frozenset(record.get("dimensions", {}).items())
    return (*(record.get(name) for name in RECORD_FIELDS[:-1]), dimensions)


def _parsed(body: bytes, where: str = "") -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        refuse(f"{where}not JSON: {error.msg}")


def _positive(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        refuse(f"{name!r} must be a whole number above 0")
    return int(text)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _now() -> int:
    return time.time_ns() // 1_000_000


# -- HTTP

_FAILED = {
    "302": "Found",
    "400": "Bad Request",
    "401": "Unauthorized",
    "402": "Payment Required",
    "403": "Forbidden",
    "404": "Not Found",
    "413": "Request Too Long",
    "429": "Too Many Requests",
    "500": "Internal server error",
    "503": "Service Unavailable",
}
_TOO_LONG = {"message": _FAILED["413"]}
_KINDS = {str: "string", bool: "boolean", dict: "JSON object"}


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def _json_array(items: Iterable[object]) -> web.Response:
    """Answer with an array that is sent while it is made, so its length is unknown."""

    async def pieces() -> AsyncIterator[bytes]:
        piece = b"["
        for number, item in enumerate(items):
            piece += (b"," if number else b"") + orjson.dumps(item)
            if len(piece) >= PIECE:
                yield piece
                piece = b""
        yield piece + b"]"

    return web.Response(body=pieces(), content_type="application/json")


async def _read(request: web.BaseRequest) -> bytes:
    """Return the body, unzipped if its header says so (docs/facts/amberflo.md §2.1).

    It has at most 1 MiB, also unzipped (open).
    """
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Refusal(413, _TOO_LONG) from None
    match request.headers.get("Content-Encoding", "identity").lower():
        case "identity":
            return body
        case "gzip":
            return _unzipped(body)
        case other:
            raise Refusal(415, {"message": f"Unsupported Content-Encoding {other!r}; use gzip"})


def _unzipped(body: bytes) -> bytes:
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = unzip.decompress(body, MAX_BODY + 1)
    except zlib.error:
        refuse("not gzip, as its Content-Encoding says")
    if len(plain) > MAX_BODY:
        raise Refusal(413, _TOO_LONG)
    if not unzip.eof or unzip.unused_data:
        refuse("not one whole gzip stream")
    return plain


def _cut_short(request: web.BaseRequest) -> web.Response:
    """Send the head of an answer and a part of its body, then close the connection."""
    if request.transport is not None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
        request.transport.write(head + b'{"customerId": ')
        request.transport.close()
    return web.Response()


def _check(name: str, value: str, good: tuple[str, ...]) -> None:
    if value not in good:
        raise ValueError(f"{name} is {value!r}; good are {' and '.join(map(repr, good))}")


def _cut(request: web.BaseRequest) -> web.Response:
    """Close the connection at once; the returned answer goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
