"""How long to wait before the next attempt. Pure: chance and time are passed in."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import ceil, log

#: Seconds: the bound of the first wait, which doubles each time, and the bound of every wait.
BASE, CAP = 0.25, 20.0
#: Seconds: no answer makes us wait longer. The state takes a longer delay for the work of a wrong
#: clock (`state.due.LONGEST`, the same bound).
LONGEST = 600.0
#: Failures in a row after which what fails is put off, if nothing else fails; how often chance may
#: make them where others fail, too; and how many are enough after any time of trouble.
TRIES, CHANCE, MOST_TRIES = 6, 1e-4, 20
#: Seconds: the bound of the wait of what fails again and again while others succeed.
PUT_OFF = 0.9 * LONGEST


def bound(attempts: int) -> float:
    """Return the most seconds to wait after `attempts` failures: it doubles up to CAP."""
    return min(CAP, BASE * 2.0 ** min(attempts - 1, 32))


def full_jitter(attempts: int, chance: float) -> float:
    """Return the seconds to wait after `attempts` failures: `chance` in [0, 1) of the bound."""
    return chance * bound(attempts)


def wait(attempts: int, chance: float, after: float | None = None) -> float:
    """Return the seconds to wait after `attempts` failed ones: at least `after`, a Retry-After."""
    return max(full_jitter(attempts, chance), after or 0.0)


def tries_to_blame(failed: int, through: int) -> int:
    """Return how many failures in a row are no chance any more.

    Of late `through` others got through, which took `failed` failed attempts before. At that rate
    chance makes so many failures in a row once in 10,000 times. Never less than TRIES, and never
    more than MOST_TRIES: a time in which nothing got through is no chance.
    """
    rate = failed / (failed + through) if through else 0.0
    return min(MOST_TRIES, max(TRIES, ceil(log(CHANCE) / log(rate)))) if rate else TRIES


def put_off(attempts: int, after: float | None = None) -> float:
    """Return the seconds to wait after `attempts` failures while others succeeded.

    The wait doubles each time, and is at least `after`, a Retry-After. Amberflo may fail at random
    for a while, and then whoever has bad luck must not wait as long as one that it never takes.
    """
    return max(min(PUT_OFF, BASE * 2.0 ** min(attempts, 32)), after or 0.0)


def retry_after(header: str | None, now: datetime) -> float | None:
    """Return the seconds of a Retry-After header, at most `LONGEST`; None if it is unreadable.

    The header has seconds or an HTTP date.
    """
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
