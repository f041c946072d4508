"""Which replica is asked next."""

import pytest

from gradwire._replicas import KNOWN_LIMIT, Name, Names, Replica, Replicas


@pytest.mark.parametrize(
    ("target", "addresses"),
    [
        ("localhost:1", ["localhost:1"]),
        ("ipv4:127.0.0.1:1", ["ipv4:127.0.0.1:1"]),
        ("ipv4:127.0.0.1:1,127.0.0.2:2", ["ipv4:127.0.0.1:1", "ipv4:127.0.0.2:2"]),
        ("ipv6:[::1]:1,[::1]:2", ["ipv6:[::1]:1", "ipv6:[::1]:2"]),
        ("unix:/run/a,b", ["unix:/run/a,b"]),
        ("dns://1.1.1.1/name:1", ["dns://1.1.1.1/name:1"]),
        ("dns:///name", ["dns:///name"]),
    ],
)
def test_a_target_tells_its_addresses(target, addresses):
    here = Replicas(target)
    assert [item.address for item in here] == addresses
    assert not here.are_stale
    assert here.name is None


def test_the_addresses_of_a_name_are_looked_up_now_and_then(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    here = Replicas("dns:///replicas.example.org:50051")
    assert here.name == Name("replicas.example.org", "50051")
    assert len(here) == 0
    assert here.are_stale
    first = here.resolve(["a", "b", "a"])
    assert [item.address for item in first] == ["a", "b"]
    assert not here.are_stale
    clock[0] += 31
    assert here.are_stale
    here.postpone()
    assert not here.are_stale
    assert [item.address for item in here.resolve(["c", "b"])] == ["c"]
    assert list(here)[1] is first[1]
    assert here.resolve([]) == []
    assert len(here) == 2


def test_replicas_are_asked_in_turn_but_not_those_that_rest(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    here = Replicas("ipv4:1.1.1.1:1,1.1.1.1:2,1.1.1.1:3")
    one, two, three = here
    assert {here.pick() for _ in range(3)} == {one, two, three}
    two.rest(5.0)
    three.rest()
    assert {here.pick() for _ in range(6)} == {one}
    one.rest()
    assert two.is_resting
    assert {here.pick() for _ in range(3)} == {one, two, three}
    clock[0] += 6
    assert {here.pick() for _ in range(6)} == {two}
    three.wake()
    assert {here.pick() for _ in range(6)} == {two, three}


def test_a_connection_is_old_once_at_its_age_less_up_to_a_fifth(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    replicas = [Replica(f"{n}:1") for n in range(200)]
    assert not any(each.is_old(50.0) for each in replicas)
    clock[0] += 39.9
    assert not any(each.is_old(50.0) for each in replicas)
    clock[0] += 5.1
    count = sum(each.is_old(50.0) for each in replicas)
    assert 50 < count < 150
    clock[0] += 5.0
    assert sum(each.is_old(50.0) for each in replicas) == 200 - count
    assert not any(each.is_old(50.0) for each in replicas)
    clock[0] += 1000.0
    assert all(each.is_old(50.0) for each in replicas)
    assert not any(each.is_old(50.0) for each in replicas)


def test_names_have_a_bound():
    names = Names()
    for number in range(KNOWN_LIMIT + 2):
        names.add(str(number))
    assert "0" not in names
    assert "2" in names
    names.discard("2")
    names.discard("2")
    assert "2" not in names


def test_addresses_are_looked_up_soon_while_one_cannot_be_reached(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("gradwire._replicas.time.monotonic", lambda: now[0])
    replicas = Replicas("dns:///server:50051")
    replicas.resolve(["10.0.0.1:50051", "10.0.0.2:50051"])
    now[0] += 2.0
    assert not replicas.are_stale
    next(iter(replicas)).rest()
    assert replicas.are_stale
    replicas.postpone()
    assert not replicas.are_stale
