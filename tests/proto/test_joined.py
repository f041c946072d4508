"""Joined messages are what protobuf makes of them, and nothing else passes for such."""

import random

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from gradwire_core.errors import ArgumentError, LimitError
from gradwire_proto.joined import KEY, REQUESTS, RESPONSES, join, split, told_count
from gradwire_proto.v1 import differentiation_service_pb2 as pb

PARTS = st.lists(
    st.builds(lambda id, size: pb.EvaluateStreamRequest(id=id, chunk=bytes(size)), st.integers(0, 2**40), st.integers(0, 300))
)


@given(parts=PARTS.filter(lambda parts: len(parts) != 1))
def test_they_are_written_and_read_as_protobuf_does(parts):
    messages = [part.SerializeToString() for part in parts]
    one = join(REQUESTS, messages)
    assert one == pb.EvaluateStreamRequest(joined=parts).SerializeToString()
    spans = split(REQUESTS, one, 1000)
    assert [one[start:end] for start, end in spans or ()] == messages


def test_a_message_alone_is_itself():
    message = pb.EvaluateStreamResponse(id=1, chunk=b"abc").SerializeToString()
    assert join(RESPONSES, [message]) == message
    assert split(RESPONSES, message, 10) is None
    assert split(RESPONSES, b"", 10) is None


def test_more_than_are_taken_are_refused_whatever_comes_behind():
    with pytest.raises(LimitError, match="at most 3"):
        split(REQUESTS, b"\x3a\x00" * 4 + b"\xff", 3)
    assert len(split(REQUESTS, b"\x3a\x00" * 3, 3)) == 3


def test_what_is_read_is_read_as_protobuf_reads_it_or_refused():
    rng = random.Random(5)
    seeds = [
        pb.EvaluateStreamRequest(joined=[pb.EvaluateStreamRequest(id=id, chunk=bytes(size)) for id in range(count)])
        for count in (1, 2, 5)
        for size in (0, 3, 130)
    ]
    compared = 0
    for _ in range(5000):
        message = bytearray(rng.choice(seeds).SerializeToString())
        for _ in range(rng.randrange(3)):
            message[rng.randrange(len(message))] = rng.choice([0, 1, 2, 8, 26, 58, 127, 128, 255])
        try:
            spans = split(REQUESTS, bytes(message), 100)
        except ArgumentError:
            continue
        try:
            read = pb.EvaluateStreamRequest.FromString(bytes(message))
        except DecodeError:
            continue  # what the content is, its reader finds out
        if spans is not None:
            compared += 1
            assert [pb.EvaluateStreamRequest.FromString(bytes(message[start:end])) for start, end in spans] == list(read.joined)
    assert compared > 1000


@pytest.mark.parametrize(
    ("told", "count"), [("7", 7), ("0", 1), ("", 1), ("-3", 1), ("1e3", 1), ("\u0663", 1), ("9" * 5000, 1), (b"7", 1)]
)
def test_a_number_that_is_none_is_one(told, count):
    assert told_count([("other", "9"), (KEY, told)]) == count
