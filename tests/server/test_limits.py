from types import SimpleNamespace

import pytest

from gradwire_core.errors import LimitError
from gradwire_core.structure.cost import Cost
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import program_pb2, tensor_pb2, transform_pb2
from gradwire_server.config import ServerConfig
from gradwire_server.limits import Limits

LIMITS = Limits(
    message_bytes=100,
    equation_count=3,
    nesting_count=3,
    literal_bytes=16,
    transform_count=2,
    axis_count=2,
    element_count=10,
    input_count=2,
    output_count=1,
    peak_bytes=50,
    flop_count=9,
    predicted_s=1,
    program_store_bytes=70,
    tensor_store_bytes=70,
    connection_call_count=1,
    stream_request_count=1,
    stream_joined_count=1,
    stream_tensor_bytes=70,
    chunked_bytes=70,
    shards=4,
)
WIDE = {"shape": [2, 6]}
DEEP = {"shape": [1, 1, 1]}


def nested(count: int) -> program_pb2.Program:
    """A program of two equations, the second holding `count` in a list of a list."""
    inner = program_pb2.Program(equations=[program_pb2.Equation()] * count)
    items = program_pb2.ParamList(items=[program_pb2.Param(program_value=inner)])
    param = program_pb2.Param(list_value=program_pb2.ParamList(items=[program_pb2.Param(list_value=items)]))
    return program_pb2.Program(equations=[program_pb2.Equation(), program_pb2.Equation(params={"body": param})])


def listed(depth: int) -> program_pb2.Param:
    """A number in so many lists."""
    param = program_pb2.Param(int_value=1)
    for _ in range(depth):
        param = program_pb2.Param(list_value=program_pb2.ParamList(items=[param]))
    return param


def refused(check, *arguments) -> dict[str, str]:
    with pytest.raises(LimitError) as error:
        check(*arguments)
    assert error.value.metadata["given"] in error.value.message
    return error.value.metadata


@pytest.mark.parametrize(
    ("program", "limit", "given"),
    [
        (program_pb2.Program(equations=[program_pb2.Equation()] * 4), "equation_count", 4),
        (nested(2), "equation_count", 4),
        (program_pb2.Program(inputs=[WIDE]), "element_count", 12),
        (program_pb2.Program(inputs=[DEEP]), "axis_count", 3),
        (program_pb2.Program(outputs=[{"literal": WIDE}]), "element_count", 12),
        (program_pb2.Program(equations=[{"operands": [{"literal": DEEP}]}]), "axis_count", 3),
        (program_pb2.Program(equations=[{"results": [{"shape": [10**9, 10**9]}]}]), "element_count", 10**18),
        (program_pb2.Program(outputs=[{"literal": {"data": bytes(9)}}] * 2), "literal_bytes", 18),
        (program_pb2.Program(equations=[{"params": {"axes": listed(4)}}]), "nesting_count", 4),
    ],
)
def test_a_program_past_a_limit_is_refused_by_its_name(program, limit, given):
    found = refused(LIMITS.check_program, program)
    assert (found["limit"], found["given"]) == (limit, str(given))


def test_what_is_within_the_limits_passes():
    LIMITS.check_program(nested(1))
    LIMITS.check_program(program_pb2.Program(equations=[{"params": {"axes": listed(3)}}]))
    LIMITS.check_transforms([transform_pb2.Transform()] * 2)
    LIMITS.check_program(program_pb2.Program(inputs=[{"shape": [10]}, {"shape": [0, 3]}]))
    LIMITS.check_request(100)
    LIMITS.check_response(100)
    LIMITS.check_evaluation(pb.EvaluateRequest(inputs=[tensor_pb2.Tensor()] * 2, outputs=[pb.Output()]))
    LIMITS.check_plan(SimpleNamespace(flops=9.0, peak_bytes=50))
    LIMITS.check_cost(Cost(work=1.0))
    LIMITS.check_derived(3)
    LIMITS.check_size(pb.EvaluateRequest, b"")


@pytest.mark.parametrize(
    ("request_", "limit"),
    [
        (pb.EvaluateRequest(inputs=[tensor_pb2.Tensor()] * 3), "input_count"),
        (pb.EvaluateRequest(outputs=[pb.Output()] * 2), "output_count"),
        (pb.EvaluateRequest(inputs=[WIDE]), "element_count"),
        (pb.EvaluateRequest(outputs=[{"seeds": [DEEP]}]), "axis_count"),
        (pb.EvaluateRequest(outputs=[{"seeds": [{}] * 3}]), "input_count"),
        (pb.EvaluateRequest(outputs=[{"transforms": [{}] * 3}]), "transform_count"),
        (pb.EvaluateRequest(outputs=[{"transforms": [{"vmap": {"axis_size": 10**12}}]}]), "element_count"),
    ],
)
def test_a_request_past_a_limit_is_refused_by_its_name(request_, limit):
    assert refused(LIMITS.check_evaluation, request_)["limit"] == limit


def test_bytes_and_costs_past_a_limit_are_refused_by_their_names():
    assert refused(LIMITS.check_request, 101)["limit"] == "message_bytes"
    assert refused(LIMITS.check_response, 101)["limit"] == "message_bytes"
    assert refused(LIMITS.check_plan, SimpleNamespace(flops=1.0, peak_bytes=51))["limit"] == "peak_bytes"
    assert refused(LIMITS.check_plan, SimpleNamespace(flops=1e30, peak_bytes=1))["limit"] == "flop_count"
    assert refused(LIMITS.check_cost, Cost(overhead=0.6, work=0.6))["limit"] == "predicted_s"
    assert refused(LIMITS.check_stored, 71)["limit"] == "program_store_bytes"
    assert refused(LIMITS.check_derived, 4)["limit"] == "equation_count"


def test_limits_are_those_of_the_configuration():
    assert Limits.from_config(ServerConfig(max_axis_count=7)).as_dict()["axis_count"] == 7
    assert Limits.from_config(ServerConfig(max_nesting_count=99)).nesting_count == 16
