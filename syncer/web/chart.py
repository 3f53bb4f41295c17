"""Compute the geometry of a chart of sizes over time. Pure; the template draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from state.history.past import Size

#: The size of the drawing and its margins, in SVG units.
WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 34
#: The number of dates on the x axis.
DATES = 5


@dataclass(frozen=True)
class Mark:
    """A horizontal line, or a date on the x axis, with its label."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """`line` and `area` are SVG points; `sizes` are the same data as a table, newest first."""

    sizes: list[Size]
    line: str
    area: str
    rows: list[Mark]
    dates: list[Mark]
    lowest: int
    highest: int


def chart(sizes: Sequence[Size]) -> Chart | None:
    """Return the chart of at least two sizes; None for fewer."""
    if len(sizes) < 2:
        return None
    counts = [size.members for size in sizes]
    top = _round(max(1, *counts))
    start, end = sizes[0].at, sizes[-1].at

    def x(at: float) -> float:
        return round(LEFT + (at - start) / max(1, end - start) * (WIDTH - LEFT - RIGHT), 1)

    def y(count: float) -> float:
        return round(HEIGHT - BOTTOM - count / top * (HEIGHT - TOP - BOTTOM), 1)

    points = [f"{x(size.at)},{y(size.members)}" for size in sizes]
    base = y(0)
    form = "%d %b" if end - start > 2 * 86_400_000 else "%H:%M"
    moments = [start + (end - start) * number / (DATES - 1) for number in range(DATES)]
    return Chart(
        sizes=list(reversed(sizes)),
        line=" ".join(points),
        area=" ".join([f"{x(start)},{base}", *points, f"{x(end)},{base}"]),
        rows=[Mark(y(top * part / 4), f"{round(top * part / 4):,}") for part in range(5)]
        if top >= 4
        else [Mark(y(part), f"{part}") for part in range(top + 1)],
        dates=[
            Mark(x(at), datetime.fromtimestamp(at / 1000, UTC).strftime(form)) for at in moments
        ],
        lowest=min(counts),
        highest=max(counts),
    )


def _round(count: int) -> int:
    """Round up to a number whose quarters are round numbers, too."""
    if count < 4:
        return count
    unit: int = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return math.ceil(count / (4 * unit)) * 4 * unit
