from __future__ import annotations

import os
import resource
import socket
import struct
from contextlib import ExitStack, closing, contextmanager

import pytest

from gradwire_server.buffers import SHARED_BYTES
from gradwire_server.channel import SMALL_BYTES, Channel
from gradwire_server.frames import COST_FORMAT, Frame, Joined, Kind, Prediction, Timings, pack_cost
from gradwire_server.segments import Segment
from tests.server.descriptors import open_count

LARGE = bytes(range(256)) * (SMALL_BYTES // 128)
HUGE = bytes(SHARED_BYTES + 1)
NO_COST = pack_cost(Frame(Kind.READY))


@contextmanager
def channels(*, reads_in_place: bool = False):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        closing(Channel(ours)) as one,
        closing(Channel(theirs, reads_in_place=reads_in_place)) as other,
    ):
        yield one, other


def segment(content: bytes) -> Segment:
    made = Segment.create(len(content))
    made.buffer[:] = content
    return made


def content(frame: Frame) -> list[bytes]:
    return [bytes(part.buffer) if isinstance(part, Segment) else bytes(part) for part in frame.parts]


@pytest.mark.parametrize("reads_in_place", [True, False])
@pytest.mark.parametrize(
    "parts", [(), (b"",), (b"id", b"", b"program"), (b"id", LARGE, b"", LARGE[:-1]), (HUGE, LARGE), (Joined((b"ab", LARGE)), b"c")]
)
def test_a_frame_arrives_as_it_was_sent(reads_in_place, parts):
    sent = Frame(Kind.RESULT, parts, Prediction(0.5, 2**40, is_stackable=True), Timings(0.125, 0.25, 0.5), was_cached=True)
    with channels(reads_in_place=reads_in_place) as (one, other):
        for _ in range(3):
            (found,) = other.feed(one.pack(sent))
            assert content(found) == content(sent)
            assert (found.kind, found.prediction, found.timings) == (sent.kind, sent.prediction, sent.timings)
            assert found.was_cached
            del found


def test_large_parts_do_not_go_through_the_stream_and_take_new_memory_once():
    with channels(reads_in_place=True) as (one, other):
        (first,) = other.feed(one.pack(Frame(Kind.EVALUATE, (LARGE, b"small"))))
        one.feed(other.pack(Frame(Kind.READY)))
        before = open_count()
        for _ in range(10):
            data = one.pack(Frame(Kind.EVALUATE, (LARGE[::-1], b"small")))
            assert len(data) < 110
            (found,) = other.feed(data)
            assert content(found) == [LARGE[::-1], b"small"]
            one.feed(other.pack(Frame(Kind.READY)))
        assert content(first)[0] == LARGE[::-1]  # the same memory
        assert open_count() == before


def test_memory_is_used_again_once_its_frame_has_been_read_and_not_before():
    frames = [Frame(Kind.EVALUATE, (bytes([number]) * (SMALL_BYTES + number),)) for number in range(1, 9)]
    with channels() as (one, other):
        for _ in range(3):
            sent = [one.pack(frame) for frame in frames]
            before = open_count()
            assert [frame for data in sent for frame in other.feed(data)] == frames
            one.feed(other.pack(Frame(Kind.READY)))
        assert open_count() == before  # the first time took all memory that there is


def test_memory_that_is_too_small_is_let_go():
    with channels() as (one, other):
        before = None
        for size in (2**20, 2**22, 2**24, 2**20):
            (found,) = other.feed(one.pack(Frame(Kind.EVALUATE, (bytes(size),))))
            assert content(found) == [bytes(size)]
            one.feed(other.pack(Frame(Kind.READY)))
            before = before or open_count()
            assert open_count() == before


def test_what_is_not_read_takes_no_more_memory_than_may_be_kept():
    parts = [bytes([number]) * (SHARED_BYTES // 4) for number in range(8)]
    with channels() as (one, other):
        sent = [one.pack(Frame(Kind.EVALUATE, (part,))) for part in parts]
        assert sum(item.segment.size for item in one._ours._all) == SHARED_BYTES
        assert [frame.parts[0] for data in sent for frame in other.feed(data)] == parts


def test_a_frame_that_could_not_be_sent_leaves_nothing_behind():
    with channels() as (one, other):
        (found,) = other.feed(one.pack(Frame(Kind.EVALUATE, (LARGE,))))
        one.feed(other.pack(Frame(Kind.READY)))
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        next_free = os.dup(0)
        os.close(next_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, limits[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                one.pack(Frame(Kind.EVALUATE, (bytes(2**21),)))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for part in (bytes(2**21), LARGE):
            (found,) = other.feed(one.pack(Frame(Kind.EVALUATE, (part,))))
            assert content(found) == [part]


def test_frames_come_in_pieces_and_several_at_a_time():
    frames = [Frame(Kind.EVALUATE, (b"id", bytes(range(200)))), Frame(Kind.READY), Frame(Kind.MISSING, (b"name",))]
    with channels() as (one, other):
        data = b"".join(map(one.pack, frames))
        assert other.feed(data) == frames
        found = [frame for place in range(len(data)) for frame in other.feed(data[place : place + 1])]
        assert found == frames
        assert other.feed(data[:50]) + other.feed(data[50:]) == frames


@pytest.mark.parametrize("count", [1, 251, 300])
def test_segments_are_passed_and_both_sides_own_their_descriptor(count):
    with channels() as (one, other), ExitStack() as stack:
        mine = [stack.enter_context(segment(b"%d" % number)) for number in range(count)]
        data = one.pack(Frame(Kind.EVALUATE, (b"id", LARGE, *mine[:1], b"", *mine[1:])))
        for item in mine:
            item.close()
        (found,) = other.feed(data)
        assert content(found) == [b"id", LARGE, b"0", b"", *(b"%d" % number for number in range(1, count))]
        found.close()
        assert all(item.descriptor < 0 for item in found.segments)


def test_what_is_written_by_one_is_read_by_the_other():
    with channels() as (one, other), segment(b"before") as mine:
        (found,) = other.feed(one.pack(Frame(Kind.EVALUATE, (mine,))))
        (theirs,) = found.segments
        mine.buffer[:] = b"behind"
        assert bytes(theirs.buffer) == b"behind"
        found.close()


@pytest.mark.parametrize("received", ["nothing", "half", "all"])
def test_nothing_is_left_open_whenever_it_ends(received):
    before = open_count()
    with channels() as (one, other), segment(LARGE) as mine:
        data = one.pack(Frame(Kind.EVALUATE, (LARGE, HUGE, mine, mine)))
        if received != "nothing":
            other.feed(data if received == "all" else data[: len(data) // 2])
        one.pack(Frame(Kind.EVALUATE, (LARGE, HUGE, mine)))
        del mine
    assert open_count() == before


def test_a_side_without_descriptors_left_says_so_and_leaves_none_open():
    with channels() as (one, other), segment(b"content") as mine:
        data = one.pack(Frame(Kind.EVALUATE, (mine,) * 20))
        before = open_count()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 10, limits[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                other.feed(data)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert open_count() == before


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(f"<IIQi{COST_FORMAT}", 99, 0, 0, -1, *NO_COST),
        struct.pack(f"<IIQi{COST_FORMAT}Q", Kind.RESULT, 1, 0, 0, *NO_COST, 1 << 62 | 10),
        struct.pack(f"<IIQi{COST_FORMAT}Q", Kind.RESULT, 1, 0, -1, *NO_COST, 2 << 62 | 10),
    ],
    ids=["kind", "memory that is not shared", "segment that was not sent"],
)
def test_what_is_no_frame_is_refused(data):
    with channels() as (_, other), pytest.raises(ValueError):  # noqa: PT011  # of whatever it is
        other.feed(data)
