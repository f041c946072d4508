"""How a line is left to what is under way over it."""

import pytest

from gradwire._lines import Lines
from gradwire._replicas import Replica


class Line:
    """A line, and how often it was closed."""

    def __init__(self, replica):
        self.replica = replica
        self.closed_count = 0


@pytest.fixture
def lines():
    def close(line):
        line.closed_count += 1

    return Lines(Line, close)


A, B = Replica("a:1"), Replica("b:1")


def test_requests_to_a_replica_share_a_line(lines):
    first = lines.take(A)
    assert lines.take(A) is first
    assert lines.take(B) is not first
    assert [line.replica for line in lines] == [A, B]
    lines.give_back(first)
    lines.give_back(first)
    assert lines.take(A) is first
    assert not first.closed_count


@pytest.mark.parametrize("leave", [lambda lines: lines.leave(A), lambda lines: lines.retain([B])], ids=["left", "gone"])
def test_a_line_that_is_left_is_closed_after_its_last_request(lines, leave):
    old = lines.take(A)
    lines.take(A)
    leave(lines)
    new = lines.take(A)
    assert new is not old
    lines.give_back(old)
    assert not old.closed_count
    lines.give_back(old)
    assert old.closed_count == 1
    assert not new.closed_count


def test_a_line_over_which_nothing_is_under_way_is_closed_at_once(lines):
    old = lines.take(A)
    lines.give_back(old)
    lines.leave(A)
    lines.leave(A)
    assert old.closed_count == 1


def test_a_spare_line_takes_the_place_of_the_one_there_is(lines):
    old, spare = lines.take(A), lines.spare(A)
    assert lines.take(A) is old
    lines.replace(A, spare)
    lines.give_back(spare)
    assert lines.take(A) is spare
    lines.give_back(spare)
    assert not spare.closed_count
    lines.give_back(old)
    assert not old.closed_count
    lines.give_back(old)
    assert old.closed_count == 1


def test_a_spare_line_that_is_of_no_use_is_closed(lines):
    old, spare = lines.take(A), lines.spare(A)
    lines.give_back(spare)
    assert spare.closed_count == 1
    assert lines.take(A) is old


def test_of_two_spare_lines_the_later_stays(lines):
    first, second = lines.spare(A), lines.spare(A)
    for spare in (first, second):
        lines.replace(A, spare)
        lines.give_back(spare)
    assert (first.closed_count, second.closed_count) == (1, 0)
    assert lines.take(A) is second


def test_all_are_handed_out_at_the_end_also_those_that_were_left(lines):
    left = lines.take(A)
    lines.leave(A)
    current, spare = lines.take(A), lines.spare(A)
    assert set(lines.remove_all()) == {left, current, spare}
    lines.replace(A, spare)
    for line in (left, current, spare):
        lines.give_back(line)
        assert not line.closed_count
    assert not list(lines)
