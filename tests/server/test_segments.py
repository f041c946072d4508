"""Segments are read where they were written, in another process too, and leave nothing behind."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from gradwire_server.segments import Segment


def descriptors():
    return set(Path("/proc/self/fd").iterdir())


def test_what_is_written_is_read_through_a_passed_descriptor():
    here, there = socket.socketpair()
    with here, there, Segment.create(1000) as segment:
        segment.buffer[10:13] = b"abc"
        socket.send_fds(here, [b"x"], [segment.descriptor])
        _, passed, _, _ = socket.recv_fds(there, 1, 1)
        with Segment(passed[0], 1000) as same:
            assert bytes(same.buffer[9:14]) == b"\0abc\0"
            same.buffer[0] = 7
        assert segment.buffer[0] == 7


def test_a_view_outlives_its_segment():
    with Segment.create(8) as segment:
        view = segment.buffer
        view[:] = b"12345678"
    assert bytes(view) == b"12345678"


def test_nothing_is_left_open():
    before = descriptors()
    with Segment.create(2**20) as segment:
        segment.buffer[0] = 1
    del segment
    assert descriptors() == before


def test_an_empty_segment_has_an_empty_buffer():
    with Segment.create(0) as segment:
        assert len(segment) == len(segment.buffer) == 0


def test_marked_segments_differ_and_keep_their_mark_wherever_they_are_passed():
    with Segment.create(8, is_marked=True) as one, Segment.create(8, is_marked=True) as other, one.share() as same:
        assert one.mark
        assert one.mark == same.mark != other.mark
        with Segment.create(8) as plain:
            assert not plain.mark


def test_what_has_memory_is_known_and_written_in_place():
    with Segment.create(8) as segment:
        segment.write(memoryview(b"abc"), 0)
        assert segment.written == 3
        segment.write(memoryview(b"xyz"), 5)
        assert segment.written == 3, "there is a gap"
        segment.write(memoryview(b"defgh"), 3)
        assert segment.written == 8
        segment.write(memoryview(b"XYZ"), 2)
        assert bytes(segment.buffer) == b"abXYZfgh"
        segment.write(memoryview(b""), 0)


def test_memory_that_is_given_back_is_so_wherever_it_is_mapped():
    segment = Segment.create(2**13)
    segment.write(memoryview(b"x" * 2**13), 0)
    with segment.share() as other:
        assert other.written == 2**13
        view = other.buffer
        segment.free()
        assert segment.descriptor < 0
        assert os.fstat(other.descriptor).st_blocks == 0
        assert bytes(view) == b"\0" * 2**13
