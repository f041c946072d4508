"""Small requests for what nobody has: each is refused at once, by the name of a limit, before anything is allocated."""

from __future__ import annotations

import time

import pytest
from google.rpc.status_pb2 import Status

from gradwire_core import errors
from gradwire_proto.status import decode_status
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import program_pb2, tensor_pb2
from gradwire_server.config import ServerConfig
from gradwire_server.frames import Frame, Kind
from gradwire_server.worker import Worker
from tests.server.requests import quick
from tests.server.test_service import assert_works, refusal
from tests.server.wire import MILLION, lists, loops, nothings, requesting, sines

FLOAT = tensor_pb2.DTYPE_FLOAT64
HUGE = 10**9  # squared, more than any memory
REFUSED_S = 0.1


def program(name: str, inputs: list[list[int]], result: list[int], **params: object) -> program_pb2.Program:
    """A program of one equation of all inputs."""
    types = [{"dtype": FLOAT, "shape": shape} for shape in inputs]
    operands = [{"number": number} for number in range(len(inputs))]
    equation = {"primitive": name, "operands": operands, "params": params, "results": [{"dtype": FLOAT, "shape": result}]}
    return program_pb2.Program(inputs=types, equations=[equation], outputs=[{"number": len(inputs)}])


def integers(*items: int) -> dict[str, object]:
    return {"list_value": {"items": [{"int_value": item} for item in items]}}


def asking(program: program_pb2.Program, *transforms: dict[str, object]) -> bytes:
    return pb.EvaluateRequest(program=program, outputs=[{"transforms": transforms}]).SerializeToString()


def contraction(subscripts: str, length: int) -> bytes:
    left, _, right = subscripts.partition("->")
    shapes = [[length] * len(group) for group in left.split(",")]
    return asking(program("einsum", shapes, [length] * len(right), subscripts={"string_value": subscripts}))


def loop(length: int, depth: int) -> program_pb2.Program:
    """sin(x), `length` times over, `length` times over, and so on."""
    number = {"dtype": FLOAT}
    found = program_pb2.Program(
        inputs=[number],
        equations=[{"primitive": "sin", "operands": [{"number": 0}], "results": [number]}],
        outputs=[{"number": 1}],
    )
    for _ in range(depth):
        params = {
            "body": {"program_value": found},
            "length": {"int_value": length},
            "carry_count": {"int_value": 1},
            "const_count": {"int_value": 0},
            "is_reversed": {"bool_value": False},
            "is_checkpointed": {"bool_value": False},
        }
        equation = {"primitive": "scan", "operands": [{"number": 0}], "params": params, "results": [number]}
        found = program_pb2.Program(inputs=[number], equations=[equation], outputs=[{"number": 1}])
    return found


BATCH = {"vmap": {"in_axes": [{"axis": 0}], "axis_size": 10**12}}
BOMBS = {
    "an input": (asking(program("sin", [[HUGE, HUGE]], [HUGE, HUGE])), "element_count"),
    "a result": (asking(program("broadcast_to", [[]], [HUGE, HUGE], shape=integers(HUGE, HUGE))), "element_count"),
    "axes": (asking(program("sin", [[1] * 60], [1] * 60)), "axis_count"),
    "equations": (requesting(sines(MILLION)), "equation_count"),
    "nested equations": (requesting(loops(1000, sines(1000))), "equation_count"),
    "empty equations": (requesting(nothings(10 * MILLION)), "equation_count"),
    "a batch": (asking(quick().program, BATCH), "element_count"),
    "an intermediate": (contraction("abc,ade,bdf,cef->", 300), "peak_bytes"),
    "nested params": (requesting(lists(20)), "nesting_count"),
    "deeply nested params": (requesting(lists(20_000)), "nesting_count"),
    "derivatives of derivatives": (asking(quick().program, *[{"jacobian": {}}] * 40), "transform_count"),
    "a derivative as large": (asking(program("sin", [[2**20]], [2**20]), {"jacobian": {}}), "peak_bytes"),
    "loops of loops": (asking(loop(10**6, 3)), "flop_count"),
}


@pytest.fixture(scope="module")
def worker():
    worker = Worker(ServerConfig())
    for message in (quick().SerializeToString(), contraction("ab,bc->ac", 2)):  # it imports what it needs
        worker.answer(Frame(Kind.EVALUATE, (b"id", message)))
    return worker


@pytest.mark.parametrize("name", BOMBS)
def test_what_nobody_has_is_refused_at_once(name, worker):
    message, limit = BOMBS[name]
    taken_s = []
    for _ in range(3):
        began_s = time.process_time()
        answer = worker.answer(Frame(Kind.EVALUATE, (b"id", message)))
        taken_s.append(time.process_time() - began_s)
        assert answer.kind is Kind.ERROR
        found = decode_status(Status.FromString(answer.parts[0]))
        assert isinstance(found, errors.LimitError), repr(found)
        assert found.metadata["limit"] == limit, found
        assert found.metadata["allowed"] in found.message
        assert found.metadata["given"] in found.message
    assert min(taken_s) < REFUSED_S


def test_a_server_refuses_each_and_answers_the_next(channel, stub):
    call = channel.unary_unary("/gradwire.v1.DifferentiationService/Evaluate")
    for message, limit in BOMBS.values():
        found = refusal(call, message)
        assert isinstance(found, errors.LimitError)
        assert found.metadata["limit"] == limit
    assert_works(stub)
    listed = stub.GetCapabilities(pb.GetCapabilitiesRequest()).limits
    assert {limit for _, limit in BOMBS.values()} <= set(listed)
