"""Options that are figures: numbers, percentages, spans of time.

Each is a callback of an option; it fails with a line that says what is wrong and what would be
right.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import click

from syncer.config import duration

#: Units of an option's number.
PERCENT, MILLISECONDS = 0.01, 0.001
#: Reads the text of an option; None stays None.
Reader = Callable[[click.Context, click.Parameter, str | None], float | None]


def number(
    what: str, example: str, *, unit: float = 1.0, most: float = 1e9, whole: bool = False
) -> Reader:
    """Return what reads a number from 0 to `most`, which is in units of `unit`.

    The message says `what` it is, with an `example`. With `whole` it has no fraction.
    """

    def read(_context: click.Context, _param: click.Parameter, text: str | None) -> float | None:
        if text is None:
            return None
        try:
            value = float(
                text.strip().removesuffix("%" if unit == PERCENT else "").replace(",", "")
            )
        except ValueError:
            value = -1.0
        if not isfinite(value) or value < 0 or (whole and value != int(value)):
            raise click.BadParameter(f"{text!r} is no {what}; write for example {example}")
        if value > most:
            raise click.BadParameter(
                f"{text!r} is more than {most:,.0f}; write for example {example}"
            )
        return value * unit

    return read


def span_of(least: float) -> Reader:
    """Return what reads a duration such as 2h30m, of `least` seconds or more."""

    def read(_context: click.Context, _param: click.Parameter, text: str | None) -> float | None:
        if text is None:
            return None
        try:
            seconds = duration(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r}: {error}") from None
        if seconds < least:
            raise click.BadParameter(f"{text!r} is less than {least:g} s; write for example 2h30m")
        return seconds

    return read
