"""Charts as SVG: ratios against their bounds, which are a table, too, and quantities."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log10
from typing import NamedTuple
from xml.sax.saxutils import escape

#: Pixels: the part with the titles, the part with the bars, the height of a bar with its room.
TITLES, BARS, ROW = 330, 420, 34


class Bar(NamedTuple):
    """A ratio, its bound, and where it comes from.

    It should not exceed the bound; with `at_least` it should not be less.
    """

    title: str
    ratio: float
    bound: float
    command: str
    leaves_out: str
    at_least: bool = False

    @property
    def holds(self) -> bool:
        return self.ratio >= self.bound if self.at_least else self.ratio <= self.bound

    @property
    def limit(self) -> str:
        """The bound in words."""
        return f"at least {self.bound:g}" if self.at_least else f"{self.bound:g}"


def chart(bars: Sequence[Bar]) -> str:
    """Return an SVG with a bar for each ratio, and a line at its bound."""
    widest = max((max(bar.ratio, bar.bound) for bar in bars), default=1.0) * 1.15
    width, height = TITLES + BARS, ROW * len(bars) + 16
    lines = _opening(width, height)
    for number, bar in enumerate(bars):
        top = ROW * number + 8
        length, at = BARS * bar.ratio / widest, TITLES + BARS * bar.bound / widest
        colour = "#3b7d4f" if bar.holds else "#b5473c"
        middle = top + ROW / 2 + 1
        lines += [
            f'<text x="{TITLES - 10}" y="{middle}" text-anchor="end">{escape(bar.title)}</text>',
            f'<rect x="{TITLES}" y="{top + 4}" width="{length:.1f}" height="{ROW - 12}" '
            f'fill="{colour}"/>',
            f'<line x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{top + ROW - 4}" '
            'stroke="#202020" stroke-width="2"/>',
            f'<text x="{TITLES + 6}" y="{middle}" fill="#ffffff">{bar.ratio:.2f} '
            f"(bound {bar.limit})</text>",
        ]
    return "\n".join([*lines, "</svg>", ""])


def _opening(width: int, height: int) -> list[str]:
    """Return how an SVG of this size begins: white, with the font of its texts."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]


def table(bars: Sequence[Bar], *, quick: bool = False) -> str:
    """Return the ratios as Markdown; `quick` says that the populations were small."""
    lines = [
        "# Ratios against their bounds",
        "Written by `python -m benchmarks`" + (" --quick, of small populations" if quick else ""),
        "",
        "| what | ratio | bound | by | leaves out |",
        "|---|---|---|---|---|",
    ]
    for bar in bars:
        ratio = f"{bar.ratio:.2f}" if bar.holds else f"**{bar.ratio:.2f}**"
        row = (bar.title, ratio, bar.limit, f"`{bar.command}`", bar.leaves_out)
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, ""])


class Length(NamedTuple):
    """A quantity and what it is; `other` is drawn in another colour."""

    title: str
    value: float
    other: bool = False


def lengths(rows: Sequence[Length]) -> str:
    """Return an SVG with a bar for each quantity on a logarithmic scale, from 0.1 on.

    Each ten times as much is a line and the same way further.
    """
    decades = max((ceil(log10(row.value)) for row in rows if row.value), default=1) + 1
    decades = max(decades, 2)
    margin, height = TITLES + 130, ROW * len(rows) + 34
    each = BARS / decades
    lines = _opening(margin + BARS + 70, height)
    for decade in range(decades + 1):
        at = margin + each * decade
        lines += [
            f'<line x1="{at:.1f}" y1="4" x2="{at:.1f}" y2="{height - 24}" stroke="#d0d0d0"/>',
            f'<text x="{at:.1f}" y="{height - 8}" text-anchor="middle">{10**decade / 10:,g}</text>',
        ]
    for number, row in enumerate(rows):
        top = ROW * number + 8
        length = max(0.0, each * (log10(row.value) + 1)) if row.value else 0.0
        colour = "#b5473c" if row.other else "#3b7d4f"
        middle = top + ROW / 2 + 1
        lines += [
            f'<text x="{margin - 10}" y="{middle}" text-anchor="end">{escape(row.title)}</text>',
            f'<rect x="{margin}" y="{top + 4}" width="{length:.1f}" height="{ROW - 12}" '
            f'fill="{colour}"/>',
            f'<text x="{margin + length + 6:.1f}" y="{middle}">{row.value:,.1f}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
