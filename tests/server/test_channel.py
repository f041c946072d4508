from __future__ import annotations

import gc
import resource
import socket
import struct
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from gradwire_server.channel import SHARED_BYTES, SMALL_BYTES, Channel
from gradwire_server.frames import COST_FORMAT, Frame, Joined, Kind, Prediction, Timings, pack_cost
from gradwire_server.segments import Segment

LARGE = bytes(range(256)) * (SMALL_BYTES // 128)
HUGE = bytes(SHARED_BYTES + 1)
NO_COST = pack_cost(Frame(Kind.READY))


@contextmanager
def channels(*, takes_turns: bool = True, reads_in_place: bool = False):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        closing(Channel(ours, takes_turns=takes_turns)) as one,
        closing(Channel(theirs, takes_turns=takes_turns, reads_in_place=reads_in_place)) as other,
    ):
        yield one, other


def segment(content: bytes) -> Segment:
    made = Segment.create(len(content))
    made.buffer[:] = content
    return made


def content(frame: Frame) -> list[bytes]:
    return [bytes(part.buffer) if isinstance(part, Segment) else bytes(part) for part in frame.parts]


def open_count() -> int:
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("takes_turns", [True, False])
@pytest.mark.parametrize("reads_in_place", [True, False])
@pytest.mark.parametrize(
    "parts", [(), (b"",), (b"id", b"", b"program"), (b"id", LARGE, b"", LARGE[:-1]), (HUGE, LARGE), (Joined((b"ab", LARGE)), b"c")]
)
def test_a_frame_arrives_as_it_was_sent(takes_turns, reads_in_place, parts):
    sent = Frame(Kind.RESULT, parts, Prediction(0.5, 2**40, is_stackable=True), Timings(0.125, 0.25, 0.5), was_cached=True)
    with channels(takes_turns=takes_turns, reads_in_place=reads_in_place) as (one, other):
        for _ in range(3):
            (found,) = other.feed(one.pack(sent))
            assert content(found) == content(sent)
            assert (found.kind, found.prediction, found.timings) == (sent.kind, sent.prediction, sent.timings)
            assert found.was_cached
            del found


def test_large_parts_do_not_go_through_the_stream_and_take_new_memory_once():
    with channels(reads_in_place=True) as (one, other):
        (first,) = other.feed(one.pack(Frame(Kind.EVALUATE, (LARGE, b"small"))))
        before = open_count()
        for _ in range(10):
            data = one.pack(Frame(Kind.EVALUATE, (LARGE[::-1], b"small")))
            assert len(data) < 100
            (found,) = other.feed(data)
            assert content(found) == [LARGE[::-1], b"small"]
        assert content(first)[0] == LARGE[::-1]  # the same memory
        assert open_count() == before


def test_frames_come_in_pieces_and_several_at_a_time():
    frames = [Frame(Kind.EVALUATE, (b"id", bytes(range(200)))), Frame(Kind.READY), Frame(Kind.MISSING, (b"name",))]
    with channels(takes_turns=False) as (one, other):
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
        struct.pack(f"<II{COST_FORMAT}", 99, 0, *NO_COST),
        struct.pack(f"<II{COST_FORMAT}Q", Kind.RESULT, 1, *NO_COST, 1 << 62 | 10),
        struct.pack(f"<II{COST_FORMAT}Q", Kind.RESULT, 1, *NO_COST, 2 << 62 | 10),
    ],
    ids=["kind", "memory that is not shared", "segment that was not sent"],
)
def test_what_is_no_frame_is_refused(data):
    with channels() as (_, other), pytest.raises(ValueError):  # noqa: PT011  # of whatever it is
        other.feed(data)
