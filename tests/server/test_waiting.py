from __future__ import annotations

import asyncio
import weakref

import pytest

from gradwire_server.frames import Frame, Kind, Prediction
from gradwire_server.waiting import LONG_S, PATIENCE, Waiting, WaitingTasks

LONG = 10 * LONG_S


def waiting(
    seconds: float = 0.01, arrived_s: float = 0.0, *, key: bytes | None = None, peak_bytes: int = 1, is_alone: bool = False
):
    answer = asyncio.Future(loop=asyncio.new_event_loop())
    answer.get_loop().close()
    return Waiting(Frame(Kind.EVALUATE), key, Prediction(seconds, peak_bytes), arrived_s, answer, is_alone=is_alone)


def filled(*items: Waiting) -> WaitingTasks:
    found = WaitingTasks()
    for item in items:
        found.put(item)
    return found


def pop_all(tasks: WaitingTasks, *, may_be_long: bool = True) -> list[Waiting]:
    found = []
    while (item := tasks.pop(may_be_long=may_be_long)) is not None:
        found.append(item)
    return found


def test_equal_tasks_go_in_the_order_they_came():
    items = [waiting() for _ in range(5)]
    assert pop_all(filled(*items)) == items


def test_a_short_task_goes_ahead_of_long_ones_that_came_before():
    long, short = waiting(LONG, 0.0), waiting(0.01, 1.0)
    assert pop_all(filled(long, short)) == [short, long]


def test_a_long_task_that_has_waited_for_long_goes_ahead_of_short_ones_that_come():
    long, short = waiting(LONG, 0.0), waiting(0.01, PATIENCE * LONG)
    assert pop_all(filled(short, long)) == [long, short]


def test_long_tasks_stay_where_only_short_ones_may_go():
    long, short = waiting(LONG), waiting(arrived_s=100.0)
    tasks = filled(long, short)
    assert pop_all(tasks, may_be_long=False) == [short]
    assert len(tasks) == 1
    assert pop_all(tasks) == [long]


@pytest.mark.parametrize("seconds", [0.01, LONG])
def test_a_discarded_task_is_gone(seconds):
    gone, kept = waiting(seconds, key=b"key"), waiting(seconds, key=b"key")
    tasks = filled(gone, kept)
    tasks.discard(gone)
    tasks.discard(gone)
    assert len(tasks) == 1
    assert tasks.seconds_before(float("inf")) == seconds
    assert tasks.pop(may_be_long=True) is kept
    assert tasks.pop_alike(kept, 10, 10) == []


def test_only_what_is_due_before_counts():
    tasks = filled(waiting(0.01, 0.0), waiting(0.02, 0.0), waiting(0.03, 5.0))
    assert tasks.seconds_before(1.0) == pytest.approx(0.03)


def test_tasks_of_one_key_go_together_within_bounds():
    other = waiting(key=b"b")
    items = [waiting(key=b"a", peak_bytes=10) for _ in range(6)]
    alone, none = waiting(key=b"a", is_alone=True), waiting()
    tasks = filled(other, *items, alone, none)
    assert tasks.pop(may_be_long=True) is other
    assert tasks.pop_alike(other, 10, 100) == []
    assert tasks.pop(may_be_long=True) is items[0]
    assert tasks.pop_alike(items[0], 2, 100) == items[1:3]
    assert tasks.pop_alike(items[0], 2, 19) == items[3:4]
    assert pop_all(tasks) == [*items[4:], alone, none]
    assert tasks.pop_alike(alone, 10, 100) == []


def test_clearing_returns_what_waited():
    items = [waiting(key=b"a"), waiting(LONG)]
    tasks = filled(*items)
    assert set(tasks.clear()) == set(items)
    assert len(tasks) == 0
    assert tasks.pop(may_be_long=True) is None


def test_tasks_that_are_given_up_while_others_wait_are_forgotten():
    tasks = filled(first := waiting())
    given_up = []
    for number in range(1, 1001):
        item = waiting(arrived_s=number)
        given_up.append(weakref.ref(item.answer))
        tasks.put(item)
        tasks.discard(item)
    assert sum(answer() is not None for answer in given_up) <= 100
    assert pop_all(tasks) == [first]


def test_what_waits_too_long_is_told_in_the_order_in_which_it_would_run():
    items = [waiting(1.0, float(number)) for number in range(6)]
    items[5].ended_count = 1
    tasks = filled(*reversed(items))
    assert tasks.beyond(2, lambda _: 0.0) == items[2:5]
    assert tasks.beyond(0, lambda one: 0.5 if one is items[1] else 1.5) == [items[1], *items[3:5]]
    assert tasks.beyond(6, lambda _: 0.0) == []
    assert len(tasks) == len(items)


@pytest.mark.parametrize("is_alone", [True, False])
def test_tasks_of_one_key_stay_in_order_whatever_they_are_predicted_to_take(is_alone):
    tasks, items = WaitingTasks(), []
    for number, seconds in enumerate((0.08, 0.01, 0.02, 0.001)):
        items.append(waiting(seconds, 0.001 * number, key=b"same", is_alone=is_alone))
        tasks.queue_up(items[-1])
        tasks.put(items[-1])
    assert tasks.seconds_before(items[-1].due_s) == pytest.approx(0.111)
    other = waiting(0.001, 0.01, key=b"other", is_alone=True)
    tasks.queue_up(other)
    tasks.put(other)
    assert tasks.pop(may_be_long=True) is other
    assert [tasks.pop(may_be_long=True) for _ in items] == items
    later = waiting(0.001, 0.02, key=b"same")
    tasks.queue_up(later)
    assert later.due_s == pytest.approx(0.022)  # as none of its key waits
