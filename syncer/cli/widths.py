"""How wide the columns of a table are on a narrow screen. Pure."""

from __future__ import annotations

from collections.abc import Sequence

#: What the frame of a table and the blanks take from each column.
FRAME = 3
#: The characters below which a column of text is not narrowed.
LEAST = 12

Cells = Sequence[Sequence[str]]


def column_widths(columns: Sequence[str], cells: Cells) -> list[int]:
    """Return the characters of the longest cell of each column, its head included."""
    return [
        max(len(column), *(len(line[number]) for line in cells), 0)
        for number, column in enumerate(columns)
    ]


def without_repeats(columns: Sequence[str], cells: Cells) -> tuple[list[int], str]:
    """Return the numbers of the columns whose cells differ, and what the others say in words.

    The first column stays in any case, and so do all if there is one row.
    """
    kept = [
        number
        for number in range(len(columns))
        if number == 0 or len(cells) < 2 or len({line[number] for line in cells}) > 1
    ]
    others = [number for number in range(len(columns)) if number not in kept]
    return kept, ", ".join(f"{columns[number]} {cells[0][number]}" for number in others)


def fitted(
    columns: Sequence[str], cells: Cells, numeric: Sequence[bool], room: int
) -> list[int] | None:
    """Return the widths with which a table without a frame fits into `room` characters, or None.

    Texts are narrowed, the widest first, to `LEAST` or their longest word; numbers and heads are
    not.
    """
    widths = column_widths(columns, cells)
    least = [
        width if number else min(width, max(len(column), LEAST, *_words_of(cells, place)))
        for place, (width, column, number) in enumerate(zip(widths, columns, numeric, strict=True))
    ]
    excess = sum(widths) + 2 * len(widths) - room
    while excess > 0:
        slack = [width - smallest for width, smallest in zip(widths, least, strict=True)]
        candidates = [place for place, spare in enumerate(slack) if spare > 0]
        if not candidates:
            return None
        widest = max(candidates, key=lambda place: widths[place])
        widths[widest] -= 1
        excess -= 1
    return widths


def _words_of(cells: Cells, place: int) -> list[int]:
    """Return the lengths of the words of a column, of those that are worth keeping whole."""
    words = (word for line in cells for word in line[place].split())
    return [len(word) for word in words if len(word) <= LEAST + 2]
