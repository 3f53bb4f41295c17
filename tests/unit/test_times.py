"""Times as warehouses and clients write them, and which of them are believed."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncer import clock
from syncer.clock import AHEAD, EARLIEST, FUTURE, TOO_EARLY, UNREADABLE, believed, read, reading
from syncer.engage.catalog import newest
from syncer.passthrough.call import Call, split

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def at(iso: str) -> int:
    return (datetime.fromisoformat(iso).replace(tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)


NOON = "2024-05-01T12:30:00"


@pytest.mark.parametrize(
    ("raw", "iso"),
    [
        # ISO 8601, strictly and less so
        ("2012-12-02T00:30:08.276Z", "2012-12-02T00:30:08.276"),
        ("2015-2-02T00:30:08.276Z", "2015-02-02T00:30:08.276"),
        ("2015-2-2T0:3:8Z", "2015-02-02T00:03:08"),
        ("2012-12-02T00:30:08", "2012-12-02T00:30:08"),
        ("2012-12-02T00:30", "2012-12-02T00:30"),
        ("2012-12-02 00:30:08.1", "2012-12-02T00:30:08.100"),
        ("2012-12-02 00:30:08 UTC", "2012-12-02T00:30:08"),
        ("2012-12-02 00:30:08 +0200", "2012-12-01T22:30:08"),
        ("2012-12-02T00:30:08+02:00", "2012-12-01T22:30:08"),
        ("2012-12-02T00:30:08-0530", "2012-12-02T06:00:08"),
        ("2012-2-02T00:30:08-05:30", "2012-02-02T06:00:08"),
        ("2012-2-02T00:30:08+2", "2012-02-01T22:30:08"),
        ("2012-12-02T00:30:08+02", "2012-12-01T22:30:08"),
        ("2012-12-02T00:30:08,5Z", "2012-12-02T00:30:08.500"),
        ("2012-12-02t00:30:08z", "2012-12-02T00:30:08"),
        ("  2012-12-02T00:30:08Z \n", "2012-12-02T00:30:08"),
        ("2012-12-02", "2012-12-02T00:00"),
        ("2012-1-2", "2012-01-02T00:00"),
        ("2012/12/02 00:30:08", "2012-12-02T00:30:08"),
        ("20121202", "2012-12-02T00:00"),
        ("20121202T003008Z", "2012-12-02T00:30:08"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00"),
        ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999"),
        # as databases write them
        ("2024-05-01T12:30:00.000000000Z", NOON),
        ("2024-05-01 12:30:00+00", NOON),
        ("2024-05-01 12:30:00.000000+00:00", NOON),
        ("2024-05-01 12:30:00.000000000 UTC", NOON),
        (datetime(2024, 5, 1, 12, 30), NOON),
        (datetime(2024, 5, 1, 12, 30, tzinfo=UTC), NOON),
        (datetime(2024, 5, 1, 14, 30, tzinfo=timezone(timedelta(hours=2))), NOON),
        (date(2024, 5, 1), "2024-05-01T00:00"),
        (Decimal(1714566600), NOON),
        (Decimal("1714566600.25"), "2024-05-01T12:30:00.250"),
        # the part of a second that is smaller than a millisecond is cut off, however it is written
        ("2024-05-01T12:30:00.1236Z", "2024-05-01T12:30:00.123"),
        ("2024-05-01T12:30:00.123999Z", "2024-05-01T12:30:00.123"),
        ("2024-5-01T12:30:00.1239999999Z", "2024-05-01T12:30:00.123"),
        (datetime(2024, 5, 1, 12, 30, 0, 123_999), "2024-05-01T12:30:00.123"),
        (1_714_566_600.123_9, "2024-05-01T12:30:00.123"),
        ("1714566600.1239", "2024-05-01T12:30:00.123"),
        (1_714_566_600_123.9, "2024-05-01T12:30:00.123"),
        # numbers: seconds or milliseconds
        ("1354408208", "2012-12-02T00:30:08"),
        ("1354408208276", "2012-12-02T00:30:08.276"),
        ("1354408208.276", "2012-12-02T00:30:08.276"),
        (1354408208, "2012-12-02T00:30:08"),
        (1354408208.276, "2012-12-02T00:30:08.276"),
        (1764210600.123, "2025-11-27T02:30:00.123"),
        (1354408208276, "2012-12-02T00:30:08.276"),
        (0, "1970-01-01T00:00"),
        # fourteen digits: a date and a time, never milliseconds of the year 2612
        ("20261127023000", "2026-11-27T02:30:00"),
        (20261127023000, "2026-11-27T02:30:00"),
        (20261127023000.0, "2026-11-27T02:30:00"),
        ("20261127023000.5", "2026-11-27T02:30:00.500"),
        ("20261127023000Z", "2026-11-27T02:30:00"),
        ("20261127023000+0100", "2026-11-27T01:30:00"),
        # RFC 1123, and its relatives
        ("Fri, 27 Nov 2026 00:05:47 GMT", "2026-11-27T00:05:47"),
        ("27 Nov 2026 00:05:47 +0100", "2026-11-26T23:05:47"),
        ("Fri, 27 Nov 2026 00:05 UT", "2026-11-27T00:05"),
        ("Thu, 26 Nov 2026 16:05:47 PST", "2026-11-27T00:05:47"),
        ("Friday, 27-Nov-2026 00:05:47 GMT", "2026-11-27T00:05:47"),
        # JavaScript, Go, Java, Ruby, C
        (
            "Fri Nov 27 2026 00:05:47 GMT+0000 (Coordinated Universal Time)",
            "2026-11-27T00:05:47",
        ),
        (
            "Fri Nov 27 2026 05:50:47 GMT+0545 (heure du N\u00e9pal)",
            "2026-11-27T00:05:47",
        ),
        ("Friday, 27-Nov-26 00:05:47 GMT", "2026-11-27T00:05:47"),
        ("27 Nov 26 00:05 EST", "2026-11-27T05:05"),
        ("Thu, 01 Jan 70 00:00:01 GMT", "1970-01-01T00:00:01"),
        ("2026-11-27 00:05:47.123456 +0000 UTC", "2026-11-27T00:05:47.123"),
        ("2026-11-27 01:05:47.5 +0100 CET m=+0.000012345", "2026-11-27T00:05:47.500"),
        ("2026-11-26 21:05:47 -0300 -03", "2026-11-27T00:05:47"),
        ("2026-11-27T01:05:47+01:00[Europe/Paris]", "2026-11-27T00:05:47"),
        ("Fri Nov 27 00:05:47 UTC 2026", "2026-11-27T00:05:47"),
        ("Fri Nov 27 00:05:47 +0000 2026", "2026-11-27T00:05:47"),
        ("Fri Nov  6 00:05:47 2026", "2026-11-06T00:05:47"),
        ("2026-11-27T00:05:47.123456+00:00Z", "2026-11-27T00:05:47.123"),
        # digits of other scripts
        ("٢٠٢٦-١١-٢٧T٠٠:٠٥:٤٧.٠٠٠Z", "2026-11-27T00:05:47"),
        ("२०२६-११-२७ ००:०५:४७", "2026-11-27T00:05:47"),
        ("２０２６-11-27", "2026-11-27T00:00"),
        ("\u200f١٧٦٤٢١٠٦٠٠\u066b١٢٣", "2025-11-27T02:30:00.123"),
        ("2026-11-27T00:05:47\u22120100", "2026-11-27T01:05:47"),
    ],
)
def test_times_are_read(raw: object, iso: str) -> None:
    assert read(raw) == at(iso)


@pytest.mark.parametrize(
    "raw",
    [
        *("", " ", "null", "now", "soon", "12:30", "2012", "2012-13-01", "2012-12-32T00:00:00Z"),
        *("2012-12-02T25:00:00Z", "2012-12-02T00:30:61Z", "2012-12-02T", "T00:30", "12345678"),
        *("Mon Dec 02 2012", "Invalid Date", "Fri, 27 Abc 2026 00:05:47 GMT", "27/11/2026 00:05"),
        *("2024-05-01T12:30:00 o'clock", "2012-12-02T00:30:08\ud83d", "2012-12-02T00:30:08+99:99"),
        *("2012-2-02T00:30:08+02:60", "2012-12-02T00:30:08 CEST", "1" * 17, "99999999999999"),
        *("infinity", "-infinity", "10000-01-01", "10000-01-01 00:00:00+00", "0044-03-15 BC"),
        *("9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+14:00", "2012-12-02" + " " * 199),
        *(None, True, False, [], {}, b"2012-12-02", math.nan, math.inf, -math.inf, 1e300, 10**30),
        *(10**400, -(10**15), 10**15, Decimal("NaN"), Decimal("Infinity"), Decimal("1E+999")),
    ],
)
def test_what_is_no_time(raw: object) -> None:
    assert read(raw) is None
    assert clock.since_1970(raw) == 0


@pytest.mark.parametrize(
    ("raw", "zoned"),
    [
        *((text, True) for text in ("2026-11-27T00:05:47Z", "2026-11-27 00:05:47 +0530")),
        *((text, True) for text in ("Fri, 27 Nov 2026 00:05:47 GMT", "1764210600")),
        *((text, False) for text in ("2026-11-27T00:05:47", "2026-1-27 00:05:47", "2026-11-27")),
        *((text, False) for text in ("20261127023000", "Fri Nov 27 00:05:47 2026")),
        *(
            (1764210600, True),
            (datetime(2026, 1, 1), False),
            (datetime(2026, 1, 1, 0, 0, 0, 0, UTC), True),
        ),
    ],
)
def test_whether_a_time_names_its_zone(raw: object, zoned: bool) -> None:
    moment = reading(raw)
    assert moment is not None
    assert moment[1] is zoned


def test_the_zone_of_the_machine_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert read("2024-05-01 12:30:00") == at(NOON)
        assert read(datetime(2024, 5, 1, 12, 30)) == at(NOON)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_for_comparing_the_unknown_is_oldest() -> None:
    assert clock.since_1970("1969-12-31T23:59:59Z") == 0
    assert clock.since_1970("2024-05-01T12:30:00Z") == at(NOON)


# Which are believed

RECEIPT = at(NOON)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (RECEIPT - 1, (RECEIPT - 1, None)),
        (RECEIPT, (RECEIPT, None)),
        (RECEIPT + 1, (RECEIPT, None)),
        (RECEIPT + AHEAD, (RECEIPT, None)),
        (RECEIPT + AHEAD + 1, (RECEIPT, FUTURE)),
        (at("9999-12-31T00:00"), (RECEIPT, FUTURE)),
        (EARLIEST, (EARLIEST, None)),
        (EARLIEST - 1, (RECEIPT, TOO_EARLY)),
        (0, (RECEIPT, TOO_EARLY)),
        (-5, (RECEIPT, TOO_EARLY)),
        (None, (RECEIPT, UNREADABLE)),
    ],
)
def test_a_time_is_believed_from_2000_to_its_receipt(
    said: int | None, expected: tuple[int, str | None]
) -> None:
    assert believed(said, RECEIPT) == expected


def test_the_bounds() -> None:
    assert at("2000-01-01T00:00") == EARLIEST
    assert AHEAD == 5 * 60 * 1000


@given(st.none() | st.integers(), st.integers(EARLIEST, at("2200-01-01T00:00")))
def test_nothing_is_later_than_its_receipt(said: int | None, receipt: int) -> None:
    moment, reason = believed(said, receipt)
    assert EARLIEST <= moment <= receipt
    assert reason is None or moment == receipt


# Pulls and calls read alike


ANY = (
    st.text(alphabet="0123456789-+:.TZ ,W/", max_size=30)
    | st.datetimes().map(str)
    | st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat())
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
)


@given(raw=ANY)
def test_every_value_is_a_time_that_can_be_shown_or_none(raw: Any) -> None:
    moment = read(raw)
    if moment is not None:
        EPOCH + timedelta(milliseconds=moment)


@given(raw=ANY)
@example(raw="2024-05-01T00:00:00.1236Z")
@example(raw="2015-2-02T00:30:08.276Z")
def test_a_call_and_a_row_of_one_time_are_of_one_millisecond(raw: Any) -> None:
    receipt = at("2200-01-01T00:00")
    event = {"type": "track", "event": "E", "userId": "u", "timestamp": raw}
    (call,) = split("track", event, received_at=receipt, make_id=lambda: "made")
    assert isinstance(call, Call)
    assert call.at_ms == believed(read(raw), receipt)[0]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("2024-05-01T00:00:00.1235Z", "2024-05-01T00:00:00.124Z"),
        ("2015-2-02T00:30:08.276Z", "2015-02-02T00:30:08.277Z"),
    ],
)
def test_the_newest_row_of_a_pull_is_found_by_the_same_reader(older: str, newer: str) -> None:
    for times in ([older, newer], [newer, older]):
        texts = (json.dumps(["vip", "vip"]), json.dumps(times), json.dumps(times))
        assert newest(*texts) == ('["vip"]', f'["{newer}"]', f'["{newer}"]')


@given(
    st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),
    st.integers(-14 * 60, 14 * 60),
)
def test_times_as_python_writes_them(naive: datetime, offset: int) -> None:
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=offset)))
    expected = (moment - EPOCH) // timedelta(milliseconds=1)
    assert read(moment) == read(moment.isoformat()) == read(f" {moment.isoformat(' ')}") == expected
    assert read(naive) == read(naive.isoformat()) == read(naive.replace(tzinfo=UTC))
