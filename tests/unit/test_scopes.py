"""Who may say what: callers, their short names, and what calls need."""

from __future__ import annotations

from typing import Any

import pytest

from syncer.passthrough import scopes
from syncer.passthrough.call import Call, split
from syncer.passthrough.scopes import DEFAULT_SCOPES, DELETE, MEMBERSHIPS, SCOPES, SIGNED, Caller


def callers(*keys: str) -> list[Caller]:
    return [Caller(scopes.short_name(key), frozenset(DEFAULT_SCOPES), key) for key in keys]


def key_of(given: str | None, *keys: str) -> str | None:
    caller = scopes.find(callers(*keys), given)
    return None if caller is None else caller.key


def test_a_caller_is_known_by_its_key() -> None:
    assert key_of("b", "a", "b") == "b"
    assert key_of("ü", "ü") == "ü"
    assert key_of("c", "a", "b") is None
    assert key_of("ab", "abc") is None
    assert key_of("a") is None
    for blank in (None, ""):
        assert key_of(blank, "a", "") is None
    assert key_of("\ud83d", "a") is None


def test_a_short_name_is_the_keys_own_and_does_not_tell_it() -> None:
    first, second = callers("wk-8Dq2mZ1xTfUo5", "wk-8Dq2mZ1xTfUo6")
    assert first.name == scopes.short_name(first.key) != second.name
    assert first.name.startswith("key-")
    assert len(first.name) == 10
    assert "8Dq2mZ1" not in repr(first)


@pytest.mark.parametrize(
    ("event", "need"),
    [
        ({"type": "page"}, "page"),
        ({"type": "screen"}, "screen"),
        ({"type": "track", "event": "E"}, "track"),
        ({"type": "identify"}, "identify"),
        ({"type": "delete"}, DELETE),
        # Whatever its kind and class: that it speaks of Engage is enough.
        ({"type": "track", "event": "E", "context": {"personas": {"x": 1}}}, MEMBERSHIPS),
        ({"type": "identify", "context": {"personas": {"computation_key": "a"}}}, MEMBERSHIPS),
        ({"type": "page", "context": {"personas": {"computation_class": "trait"}}}, MEMBERSHIPS),
        ({"type": "identify", "context": {"personas": {}}}, "identify"),
    ],
)
def test_what_a_call_needs(event: dict[str, Any], need: str) -> None:
    (call,) = split("webhook", {"userId": "u1", **event}, received_at=1, make_id=lambda: "m")
    assert isinstance(call, Call)
    assert call.scope == need
    assert need in SIGNED.may
    assert (need in DEFAULT_SCOPES) == (need not in (DELETE, MEMBERSHIPS))
    assert scopes.NOT_ALLOWED[need]


def test_what_was_stored_says_what_its_key_may() -> None:
    for may in (DEFAULT_SCOPES, SCOPES, SIGNED.may, ("track",)):
        caller = Caller("a", frozenset(may), "k")
        assert set(scopes.allowed("batch", caller.scopes)) == set(may)
    # An older program let everybody in; deletes by webhooks only.
    assert set(scopes.allowed("batch", "")) == set(SCOPES)
    assert DELETE in scopes.allowed("webhook", "")
