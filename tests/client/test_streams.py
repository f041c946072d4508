"""What is said over one stream, told without one: messages are pulled and received by hand."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

import gradwire as gw
from gradwire._failures import lost
from gradwire._streams import CHUNK_BYTES, Reply, Stream, TensorWriter, encode_input
from gradwire_proto import joined
from gradwire_proto.evaluation import encode_result
from gradwire_proto.tensor import encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import tensor_pb2


def begin(stream, woken, request=b"", apart=(), timeout_s=1.0):
    return stream.begin(request, apart, timeout_s, lambda: woken.append(len(woken)))


def pulled(stream):
    """Return all messages that there are."""
    found = []
    while (message := stream.pull(block=False)) is not None:
        found.append(pb.EvaluateStreamRequest.FromString(message))
    return found


def answer(number, value):
    results = [pb.OutputResult(results=[encode_result(np.asarray(value))])]
    return pb.EvaluateStreamResponse(id=number, evaluate=pb.EvaluateResponse(results=results)).SerializeToString()


def announced(number, *shapes):
    tensors = [pb.Result(dense=tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_FLOAT64, shape=shape)) for shape in shapes]
    response = pb.EvaluateResponse(results=[pb.OutputResult(results=tensors)])
    return pb.EvaluateStreamResponse(id=number, evaluate=response).SerializeToString()


def chunk(number, data):
    return pb.EvaluateStreamResponse(id=number, chunk=data).SerializeToString()


@given(number=st.integers(1, 2**40), timeout_s=st.floats(1e-3, 1e6), request=st.binary(max_size=300))
def test_messages_are_written_as_protobuf_does(number, timeout_s, request):
    request = pb.EvaluateRequest(program_name=request.hex()).SerializeToString()
    stream = Stream()
    stream._numbers = iter([number])
    begin(stream, [], request, [memoryview(b"abc")], timeout_s)
    head, data = stream.pull(block=False), stream.pull(block=False)
    sent = pb.EvaluateStreamRequest(id=number, evaluate=pb.EvaluateRequest.FromString(request), timeout_s=timeout_s)
    assert pb.EvaluateStreamRequest.FromString(head) == sent
    assert pb.EvaluateStreamRequest.FromString(data) == pb.EvaluateStreamRequest(id=number, chunk=b"abc")


@given(
    kind=st.sampled_from(["f8", ">f8", "f4", "c16", "c8", "i8", "<i4", ">i4", "?"]),
    shape=st.lists(st.integers(0, 4), max_size=3),
    step=st.sampled_from([1, -1, 2]),
    is_turned=st.booleans(),
)
def test_tensors_are_written_as_the_codec_does(kind, shape, step, is_turned):
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2).astype(kind)
    array = array[(*(slice(None, None, step) for _ in shape), ...)]
    array = array.T if is_turned else array
    told = encode_tensor(array).SerializeToString()
    assert TensorWriter(None).write(array) == told
    assert encode_input(told) == pb.EvaluateRequest(inputs=[encode_tensor(array)]).SerializeToString()


def test_answers_come_in_any_order_and_wake_those_who_wait():
    stream, woken = Stream(), []
    tickets = [begin(stream, woken) for _ in range(3)]
    assert [item.id for item in pulled(stream)] == [1, 2, 3]
    for number in (3, 1, 2):
        stream.receive(answer(number, float(number)))
    assert woken == [0, 1, 2]
    assert all(isinstance(ticket.answer, Reply) for ticket in tickets)
    assert len(stream) == 0


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ([(joined.KEY, "3")], [[1, 2, 3], [4, 5]]),
        ([("other", "x"), (joined.KEY, "100")], [[1, 2, 3, 4, 5]]),
        ([(joined.KEY, "1")], [[1], [2], [3], [4], [5]]),
        ([(joined.KEY, "many")], [[1], [2], [3], [4], [5]]),
        ([(joined.KEY, "9" * 5000)], [[1], [2], [3], [4], [5]]),
        (None, [[1], [2], [3], [4], [5]]),
    ],
)
def test_what_waits_leaves_as_one_if_the_server_takes_it_so(metadata, expected):
    stream = Stream()
    stream.open(metadata)
    for _ in range(5):
        begin(stream, [])
    assert [[item.id for item in message.joined] or [message.id] for message in pulled(stream)] == expected
    begin(stream, [])
    assert [message.id for message in pulled(stream)] == [6], "the first goes alone"


@given(sizes=st.lists(st.sampled_from([0, 10, 30_000, 40_000, joined.MOST_BYTES, 2 * joined.MOST_BYTES]), max_size=8))
def test_no_more_is_joined_than_holds_up_nobody_and_nothing_is_lost(sizes):
    stream = Stream()
    stream.open([(joined.KEY, "256")])
    large = memoryview(bytes(CHUNK_BYTES + 1))
    for size in sizes:
        begin(stream, [], pb.EvaluateRequest(program_name="x" * size).SerializeToString(), [large])
    stream.cancel(begin(stream, []))
    found = pulled(stream)
    parts = [part for message in found for part in (message.joined or (message,))]
    begun = [(part.id, len(part.evaluate.program_name)) for part in parts if part.HasField("evaluate")]
    assert begun[:-1] == [(number, size) for number, size in enumerate(sizes, start=1)]
    assert [part.id for part in parts if part.HasField("cancel")] == [len(sizes) + 1]
    assert sum(len(part.chunk) for part in parts) == len(sizes) * len(large)
    assert all(message.ByteSize() < joined.MOST_BYTES + 1000 for message in found if message.joined)
    assert all(not message.chunk for message in found if message.joined)
    assert all(not (part.chunk or part.joined) for message in found for part in message.joined)


def test_joined_answers_wake_each_who_waits():
    stream, woken = Stream(), []
    tickets = [begin(stream, woken) for _ in range(3)]
    error = pb.EvaluateStreamResponse(id=2, error=pb.Status(code=3, message="no"))
    stream.receive(joined.join(joined.RESPONSES, [answer(3, 3.0), error.SerializeToString(), answer(1, 1.0)]))
    assert woken == [0, 1, 2]
    assert [isinstance(ticket.answer, Reply) for ticket in tickets] == [True, False, True]


def test_the_end_is_the_end_also_behind_what_is_joined():
    stream = Stream()
    stream.open([(joined.KEY, "256")])
    begin(stream, [])
    begin(stream, [])
    stream.end(lost("gone"))
    assert [item.id for item in pb.EvaluateStreamRequest.FromString(stream.pull(block=True)).joined] == [1, 2]
    assert stream.pull(block=True) is None


def test_a_failed_request_leaves_the_others():
    stream, woken = Stream(), []
    first, second = begin(stream, woken), begin(stream, woken)
    error = pb.EvaluateStreamResponse(id=first.number, error=pb.Status(code=3, message="no"))
    stream.receive(error.SerializeToString())
    assert first.answer.message == "no"
    assert second.answer is None
    stream.receive(answer(second.number, 1.0))
    assert isinstance(second.answer, Reply)


def test_a_large_tensor_does_not_hold_small_requests_up():
    stream = Stream()
    large = memoryview(np.arange(3 * CHUNK_BYTES // 8, dtype=float)).cast("B")
    begin(stream, [], apart=[large, large[:5]])
    begin(stream, [], apart=[large])
    kinds = [(message.id, message.WhichOneof("kind")) for message in (pulled_one(stream) for _ in range(4))]
    assert kinds == [(1, "evaluate"), (2, "evaluate"), (1, "chunk"), (2, "chunk")]
    begin(stream, [])
    rest = pulled(stream)
    assert [(item.id, item.WhichOneof("kind")) for item in rest[:3]] == [(3, "evaluate"), (1, "chunk"), (2, "chunk")]
    assert [len(item.chunk) for item in rest if item.id == 1] == [CHUNK_BYTES, CHUNK_BYTES, 5]


def pulled_one(stream):
    return pb.EvaluateStreamRequest.FromString(stream.pull(block=False))


def test_what_is_given_up_is_sent_no_further_and_wakes_nobody():
    stream, woken = Stream(), []
    large = memoryview(bytes(2 * CHUNK_BYTES))
    ticket = begin(stream, woken, apart=[large])
    pulled_one(stream)
    pulled_one(stream)
    stream.cancel(ticket)
    rest = pulled(stream)
    assert [(item.id, item.WhichOneof("kind")) for item in rest] == [(1, "cancel")]
    stream.receive(answer(1, 1.0))
    stream.receive(chunk(1, b"late"))
    stream.cancel(ticket)
    assert pulled(stream) == []
    assert woken == []
    assert ticket.answer is None


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3), cuts=st.lists(st.integers(1, 50), max_size=12))
def test_tensors_in_chunks_of_any_size_are_put_together(sizes, cuts):
    arrays = [np.random.default_rng(size).normal(size=size) for size in sizes]
    stream, woken = Stream(), []
    ticket = begin(stream, woken)
    stream.receive(announced(1, *[(size,) for size in sizes]))
    for array in arrays:
        data, place = array.tobytes(), 0
        for cut in [*cuts, len(data)]:
            part = data[place : place + cut]
            if part:
                assert woken == []
                stream.receive(chunk(1, part))
            place += cut
    assert woken == [0]
    for found, array in zip(ticket.answer.elements, arrays, strict=True):
        assert found.tobytes() == array.tobytes()


def test_chunks_of_several_answers_may_come_in_turn():
    stream, woken = Stream(), []
    tickets = [begin(stream, woken), begin(stream, woken)]
    for ticket in tickets:
        stream.receive(announced(ticket.number, (2,)))
    for part in range(2):
        for ticket in tickets:
            stream.receive(chunk(ticket.number, np.float64(ticket.number + part).tobytes()))
    assert [ticket.answer.elements[0].view(float).tolist() for ticket in tickets] == [[1.0, 2.0], [2.0, 3.0]]


def test_an_empty_tensor_has_no_chunks():
    stream, woken = Stream(), []
    ticket = begin(stream, woken)
    stream.receive(announced(1, (0, 3)))
    assert woken == [0]
    assert ticket.answer.elements == []


@pytest.mark.parametrize(
    "messages",
    [
        [chunk(1, b"12345678")],
        [announced(1, (1,)), chunk(1, b"123456789")],
        [pb.EvaluateStreamResponse(id=1).SerializeToString()],
        [announced(1, (2**61,))],
        [b"\x08\x01\xff"],
        [b"\x2a\x05"],
        [b"\x2a\x00" * 1000],
    ],
)
def test_what_is_not_of_the_protocol_is_refused(messages):
    stream = Stream()
    begin(stream, [])
    *before, last = messages
    for message in before:
        stream.receive(message)
    with pytest.raises((ValueError, DecodeError, gw.GradwireError)):
        stream.receive(last)


def test_an_answer_that_memory_cannot_hold_fails_alone():
    stream, woken = Stream(), []
    first, second = begin(stream, woken), begin(stream, woken)
    pulled(stream)
    stream.receive(announced(first.number, (2**55,)))
    assert isinstance(first.answer, gw.LimitError)
    assert [item.WhichOneof("kind") for item in pulled(stream)] == ["cancel"]
    stream.receive(chunk(first.number, b"12345678"))
    stream.receive(answer(second.number, 1.0))
    assert isinstance(second.answer, Reply)


def test_the_end_answers_everything_and_what_comes_later():
    stream, woken = Stream(), []
    ticket = begin(stream, woken)
    failure = lost("gone")
    stream.end(failure)
    stream.end(lost("again"))
    late = begin(stream, woken)
    assert ticket.answer is late.answer is failure
    assert woken == [0, 1]
    assert len(stream) == 0


def test_who_pulls_is_told_when_there_is_something():
    told = []
    stream = Stream(lambda: told.append(None))
    ticket = begin(stream, [])
    stream.cancel(ticket)
    stream.end(lost("gone"))
    assert len(told) == 3
