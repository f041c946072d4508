"""What the front end evaluates itself: which requests those are, and that nobody can tell from their answers."""

from __future__ import annotations

import asyncio
import itertools
import random
import types

import grpc
import numpy as np
import pytest

from gradwire_core import errors
from gradwire_core.program import Program, Var
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.program import encode_program
from gradwire_proto.status import decode_status
from gradwire_proto.tensor import encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import transform_pb2
from gradwire_server.config import ServerConfig
from gradwire_server.frames import Frame, Kind, Prediction
from gradwire_server.inline import Inline
from gradwire_server.service import SERVICE
from gradwire_server.turn import Turn
from gradwire_server.worker import Worker
from tests.server.processes import serving
from tests.server.requests import X, equation, evaluation, product, until

CONFIG = ServerConfig(inline_budget_s=1.0)  # on a busy machine nothing is quick
OFTEN = 8
MASK = TensorType(Dtype.BOOL, (3,))
LARGE = TensorType(Dtype.FLOAT64, (90_000,))
WIDE = TensorType(Dtype.FLOAT64, (140_000,))  # more than a message holds


def naming(program: Program, *inputs: np.ndarray, **output) -> pb.EvaluateRequest:
    """A request of a stored program: its value, or another output."""
    request = evaluation(program, *inputs)
    request.program_name = "programs/" + program.digest
    request.outputs[0].MergeFrom(pb.Output(**output))
    return request


def derivative() -> pb.EvaluateRequest:
    """A value, and a directional derivative with its seed."""
    request = naming(product(), X)
    request.outputs.add(transforms=[transform_pb2.Transform(jvp=transform_pb2.Jvp())], seeds=[encode_tensor(np.ones(3))])
    return request


def masked() -> Program:
    mask, x = Var(MASK), Var(TensorType(Dtype.FLOAT64, (3,)))
    chosen = equation("where", (mask, x, x), x.type)
    return Program((mask, x), (chosen,), chosen.results)


def reproducible() -> pb.EvaluateRequest:
    request = naming(product(), X)
    request.reproducible = True
    return request


def backwards() -> bytes:
    """A request whose outputs, with a seed, stand before its input: well-formed, if nobody writes it so."""
    request = derivative()
    parts = ({"program_name": request.program_name}, {"outputs": request.outputs}, {"inputs": request.inputs})
    return b"".join(pb.EvaluateRequest(**part).SerializeToString() for part in parts)


def teach(
    inline: Inline, message: bytes, times: int = OFTEN, program: Program | None = None, prediction: Prediction | None = None
) -> bytes:
    """Have a worker answer a request again and again, and return its answer."""
    worker = Worker(ServerConfig())
    program = program or product()
    stored = pb.GetProgramResponse(program=encode_program(program)).SerializeToString()
    for _ in range(times):
        answer = worker.answer(Frame(Kind.EVALUATE, (b"id", message, stored)))
        assert answer.kind is Kind.RESULT
        response = bytes(answer.parts[1])
        inline.learn(message, program.digest, stored, response, prediction or answer.prediction)
    return response


async def decided(inline: Inline) -> None:
    await until(lambda: not inline._compiling)


def learning(scenario, config: ServerConfig = CONFIG) -> None:
    async def run() -> None:
        inline = Inline(config)
        try:
            await scenario(inline)
        finally:
            await inline.close()

    asyncio.run(run())


@pytest.mark.parametrize("request_", [naming(product(), X), derivative()])
def test_what_comes_often_is_answered_with_the_same_bytes(request_):
    async def scenario(inline: Inline) -> None:
        message = request_.SerializeToString()
        assert inline.find(message) is None
        response = teach(inline, message)
        await decided(inline)
        tiny = inline.find(message)
        assert tiny is not None
        assert tiny.answer(message) == response
        rng = np.random.default_rng(1)
        for _ in range(20):
            request_.inputs[0].data = rng.normal(size=3).tobytes()
            other = request_.SerializeToString()
            assert inline.find(other) is tiny
            assert tiny.answer(other) == teach(inline, other, 1)

    learning(scenario)


def test_what_differs_in_anything_but_elements_is_another_request():
    async def scenario(inline: Inline) -> None:
        message = derivative().SerializeToString()
        teach(inline, message)
        await decided(inline)
        elements = bytes(X.tobytes())
        seeds = np.ones(3).tobytes()
        free = [range(message.index(part), message.index(part) + 24) for part in (elements, seeds)]
        for place in range(len(message)):
            changed = bytearray(message)
            changed[place] ^= 1
            assert (inline.find(bytes(changed)) is not None) == any(place in part for part in free)
        assert inline.find(message + b"\0") is None
        assert inline.find(message[:-1]) is None

    learning(scenario)


@pytest.mark.parametrize(
    ("message", "program"),
    [
        (naming(masked(), np.array([True, False, True]), X).SerializeToString(), masked()),
        (reproducible().SerializeToString(), product()),
        (naming(product(), X, transforms=[{"jacobian": {}}], layout=pb.LAYOUT_STRUCTURED).SerializeToString(), product()),
        (naming(product(), X, transforms=[{"jacobian": {}}], layout=pb.LAYOUT_SPARSE).SerializeToString(), product()),
        (backwards(), product()),
        (naming(product(WIDE), np.ones(WIDE.shape)).SerializeToString(), product(WIDE)),
    ],
    ids=["masked", "reproducible", "structured", "sparse", "backwards", "wide"],
)
def test_what_is_not_as_plain_as_that_stays_with_the_workers(message, program):
    async def scenario(inline: Inline) -> None:
        teach(inline, message, program=program)
        await decided(inline)
        assert inline.find(message) is None

    learning(scenario)


@pytest.mark.parametrize("budget_s", [0.0, 1e-12])
def test_nothing_past_the_budget_is_evaluated(budget_s):
    async def scenario(inline: Inline) -> None:
        message = naming(product(), X).SerializeToString()
        teach(inline, message)
        await decided(inline)
        assert inline.find(message) is None

    learning(scenario, ServerConfig(inline_budget_s=budget_s))


def test_what_is_seldom_asked_is_not_compiled_and_soon_forgotten():
    async def scenario(inline: Inline) -> None:
        message = naming(product(), X).SerializeToString()
        teach(inline, message, 2)
        assert not inline._compiling
        for count in range(1000):
            request = pb.EvaluateRequest(program_name=f"{count:075}", inputs=[{"data": bytes(count)}])
            inline.learn(request.SerializeToString(), "", b"", b"", Prediction(0.0, 0))
        assert len(inline._known._known) <= 256
        assert not inline._compiling

    learning(scenario)


def ask(channel: grpc.Channel, message: bytes) -> bytes | tuple[str, str]:
    """The answer to a serialized request, or the reason and text of its refusal."""
    try:
        return channel.unary_unary(f"/{SERVICE}/Evaluate")(message, timeout=30)
    except grpc.RpcError as error:
        from grpc_status import rpc_status

        found = decode_status(rpc_status.from_call(error))
        return type(found).__name__, found.message


@pytest.mark.parametrize(
    ("size", "predicted_s", "is_tried"), [(3, 1e-4, True), (3, 2e-4, False), (10**5, 1e-3, True), (10**5, 2e-3, False)]
)
def test_what_is_carried_longer_than_it_takes_is_tried(size, predicted_s, is_tried):
    async def scenario(inline: Inline) -> None:
        program = product(TensorType(Dtype.FLOAT64, (size,)))
        message = naming(program, np.ones(size)).SerializeToString()
        for _ in range(OFTEN):
            inline.learn(message, program.digest, b"", message, Prediction(predicted_s, 0))
        assert bool(inline._compiling) == is_tried

    learning(scenario, ServerConfig())


@pytest.mark.parametrize(("taken_s", "is_quick"), [(5e-4, True), (9e-4, False)])
def test_what_is_found_to_take_longer_than_to_be_carried_stays_with_the_workers(monkeypatch, taken_s, is_quick):
    clock = itertools.count()
    monkeypatch.setattr("gradwire_server.inline.time", types.SimpleNamespace(thread_time=lambda: taken_s * next(clock)))

    async def scenario(inline: Inline) -> None:
        x = np.linspace(0.0, 1.0, 90_000)
        message = naming(product(LARGE), x).SerializeToString()
        response = teach(inline, message, program=product(LARGE), prediction=Prediction(5e-4, 0))
        await decided(inline)
        tiny = inline.find(message)
        assert (tiny is not None) == is_quick
        if tiny is not None:
            assert tiny.answer(memoryview(message)) == tiny.answer(message) == b"".join(tiny.pieces(message))
            assert tiny.response_bytes == len(response)
            found = pb.EvaluateResponse.FromString(tiny.answer(message)).results[0].results[0].dense
            np.testing.assert_allclose(np.frombuffer(found.data), np.sin(x) * x, rtol=1e-14)

    learning(scenario, ServerConfig())


def test_a_turn_of_the_event_loop_that_is_used_up_is_left_to_others():
    async def scenario() -> None:
        turn = Turn()
        turn.spend(1e-4)
        assert not turn.is_over
        turn.spend(1.0)
        assert turn.is_over
        seen: list[str] = []
        asyncio.get_running_loop().call_soon(seen.append, "other")
        await turn.come()
        assert seen == ["other"]
        assert not turn.is_over
        turn.spend(1e-4)
        assert not turn.is_over

    asyncio.run(scenario())


def test_answers_and_errors_are_the_same_inline_and_not():
    named, whole = derivative(), derivative()
    whole.program.CopyFrom(encode_program(product()))
    rng = random.Random(11)
    hot = [named.SerializeToString(), whole.SerializeToString()]
    with (
        serving("--workers", "1", "--spare-workers", "0", "--inline-budget-s", "1") as inline,
        serving("--workers", "1", "--spare-workers", "0", "--inline-budget-s", "0") as plain,
    ):
        for server in (inline, plain):
            server.stub.CreateProgram(pb.CreateProgramRequest(program=encode_program(product())))
            for _ in range(3 * OFTEN):
                for message in hot:
                    ask(server.channel, message)
        kinds = set()
        for _ in range(100):
            message = bytearray(rng.choice(hot))
            for _ in range(rng.randrange(3)):
                message[rng.randrange(len(message))] = rng.choice([0, 1, 3, 8, 26, 127, 128, 255, rng.randrange(256)])
            found, expected = (ask(server.channel, bytes(message)) for server in (inline, plain))
            assert found == expected
            kinds.add(type(expected))
        assert kinds == {bytes, tuple}
        name = pb.DeleteProgramRequest(name=named.program_name)
        inline.stub.DeleteProgram(name)
        assert ask(inline.channel, hot[0])[0] == errors.ProgramMissingError.__name__
        assert isinstance(ask(inline.channel, hot[1]), bytes), "this one brings the program"
        assert isinstance(ask(inline.channel, hot[0]), bytes)
