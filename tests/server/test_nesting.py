"""Counting equations and levels on the wire, against what parsers find."""

from __future__ import annotations

import random
import time

import pytest
from google.protobuf.message import DecodeError

from gradwire_core.errors import LimitError
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import program_pb2
from gradwire_server.config import ServerConfig
from gradwire_server.limits import Limits
from gradwire_server.nesting import measure
from tests.server.requests import quick

LIMITS = Limits.from_config(ServerConfig())
MILLION = 10**6


def sines(count: int) -> program_pb2.Program:
    operation = quick().program.equations[0]
    return program_pb2.Program(equations=[operation] * count)


def loops(count: int, body: program_pb2.Program) -> program_pb2.Program:
    loop = program_pb2.Equation(primitive="scan", params={"length": {"int_value": 3}, "body": {"program_value": body}})
    return program_pb2.Program(equations=[loop] * count)


def lists(depth: int) -> bytes:
    """A request whose only param nests lists so deeply."""
    message = b""
    for _ in range(depth):
        message = field(6, field(1, message))
    return field(2, field(2, field(3, field(1, b"axes") + field(2, message))))


def field(number: int, content: bytes) -> bytes:
    size, varint = len(content), bytearray()
    while size >= 0x80:
        varint.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *varint, size]) + content


def found(message: bytes) -> tuple[int, int]:
    measured = list(measure(pb.EvaluateRequest, message))
    return max(count for count, _ in measured), max(depth for _, depth in measured)


@pytest.mark.parametrize(
    ("program", "count", "depth"),
    [
        (sines(0), 0, 0),
        (sines(50), 50, 0),
        (sines(10_000), 10_000, 0),
        (loops(3, sines(100)), 303, 1),
        (loops(2, loops(2, loops(2, sines(50)))), 2 + 4 + 8 + 400, 3),
    ],
)
def test_equations_and_levels_are_those_of_the_program(program, count, depth):
    request = pb.EvaluateRequest(program=program, inputs=quick().inputs, outputs=[pb.Output()])
    assert found(request.SerializeToString()) == (count, depth)


def test_levels_are_found_where_no_parser_goes():
    message = lists(5000)
    with pytest.raises(DecodeError):
        pb.EvaluateRequest.FromString(message)
    assert found(message)[1] > 4900


def test_whatever_the_bytes_it_ends():
    rng = random.Random(0)
    valid = pb.EvaluateRequest(program=loops(2, loops(2, sines(10)))).SerializeToString()
    for _ in range(3000):
        mutated = bytearray(valid)
        for _ in range(rng.randint(1, 4)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        count, depth = found(bytes(mutated[: rng.randrange(len(mutated))]))
        assert 2 * count <= len(mutated)
        assert depth <= len(mutated)
        found(rng.randbytes(rng.randrange(300)))


@pytest.mark.parametrize(
    "program", [sines(MILLION), program_pb2.Program(equations=[program_pb2.Equation()] * MILLION), loops(1000, sines(1000))]
)
def test_too_many_equations_are_refused_before_they_are_parsed(program):
    message = pb.EvaluateRequest(program=program).SerializeToString()
    taken_s = []
    for _ in range(3):
        began_s = time.process_time()
        with pytest.raises(LimitError) as refused:
            LIMITS.check_size(pb.EvaluateRequest, message)
        taken_s.append(time.process_time() - began_s)
    assert refused.value.metadata["limit"] == "equation_count"
    assert refused.value.metadata["given"].endswith(" or more")
    assert min(taken_s) < 0.1
