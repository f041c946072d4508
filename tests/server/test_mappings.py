"""Maps of segments that come again are kept within bounds, and let go."""

from __future__ import annotations

import os

from gradwire_server import mappings
from gradwire_server.mappings import KEPT_S, LEAST_BYTES, Mappings
from gradwire_server.segments import Segment
from tests.server.descriptors import open_count

SIZE = LEAST_BYTES


def come(segment: Segment) -> Segment:
    """The same memory, as it comes by a channel."""
    return Segment(os.dup(segment.descriptor), segment.size)


def test_a_segment_that_comes_again_is_mapped_once():
    known = Mappings()
    with Segment.create(SIZE, is_marked=True) as segment, come(segment) as once, come(segment) as again:
        known.attach(once)
        known.attach(again)
        assert once.map() is again.map()
        assert known.nbytes == SIZE
        segment.write(memoryview(b"abc"), 0)
        assert bytes(again.buffer[:3]) == b"abc"


def test_segments_without_a_mark_and_small_ones_are_not_kept():
    known = Mappings()
    with Segment.create(SIZE) as plain, Segment.create(SIZE - 1, is_marked=True) as small:
        known.attach(plain)
        known.attach(small)
        assert known.nbytes == 0


def test_two_segments_are_never_taken_for_one():
    known = Mappings()
    with Segment.create(SIZE, is_marked=True) as one, Segment.create(SIZE, is_marked=True) as other:
        known.attach(one)
        known.attach(other)
        assert one.mark != other.mark
        assert one.map() is not other.map()
        assert known.nbytes == 2 * SIZE


def test_what_is_too_much_or_not_used_for_long_is_let_go(monkeypatch):
    now_s = [0.0]
    known = Mappings(lambda: now_s[0])
    before = open_count()
    monkeypatch.setattr(mappings, "KEPT_BYTES", 2 * SIZE)
    for _ in range(3):
        with Segment.create(SIZE, is_marked=True) as segment:
            known.attach(segment)
        now_s[0] += 1.0
    assert known.nbytes == 2 * SIZE
    now_s[0] = 1.5 + KEPT_S
    known.rest()
    assert known.nbytes == SIZE
    known.close()
    del segment
    assert known.nbytes == 0
    assert open_count() == before
