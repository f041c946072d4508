"""The name in a request, found without decoding the request: as protobuf finds it, or refused."""

from __future__ import annotations

import math
import random
import time

import pytest
from google.protobuf.message import DecodeError

from gradwire_core.errors import ArgumentError, DtypeError, LimitError, ShapeError
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.known import check_known
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.requests import Apart, find_apart, find_program_name, outline
from tests.server.requests import quick
from tests.server.wire import field

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


def tensors(rng) -> pb.EvaluateRequest:
    """A request with tensors of all kinds, as inputs and seeds."""

    def tensor():
        shape = [rng.choice([0, 1, 3, 200]) for _ in range(rng.randrange(3))]
        size = 8 * math.prod(shape)
        kind = rng.randrange(3)
        return {
            "dtype": 1,
            "shape": shape,
            "data": bytes(size) if kind == 0 else b"",
            "name": "tensors/" + "a" * 64 if kind == 1 else "",
        }

    outputs = [{"seeds": [tensor() for _ in range(rng.randrange(3))]} for _ in range(rng.randrange(3))]
    return pb.EvaluateRequest(inputs=[tensor() for _ in range(rng.randrange(4))], outputs=outputs)


def test_tensors_without_elements_are_found_as_protobuf_reads_them():
    rng = random.Random(3)
    for _ in range(2000):
        request = tensors(rng)
        message = request.SerializeToString()
        if rng.randrange(2):  # in another order on the wire, which is the same request
            message = b"".join(pb.EvaluateRequest(outputs=[item]).SerializeToString() for item in request.outputs)
            message += pb.EvaluateRequest(inputs=request.inputs).SerializeToString()
        read = [*request.inputs, *(seed for output in request.outputs for seed in output.seeds)]
        expected = [(tuple(item.shape), item.name) if item.name or not (item.data or 0 in item.shape) else None for item in read]
        found = find_apart(message, outline(pb.EvaluateRequest, message, 100))
        assert [item and (item.type.shape, item.name) for item in found] == expected


@pytest.mark.parametrize("shape", [b"\x10\x03\x10\x04", b"\x12\x01\x03\x12\x01\x04", b"\x10\x03\x12\x01\x04"])
def test_a_shape_is_read_however_it_is_written(shape):
    message = field(3, b"\x08\x01" + shape)
    assert list(pb.EvaluateRequest.FromString(message).inputs[0].shape) == [3, 4]
    (found,) = find_apart(message, outline(pb.EvaluateRequest, message, 100))
    assert found == Apart("input 0", TensorType(Dtype.FLOAT64, (3, 4)), "")


@pytest.mark.parametrize(
    ("tensor", "error"),
    [
        ({"dtype": 1, "name": "tensors/x", "data": b"x"}, ArgumentError),
        ({"dtype": 99}, DtypeError),
        ({"dtype": 1, "shape": [-1]}, ShapeError),
        ({"dtype": 1, "shape": [2**62, 2**62]}, ShapeError),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(tensor, error):
    message = pb.EvaluateRequest(inputs=[tensor]).SerializeToString()
    with pytest.raises(error):
        list(find_apart(message, outline(pb.EvaluateRequest, message, 100)))
