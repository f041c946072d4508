"""The name in a request, found without decoding the request: as protobuf finds it, or refused."""

from __future__ import annotations

import random
import time

import pytest
from google.protobuf.message import DecodeError

from gradwire_core.errors import ArgumentError, LimitError
from gradwire_proto.known import check_known
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.requests import find_program_name
from tests.server.requests import quick

NAME = "programs/" + "a" * 64


def named():
    request = quick()
    request.program_name = NAME
    request.reproducible = True
    return request.SerializeToString()


def find(message):
    return find_program_name(pb.EvaluateRequest, message, 1000)


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (b"", ""),
        (named(), NAME),
        (quick().SerializeToString(), ""),
        (named() + quick().SerializeToString(), ""),
        (quick().SerializeToString() + named(), NAME),
        (named() + pb.EvaluateRequest(program_name="other").SerializeToString(), "other"),
    ],
)
def test_the_last_one_counts(message, name):
    assert find(message) == pb.EvaluateRequest.FromString(message).program_name == name


def test_what_protobuf_reads_is_read_the_same_or_refused():
    rng = random.Random(5)
    seeds = [named(), quick().SerializeToString(), named()[:80], b"\x0a\x03abc", b"\x8a\x00\x03abc", b"\x0a\x83\x00abc"]
    compared = 0
    for _ in range(30_000):
        message = bytearray(rng.choice(seeds) + rng.choice([b"", *seeds]))
        for _ in range(rng.randrange(4)):
            message[rng.randrange(len(message))] = rng.choice([0, 1, 8, 10, 11, 18, 40, 127, 128, 255, rng.randrange(256)])
        try:
            request = pb.EvaluateRequest.FromString(bytes(message))
            check_known(request)
        except (DecodeError, ArgumentError):
            continue
        compared += 1
        try:
            found = find(bytes(message))
        except ArgumentError:
            assert not request.program_name, "only what the server itself never sends so"
        else:
            assert found == request.program_name
    assert compared > 5000


def test_it_takes_no_time_whatever_comes():
    data = pb.EvaluateRequest(program_name=NAME, inputs=[{"data": bytes(2**24)}]).SerializeToString()
    bomb = b"\x28\x01" * 2**20
    began_s = time.perf_counter()
    assert find(data) == NAME
    with pytest.raises(LimitError):
        find(bomb)
    assert time.perf_counter() - began_s < 0.05
