"""The line that shows how far a map is."""

import io

import pytest

from gradwire._progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def follow(items, clock, stream, arguments=None, seconds=0.2, **options):
    def slow():
        for item in items:
            clock[0] += seconds
            yield item

    return list(Progress((items,) if arguments is None else arguments, stream=stream, **options).follow(slow()))


def test_a_terminal_shows_how_far_it_is(clock):
    stream = Terminal()
    assert follow(range(10), clock, stream) == list(range(10))
    lines = stream.getvalue().split("\r")
    assert lines[1].rstrip() == "3/10 [######..............] 30%  5/s  0:01 left"
    assert lines[-1] == "10/10 [####################] 100%  5/s  0:02\n"


def test_what_is_quick_is_not_shown(clock):
    stream = Terminal()
    follow(range(4), clock, stream, seconds=0.1)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("stream", "options"), [(io.StringIO(), {}), (Terminal(), {"is_shown": False})])
def test_nothing_is_shown_elsewhere_or_if_told_not_to(clock, stream, options):
    assert len(follow(range(10), clock, stream, **options)) == 10
    assert stream.getvalue() == ""


def test_without_a_length_it_counts(clock):
    stream = Terminal()
    follow(range(3), clock, stream, arguments=(iter([]),), seconds=60.0)
    assert stream.getvalue().split("\r")[-1] == "3  60 s each  3:00\n"
    assert Progress((), stream=stream).line(4000.0) == "0  0/s  1:06:40"


def test_a_map_that_fails_leaves_the_line(clock):
    stream = Terminal()

    def broken():
        clock[0] += 1.0
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(Progress(([1, 2],), stream=stream).follow(broken()))
    assert stream.getvalue().endswith("\n")


async def test_it_follows_what_is_awaited(clock):
    async def items():
        for item in range(3):
            clock[0] += 1.0
            yield item

    stream = Terminal()
    assert [item async for item in Progress(([0] * 3,), stream=stream).follow_async(items())] == [0, 1, 2]
    assert stream.getvalue().count("\n") == 1
