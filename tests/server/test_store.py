"""What an identity stores: who sees it, and who loses it when there is no room."""

from __future__ import annotations

from gradwire_server.store import OwnedStore


def test_an_owner_sees_its_own():
    store = OwnedStore(100, is_shared=False)
    store.put("alice", "x", 1, 10)
    store.put("bob", "x", 2, 10)
    store.put("bob", "y", 3, 10)
    assert (store.get("alice", "x"), store.get("bob", "x"), store.get("alice", "y"), store.get("eve", "x")) == (1, 2, None, None)
    assert [*store.items("alice")] == ["x"]
    assert [*store.items("eve")] == []
    assert not store.discard("alice", "y")
    assert store.discard("bob", "x")
    assert store.get("alice", "x") == 1
    assert (len(store), store.total_bytes) == (2, 20)


def test_a_shared_store_has_one_owner():
    store = OwnedStore(100, is_shared=True)
    store.put("alice", "x", 1, 10)
    assert store.get("bob", "x") == 1
    assert store.discard("bob", "x")
    assert (len(store), store.total_bytes) == (0, 0)


def test_the_owner_of_the_most_bytes_loses_what_it_used_least_recently():
    store = OwnedStore(100, is_shared=False)
    store.put("alice", "x", 0, 30)
    for number in range(20):
        store.put("bob", f"{number}", number, 20)
    assert store.get("alice", "x") == 0
    assert [*store.items("bob")] == ["17", "18", "19"]
    store.get("bob", "17")
    store.put("alice", "y", 0, 10)
    store.put("alice", "z", 0, 5)
    assert [*store.items("bob")] == ["19", "17"]
    assert store.total_bytes == 85
    store.put("alice", "too large", 0, 101)
    assert store.total_bytes == 85
