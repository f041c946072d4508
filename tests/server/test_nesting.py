"""Counting equations and levels on the wire, against what parsers find."""

from __future__ import annotations

import random
import time

import pytest
from google.protobuf.message import DecodeError

from gradwire_core.errors import LimitError
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.config import ServerConfig
from gradwire_server.limits import Limits
from gradwire_server.nesting import measure
from tests.server.requests import quick
from tests.server.wire import MILLION, lists, loops, nothings, requesting, sines

LIMITS = Limits.from_config(ServerConfig())


def found(message: bytes) -> tuple[int, int]:
    measured = list(measure(pb.EvaluateRequest, message))
    return max(count for count, _ in measured), max(depth for _, depth in measured)


@pytest.mark.parametrize(
    ("program", "count", "depth"),
    [
        (b"", 0, 0),
        (sines(50), 50, 0),
        (sines(10_000), 10_000, 0),
        (nothings(10_000), 10_000, 0),
        (loops(3, sines(100)), 303, 1),
        (loops(2, loops(2, loops(2, sines(50)))), 2 + 4 + 8 + 400, 3),
    ],
)
def test_equations_and_levels_are_those_of_the_program(program, count, depth):
    message = requesting(program)
    parsed = pb.EvaluateRequest.FromString(message)
    parsed.inputs.extend(quick().inputs)
    parsed.outputs.add()
    assert found(message) == found(parsed.SerializeToString()) == (count, depth)


def test_levels_are_found_where_no_parser_goes():
    message = requesting(lists(5000))
    with pytest.raises(DecodeError):
        pb.EvaluateRequest.FromString(message)
    assert found(message)[1] > 4900


def test_whatever_the_bytes_it_ends():
    rng = random.Random(0)
    valid = requesting(loops(2, loops(2, sines(50))))
    for _ in range(3000):
        mutated = bytearray(valid)
        for _ in range(rng.randint(1, 4)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        count, depth = found(bytes(mutated[: rng.randrange(len(mutated))]))
        assert 2 * count <= len(mutated)
        assert depth <= len(mutated)
        found(rng.randbytes(rng.randrange(300)))


@pytest.mark.parametrize("program", [sines(MILLION), nothings(MILLION), loops(1000, sines(1000))])
def test_too_many_equations_are_refused_before_they_are_parsed(program):
    message = requesting(program)
    taken_s = []
    for _ in range(3):
        began_s = time.process_time()
        with pytest.raises(LimitError) as refused:
            LIMITS.check_size(pb.EvaluateRequest, message)
        taken_s.append(time.process_time() - began_s)
    assert refused.value.metadata["limit"] == "equation_count"
    assert refused.value.metadata["given"].endswith(" or more")
    assert min(taken_s) < 0.1
