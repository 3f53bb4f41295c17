"""How long to wait before the next attempt. Pure: chance and time are passed in."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: Seconds: the bound of the first wait, doubling from there, and the bound of all.
BASE, CAP = 0.25, 20.0
#: Seconds: no answer makes us wait longer. The state takes what is put off for longer as put off by
#: a wrong clock (`state.due.LONGEST`, the same bound).
LONGEST = 600.0
#: For so long is put off what fails again and again while others get through.
PUT_OFF = 0.9 * LONGEST


def full_jitter(attempts: int, chance: float) -> float:
    """Seconds to wait after `attempts` failed ones: a `chance` in [0, 1) of the doubling bound."""
    return chance * min(CAP, BASE * 2.0 ** min(attempts - 1, 32))


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds of a Retry-After header, given in seconds or as an HTTP date, at most
    `LONGEST`; None if unreadable."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return min(LONGEST, float(text))
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return min(LONGEST, max(0.0, (moment - now).total_seconds()))
    except (ValueError, OverflowError):
        return None
