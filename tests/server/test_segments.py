"""Segments are read where they were written, in another process too, and leave nothing behind."""

from __future__ import annotations

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
