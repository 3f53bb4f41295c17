"""Streams a part at a time, bounded by number and by size.

A customer may have any number of traits, and memory stays flat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

#: Customers that are looked up at a time, and bytes of them, about.
CHUNK, CHUNK_SIZE = 500, 2 << 20


def chunks(
    items: Iterator[T], size: Callable[[T], int] = lambda _: 0, *, most: int = CHUNK
) -> Iterator[list[T]]:
    """Yield lists of items, bounded in number and in the sum of their sizes (bytes)."""
    part: list[T] = []
    total = 0
    for item in items:
        part.append(item)
        total += size(item)
        if len(part) >= most or total >= CHUNK_SIZE:
            yield part
            part, total = [], 0
    if part:
        yield part
