"""What comes in as a Segment call, drawn by Hypothesis: mostly likely, and anything at all."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

TRACK = {"type": "track", "userId": "u1", "event": "ApiCalls", "messageId": "m1"}

TEXT = st.text(alphabet=st.characters(), max_size=12)  # lone surrogates too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(
        ["page", "screen", "track", "identify", "group", "alias", "delete", "other"]
    ),
    "messageId": st.just("m1") | JSON,
    "userId": st.just("u1") | st.just("") | JSON,
    "anonymousId": st.just("a1") | JSON,
    "event": TEXT | JSON,
    "name": TEXT | JSON,
    "properties": st.dictionaries(st.just("value") | TEXT, JSON, max_size=5) | JSON,
    "traits": st.dictionaries(st.sampled_from(["name", "email", "k"]) | TEXT, JSON, max_size=5)
    | JSON,
    "timestamp": st.datetimes().map(str) | st.integers() | JSON,
    "originalTimestamp": st.datetimes().map(str) | JSON,
    "sentAt": st.datetimes().map(str) | JSON,
    "receivedAt": st.none() | JSON,
    "integrations": st.dictionaries(st.sampled_from(["All", "Amberflo"]), JSON) | JSON,
    "context": st.fixed_dictionaries(
        {},
        optional={
            "personas": st.fixed_dictionaries(
                {},
                optional={
                    "computation_class": st.sampled_from(["audience", "journey_step", "trait", 1]),
                    "computation_key": st.just("k") | JSON,
                },
            )
            | JSON
        },
    )
    | JSON,
}
EVENT = st.fixed_dictionaries({}, optional=LIKELY) | JSON
