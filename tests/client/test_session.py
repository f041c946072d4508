"""What a client says to a server, told without one: the conversation is driven by hand."""

from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest

import gradwire as gw
from gradwire._calls import bind
from gradwire._failures import Ended
from gradwire._mapping import tasks
from gradwire._nest import flatten_call
from gradwire._session import (
    CREATE_TENSOR,
    EVALUATE,
    EVALUATE_STREAM,
    EXPLAIN,
    Evaluation,
    Leave,
    Pause,
    Probe,
    Renew,
    Resolve,
    Send,
    Session,
)
from gradwire._streams import CHUNK_BYTES, Reply
from gradwire._task import Form, Task, prepare
from gradwire_core import errors
from gradwire_proto.evaluation import encode_result
from gradwire_proto.status import encode_status
from gradwire_proto.v1 import differentiation_service_pb2 as pb

X = np.array([1.0, 2.0])


class Failure(grpc.RpcError):
    """A failed call, as gRPC tells it."""

    def __init__(self, code, details="", status=None, pushback=None):
        super().__init__()
        self._code, self._details, self._status, self._pushback = code, details, status, pushback

    def code(self):
        return self._code

    def details(self):
        return self._details

    def trailing_metadata(self):
        if self._status is None:
            return None
        pushback = () if self._pushback is None else (("grpc-retry-pushback-ms", self._pushback),)
        return (("other", "1"), ("grpc-status-details-bin", self._status.SerializeToString()), *pushback)


def failure(error):
    return Failure(getattr(grpc.StatusCode, error.code), error.message, encode_status(error, "r1"))


def answer(value):
    return pb.EvaluateResponse(results=[pb.OutputResult(results=[encode_result(np.asarray(value))])])


def task(function=np.square):
    call = bind(function, *flatten_call((X,), {}))
    prepared = prepare(call.trace, Form("evaluate"))
    return Task(call.trace.program, prepared.outputs, call.leaves, [()], False, prepared.rebuild)


def session(target="server:1", **settings):
    return Session(target, gw.ClientConfig(**settings))


def within_a_stream(error):
    """Return how a stream tells of an error."""
    return pb.Status.FromString(encode_status(error, "r1").SerializeToString())


class Sent(NamedTuple):
    """What a request said when it was sent; the request itself may be changed and sent again."""

    method: Any
    source: str
    program_name: str


def message(step):
    """Return the request of a step."""
    request = step.request
    if step.method in (EVALUATE, EVALUATE_STREAM):
        return pb.EvaluateRequest.FromString(request.request if isinstance(request, Evaluation) else request)
    return request


def sent(step):
    request = message(step)
    if step.method is CREATE_TENSOR:
        return Sent(step.method, None, step.replica.address)
    return Sent(step.method, request.WhichOneof("program_source"), request.program_name)


def talk(conversation, *answers):
    """Drive a conversation with the given answers; return its steps, and its result or the error it ends with."""
    steps, given = [], None
    answers = iter(answers)
    try:
        while True:
            step = conversation.send(given)
            is_send = isinstance(step, Send)
            if not isinstance(step, Leave):
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
        ("CANCELLED", gw.UnreachableError, "needed a gradwire server, got no connection in 1 try"),
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


@pytest.mark.parametrize("settings", [{}, {"sessions": False}], ids=["session", "calls"])
@pytest.mark.parametrize(
    ("code", "details"),
    [
        ("INTERNAL", "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))"),
        ("UNKNOWN", "exceeded request buffer limit while retrying upstream"),
    ],
)
def test_what_stands_between_may_cut_a_call_off(code, details, settings):
    """As Envoy does when the replica behind it is gone: the request is sent again as it was, not by a call of its own."""
    cut = Failure(getattr(grpc.StatusCode, code), details)
    steps, result = talk(session(**settings).run(task()), cut, cut, answer(X))
    assert [type(step) for step in steps] == [Sent, Pause, Sent, Pause, Sent]
    assert len({step.method for step in steps if isinstance(step, Sent)}) == 1
    np.testing.assert_array_equal(result, X)
    _, error = talk(session(unreachable_s=1e-9, **settings).run(task()), cut)
    assert type(error) is gw.UnreachableError
    assert details in error.message


@pytest.mark.parametrize("settings", [{}, {"sessions": False}], ids=["session", "calls"])
def test_a_call_that_nobody_here_cancelled_is_asked_again(settings):
    """A server that ends cancels what arrives at its last moment."""
    cancelled = Failure(grpc.StatusCode.CANCELLED, "CANCELLED")
    steps, result = talk(session(**settings).run(task()), cancelled, cancelled, answer(X))
    assert steps[-1].method is EVALUATE
    np.testing.assert_array_equal(result, X)


def test_a_server_that_answered_and_is_lost_late_is_asked_again(monkeypatch):
    """How long the call took until then says nothing of whether anybody is there."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    here = session(unreachable_s=3.0)
    talk(here.run(task()), answer(X))
    conversation = here.run(task())
    conversation.send(None)
    clock[0] += 20.0
    lost = Ended(grpc.StatusCode.UNAVAILABLE, "reset")
    assert isinstance(conversation.send(lost), Pause)
    clock[0] += 2.9
    assert isinstance(conversation.send(None), Send)
    assert isinstance(conversation.send(lost), Pause)
    clock[0] += 0.2
    assert isinstance(conversation.send(None), Send)
    with pytest.raises(gw.UnreachableError):
        conversation.send(lost)


def test_a_call_past_its_deadline_ends(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    conversation = session(timeout_s=2.0).run(task())
    assert conversation.send(None).timeout_s == 2.0
    step = conversation.send(failure(errors.DrainingError("server: needed to run, got told to stop; retry")))
    assert isinstance(step, Leave)
    assert isinstance(conversation.send(None), Pause)
    clock[0] = 2.5
    with pytest.raises(gw.DeadlineError):
        conversation.send(None)


def test_what_streams_tell_is_what_calls_tell():
    busy = within_a_stream(errors.OverloadedError("server: needed room, got none; retry", retry_after_s=0.3))
    steps, result = talk(session().run(task()), busy, Reply(answer(X)))
    assert [type(step) for step in steps] == [Sent, Pause, Sent]
    assert steps[1].seconds == 0.3
    np.testing.assert_array_equal(result, X)
    steps, error = talk(session().run(task()), within_a_stream(errors.ShapeError("here: needed this, got that; do so")))
    assert type(error) is gw.ShapeError
    assert error.metadata["request_id"] == "r1"


@pytest.mark.parametrize(("pushback", "seconds"), [("700", 0.7), ("-1", None), ("soon", None)])
def test_a_server_may_push_back(pushback, seconds):
    status = encode_status(errors.OverloadedError("server: needed room, got none; retry", retry_after_s=0.1))
    busy = Failure(grpc.StatusCode.UNAVAILABLE, "", status, pushback)
    steps, result = talk(session().run(task()), busy, answer(X))
    if seconds is None:
        assert isinstance(result, gw.OverloadedError)
    else:
        assert steps[1].seconds == seconds


# -- streams and calls --------------------------------------------------------------------------------------------------------


def test_a_server_without_streams_is_asked_by_calls_from_then_on():
    here = session()
    steps, result = talk(here.run(task()), Failure(grpc.StatusCode.UNIMPLEMENTED), answer(X))
    assert [step.method for step in steps] == [EVALUATE_STREAM, EVALUATE]
    np.testing.assert_array_equal(result, X)
    steps, _ = talk(here.run(task()), answer(X))
    assert [step.method for step in steps] == [EVALUATE]
    steps, _ = talk(session(sessions=False).run(task()), answer(X))
    assert [step.method for step in steps] == [EVALUATE]


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "INTERNAL", "CANCELLED", "INVALID_ARGUMENT"])
def test_a_stream_that_fails_says_nothing_of_its_requests(code):
    here = session()
    steps, result = talk(here.run(task()), Failure(getattr(grpc.StatusCode, code), "of another"), answer(X))
    assert [step.method for step in steps] == [EVALUATE_STREAM, EVALUATE]
    np.testing.assert_array_equal(result, X)
    assert [step.method for step in talk(here.run(task()), answer(X))[0]] == [EVALUATE_STREAM]


def test_what_ends_here_is_not_asked_again():
    for code, kind in ((grpc.StatusCode.CANCELLED, gw.CancelledError), (grpc.StatusCode.DEADLINE_EXCEEDED, gw.DeadlineError)):
        steps, error = talk(session().run(task()), Ended(code))
        assert len(steps) == 1
        assert type(error) is kind


def test_a_lost_stream_is_opened_again():
    steps, result = talk(session().run(task()), Ended(grpc.StatusCode.UNAVAILABLE, "reset"), answer(X))
    assert [type(step) for step in steps] == [Sent, Pause, Sent]
    np.testing.assert_array_equal(result, X)


def large_task(*shapes, seeds=()):
    arrays = [np.arange(np.prod(shape), dtype=float).reshape(shape) for shape in shapes]
    one = task()
    return Task(one.program, one.outputs, arrays, [seeds], False, one.rebuild)


def test_large_tensors_travel_apart_and_small_ones_do_not():
    whole, part = CHUNK_BYTES // 8, CHUNK_BYTES // 16
    given = large_task((part,), (whole + 1,), (part,), (), (3,), seeds=[np.ones(2)])
    step = session(kept_bytes=0).run(given).send(None)
    told = message(step)
    assert [bool(item.data) for item in told.inputs] == [True, False, True, False, False]
    assert [bool(item.data) for item in told.outputs[0].seeds] == [False]
    assert [len(item) for item in step.request.apart] == [8 * (whole + 1), 8, 24, 16]
    assert bytes(step.request.apart[0]) == given.inputs[1].tobytes()
    step = session(kept_bytes=0, sessions=False).run(given).send(None)
    assert all(item.data for item in message(step).inputs)


def test_results_in_chunks_are_the_callers_own():
    response = answer(X)
    tensor = response.results[0].results[0].dense
    data = np.frombuffer(tensor.data, np.uint8).copy()
    tensor.data = b""
    _, result = talk(session().run(task()), Reply(response, [data]))
    np.testing.assert_array_equal(result, X)
    assert result.flags.writeable
    assert np.shares_memory(result, data)


def test_a_message_that_is_too_large_ends_no_stream():
    steps, error = talk(session(message_max_bytes=50, inline_max_bytes=0).run(large_task((100,))))
    assert steps == []
    assert isinstance(error, gw.LimitError)
    assert error.metadata["limit"] == "50"


# -- tensors ----------------------------------------------------------------------------------------------------------------


DATA = np.random.default_rng(0).normal(size=(1000, 20))


def fit(w, data):
    return np.sum((data @ w) ** 2)


def fit_task(w, data=DATA):
    return next(tasks(gw.grad(fit), [[w], [data]], 1))


MADE = pb.CreateTensorResponse(name="tensors/1")
W = np.ones(20)
MISSING = errors.TensorMissingError


def is_named(step):
    return [bool(item.name) for item in message(step).inputs]


def steps_of(conversation, *answers):
    """Drive a conversation; return its steps with which inputs are named, as they were sent."""
    found, given, answers = [], None, iter(answers)
    try:
        while True:
            step = conversation.send(given)
            if isinstance(step, Send):
                found.append("store" if step.method is CREATE_TENSOR else is_named(step))
                given = next(answers)
            else:
                given = None
    except StopIteration:
        return found


def test_data_cross_the_wire_once():
    here = session()
    assert steps_of(here.run(fit_task(W)), MADE, answer(W)) == ["store", [False, True]]
    for step in range(200):
        assert steps_of(here.run(fit_task(W + step, DATA.copy())), answer(W)) == [[False, True]]


def test_the_bytes_of_a_stored_tensor_come_in_chunks():
    data = np.arange(CHUNK_BYTES // 4, dtype=">f8").reshape(2, -1)[:, ::-1]
    step = session().run(fit_task(np.ones(data.shape[1]), data)).send(None)
    first, *rest = step.request()
    assert (first.tensor.dtype, list(first.tensor.shape)) == (1, list(data.shape))
    assert first.tensor.data + b"".join(item.data for item in rest) == data.astype("<f8").tobytes()
    assert [len(item.data) for item in rest] == [CHUNK_BYTES]


def test_a_forgotten_tensor_is_stored_again_and_then_sent():
    here = session()
    steps_of(here.run(fit_task(W)), MADE, answer(W))
    name = fit_name()
    gone = within_a_stream(MISSING(f"{name}: needed it, got none; store it", names=f"{name},tensors/other"))
    assert steps_of(here.run(fit_task(W)), gone, MADE, answer(W)) == [[False, True], "store", [False, True]]
    assert steps_of(here.run(fit_task(W)), gone, MADE, gone, answer(W)) == [[False, True], "store", [False, True], [False, False]]


def fit_name():
    from gradwire_proto.tensor import encode_name

    return encode_name(DATA).name


def test_a_server_that_stores_no_tensors_gets_them_with_each_request():
    here = session()
    assert steps_of(here.run(fit_task(W)), Failure(grpc.StatusCode.UNIMPLEMENTED), answer(W)) == ["store", [False, False]]
    assert steps_of(here.run(fit_task(W)), answer(W)) == [[False, False]]


def test_a_tensor_for_which_there_is_no_room_is_sent():
    here = session()
    full = failure(errors.LimitError("tensor: needed at most 1 bytes, got 2; make it smaller", limit="1"))
    assert steps_of(here.run(fit_task(W)), full, answer(W)) == ["store", [False, False]]


def test_storing_is_repeated_as_other_calls_are():
    busy = failure(errors.OverloadedError("server: needed room, got none; retry"))
    assert steps_of(session().run(fit_task(W)), busy, MADE, answer(W)) == ["store", "store", [False, True]]


def test_a_tensor_on_its_way_is_waited_for():
    here = session()
    first, second = here.run(fit_task(W)), here.run(fit_task(W + 1))
    assert first.send(None).method is CREATE_TENSOR
    assert isinstance(second.send(None), Pause)
    first.send(MADE)
    assert is_named(second.send(None)) == [False, True]
    given_up = session()
    conversation = given_up.run(fit_task(W))
    conversation.send(None)
    conversation.close()
    assert given_up.run(fit_task(W)).send(None).method is CREATE_TENSOR


def test_several_results_are_one_request():
    given = next(tasks(gw.value_and_grad(fit), [[W], [DATA]], 1))
    step = session(kept_bytes=0).run(given).send(None)
    assert len(message(step).outputs) == 2


# -- replicas ----------------------------------------------------------------------------------------------------------------


DRAINING = errors.DrainingError("server: needed to run, got told to stop; retry")
TWO = "ipv4:127.0.0.1:1,127.0.0.1:2"


def test_replicas_are_asked_in_turn_and_each_is_told_what_it_lacks():
    here = session(TWO)
    seen = []
    for _ in range(4):
        conversation = here.run(task())
        step = conversation.send(None)
        seen.append((step.replica.address, message(step).WhichOneof("program_source")))
        with pytest.raises(StopIteration):
            conversation.send(answer(X))
    assert sorted(seen[:2]) == [("ipv4:127.0.0.1:1", "program"), ("ipv4:127.0.0.1:2", "program")]
    assert sorted(seen[2:]) == [("ipv4:127.0.0.1:1", "program_name"), ("ipv4:127.0.0.1:2", "program_name")]


def test_a_lost_replica_is_left_at_once_and_until_it_is_found():
    here = session(TWO)
    conversation = here.run(task())
    first = conversation.send(None)
    probe = conversation.send(Ended(grpc.StatusCode.UNAVAILABLE, "reset"))
    assert isinstance(probe, Probe)
    assert probe.replica is first.replica
    second = conversation.send(None)
    assert second.replica is not first.replica
    for _ in range(3):
        assert here.run(task()).send(None).replica is second.replica
    first.replica.wake()
    assert {here.run(task()).send(None).replica for _ in range(2)} == {first.replica, second.replica}


def test_another_replica_is_asked_however_long_the_first_was_silent(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    conversation = session(TWO, unreachable_s=3.0).run(task())
    first = conversation.send(None)
    clock[0] += 10.0
    assert isinstance(conversation.send(Ended(grpc.StatusCode.UNAVAILABLE, "timed out")), Probe)
    assert conversation.send(None).replica is not first.replica
    with pytest.raises(gw.UnreachableError):
        conversation.send(Ended(grpc.StatusCode.UNAVAILABLE, "timed out"))


def test_a_draining_replica_is_left_at_once():
    here = session(TWO)
    conversation = here.run(task())
    first = conversation.send(None)
    assert isinstance(conversation.send(within_a_stream(DRAINING)), Leave)
    second = conversation.send(None)
    assert second.replica is not first.replica


def test_a_connection_to_a_draining_server_is_left_once():
    here = session()
    first, second = here.run(task()), here.run(task())
    assert isinstance((first.send(None), first.send(within_a_stream(DRAINING)))[1], Leave)
    assert isinstance((second.send(None), second.send(within_a_stream(DRAINING)))[1], Pause)


def test_an_old_connection_is_replaced_once_and_nobody_waits(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    here = session(connection_age_s=100.0)
    assert [type(step) for step in talk(here.run(task()), answer(X))[0]] == [Sent]
    clock[0] += 79.0
    assert [type(step) for step in talk(here.run(task()), answer(X))[0]] == [Sent]
    clock[0] += 21.0
    steps, result = talk(here.run(task()), answer(X))
    assert [type(step) for step in steps] == [Renew, Sent]
    assert steps[0].replica is next(iter(here.replicas))
    np.testing.assert_array_equal(result, X)
    assert [type(step) for step in talk(here.run(task()), answer(X))[0]] == [Sent]


def test_connections_may_be_kept_for_ever(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    here = session(connection_age_s=0)
    for _ in range(3):
        assert [type(step) for step in talk(here.run(task()), answer(X))[0]] == [Sent]
        clock[0] += 1e9


def test_if_all_are_lost_there_is_a_pause():
    conversation = session(TWO).run(task())
    conversation.send(None)
    assert isinstance(conversation.send(Ended(grpc.StatusCode.UNAVAILABLE)), Probe)
    conversation.send(None)
    assert isinstance(conversation.send(Ended(grpc.StatusCode.UNAVAILABLE)), Probe)
    assert isinstance(conversation.send(None), Pause)


def test_a_name_is_looked_up_before_the_first_request():
    here = session("dns:///replicas:1", unreachable_s=1e-9)
    conversation = here.run(task())
    assert conversation.send(None) == Resolve(is_needed=True)
    here.replicas.resolve(["a:1"])
    assert conversation.send(None).replica.address == "a:1"
    here = session("dns:///replicas:1", unreachable_s=1e-9)
    conversation = here.run(task())
    conversation.send(None)
    with pytest.raises(gw.UnreachableError, match="Name or service not known"):
        conversation.send(Ended(grpc.StatusCode.UNAVAILABLE, "Name or service not known"))


def test_a_hedge_asks_another_replica_within_the_budget():
    here = session(TWO, hedge_after_s=0.1)
    step = here.run(task()).send(None)
    other = step.hedge()
    assert other.replica is not step.replica
    assert message(other).WhichOneof("program_source") == "program"
    assert sum(step.hedge() is not None for _ in range(20)) == 9
    assert session().run(task()).send(None).hedge is None
