"""Times: this machine's clock, one reader of times from outside, and the way times are shown.

Rows of a pull and calls of a client name the same moments, and which is newer decides what is
billed. So both are read here, to the millisecond, which is cut off and never rounded.
"""

from __future__ import annotations

import math
import re
import time
import unicodedata
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache

#: The earliest time that is believed, 2000-01-01, in epoch milliseconds. An earlier one comes from
#: a clock that was never set, or from a program that writes zero for "unknown".
EARLIEST = 946_684_800_000
#: How much later than its receipt a time may be (milliseconds): clocks differ.
AHEAD = 5 * 60 * 1000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Milliseconds of 400 years, after which the calendar is the same again.
_CYCLE = 146_097 * 86_400_000

UNREADABLE = "timestamp unreadable, taken as received now"
TOO_EARLY = "timestamp before 2000, taken as received now"
FUTURE = "timestamp in the future, taken as received now"


def now_ms() -> int:
    """Return the time of this machine's clock in epoch milliseconds."""
    return time.time_ns() // 1_000_000


@lru_cache(maxsize=1000)  # the many changes of a run have one time
def iso(milliseconds: int | None) -> str | None:
    """Return epoch milliseconds as ISO-8601 in UTC: 2026-11-24T06:51:04.123Z.

    A year beyond 9999 or before 0 has six digits: +012025-11-24T06:51:04.123Z.
    """
    if milliseconds is None:
        return None
    cycles, within = divmod(milliseconds, _CYCLE)
    moment = _EPOCH + timedelta(milliseconds=within)
    year = moment.year + 400 * cycles
    rest = moment.isoformat(timespec="milliseconds")[4:].replace("+00:00", "Z")
    return (f"{year:04d}" if 0 <= year < 10_000 else f"{year:+07d}") + rest


#: A time in epoch milliseconds, and whether it names its zone. Without one it counts as UTC, but is
#: not compared with a time that names its zone. (A plain tuple, because every call makes some.)
Reading = tuple[int, bool]


def read(raw: object) -> int | None:
    """Return the epoch milliseconds of a time; None if it cannot be read. See `reading`."""
    time_read = reading(raw)
    return None if time_read is None else time_read[0]


def since_1970(raw: object) -> int:
    """Return the same for comparisons: 0, the oldest, if it is unreadable or before 1970."""
    return max(0, read(raw) or 0)


def believed(at: int | None, receipt: int) -> tuple[int, str | None]:
    """Return the time to use (epoch milliseconds), and why it is not `at` itself.

    It is never later than the receipt, so that no stored value wins for ever. A time that is a
    little later, as clocks differ, becomes the receipt without a reason.
    """
    if at is None:
        return receipt, UNREADABLE
    if at < EARLIEST:
        return receipt, TOO_EARLY
    if at > receipt + AHEAD:
        return receipt, FUTURE
    return min(at, receipt), None


def reading(raw: object) -> Reading | None:
    """Read a time as warehouses and clients write it; None if it is not a time.

    The forms are: ISO 8601, also without leading zeros (Segment's own sample has
    "2015-2-02T00:30:08.276Z"), with any number of digits of a second, or without separators
    ("20261127023000"); the texts of HTTP and e-mail (RFC 1123), of JavaScript's `Date`, Go's
    `time.Time`, Ruby, Java and C; numbers of seconds or milliseconds, also as text; digits of any
    script; `datetime` objects. Infinities and years beyond 9999 are not times.
    """
    time_read = _of_text(raw) if isinstance(raw, str) else _of_other(raw)
    if time_read is None or not _FIRST <= time_read[0] <= _LAST:
        return None
    return time_read


def _of_other(raw: object) -> Reading | None:
    if isinstance(raw, bool):
        return None
    if isinstance(raw, int):
        return _of_number(Decimal(raw)) if abs(raw) <= _LAST else None
    if isinstance(raw, float):
        return _of_number(Decimal(repr(raw)))
    if isinstance(raw, Decimal):
        return _of_number(raw)
    if isinstance(raw, datetime):
        return _of_datetime(raw)
    return _of_text(raw.isoformat()) if isinstance(raw, date) else None


# -- numbers and moments

_EPOCH, _NAIVE_EPOCH = datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1)
#: The years 1 to 9999, which `datetime` can express: so every stored time can be shown.
_FIRST, _LAST = -62_135_596_800_000, 253_402_300_799_999
#: Up to here a number counts seconds, beyond it milliseconds.
_SECONDS = 10**11
#: Fourteen digits are YYYYMMDDhhmmss: as milliseconds they would be beyond the year 2286.
_FOURTEEN = 10**13


def _of_number(number: Decimal) -> Reading | None:
    """Read a number; it is a decimal, because 1764210600.123 * 1000 is too small as a double."""
    if not number.is_finite() or abs(number) > _LAST:
        return None
    if _FOURTEEN <= number < 10 * _FOURTEEN:
        return _of_text(str(int(number)))
    return math.floor(number if abs(number) >= _SECONDS else number * 1000), True


def _of_datetime(moment: datetime) -> Reading:
    zoned = moment.tzinfo is not None
    since = moment - (_EPOCH if zoned else _NAIVE_EPOCH)
    # From its parts: twice as fast as a division.
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000, zoned


# -- text

#: Texts that are remembered: rows that were loaded, or computed, together have the same time.
TIMES = 1024
#: Characters of a time at most: JavaScript appends the zone's name in the user's language.
_LONGEST = 128
_NUMBER = re.compile(r"-?[0-9]{9,16}(\.[0-9]+)?")
_CLOCK = (
    r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{1,2})"
    r"(?::(?P<second>[0-9]{1,2})(?:[.,](?P<part>[0-9]+))?)?"
)
#: A zone: a name, or an offset. A name may precede the offset (GMT+0100), and the texts of Go, Java
#: and careless programs repeat the zone after it.
_ZONE = (
    r"(?P<name>Z|[A-Z]{2,4}(?![A-Z+-]))"
    r"|(?:UTC|GMT)? *(?P<sign>[+-])(?P<east>[0-9]{1,2}):?(?P<east_minutes>[0-9]{2})?"
    r"(?:Z| [A-Z]{2,5}| [+-][0-9]{2,4})?"
)
_BEHIND = r"(?: m=[+-][0-9.]+| *\([^()]*\)|\[[^\[\]]*\])?"
_FORMS = [
    re.compile(form, re.IGNORECASE)
    for form in (
        r"(?P<year>[0-9]{4})[-/](?P<month>[0-9]{1,2})[-/](?P<day>[0-9]{1,2})"
        rf"(?:(?:T| +){_CLOCK})? *(?:{_ZONE})?{_BEHIND}",
        r"(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})"
        r"(?P<hour>[0-9]{2})(?P<minute>[0-9]{2})(?P<second>[0-9]{2})(?:[.,](?P<part>[0-9]+))?"
        rf"(?:{_ZONE})?",
        # Fri, 27 Nov 2026 00:05:47 GMT, Friday, 27-Nov-26 00:05:47 GMT
        r"(?:[A-Z]{3,9},? +)?(?P<day>[0-9]{1,2})[ -](?P<month>[A-Z]{3})[A-Z]*[ -]"
        r"(?P<year>[0-9]{4}|[0-9]{2})"
        rf" +{_CLOCK} *(?:{_ZONE})?{_BEHIND}",
        # Fri Nov 27 2026 00:05:47 GMT+0000 (Coordinated Universal Time)
        r"(?:[A-Z]{3,9},? +)?(?P<month>[A-Z]{3})[A-Z]* +(?P<day>[0-9]{1,2}),? +(?P<year>[0-9]{4})"
        rf",? +{_CLOCK} *(?:{_ZONE})?{_BEHIND}",
        # Fri Nov 27 00:05:47 UTC 2026
        r"(?:[A-Z]{3,9},? +)?(?P<month>[A-Z]{3})[A-Z]* +(?P<day>[0-9]{1,2})"
        rf" +{_CLOCK}(?: +(?:{_ZONE}))? +(?P<year>[0-9]{{4}})",
    )
]
_MONTHS = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
        start=1,
    )
}
#: Hours east of UTC of the zones that RFC 822 names. Other names are ambiguous.
_NAMES = {
    **dict.fromkeys(("z", "utc", "gmt", "ut"), 0),
    **{"edt": -4, "est": -5, "cdt": -5, "cst": -6, "mdt": -6, "mst": -7, "pdt": -7, "pst": -8},
}


def _of_text(text: str) -> Reading | None:
    return None if len(text) > _LONGEST else _of_short_text(text)


@lru_cache(maxsize=TIMES)
def _of_short_text(text: str) -> Reading | None:
    if not text.isascii():
        text = _ascii(text)
    text = text.strip()
    # Only with a dash there or as YYYYMMDD: fromisoformat reads long numbers as years, too.
    if text[4:5] == "-" or (text[:8].isdecimal() and text[8:9] in ("", "T")):
        try:
            return _of_datetime(datetime.fromisoformat(text))
        except ValueError:
            return _of_form(text)
    if _NUMBER.fullmatch(text) and len(text.partition(".")[0]) != 14:
        return _of_number(Decimal(text))
    return _of_form(text)


def _of_form(text: str) -> Reading | None:
    for form in _FORMS:
        if match := form.fullmatch(text):
            return _of_parts(match.groupdict())
    return None


def _of_parts(parts: dict[str, str | None]) -> Reading | None:
    month, second, east = parts["month"] or "", int(parts["second"] or 0), _east(parts)
    if second > 60 or east is None:
        return None
    try:
        day = datetime(
            _year(parts["year"] or ""),
            _MONTHS.get(month.lower(), 0) if month.isalpha() else int(month),
            int(parts["day"] or 0),
            int(parts["hour"] or 0),
            int(parts["minute"] or 0),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    part = int((parts["part"] or "0")[:3].ljust(3, "0"))
    at = _of_datetime(day)[0] + second * 1000 + part - east * 60_000
    return at, parts["sign"] is not None or parts["name"] is not None


def _year(digits: str) -> int:
    """Return a year; one of two digits lies from 1950 to 2049, as in e-mail (RFC 5322, 4.3)."""
    year = int(digits)
    return year if len(digits) == 4 else year + (2000 if year < 50 else 1900)


def _east(parts: dict[str, str | None]) -> int | None:
    """Return the minutes east of UTC; None if no zone has this name or offset."""
    if (name := parts["name"]) is not None:
        hours = _NAMES.get(name.lower())
        return None if hours is None else hours * 60
    hours, minutes = int(parts["east"] or 0), int(parts["east_minutes"] or 0)
    if hours > 23 or minutes > 59:
        return None
    return (hours * 60 + minutes) * (-1 if parts["sign"] == "-" else 1)


#: Signs of other scripts and their ASCII: the Arabic decimal point, the minus.
_SIGNS = {"\u066b": ".", "\u2212": "-"}


def _ascii(text: str) -> str:
    """Return a text with ASCII digits, signs and blanks, and without marks of direction."""
    characters = []
    for char in text:
        digit = unicodedata.decimal(char, None)
        if digit is not None:
            characters.append(str(digit))
        elif unicodedata.category(char) == "Zs":
            characters.append(" ")
        elif unicodedata.category(char) != "Cf":
            characters.append(_SIGNS.get(char, char))
    return "".join(characters)
