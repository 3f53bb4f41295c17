"""What bounds memory: parts of a stream, and what is remembered, by number and by size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer import chunks as chunking
from syncer.cache import Cache
from syncer.chunks import chunks


@given(st.lists(st.integers(0, 30)), st.integers(1, 7))
def test_parts_are_bounded_by_number_and_by_size(sizes: list[int], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "CHUNK_SIZE", 40)
        parts = list(chunks(iter(sizes), lambda size: size, most=most))
    assert [item for part in parts for item in part] == sizes
    assert all(0 < len(part) <= most for part in parts)
    assert all(sum(part[:-1]) < 40 for part in parts)


def test_a_stream_is_read_no_further_than_the_part_that_is_asked_for() -> None:
    numbers = iter(range(10))
    assert next(chunks(numbers, most=3)) == [0, 1, 2]
    assert next(numbers) == 3


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60)), max_size=60))
def test_a_cache_holds_no_more_than_its_bytes(puts: list[tuple[int, int]]) -> None:
    cache: Cache[int, tuple[int, int]] = Cache(100)
    for key, size in puts:
        if cache.get(key) is None:
            assert cache.put(key, (key, size), size) == (key, size)
        entries = [value for number in range(10) if (value := cache.get(number)) is not None]
        assert sum(size for _, size in entries) <= 100
        assert all(cache.get(number) == (number, size) for number, size in entries)


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache: Cache[str, str] = Cache(10)
    assert cache.put("a", "large", 11) == "large"
    assert cache.get("a") is None
