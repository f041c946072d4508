"""What a client says to a server, told without one: the conversation is driven by hand."""

from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest

import gradwire as gw
from gradwire._calls import bind
from gradwire._nest import flatten_call
from gradwire._session import EVALUATE_STREAM, EXPLAIN, Evaluation, Pause, Send, Session
from gradwire._task import Form, Task, prepare
from gradwire_core import errors
from gradwire_proto.evaluation import encode_result
from gradwire_proto.status import encode_status
from gradwire_proto.v1 import differentiation_service_pb2 as pb

X = np.array([1.0, 2.0])


class Failure(grpc.RpcError):
    """A failed call, as gRPC tells it."""

    def __init__(self, code, details="", status=None):
        super().__init__()
        self._code, self._details, self._status = code, details, status

    def code(self):
        return self._code

    def details(self):
        return self._details

    def trailing_metadata(self):
        return (("other", "1"), ("grpc-status-details-bin", self._status.SerializeToString())) if self._status else None


def failure(error):
    return Failure(getattr(grpc.StatusCode, error.code), error.message, encode_status(error, "r1"))


def answer(value):
    return pb.EvaluateResponse(results=[pb.OutputResult(results=[encode_result(np.asarray(value))])])


def task(function=np.square):
    call = bind(function, *flatten_call((X,), {}))
    prepared = prepare(call.trace, Form("evaluate"))
    return Task(call.trace.program, prepared.outputs, call.leaves, [()], False, prepared.rebuild)


def session(**settings):
    return Session("server:1", gw.ClientConfig(**settings))


class Sent(NamedTuple):
    """What a request said when it was sent; the request itself may be changed and sent again."""

    method: Any
    source: str
    program_name: str


def message(step):
    """Return the request of a step."""
    request = step.request
    return pb.EvaluateRequest.FromString(request.request) if isinstance(request, Evaluation) else request


def sent(step):
    request = message(step)
    return Sent(step.method, request.WhichOneof("program_source"), request.program_name)


def talk(conversation, *answers):
    """Drive a conversation with the given answers; return its steps, and its result or the error it ends with."""
    steps, given = [], None
    answers = iter(answers)
    try:
        while True:
            step = conversation.send(given)
            is_send = isinstance(step, Send)
            steps.append(sent(step) if is_send else step)
            given = next(answers) if is_send else None
    except StopIteration as stop:
        return steps, stop.value
    except gw.GradwireError as error:
        return steps, error


def sources(steps):
    return [step.source for step in steps if isinstance(step, Sent)]


def test_a_small_program_goes_inline_once_then_by_name():
    here = session()
    steps, result = talk(here.run(task()), answer(X**2))
    assert sources(steps) == ["program"]
    assert steps[0].method is EVALUATE_STREAM
    np.testing.assert_array_equal(result, X**2)
    assert result.flags.writeable
    steps, _ = talk(here.run(task()), answer(X**2))
    assert sources(steps) == ["program_name"]
    assert steps[0].program_name == "programs/" + task().program.digest


def test_a_large_program_is_first_asked_for_by_name():
    here = session(inline_max_bytes=0)
    steps, _ = talk(here.run(task()), answer(X))
    assert sources(steps) == ["program_name"]


def test_a_missing_program_is_sent_and_the_call_repeated():
    here = session(inline_max_bytes=0)
    missing = failure(errors.ProgramMissingError("programs/1: needed a program, got none; send it", name="programs/1"))
    steps, result = talk(here.run(task()), missing, answer(X))
    assert sources(steps) == ["program_name", "program"]
    np.testing.assert_array_equal(result, X)
    steps, error = talk(here.run(task()), missing, missing)
    assert sources(steps) == ["program_name", "program"]
    assert isinstance(error, gw.ProgramMissingError)


def test_an_explanation_is_asked_for_as_an_evaluation_is():
    here, given = session(inline_max_bytes=0), task()
    missing = failure(errors.ProgramMissingError("programs/1: needed a program, got none; send it", name="programs/1"))
    told = pb.ExplainResponse(derivation='{"steps":[1]}')
    steps, result = talk(here.explain(given.program, given.outputs, "data"), missing, told)
    assert sources(steps) == ["program_name", "program"]
    assert steps[0].method is EXPLAIN
    assert result == {"steps": [1]}


@pytest.mark.parametrize("kind", [errors.OverloadedError, errors.DrainingError])
def test_what_a_retry_helps_is_repeated_after_a_pause(kind):
    busy = failure(kind("server: needed room, got none; retry"))
    steps, result = talk(session().run(task()), busy, busy, answer(X))
    assert [type(step) for step in steps] == [Sent, Pause, Sent, Pause, Sent]
    assert all(0 < step.seconds < 1 for step in steps if isinstance(step, Pause))
    np.testing.assert_array_equal(result, X)
    steps, error = talk(session(retry_count=2).run(task()), *[busy] * 3)
    assert len(sources(steps)) == 3
    assert type(error) is kind
    assert error.metadata["request_id"] == "r1"


def test_the_server_says_how_long_to_wait():
    busy = failure(errors.OverloadedError("server: needed room, got none; retry", retry_after_s=1.5))
    steps, _ = talk(session().run(task()), busy, answer(X))
    assert steps[1].seconds == 1.5
    steps, error = talk(session(timeout_s=1.0).run(task()), busy)
    assert isinstance(error, gw.OverloadedError)


def test_repetitions_have_a_budget():
    here = session(retry_count=100)
    busy = failure(errors.OverloadedError("server: needed room, got none; retry", retry_after_s=0.0))
    steps, _ = talk(here.run(task()), *[busy] * 100)
    assert len(sources(steps)) == 11
    steps, _ = talk(here.run(task()), busy)
    assert len(sources(steps)) == 1


def _kinds(kind=gw.GradwireError):
    return [kind, *(found for item in kind.__subclasses__() for found in _kinds(item))]


REPEATED = {errors.OverloadedError, errors.DrainingError, errors.ProgramMissingError, errors.UnreachableError}
REMOTE = [kind for kind in _kinds() if kind not in REPEATED | {gw.GradwireError, gw.TracingError}]


@pytest.mark.parametrize("kind", REMOTE)
def test_every_other_error_is_raised_at_once_as_what_it_was(kind):
    steps, error = talk(session().run(task()), failure(kind("here: needed this, got that; do so", given="that")))
    assert len(steps) == 1
    assert type(error) is kind
    assert error.message == "here: needed this, got that; do so"
    assert error.metadata["given"] == "that"
    assert isinstance(error.__cause__, grpc.RpcError)


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (
            "DEADLINE_EXCEEDED",
            gw.DeadlineError,
            "server:1: needed an answer within 60 s, got none; raise timeout_s or ask for less",
        ),
        ("CANCELLED", gw.CancelledError, "server:1: the call was cancelled"),
        ("RESOURCE_EXHAUSTED", gw.LimitError, "needed messages of at most 67108864 bytes"),
        ("UNIMPLEMENTED", gw.UnreachableError, "needed a gradwire server, got an answer of something else (odd)"),
        ("UNAUTHENTICATED", gw.UnauthenticatedError, "needed valid credentials"),
        ("DATA_LOSS", gw.InternalError, "needed an answer of gradwire, got DATA_LOSS (odd)"),
    ],
)
def test_failures_of_the_transport_are_told_in_gradwires_words(code, kind, text):
    _, error = talk(session(unreachable_s=1e-9).run(task()), *[Failure(getattr(grpc.StatusCode, code), "odd")] * 3)
    assert type(error) is kind
    assert text in error.message


def test_an_unreachable_server_is_tried_again_for_a_while(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    conversation = session(unreachable_s=3.0).run(task())
    refused = Failure(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: Connection refused")
    sends = []

    def drive(step):
        while True:
            if isinstance(step, Pause):
                clock[0] += step.seconds
                step = conversation.send(None)
            else:
                sends.append(step)
                step = conversation.send(refused)

    with pytest.raises(gw.UnreachableError) as caught:
        drive(conversation.send(None))
    assert 3.0 <= clock[0] < 3.1
    assert len(sends) > 3
    assert caught.value.message == (
        f"server:1: needed a gradwire server, got no connection in {len(sends)} tries over 3.0 s (Connection refused); "
        "check the address, and that the server runs: gradwire serve --listen server:1"
    )
    assert caught.value.metadata == {"target": "server:1", "attempts": str(len(sends))}


def test_a_call_past_its_deadline_ends(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    conversation = session(timeout_s=2.0).run(task())
    assert conversation.send(None).timeout_s == 2.0
    step = conversation.send(failure(errors.DrainingError("server: needed to run, got told to stop; retry")))
    assert isinstance(step, Pause)
    clock[0] = 2.5
    with pytest.raises(gw.DeadlineError):
        conversation.send(None)
