"""The rpcs, over gRPC, against a real server: answers, refusals, and that a refusal never costs the next request."""

from __future__ import annotations

import random
import time

import grpc
import numpy as np
import pytest
from grpc_status import rpc_status

from gradwire_core import errors
from gradwire_core.ops import PRIMITIVES
from gradwire_core.program import Equation, Literal, Program, Var
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.program import decode_program, encode_program
from gradwire_proto.status import decode_status
from gradwire_proto.tensor import encode_name, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import program_pb2, tensor_pb2, transform_pb2
from gradwire_server.service import SERVICE
from tests.server.requests import X, chain, evaluation, product, quick, value

RPCS = [method.name for method in pb.DESCRIPTOR.services_by_name["DifferentiationService"].methods]
ABSENT = "programs/" + "0" * 64


def refusal(call, *arguments) -> errors.GradwireError:
    """The error that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    status = rpc_status.from_call(caught.value)
    assert status is not None, caught.value
    assert dict(caught.value.trailing_metadata())["x-request-id"]
    return decode_status(status)


def assert_works(stub) -> None:
    np.testing.assert_allclose(value(stub.Evaluate(quick())), np.sin(X) * X, rtol=1e-15)


def test_a_program_is_created_listed_returned_evaluated_and_deleted(stub):
    program = product()
    name = stub.CreateProgram(pb.CreateProgramRequest(program=encode_program(program))).name
    assert name == "programs/" + program.digest
    assert stub.CreateProgram(pb.CreateProgramRequest(program=encode_program(program))).name == name

    request = pb.EvaluateRequest(program_name=name, inputs=[encode_tensor(X)], outputs=[pb.Output()])
    for _ in range(4):
        response = stub.Evaluate(request)
        assert response.program_name == name
        np.testing.assert_allclose(value(response), np.sin(X) * X, rtol=1e-15)

    returned = stub.GetProgram(pb.GetProgramRequest(name=name))
    assert returned.name == name
    assert decode_program(returned.program).digest == program.digest
    summary = next(item for item in stub.ListPrograms(pb.ListProgramsRequest()).programs if item.name == name)
    assert summary.equation_count == 2
    assert list(summary.inputs[0].shape) == list(summary.outputs[0].shape) == [3]

    stub.DeleteProgram(pb.DeleteProgramRequest(name=name))
    assert isinstance(refusal(stub.GetProgram, pb.GetProgramRequest(name=name)), errors.NotFoundError)
    assert isinstance(refusal(stub.DeleteProgram, pb.DeleteProgramRequest(name=name)), errors.NotFoundError)
    assert isinstance(refusal(stub.Evaluate, request), errors.ProgramMissingError)


def test_an_answer_too_large_to_send_is_refused_before_anything_runs(stub):
    shape = (2**28,)
    one = Literal(np.ones(()))
    repeated = Equation(PRIMITIVES["broadcast_to"], (one,), {"shape": shape}, (Var(TensorType(Dtype.FLOAT64, shape)),))
    began = time.monotonic()
    error = refusal(stub.Evaluate, evaluation(Program((), (repeated,), repeated.results)))
    assert isinstance(error, errors.LimitError)
    assert error.metadata["limit"] == "message_bytes"
    assert time.monotonic() - began < 5, "it takes seconds to compute, and gigabytes"
    assert_works(stub)


def test_a_batch_beyond_any_array_is_a_limit(stub):
    request = evaluation(product(), X)
    del request.outputs[:]
    request.outputs.add().transforms.add().vmap.CopyFrom(
        transform_pb2.Vmap(in_axes=[transform_pb2.BatchAxis(axis=0)], axis_size=2**62)
    )
    assert isinstance(refusal(stub.Evaluate, request), errors.LimitError)
    assert_works(stub)


def test_an_inline_program_is_known_by_its_name_afterwards(stub):
    name = stub.Evaluate(quick()).program_name
    for _ in range(4):
        response = stub.Evaluate(pb.EvaluateRequest(program_name=name, inputs=[encode_tensor(X)], outputs=[pb.Output()]))
        np.testing.assert_allclose(value(response), np.sin(X) * X, rtol=1e-15)


def test_value_and_gradient_share_a_call(stub):
    x = encode_tensor(X)
    grad = transform_pb2.Transform(vjp=transform_pb2.Vjp())
    outputs = [pb.Output(), pb.Output(transforms=[grad], seeds=[encode_tensor(np.ones(3))])]
    response = stub.Evaluate(pb.EvaluateRequest(program=encode_program(product()), inputs=[x], outputs=outputs))
    found = np.frombuffer(response.results[1].results[0].dense.data)
    np.testing.assert_allclose(found, np.sin(X) + X * np.cos(X), rtol=1e-14)


def test_differentiate_returns_the_derivative_program(stub):
    jvp = transform_pb2.Transform(jvp=transform_pb2.Jvp())
    response = stub.Differentiate(pb.DifferentiateRequest(program=encode_program(product()), transforms=[jvp]))
    derivative = decode_program(response.program)
    assert response.name == "programs/" + derivative.digest
    found = value(stub.Evaluate(evaluation(derivative, X, np.ones(3))))
    np.testing.assert_allclose(found, np.sin(X) + X * np.cos(X), rtol=1e-14)


def test_explain_returns_derivation_and_plan(stub):
    request = pb.ExplainRequest(program=encode_program(product()), outputs=[{"transforms": [{"jacobian": {}}]}])
    response = stub.Explain(request)
    assert "cos" in response.derivation
    assert response.plan.peak_bytes >= response.plan.input_bytes + response.plan.output_bytes
    named = pb.ExplainRequest(program_name=response.program_name, outputs=request.outputs)
    for _ in range(4):
        assert stub.Explain(named) == response
    assert isinstance(refusal(stub.Explain, pb.ExplainRequest(program_name=ABSENT)), errors.ProgramMissingError)


def test_an_explanation_runs_in_a_worker_and_leaves_the_front_end_free(stub):
    asked = stub.Explain.future(pb.ExplainRequest(program=encode_program(chain(40_000))))
    served = 0
    while not asked.done():
        stub.GetCapabilities(pb.GetCapabilitiesRequest(), timeout=2)
        served += 1
    assert served > 3
    assert asked.result().plan.step_count == 40_000


def test_pages_cover_all_programs_in_the_order_of_their_names(stub):
    shapes = [tensor_pb2.TensorType(dtype=tensor_pb2.DTYPE_FLOAT64, shape=[n]) for n in range(5)]
    operand = program_pb2.Operand(number=0)
    created = {
        stub.CreateProgram(pb.CreateProgramRequest(program=program_pb2.Program(inputs=[shape], outputs=[operand]))).name
        for shape in shapes
    }
    names, token = [], ""
    while True:
        page = stub.ListPrograms(pb.ListProgramsRequest(page_size=2, page_token=token))
        names += [item.name for item in page.programs]
        assert len(page.programs) <= 2
        token = page.next_page_token
        if not token:
            break
    assert names == sorted(set(names))
    assert created <= set(names)


def test_capabilities_come_from_the_registries(stub):
    found = stub.GetCapabilities(pb.GetCapabilitiesRequest())
    assert [item.name for item in found.primitives] == sorted(PRIMITIVES)
    assert "jacobian_slogdet" in found.transforms
    assert found.limits["message_bytes"] == 64 * 2**20
    assert found.worker_count == 2
    assert len(found.dtypes) == 7
    assert list(found.layouts) == [pb.LAYOUT_DENSE, pb.LAYOUT_STRUCTURED, pb.LAYOUT_SPARSE]
    sine = next(item for item in found.primitives if item.name == "sin")
    assert sine.operand_count == 1
    assert "operand_count" not in str(next(item for item in found.primitives if item.name == "einsum"))


@pytest.mark.parametrize("rpc", RPCS)
def test_garbage_is_refused_and_the_next_request_answered(rpc, channel, stub):
    call = channel.unary_unary(f"/{SERVICE}/{rpc}")
    rng = random.Random(rpc)
    for size in (1, 7, 100, 3000):
        found = refusal(call, b"\xff" + rng.randbytes(size))
        assert isinstance(found, errors.ArgumentError)
        assert "needed a well-formed message" in found.message
    assert_works(stub)


@pytest.mark.parametrize("rpc", RPCS)
def test_an_unknown_field_is_refused(rpc, channel):
    found = refusal(channel.unary_unary(f"/{SERVICE}/{rpc}"), b"\xf8\x07\x01")  # field 127, varint 1
    assert isinstance(found, errors.ArgumentError)
    assert "127" in found.message


def broken(change) -> pb.EvaluateRequest:
    request = quick()
    change(request)
    return request


def _rename(request):
    request.program.equations[0].primitive = "sinn"


def _retype(request):
    request.program.equations[0].results[0].shape[0] = 4


def _forward(request):
    request.program.equations[0].operands[0].number = 2


def _reshape(request):
    request.inputs[0].CopyFrom(encode_tensor(np.ones(4)))


def _convert(request):
    request.inputs[0].CopyFrom(encode_tensor(np.ones(3, np.float32)))


def _truncate(request):
    request.inputs[0].data = request.inputs[0].data[:-1]


def _pass_two(request):
    request.inputs.add().CopyFrom(request.inputs[0])


def _ask_gradient(request):
    request.outputs[0].transforms.add(grad=transform_pb2.Grad())


def _ask_nothing(request):
    del request.outputs[:]


def _ask_unset(request):
    request.outputs[0].transforms.add()


def _name_nothing(request):
    request.ClearField("program_source")


def _name_absent(request):
    request.program_name = ABSENT


def _name_badly(request):
    request.program_name = "../etc/passwd"


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (_rename, errors.UnknownPrimitiveError, "sinn"),
        (_retype, errors.ProgramError, "equation 0"),
        (_forward, errors.ProgramError, "equation 0"),
        (_reshape, errors.ShapeError, "float64[3]"),
        (_convert, errors.DtypeError, "float32"),
        (_truncate, errors.ArgumentError, "needed 24 bytes"),
        (_pass_two, errors.GradwireError, "2"),
        (_ask_gradient, errors.ShapeError, "grad"),
        (_ask_nothing, errors.ArgumentError, "needed at least one output"),
        (_ask_unset, errors.ArgumentError, "output, transform 0"),
        (_name_nothing, errors.ArgumentError, "needed a program or its name"),
        (_name_absent, errors.ProgramMissingError, ABSENT),
        (_name_badly, errors.ArgumentError, "'../etc/passwd'"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(change, kind, text, stub):
    found = refusal(stub.Evaluate, broken(change))
    assert isinstance(found, kind), repr(found)
    assert not isinstance(found, errors.InternalError)
    assert text in found.message
    assert_works(stub)


def test_a_negative_page_and_a_foreign_token_are_refused(stub):
    assert "page_size" in refusal(stub.ListPrograms, pb.ListProgramsRequest(page_size=-1)).message
    assert isinstance(refusal(stub.ListPrograms, pb.ListProgramsRequest(page_token=ABSENT[1:])), errors.ArgumentError)


def test_a_request_is_named_by_its_caller_or_by_the_server(stub):
    for given in ("my-request.1", None):
        _, call = stub.GetCapabilities.with_call(pb.GetCapabilitiesRequest(), metadata=[("x-request-id", given)] if given else None)
        found = dict(call.trailing_metadata())["x-request-id"]
        assert found == given if given else len(found) == 16
    assert refusal(stub.GetProgram, pb.GetProgramRequest(name=ABSENT)).metadata["request_id"]


def test_a_tensor_is_created_named_and_deleted(stub):
    array = np.arange(300_000.0)
    data = encode_tensor(array).data
    pieces = [data[start : start + 2**20] for start in range(0, len(data), 2**20)]
    messages = [pb.CreateTensorRequest(tensor={"dtype": 1, "shape": array.shape, "data": pieces[0]})]
    name = stub.CreateTensor(iter(messages + [pb.CreateTensorRequest(data=piece) for piece in pieces[1:]])).name
    assert name == encode_name(array).name
    refused = refusal(stub.CreateTensor, iter([pb.CreateTensorRequest(tensor={"dtype": 1, "shape": [2]})]))
    assert isinstance(refused, errors.ArgumentError)
    assert "needed 16 bytes for float64[2], got 0" in refused.message
    stub.DeleteTensor(pb.DeleteTensorRequest(name=name))
    assert isinstance(refusal(stub.DeleteTensor, pb.DeleteTensorRequest(name=name)), errors.NotFoundError)
