"""Requests like others before: the same answers without parsing, alone or several as one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from google.rpc.status_pb2 import Status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradwire_core import engine, errors
from gradwire_core.program import Program, Var
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.program import encode_program
from gradwire_proto.status import decode_status
from gradwire_proto.tensor import decode_tensor, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server import repeated
from gradwire_server import worker as worker_module
from gradwire_server.config import ServerConfig
from gradwire_server.frames import Frame, Kind, join_frames, split_frame
from gradwire_server.skeletons import Skeletons, request_skeleton
from gradwire_server.worker import Worker
from tests.server.requests import VECTOR, equation, product

NUMBER = TensorType(Dtype.FLOAT64, ())
INTEGER = TensorType(Dtype.INT64, ())
MASK = TensorType(Dtype.BOOL, (3,))


def picking() -> Program:
    """sin(x) * x where the mask holds, and the element of x at an index."""
    x, mask, index = Var(VECTOR), Var(MASK), Var(INTEGER)
    sine = equation("sin", (x,), VECTOR)
    times = equation("multiply", (sine.results[0], x), VECTOR)
    chosen = equation("where", (mask, times.results[0], x), VECTOR)
    taken = equation("take", (x, index), NUMBER, axis=0, batch=0)
    return Program((x, mask, index), (sine, times, chosen, taken), (chosen.results[0], taken.results[0]))


OUTPUTS = [pb.Output(), pb.Output(transforms=[{"jacobian": {}}]), pb.Output(transforms=[{"jvp": {}}])]


def request(x, mask=(True, False, True), index=1, tangent=(1.0, 0.0, 2.0), **fields) -> pb.EvaluateRequest:
    outputs = [pb.Output.FromString(output.SerializeToString()) for output in OUTPUTS]
    outputs[2].seeds.append(encode_tensor(np.array(tangent)))
    inputs = [np.array(x, np.float64), np.array(mask), np.array(index)]
    name = "programs/" + picking().digest
    return pb.EvaluateRequest(program_name=name, inputs=map(encode_tensor, inputs), outputs=outputs, **fields)


def frame(asked: pb.EvaluateRequest) -> Frame:
    return Frame(Kind.EVALUATE, (b"id", asked.SerializeToString()))


def started(**given) -> Worker:
    """A worker that holds the program."""
    worker = Worker(ServerConfig(**given))
    stored = pb.CreateProgramRequest(program=encode_program(picking()))
    worker.answer(Frame(Kind.CREATE_PROGRAM, (b"id", stored.SerializeToString())))
    return worker


def content(answer: Frame) -> tuple[Kind, object]:
    """What an answer says, bytes aside: its numbers, or the reason of its failure."""
    if answer.kind is Kind.ERROR:
        return answer.kind, decode_status(Status.FromString(answer.parts[0])).args
    response = pb.EvaluateResponse.FromString(bytes(answer.parts[1]))
    return answer.kind, [decode_tensor(result.dense) for output in response.results for result in output.results]


def assert_same(found: Frame, expected: Frame) -> None:
    kind, numbers = content(found)
    assert kind is expected.kind
    if kind is Kind.ERROR:
        assert numbers == content(expected)[1]
    else:
        for one, other in zip(numbers, content(expected)[1], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-14, atol=1e-300)


@pytest.fixture
def alone(monkeypatch):
    """A worker that parses every request."""
    worker = started()
    monkeypatch.setattr(worker, "_find_repeated", lambda task: None)
    return worker


@pytest.fixture(params=[True, False], ids=["as one", "one by one"])
def warm(request, monkeypatch):
    """A worker that has seen such requests, and evaluates several as one, or would not find that worth it."""
    monkeypatch.setattr(repeated.Repeated, "is_worth", lambda self, count, share=1.0: request.param)
    worker = started()
    worker.answer(frame(globals()["request"]([1.0, 2.0, 3.0])))
    return worker


members = st.builds(
    request,
    st.lists(st.floats(-10, 10) | st.sampled_from([0.0, np.inf, np.nan]), min_size=3, max_size=3),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.integers(-2, 4),
    st.lists(st.floats(-2, 2), min_size=3, max_size=3),
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(members, min_size=1, max_size=9))
def test_answers_are_those_of_one_by_one(warm, alone, asked):
    tasks = [frame(item) for item in asked]
    answers = split_frame(warm.answer(join_frames(tasks)))
    for found, task in zip(answers, tasks, strict=True):
        assert_same(found, alone.answer(task))


def test_nothing_is_parsed_twice_and_several_run_once(warm, monkeypatch, request):
    tasks = [frame(globals()["request"]([number, 1.0, 2.0])) for number in range(5)]
    split_frame(warm.answer(join_frames(tasks)))
    runs = []
    run = engine.Executable.run
    monkeypatch.setattr(engine.Executable, "run", lambda self, *given: runs.append(given) or run(self, *given))
    monkeypatch.setattr(worker_module, "parse_request", None)
    monkeypatch.setattr(repeated.Repeated, "choose_count", lambda self, count: 8)
    answers = split_frame(warm.answer(join_frames(tasks)))
    assert {answer.kind for answer in answers} == {Kind.RESULT}
    assert len(runs) == (1 if "as one" in request.node.name else 5)
    assert warm.answer(tasks[0]).kind is Kind.RESULT


@pytest.mark.parametrize("bad", [{"index": 7}, {"mask": (2, 0, 1)}])
def test_an_error_is_told_to_the_one_that_made_it(warm, alone, bad):
    asked = [request([number, 1.0, 2.0]) for number in range(4)]
    asked[2] = request([2.0, 1.0, 2.0], index=bad.get("index", 1))
    if "mask" in bad:
        asked[2].inputs[1].data = bytes(bad["mask"])
    tasks = list(map(frame, asked))
    answers = split_frame(warm.answer(join_frames(tasks)))
    assert [answer.kind for answer in answers] == [Kind.RESULT, Kind.RESULT, Kind.ERROR, Kind.RESULT]
    assert isinstance(decode_status(Status.FromString(answers[2].parts[0])), errors.ArgumentError)
    for found, task in zip(answers, tasks, strict=True):
        assert_same(found, alone.answer(task))


def test_what_differs_in_more_than_numbers_is_told_apart(warm, alone):
    plain = request([1.0, 2.0, 3.0])
    others = [request([1.0, 2.0, 3.0], reproducible=True), request([1.0, 2.0, 3.0]), request([1.0, 2.0, 3.0])]
    others[1].inputs[0].shape[0] = 1
    others[2].outputs[0].transforms.add().jacobian.argnums.append(0)
    for other in others:
        answers = split_frame(warm.answer(join_frames([frame(plain), frame(other), frame(plain)])))
        assert_same(answers[1], alone.answer(frame(other)))
        assert_same(answers[0], answers[2])


def test_what_must_be_reproducible_or_is_large_is_not_stacked():
    worker = started()
    assert worker.answer(frame(request([1.0, 2.0, 3.0]))).prediction.is_stackable
    assert not worker.answer(frame(request([1.0, 2.0, 3.0], reproducible=True))).prediction.is_stackable
    large = product(TensorType(Dtype.FLOAT64, (10_000,)))
    asked = pb.EvaluateRequest(
        program_name="programs/" + large.digest, inputs=[encode_tensor(np.ones(10_000))], outputs=[pb.Output()]
    )
    stored = pb.CreateProgramRequest(program=encode_program(large))
    worker.answer(Frame(Kind.CREATE_PROGRAM, (b"id", stored.SerializeToString())))
    found = worker.answer(frame(asked))
    assert not found.prediction.is_stackable
    again = worker.answer(frame(asked))
    assert bytes(again.parts[1]) == found.parts[1]


def test_what_is_compiled_pays_or_waits_for_idle_time():
    worker = started()
    tasks = [frame(request([number, 1.0, 2.0])) for number in range(3)]
    for task in tasks:
        worker.answer(task)
    (known,) = {worker._repeated.find(task.parts[1]) for task in tasks}
    known.compile_s, known.overhead_s = 1.0, 0.1
    outputs = known.stacked_outputs(4)
    for _ in range(2):
        worker.answer(join_frames(tasks))
        assert worker._executables.find(known.digest, outputs) is None
    worker.prepare()
    assert worker._executables.find(known.digest, outputs) is not None


def test_skeletons_are_bounded_and_the_least_recently_used_leave():
    kept: Skeletons[int] = Skeletons(3)
    messages = [request([0.0] * count).SerializeToString() for count in range(5)]
    for number, message in enumerate(messages):
        skeleton = request_skeleton(message)
        assert skeleton is not None
        kept.put(skeleton, number)
        kept.find(messages[0])
    assert [kept.find(message) for message in messages] == [0, None, None, 3, 4]


@pytest.mark.parametrize("message", [b"", b"\xff", pb.EvaluateRequest(program=encode_program(product())).SerializeToString()])
def test_what_brings_its_program_or_is_no_message_has_no_skeleton(message):
    assert request_skeleton(message) is None


def test_what_is_answered_in_chunks_is_known_as_well_unless_a_chunk_is_needed(warm, alone, monkeypatch):
    tasks = [frame(request([number, 1.0, 2.0])) for number in range(4)]
    mixed = [Frame(Kind.EVALUATE_IN_CHUNKS, task.parts) if number % 2 else task for number, task in enumerate(tasks)]
    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "parse_request", None)
        answers = split_frame(warm.answer(join_frames(mixed)))
    for found, task in zip(answers, mixed, strict=True):
        expected = alone.answer(task)
        assert len(found.parts) == len(expected.parts) == (4 if task.kind is Kind.EVALUATE_IN_CHUNKS else 2)
        assert_same(found, expected)
    monkeypatch.setattr(worker_module, "CHUNKED_BYTES", 0)
    assert len(list(warm.answer(mixed[1]).segments)) == 6


def test_what_was_answered_in_chunks_may_be_too_large_for_a_message():
    asked = frame(request([1.0, 2.0, 3.0]))
    worker = started()
    assert worker.answer(Frame(Kind.EVALUATE_IN_CHUNKS, asked.parts)).kind is Kind.RESULT
    worker._limits = dataclasses.replace(worker._limits, message_bytes=10)
    found = decode_status(Status.FromString(worker.answer(asked).parts[0]))
    assert isinstance(found, errors.LimitError)
    assert found.metadata["limit"] == "message_bytes"
