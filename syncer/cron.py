"""Cron lines: when something comes again, in UTC. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from math import ceil

from cronsim import CronSim, CronSimError

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_STEP = "0*[1-9][0-9]*"
#: What stands between the commas of the days of the week.
_DAYS_OF_WEEK = re.compile(rf"(0*[0-7])(?:-(0*[0-7]))?(?:/({_STEP}))?")
_EVERY_DAY = re.compile(rf"\*(?:/{_STEP})?")
#: A range of one value with a step, of which cronsim makes all values from there on.
_ONE_VALUE = re.compile(rf"(?<![^, ])0*(\d+)-0*\1/{_STEP}(?![^, ])")


class CronLine:
    """A cron line of five fields: minute, hour, day of the month, month, day of the week.

    Each field takes `*`, values, ranges and steps; months and days of the week also have English
    names. Raises ValueError, which says what is wrong, if a text is not such a line, if it gives
    both days of the month and days of the week (crons read that in two ways), or if it never comes.
    """

    def __init__(self, line: str) -> None:
        fields = line.lower().split()
        if len(fields) != 5:
            raise ValueError(f"{len(fields)} fields, not 5")
        if fields[2] != "*" and fields[4] != "*":
            raise ValueError("a day of the month or one of the week, not both")
        if re.search("[a-z]", fields[2]):  # cronsim knows a last day and a last weekday
            raise ValueError("bad day-of-month")
        fields[3] = _numbered(fields[3], _MONTHS, 1)
        days = _numbered(fields[4], _DAYS, 0).split(",")
        fields[4] = ",".join(map(_days_of_week, days))
        self._line = _ONE_VALUE.sub(r"\1", " ".join(fields))
        try:
            CronSim(self._line, datetime.now(UTC))
        except CronSimError as error:
            raise ValueError(str(error).lower()) from None

    def after(self, moment: float) -> float:
        """Return the first time of the line after a moment; both are epoch seconds."""
        return next(CronSim(self._line, datetime.fromtimestamp(ceil(moment), UTC))).timestamp()


def _numbered(field: str, names: Sequence[str], first: int) -> str:
    """Return a field with numbers, from `first` on, instead of names."""
    for number, name in enumerate(names, first):
        field = re.sub(rf"(?<![^,-]){name}(?![^,/-])", str(number), field)
    return field


def _days_of_week(part: str) -> str:
    """Return a part of the days of the week as cronsim takes it.

    No range goes over Sunday, and Sunday has one number.
    """
    match = _DAYS_OF_WEEK.fullmatch(part)
    if match is None:
        if _EVERY_DAY.fullmatch(part):
            return part
        raise ValueError("bad day-of-week")
    first, last, step = match.groups()
    start = int(first)
    end = int(last) if last else 6 if step else start
    if end < start:
        end += 7
    return ",".join(str(day % 7) for day in range(start, end + 1, int(step or 1)))
