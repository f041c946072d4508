from gradwire_server.cache import RecentlyUsed


def test_the_least_recently_used_leave_first():
    cache = RecentlyUsed(30)
    for name in "abc":
        cache.put(name, name.upper(), 10)
    assert cache.get("a") == "A"
    cache.put("d", "D", 15)
    assert list(cache) == ["a", "d"]
    assert cache.total_bytes == 25
    assert cache.get("b") is None


def test_looking_is_not_using():
    cache = RecentlyUsed(20)
    cache.put("a", "A", 10)
    cache.put("b", "B", 10)
    assert cache["a"] == "A"
    cache.put("c", "C", 10)
    assert list(cache) == ["b", "c"]


def test_a_value_is_replaced_and_one_too_large_is_not_kept():
    cache = RecentlyUsed(20)
    cache.put("a", 1, 10)
    cache.put("a", 2, 20)
    assert (cache.get("a"), cache.total_bytes, len(cache)) == (2, 20, 1)
    cache.put("a", 3, 21)
    assert (cache.get("a"), cache.total_bytes) == (None, 0)


def test_discarding_tells_whether_there_was_one():
    cache = RecentlyUsed(20)
    cache.put("a", 1, 10)
    assert cache.discard("a")
    assert not cache.discard("a")
    assert cache.total_bytes == 0
