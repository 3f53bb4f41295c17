"""Whatever comes has a documented answer and does no harm."""

from __future__ import annotations

import gzip
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import orjson
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from state import identify_traits, outbox, queue
from syncer.amberflo.record import merged
from syncer.passthrough.call import (
    BATCH,
    SINGLE,
)
from syncer.sandbox.amberflo import AmberfloSandbox, running
from tests.e2e.receiver.helpers import SEED_TIME, Json, Workbench, basic
from tests.support.daemon import KEY, refused
from tests.support.events import sign, track
from tests.support.installation import API_KEY

TEXT = st.text(st.characters(exclude_categories=()), max_size=8)


SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | TEXT
    | st.sampled_from(["", " ", "1970-01-01T00:00:00Z", "2100-01-01", "NaN", "2.5", "\0", "a/b|c"])
)


ANYTHING = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)


DATA = st.dictionaries(TEXT | st.sampled_from(["value", "vip", "name", "a"]), ANYTHING, max_size=4)


GOOD_EVENT = {
    "type": st.sampled_from(["track", "page", "screen", "identify", "group", "alias", "delete"]),
    "userId": st.sampled_from(["u1", "u2", "ü3", 7]),
    "event": st.just("E") | TEXT,
}


ENGAGE = [
    {"personas": {"computation_class": kind, "computation_key": key}}
    for kind, key in (("audience", "vip"), ("trait", "value"), ("journey_step", "a"))
]


MORE = {
    "anonymousId": st.just("a1"),
    "name": TEXT,
    "messageId": TEXT,
    "properties": DATA,
    "traits": DATA,
    "timestamp": st.sampled_from([SEED_TIME, "2015-2-02T00:30:08.276Z", 1, "x"]),
    "integrations": st.sampled_from([{}, {"All": False}]),
    "context": st.sampled_from([{}, {}, *ENGAGE]),
}


EVENT = st.fixed_dictionaries(GOOD_EVENT, optional=MORE) | st.fixed_dictionaries(
    {}, optional={name: good | ANYTHING for name, good in (GOOD_EVENT | MORE).items()}
)


OF_BATCH = {"context": ANYTHING, "sentAt": ANYTHING, "integrations": ANYTHING}


BODIES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(SINGLE, EVENT),
    **dict.fromkeys(
        BATCH,
        st.fixed_dictionaries({"batch": st.lists(EVENT, max_size=4)}, optional=OF_BATCH),
    ),
    "webhook": EVENT | st.lists(EVENT, max_size=4),
    "m": ANYTHING,
}


REQUEST = st.sampled_from(sorted(BODIES)).flatmap(
    lambda route: st.tuples(
        st.just(route), BODIES[route] | BODIES[route] | ANYTHING | st.binary(max_size=60)
    )
)


HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "authorization": st.binary(max_size=20).map(lambda text: b"Basic " + text),
        "content-encoding": st.sampled_from([b"gzip", b"br", b"identity", b"\xff"]),
        "x-signature": st.binary(max_size=45),
    },
)


DOCUMENTED = {
    "POST": {200, 400, 401, 403, 413, 415, 429, 503},
    "OPTIONS": {204},
    "GET": {405},
}


def test_whatever_comes_has_a_documented_answer_and_no_harm(tmp_path: Path) -> None:
    """Any bytes and any JSON, to any route; what was taken can be sorted, and Amberflo takes what
    comes of it."""
    with closing(Workbench(tmp_path)) as bench:

        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            REQUEST,
            HEADERS | st.just({}),
            st.sampled_from([True, True, False]),
            st.sampled_from(["POST"] * 10 + ["OPTIONS", "GET"]),
        )
        @example(("track", track()), {}, True, "POST")
        @example(("identify", {"userId": "u1", "traits": {"a": 1}}), {}, True, "POST")
        @example(("identify", {"userId": "u1", "traits": {"a": 2}}), {}, True, "POST")
        @example(("track", b"[" * 100_000), {}, False, "POST")
        @example(("batch", {"batch": [{"userId": 10**400}]}), {}, True, "POST")
        @example(("webhook", b'["\\ud800"'), {"x-signature": b"0"}, False, "POST")
        def check(request: tuple[str, Any], headers: Json, good: bool, method: str) -> None:
            route, body = request
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            if good:
                headers = headers | {"authorization": basic(KEY)["authorization"].encode()}
                first = body[0] if isinstance(body, list) and body else body
                signed = content if isinstance(body, bytes) else json.dumps(first).encode()
                headers["x-signature"] = sign(signed).encode()
                if headers.get("content-encoding") == b"gzip":
                    content = gzip.compress(content, 1)
            answer = bench.request(method, f"/v1/{route}", content, headers)
            assert answer.status_code in DOCUMENTED[method], answer.text
            if method == "POST" and answer.status_code != 200:
                refused(answer, answer.status_code, answer.json()["code"])
            while bench.processor.process():
                pass

        check()
        amberflo_takes(bench)


def amberflo_takes(bench: Workbench) -> None:
    """The strict stand-in takes every record and customer that waits."""
    with bench.calls.write() as connection:
        records = queue.claim(connection, 1, 2**62, 10**6)
    with bench.state.write() as connection:
        customers = outbox.claim(connection, 1, 2**62, 10**6)
    assert records
    assert customers
    with running(AmberfloSandbox(API_KEY)) as url, httpx.Client(trust_env=False) as client:
        key = {"x-api-key": API_KEY}
        for record in records:
            answer = client.post(f"{url}/ingest", content=record.record, headers=key)
            assert answer.status_code == 200, (answer.text, record.record)
        for row in customers:
            content = merged(
                None,
                customer_id=row.customer_id,
                traits=identify_traits.values(row.identify_traits) | orjson.loads(row.traits),
                name=row.name,
                email=row.email,
                owned=identify_traits.load(row.identify_traits).keys(),
            )
            answer = client.put(f"{url}/customers", json=content, headers=key)
            assert answer.status_code == 200, (answer.text, content)
