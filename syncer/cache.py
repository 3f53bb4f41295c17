"""A cache of computed values, bounded by bytes: customers may have any number of traits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Values by key, up to `most` bytes.

    If one more does not fit, all values go: that is cheap, and frequent ones soon return.
    """

    def __init__(self, most: int) -> None:
        self._most = self._room = most
        self._values: dict[K, V] = {}
        #: returns the value of a key, or None
        self.get: Callable[[K], V | None] = self._values.get

    def put(self, key: K, value: V, size: int) -> V:
        """Store a value that takes `size` bytes with its key; return the value."""
        if size > self._room:
            self._values.clear()
            self._room = self._most
        if size <= self._room:
            self._values[key] = value
            self._room -= size
        return value
