"""What was worked out before, bounded by bytes: customers may have any number of traits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Values by key, up to `most` bytes; when more comes, all that is there goes. That is cheap,
    and what is asked for often is soon there again."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._found: dict[K, V] = {}
        #: the value of a key, or None
        self.get: Callable[[K], V | None] = self._found.get

    def put(self, key: K, value: V, size: int) -> V:
        """Keep a value, which with its key takes so many bytes, and give it back."""
        if size > self._left:
            self._found.clear()
            self._left = self._most
        if size <= self._left:
            self._found[key] = value
            self._left -= size
        return value
