"""A cache that neither its count nor its bytes let grow without end."""

from __future__ import annotations

import pytest

from vinf_core.models.bounded_cache import BoundedCache

pytestmark = pytest.mark.fast


def get(cache: BoundedCache[str, str], *keys: str) -> list[str]:
    return [cache.get(key, lambda key=key: key * 2) for key in keys]


def test_an_entry_is_made_once() -> None:
    cache: BoundedCache[str, str] = BoundedCache(2)
    assert get(cache, "a", "b", "a") == ["aa", "bb", "aa"]
    assert (cache.hit_count, cache.miss_count, len(cache), cache.byte_count) == (1, 2, 2, 0)


def test_the_least_recently_used_leaves_by_count_and_by_bytes() -> None:
    for cache in (BoundedCache[str, str](2), BoundedCache[str, str](99, max_bytes=5, size_of=len)):
        get(cache, "a", "b", "a", "c")
        assert len(cache) == 2
        assert get(cache, "a", "c") == ["aa", "cc"]
        assert (cache.hit_count, cache.miss_count) == (3, 3)
        get(cache, "b")
        assert cache.miss_count == 4


def test_what_is_too_large_is_not_kept() -> None:
    cache = BoundedCache[str, str](9, max_bytes=5, size_of=len)
    get(cache, "a")
    assert get(cache, "long") == ["longlong"]
    assert (len(cache), cache.byte_count) == (1, 2), "nothing made way for it"


def test_a_cleared_cache_keeps_its_counts() -> None:
    cache = BoundedCache[str, str](9, max_bytes=5, size_of=len)
    get(cache, "a", "a")
    cache.clear()
    assert (len(cache), cache.byte_count, cache.hit_count, cache.miss_count) == (0, 0, 1, 1)


def test_a_failure_keeps_nothing() -> None:
    cache: BoundedCache[str, str] = BoundedCache(2)

    def fail() -> str:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        cache.get("a", fail)
    assert get(cache, "a") == ["aa"]
