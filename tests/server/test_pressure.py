import pytest

from gradwire_server.pressure import Pressure


def flooded(max_wait_s: float = 0.5, now_s: float = 10.0) -> Pressure:
    pressure = Pressure(max_wait_s, worker_count=2)
    assert [pressure.refuse(0.5, now_s) for _ in range(5)] == [False, False, False, True, False]
    return pressure


def test_much_may_wait_until_much_is_refused_and_little_from_then_on():
    assert Pressure(0.5, worker_count=2).allowed_s(0.02, 10.0) == 0.5
    pressure = flooded()
    assert pressure.allowed_s(0.1, 10.1) == 0.025
    assert pressure.allowed_s(0.02, 10.1) == 0.005
    assert pressure.allowed_s(10.0, 10.1) == 0.5  # never more than before
    assert pressure.spared_count(10.1) == 1
    assert pressure.allowed_s(0.0, 10.1) == 0.005
    assert not pressure.refuse(0.02, 10.9)
    assert pressure.is_high(11.8)


def test_much_may_wait_again_once_nothing_was_refused_for_a_while():
    pressure = flooded()
    assert not pressure.is_high(11.0)
    assert pressure.allowed_s(0.02, 11.0) == 0.5
    assert pressure.spared_count(11.0) == 2
    assert not pressure.refuse(0.02, 20.0)
    assert not pressure.is_high(20.0)


@pytest.mark.parametrize("worker_count", [1, 2])
def test_one_long_task_is_no_flood(worker_count):
    pressure = Pressure(0.5, worker_count)
    found = [pressure.refuse(10.0, 10.0) for _ in range(2 * worker_count)]
    assert found == [*[False] * (2 * worker_count - 1), True]
    assert pressure.retry_s(0.0) >= 1.0  # as all of them would take


def test_callers_who_come_again_when_told_so_are_no_flood():
    pressure, times = Pressure(0.5, worker_count=2), [1.0] * 8  # each with 0.1 s of work, of which none is ever admitted
    for _ in range(200):
        now_s = min(times)
        assert not pressure.refuse(0.1, now_s)
        times[times.index(now_s)] += pressure.retry_s(0.05)


def test_nothing_may_wait_where_the_bound_is_zero():
    pressure = flooded(0.0)
    assert pressure.allowed_s(1.0, 10.0) == pressure.allowed_s(1.0, 100.0) == 0.0


def test_the_refused_come_again_when_there_is_room_for_as_many_as_they_are():
    pressure = Pressure(0.5, worker_count=2)
    assert pressure.retry_s(0.0) == 0.02
    for _ in range(50):
        pressure.refuse(0.02, 10.0)
    found = [pressure.retry_s(0.0) for _ in range(200)]
    assert min(found) >= 0.25
    assert max(found) <= 0.75
    assert sum(found) / len(found) == pytest.approx(0.5, rel=0.1)
    assert pressure.retry_s(1.5) == 1.5
    pressure.refuse(0.0, 20.0)
    assert pressure.retry_s(0.0) == 0.02  # as that was long ago
    for _ in range(1000):
        pressure.refuse(1.0, 20.0)
    assert pressure.retry_s(0.0) <= 3.0
