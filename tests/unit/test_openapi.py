"""What the OpenAPI document asks of a call alone is what the receiver asks."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from jsonschema.validators import validator_for

from syncer.passthrough import openapi
from syncer.passthrough.call import Call, Dropped, split

DOCUMENT = orjson.loads(openapi.document())
CALLS: list[dict[str, Any]] = [
    {},
    {"userId": "u"},
    {"anonymousId": "a"},
    {"userId": 7, "event": "Bought"},
    {"userId": "", "event": "Bought"},
    {"userId": "", "anonymousId": "a", "event": "Bought"},
    {"userId": "u", "event": " "},
    {"userId": "u", "event": 7},
    {"event": "Bought"},
]


@pytest.mark.parametrize("route", ["track", "t", "page", "s", "group", "a", "identify"])
def test_a_call_fits_the_document_where_it_is_taken(route: str) -> None:
    body = DOCUMENT["paths"][f"/v1/{route}"]["post"]["requestBody"]
    schema = {**body["content"]["application/json"]["schema"], "components": DOCUMENT["components"]}
    validator = validator_for(schema)(schema)
    for call in CALLS:
        (taken,) = split(route, call, received_at=1, make_id=lambda: "id")
        fits = validator.is_valid(call)
        assert isinstance(taken, Call | Dropped) or not fits, (call, taken)
        if "event" not in call or isinstance(call["event"], str):
            assert isinstance(taken, Call | Dropped) == fits, (call, taken)
