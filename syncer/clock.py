"""Times: this machine's clock, times from outside (one reader, and one rule of which are believed),
and times as they are shown.

Rows of a pull and calls of a client name the same moments, and which is newer decides what is
billed: so both are read here, to the millisecond, which is cut off and never rounded.
"""

from __future__ import annotations

import math
import re
import time
import unicodedata
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache

#: The earliest time that is believed, 2000-01-01, in epoch milliseconds. What is before it comes
#: from a clock that was never set, or from a program that writes zero for "not known".
EARLIEST = 946_684_800_000
#: A time may be so much later than its receipt (milliseconds): clocks differ.
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
    """Epoch milliseconds as ISO-8601 UTC: 2026-11-24T06:51:04.123Z. Any can be shown: what is
    beyond the year 9999 or before 0 as +012025-11-24T06:51:04.123Z."""
    if milliseconds is None:
        return None
    cycles, within = divmod(milliseconds, _CYCLE)
    moment = _EPOCH + timedelta(milliseconds=within)
    year = moment.year + 400 * cycles
    rest = moment.isoformat(timespec="milliseconds")[4:].replace("+00:00", "Z")
    return (f"{year:04d}" if 0 <= year < 10_000 else f"{year:+07d}") + rest


#: A time in epoch milliseconds, and whether it names its zone, so that it is comparable with one
#: that does; else it is taken for UTC. (A plain tuple: each call that comes makes some.)
Reading = tuple[int, bool]


def read(raw: object) -> int | None:
    """Epoch milliseconds of a time; None when it cannot be read. See `reading`."""
    found = reading(raw)
    return None if found is None else found[0]


def since_1970(raw: object) -> int:
    """The same for comparing: what cannot be read, or was before 1970, is oldest."""
    return max(0, read(raw) or 0)


def believed(at: int | None, receipt: int) -> tuple[int, str | None]:
    """The time to go by (epoch milliseconds), and why it is not what was said.

    It is never later than its receipt, so that nothing that is kept wins for ever. A time that
    clocks which differ a little explain is the receipt without a reason.
    """
    if at is None:
        return receipt, UNREADABLE
    if at < EARLIEST:
        return receipt, TOO_EARLY
    if at > receipt + AHEAD:
        return receipt, FUTURE
    return min(at, receipt), None


def reading(raw: object) -> Reading | None:
    """A time as warehouses and clients write it; None when it is none.

    ISO 8601, also without leading zeros (Segment's own sample has "2015-2-02T00:30:08.276Z"), with
    any number of digits of a second, or without separators ("20261127023000"); what HTTP and e-mail
    (RFC 1123), JavaScript's `Date`, Go's `time.Time`, Ruby, Java and C write as text; numbers of
    seconds or milliseconds, also as text; digits of any script; `datetime` objects. Infinities and
    years beyond 9999 are no times.
    """
    found = _of_text(raw) if isinstance(raw, str) else _of_other(raw)
    return found if found is not None and _FIRST <= found[0] <= _LAST else None


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
#: The years 1 to 9999: what `datetime` can hold, so that any stored time can be shown.
_FIRST, _LAST = -62_135_596_800_000, 253_402_300_799_999
#: Up to here a number counts seconds, beyond it milliseconds.
_SECONDS = 10**11
#: Fourteen digits are YYYYMMDDhhmmss: as milliseconds they would be beyond the year 2286.
_FOURTEEN = 10**13


def _of_number(number: Decimal) -> Reading | None:
    """As a decimal, since 1764210600.123 * 1000 is less than it should be as a double."""
    if not number.is_finite() or abs(number) > _LAST:
        return None
    if _FOURTEEN <= number < 10 * _FOURTEEN:
        return _of_text(str(int(number)))
    return math.floor(number if abs(number) >= _SECONDS else number * 1000), True


def _of_datetime(moment: datetime) -> Reading:
    zoned = moment.tzinfo is not None
    since = moment - (_EPOCH if zoned else _NAIVE_EPOCH)
    # By its parts: twice as fast as dividing it.
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000, zoned


# -- text

#: JavaScript writes the zone's name in the user's language behind it.
_LONGEST = 128
_NUMBER = re.compile(r"-?[0-9]{9,16}(\.[0-9]+)?")
_CLOCK = (
    r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{1,2})"
    r"(?::(?P<second>[0-9]{1,2})(?:[.,](?P<part>[0-9]+))?)?"
)
#: A zone: a name, or an offset that may have one before it (GMT+0100) and, as Go, Java and careless
#: programs write it, something that says the same once more behind it.
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
#: Hours east of UTC of the zones that RFC 822 names. Other names mean several zones.
_NAMES = {
    **dict.fromkeys(("z", "utc", "gmt", "ut"), 0),
    **{"edt": -4, "est": -5, "cdt": -5, "cst": -6, "mdt": -6, "mst": -7, "pdt": -7, "pst": -8},
}


def _of_text(text: str) -> Reading | None:
    if len(text) > _LONGEST:
        return None
    if not text.isascii():
        text = _ascii(text)
    text = text.strip()
    # Only with a dash there or as YYYYMMDD: fromisoformat finds years in long numbers too.
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
    """A year of two digits is one from 1950 to 2049, as e-mail has it (RFC 5322, 4.3)."""
    year = int(digits)
    return year if len(digits) == 4 else year + (2000 if year < 50 else 1900)


def _east(parts: dict[str, str | None]) -> int | None:
    """Minutes east of UTC; None: no zone is called so."""
    if (name := parts["name"]) is not None:
        hours = _NAMES.get(name.lower())
        return None if hours is None else hours * 60
    hours, minutes = int(parts["east"] or 0), int(parts["east_minutes"] or 0)
    if hours > 23 or minutes > 59:
        return None
    return (hours * 60 + minutes) * (-1 if parts["sign"] == "-" else 1)


#: What stands for a sign of ASCII in other scripts: the Arabic decimal point, the minus.
_SIGNS = {"\u066b": ".", "\u2212": "-"}


def _ascii(text: str) -> str:
    """Digits, signs and blanks of other scripts as those of ASCII, without marks of direction."""
    found = []
    for char in text:
        digit = unicodedata.decimal(char, None)
        if digit is not None:
            found.append(str(digit))
        elif unicodedata.category(char) == "Zs":
            found.append(" ")
        elif unicodedata.category(char) != "Cf":
            found.append(_SIGNS.get(char, char))
    return "".join(found)
