"""Segment's hosted Amberflo destination, by its documentation: what it writes for a call.

connections/destinations/catalog/amberflo of segmentio/segment-docs, and
docs.amberflo.io/docs/segment-amberflo-destination (docs/facts/segment.md §7).
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

#: The example of an identify call in that documentation, and what it says Amberflo gets.
IDENTIFY: Json = {
    "type": "identify",
    "userId": "some_user_id",
    "traits": {
        "name": "John Doe",
        "email": "john.doe@email.com",
        "plan": "premium",
        "logins": 5,
        "phone": "650-769-3240",
        "username": "marakasina",
        "website": "example.com",
        "avatar": "https://s3.amazonaws.com/uifaces/faces/twitter/scottkclark/128.jpg",
    },
}
CUSTOMER: Json = {
    "customerId": "some_user_id",
    "customerName": "John Doe",
    "customerEmail": "john.doe@email.com",
    "traits": {
        "plan": "premium",
        "logins": 5,
        "phone": "650-769-3240",
        "username": "marakasina",
        "website": "example.com",
        "avatar": "https:__s3.amazonaws.com_uifaces_faces_twitter_scottkclark_128.jpg",
    },
}


def customer(call: Json) -> Json:
    """The customer that it PUTs for an identify call: traits have the names that Segment has."""
    traits = dict(call["traits"])
    record = {"customerId": call["userId"], "customerName": traits.pop("name", call["userId"])}
    if email := traits.pop("email", None):
        record["customerEmail"] = email
    return {**record, "traits": {name: _clean(value) for name, value in traits.items()}}


def _clean(value: object) -> object:
    return value.replace("/", "_").replace("|", "_") if isinstance(value, str) else value
