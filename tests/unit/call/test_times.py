"""When a call happened (docs/design.md §3.9 and docs/facts/segment.md §4)."""

from __future__ import annotations

import pytest

from syncer.clock import FUTURE, TOO_EARLY, UNREADABLE
from syncer.passthrough import call as module
from tests.support.strategies import TRACK
from tests.unit.call.helpers import at, call


@pytest.mark.parametrize(
    ("event", "sent_at", "when"),
    [
        # nothing said: received
        ({}, None, "2024-05-01T12:30:00"),
        ({}, "2024-05-01T09:00:00Z", "2024-05-01T12:30:00"),
        # no sentAt: the client's own
        ({"timestamp": "2024-05-01T10:00:00Z"}, None, "2024-05-01T10:00:00"),
        ({"originalTimestamp": "2024-05-01T10:00:00Z"}, None, "2024-05-01T10:00:00"),
        # a clock three hours slow, sent two seconds after it happened
        ({"timestamp": "2024-05-01T09:29:58Z"}, "2024-05-01T09:30:00Z", "2024-05-01T12:29:58"),
        (
            {"timestamp": "2024-05-01T09:29:58Z", "sentAt": "2024-05-01T09:30:00Z"},
            "2024-05-01T09:40:00Z",
            "2024-05-01T12:29:58",
        ),
        ({"timestamp": 1714555798, "sentAt": "nonsense"}, 1714555800, "2024-05-01T12:29:58"),
        # originalTimestamp before timestamp
        (
            {"originalTimestamp": "2024-05-01T09:29:50Z", "timestamp": "2024-05-01T09:29:58Z"},
            "2024-05-01T09:30:00Z",
            "2024-05-01T12:29:50",
        ),
        # been through Segment already
        (
            {"timestamp": "2024-05-01T12:00:00Z", "receivedAt": "2024-05-01T12:00:05Z"},
            "2024-05-01T09:30:00Z",
            "2024-05-01T12:00:00",
        ),
    ],
)
def test_the_clients_clock_is_corrected(
    event: dict[str, object], sent_at: object, when: str
) -> None:
    result = call(TRACK | event, sentAt=sent_at)
    assert (result.at_ms, result.notes) == (at(when), ())


def test_a_webhooks_timestamp_is_corrected_already() -> None:
    event = TRACK | {
        "originalTimestamp": "2024-05-01T09:29:58Z",
        "sentAt": "2024-05-01T09:30:00Z",
        "timestamp": "2024-05-01T12:29:50Z",
    }
    assert call(event, "webhook").at_ms == at("2024-05-01T12:29:50")
    assert call(event | {"receivedAt": "x"}).at_ms == at("2024-05-01T12:29:50")
    assert call(event).at_ms == at("2024-05-01T12:29:58")


@pytest.mark.parametrize(
    ("timestamp", "sent_at", "when"),
    [
        # zero, as programs write it who do not know
        ("2024-05-01T12:00:00Z", "0001-01-01T00:00:00Z", "2024-05-01T12:00:00"),
        ("2024-05-01T12:00:00Z", "0001-01-01T00:00:00", "2024-05-01T12:00:00"),
        ("2024-05-01T12:00:00Z", 0, "2024-05-01T12:00:00"),
        ("2024-05-01T12:00:00Z", "1970-01-01T00:00:00Z", "2024-05-01T12:00:00"),
        ("2024-05-01T12:00:00Z", "1999-12-31T23:59:59.999Z", "2024-05-01T12:00:00"),
        # a clock that is a year ahead, or is of another calendar
        ("2024-05-01T12:00:00Z", "2025-05-01T12:00:00Z", "2024-05-01T12:00:00"),
        ("2024-05-01T12:00:00Z", "2567-05-01T12:00:00Z", "2024-05-01T12:00:00"),
        # one that is an hour ahead
        ("2024-05-01T13:29:50Z", "2024-05-01T13:30:00Z", "2024-05-01T12:29:50"),
        # local time without a zone beside UTC says nothing
        ("2024-05-01T12:29:50Z", "2024-05-01T18:00:00", "2024-05-01T12:29:50"),
        ("2024-05-01T12:29:50Z", "2024-05-01 07:30:00", "2024-05-01T12:29:50"),
        (1714566590, "2024-05-01 07:30:00", "2024-05-01T12:29:50"),
        # two without a zone are of one
        ("2024-05-01T17:59:50", "2024-05-01T18:00:00", "2024-05-01T12:29:50"),
        ("2024-05-01T17:59:50", "2024-05-01T18:00:00Z", "2024-05-01T12:29:50"),
    ],
)
def test_a_sent_at_corrects_where_it_says_how_wrong_the_clock_is(
    timestamp: object, sent_at: object, when: str
) -> None:
    event = TRACK | {"timestamp": timestamp}
    for result in (call(event, sentAt=sent_at), call(event | {"sentAt": sent_at})):
        assert (result.at_ms, result.notes) == (at(when), ())


def test_a_batch_corrects_where_its_events_own_time_does_not() -> None:
    event = TRACK | {"timestamp": "2024-05-01T09:29:58Z", "sentAt": "0001-01-01T00:00:00Z"}
    assert call(event, sentAt="2024-05-01T09:30:00Z").at_ms == at("2024-05-01T12:29:58")


@pytest.mark.parametrize(
    ("timestamp", "when", "note"),
    [
        ("1970-01-01T00:00:00Z", "2024-05-01T12:30:00", TOO_EARLY),
        ("1999-12-31T23:59:59.999Z", "2024-05-01T12:30:00", TOO_EARLY),
        ("2000-01-01T00:00:00Z", "2000-01-01T00:00:00", module.OLD),
        ("1969-07-20T20:17:40Z", "2024-05-01T12:30:00", TOO_EARLY),
        (-5, "2024-05-01T12:30:00", TOO_EARLY),
        ("0001-01-01T00:00:00+14:00", "2024-05-01T12:30:00", UNREADABLE),
        ("2024-03-02T12:29:59Z", "2024-03-02T12:29:59", module.OLD),
        ("2024-03-02T12:30:00Z", "2024-03-02T12:30:00", None),
        ("2024-05-01T12:30:00.001Z", "2024-05-01T12:30:00", None),
        ("2024-05-01T12:35:00Z", "2024-05-01T12:30:00", None),
        ("2024-05-01T12:35:00.001Z", "2024-05-01T12:30:00", FUTURE),
        ("2100-01-01T00:00:00Z", "2024-05-01T12:30:00", FUTURE),
        ("2567-05-01T12:30:00Z", "2024-05-01T12:30:00", FUTURE),
        ("soon", "2024-05-01T12:30:00", UNREADABLE),
        ({}, "2024-05-01T12:30:00", UNREADABLE),
    ],
)
def test_odd_times_are_taken_and_noted(timestamp: object, when: str, note: str | None) -> None:
    for route in ("track", "webhook"):
        result = call(TRACK | {"timestamp": timestamp}, route)
        assert (result.at_ms, result.notes) == (at(when), (note,) if note else ())
        assert result.received_at == at("2024-05-01T12:30:00")


def test_what_the_correction_comes_to_is_believed_or_not_as_well() -> None:
    """PHP's 1970 with a good sentAt, and a phone that was set back two weeks after the event."""
    for timestamp, note in (("1970-01-01T00:00:00Z", TOO_EARLY), ("2024-05-15T12:30:00Z", FUTURE)):
        result = call(TRACK | {"timestamp": timestamp}, sentAt="2024-05-01T12:29:59Z")
        assert (result.at_ms, result.notes) == (at("2024-05-01T12:30:00"), (note,))


def test_an_unreadable_original_falls_back_to_the_timestamp() -> None:
    event = TRACK | {"originalTimestamp": "x", "timestamp": "2024-05-01T12:00:00Z"}
    assert call(event).at_ms == at("2024-05-01T12:00:00")
