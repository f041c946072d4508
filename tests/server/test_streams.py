"""Sessions: without gRPC, over streams that the tests feed and read themselves; then over gRPC, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading
import types
from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from gradwire_core import errors
from gradwire_core.program import Program
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.joined import KEY, MOST_BYTES
from gradwire_proto.known import check_known
from gradwire_proto.status import decode_status
from gradwire_proto.tensor import encode_name, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import tensor_pb2
from gradwire_server.admission import Admission, Gate
from gradwire_server.calls import ANONYMOUS, Call
from gradwire_server.chunks import CHUNK_BYTES, Arriving, Held
from gradwire_server.config import ServerConfig
from gradwire_server.frames import Frame, Kind
from gradwire_server.idle import Idle, let_go
from gradwire_server.inline import Tiny
from gradwire_server.metrics import NoMetrics
from gradwire_server.parts import encode_part, parse
from gradwire_server.quotas import Quotas
from gradwire_server.refusals import Refusals
from gradwire_server.requests import Apart, find_apart, outline
from gradwire_server.segments import Segment
from gradwire_server.service import SERVICE, DifferentiationService
from gradwire_server.stores import local_stores
from gradwire_server.streams import Answer, Arrived, Peers, Session
from gradwire_server.worker import Worker
from tests.server.processes import cpu_ticks, is_alive, serving
from tests.server.requests import PATIENCE_S, X, evaluation, product, quick, slow, until, value, wait_until

FEW = 3
QUICK = pb.EvaluateRequest(program_name="quick").SerializeToString()
WRONG = pb.EvaluateRequest(program_name="wrong").SerializeToString()


class Pipe:
    """A stream of which a test is the other end; its writes wait while it is held."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self.is_free = asyncio.Event()
        self.is_free.set()

    async def read(self) -> bytes | None:
        return await self.inbox.get()

    async def write(self, message: bytes) -> None:
        await self.is_free.wait()
        self.outbox.put_nowait(message)

    def send(self, **fields) -> None:
        self.inbox.put_nowait(pb.EvaluateStreamRequest(**fields).SerializeToString())

    def begin(self, id: int, text: str = "", **fields) -> None:
        self.send(id=id, evaluate=pb.EvaluateRequest(program_name=text), **fields)

    def join(self, *messages: pb.EvaluateStreamRequest) -> None:
        self.send(joined=messages)

    def end(self) -> None:
        self.inbox.put_nowait(None)

    async def receive(self) -> pb.EvaluateStreamResponse:
        async with asyncio.timeout(PATIENCE_S):
            return pb.EvaluateStreamResponse.FromString(await self.outbox.get())


class Quick:
    """Answers a request at once."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    response_bytes = len(QUICK)

    def pieces(self, message: bytes | memoryview) -> list[bytes | memoryview]:
        self.desk.quick_count += 1
        if self.desk.fails:
            raise errors.ArgumentError("needed to work, got told not to")
        return [message[:1], message[1:]]


class Desk:
    """Answers requests when the test says so."""

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}
        self.answers: dict[str, asyncio.Future[Answer]] = {}
        self.arrived: list[bytes] = []
        self.refused = 0
        self.quick_count = 0
        self.fails = False
        self.cancelled: list[str] = []

    def find_tiny(self, message: bytes, identity: str) -> Tiny | None:
        assert identity == ANONYMOUS
        return Quick(self) if message == QUICK else None

    async def find_apart(self, message: bytes) -> list[Apart]:
        if message == WRONG:
            raise errors.DtypeError("no such type")
        found = find_apart(message, outline(pb.EvaluateRequest, message, 100))
        return [tensor for tensor in found if tensor is not None]

    async def evaluate_in_chunks(self, message: bytes, call: Call, apart: Sequence[Apart], arrived: Arrived) -> Answer:
        try:
            self.arrived = [bytes(segment.buffer) for segment in await arrived()]
        except errors.DeadlineError:
            self.refused += 1
            raise
        name = pb.EvaluateRequest.FromString(message).program_name
        self.calls[name] = call
        self.answers[name] = asyncio.get_running_loop().create_future()
        try:
            return await self.answers[name]
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise

    def answer(self, name: str, *tensors: bytes) -> None:
        response = pb.EvaluateResponse(program_name=name).SerializeToString()
        self.answers[name].set_result(Answer(response, [filled(data) for data in tensors]))


def filled(data: bytes) -> Segment:
    segment = Segment.create(len(data))
    segment.buffer[:] = data
    return segment


def session(scenario, timeout_s: float = 100.0, joined_count: int = 1, **settings) -> None:
    """Run a scenario with the other end of a session, the desk behind it, the gate before it, and its task."""

    async def run() -> None:
        pipe, desk, gate = Pipe(), Desk(), Gate()
        config = ServerConfig(**{"max_stream_request_count": FEW} | settings)
        admission = Admission(gate, Quotas(config), NoMetrics(), refusals=Refusals(lambda: 0.0))  # a moment does not end
        held = Held("chunked_bytes", config.chunked_bytes)
        opened = Session(
            pipe,
            Call("stream", timeout_s, joined_count=joined_count),
            admission,
            desk,
            config,
            held,
            Peers(config.max_stream_request_count),
            Idle(),
        )
        running = asyncio.create_task(opened.run())
        async with asyncio.timeout(PATIENCE_S):
            await scenario(pipe, desk, gate, running)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError, errors.GradwireError):
                await running

    asyncio.run(run())


def test_answers_come_as_they_finish_each_by_its_id():
    async def scenario(pipe, desk, _gate, running):
        pipe.begin(7, "a")
        pipe.begin(-8, "b")
        pipe.end()
        await until(lambda: len(desk.calls) == 2)
        desk.answer("b")
        found = await pipe.receive()
        assert (found.id, found.evaluate.program_name) == (-8, "b")
        assert not running.done()
        desk.answer("a")
        found = await pipe.receive()
        assert (found.id, found.evaluate.program_name) == (7, "a")
        await running

    session(scenario)


def test_a_request_that_fails_ends_alone():
    async def scenario(pipe, desk, _gate, running):
        pipe.begin(1, "a", request_id="mine.1")
        pipe.begin(2, "b")
        await until(lambda: len(desk.calls) == 2)
        desk.answers["a"].set_exception(errors.ShapeError("needed one, got another", given=3))
        found = await pipe.receive()
        error = decode_status(Status.FromString(found.error.SerializeToString()))
        assert found.id == 1
        assert isinstance(error, errors.ShapeError)
        assert error.metadata == {"given": "3", "request_id": "mine.1"}
        desk.answers["b"].set_exception(ZeroDivisionError("secret"))
        found = await pipe.receive()
        assert found.id == 2
        assert "secret" not in str(found)
        assert found.error.code == grpc.StatusCode.INTERNAL.value[0]
        assert not running.done()

    session(scenario)


def test_no_more_requests_are_read_than_may_be_under_way_and_those_are_until_their_answers_are_written():
    async def scenario(pipe, desk, _gate, _running):
        pipe.is_free.clear()
        for id in range(FEW + 2):
            pipe.begin(id, str(id))
        await until(lambda: len(desk.calls) == FEW)
        desk.answer("0")
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(desk.calls) == FEW
        assert pipe.inbox.qsize() == 1, "one is held in the hand"
        pipe.is_free.set()
        await until(lambda: len(desk.calls) == FEW + 1)

    session(scenario)


def test_the_sessions_of_a_connection_share_what_may_be_under_way():
    async def scenario() -> None:
        peers, desk, config = Peers(FEW), Desk(), ServerConfig()
        admission, held = Admission(Gate(), Quotas(config), NoMetrics()), Held("chunked_bytes", 1)
        pipes = {name: Pipe() for name in ("one", "other", "stranger")}
        running = [
            asyncio.create_task(
                Session(
                    pipe, Call("id", 100.0, peer=name.replace("other", "one")), admission, desk, config, held, peers, Idle()
                ).run()
            )
            for name, pipe in pipes.items()
        ]
        for name, pipe in pipes.items():
            for id in range(FEW - 1):
                pipe.begin(id, f"{name}{id}")
        await until(lambda: len(desk.calls) == 2 * FEW - 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(desk.calls) == 2 * FEW - 1
        desk.answer("one0")
        await until(lambda: len(desk.calls) == 2 * FEW)
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        del running, task
        gc.collect()
        assert not len(peers._rooms)

    asyncio.run(scenario())


def test_a_cancelled_request_has_no_answer_and_its_id_is_free():
    async def scenario(pipe, desk, _gate, _running):
        pipe.begin(1, "a")
        pipe.send(id=1, cancel=pb.Cancel())
        pipe.send(id=99, cancel=pb.Cancel())
        pipe.begin(1, "b")
        await until(lambda: "b" in desk.calls)
        assert desk.cancelled == (["a"] if "a" in desk.calls else [])
        desk.answer("b")
        assert (await pipe.receive()).evaluate.program_name == "b"
        pipe.begin(2, "c")
        await until(lambda: "c" in desk.calls)
        pipe.send(id=2, cancel=pb.Cancel())
        await until(lambda: "c" in desk.cancelled)
        assert pipe.outbox.empty()

    session(scenario)


def test_a_cancelled_request_leaves_the_stream_whole_though_its_answer_was_being_written():
    async def scenario(pipe, desk, _gate, _running):
        pipe.is_free.clear()
        pipe.begin(1, "a")
        await until(lambda: "a" in desk.calls)
        desk.answer("a")
        for _ in range(20):
            await asyncio.sleep(0)
        pipe.send(id=1, cancel=pb.Cancel())
        pipe.begin(2, "b")
        await until(lambda: "b" in desk.calls)
        desk.answer("b")
        pipe.is_free.set()
        assert (await pipe.receive()).id == 1
        assert (await pipe.receive()).id == 2

    session(scenario)


def test_a_session_does_not_end_in_the_midst_of_a_message():
    async def scenario(pipe, desk, _gate, running):
        pipe.is_free.clear()
        for id, name in enumerate("abc"):
            pipe.begin(id, name)
        await until(lambda: len(desk.calls) == 3)
        desk.answer("a")
        desk.answer("b")
        pipe.inbox.put_nowait(b"\xff")
        await until(lambda: "c" in desk.cancelled)
        assert not running.done()
        pipe.is_free.set()
        assert (await pipe.receive()).id == 0
        with pytest.raises(errors.ArgumentError, match="well-formed"):
            await running
        assert pipe.outbox.empty()

    session(scenario)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"id": 1, "evaluate": {}}, "under way"),
        ({"id": 2, "chunk": b"x"}, "chunk"),
        ({"id": 2}, "needed evaluate, chunk or cancel"),
        (b"\x08", "well-formed"),
        (b"\x12\x00\x12\x00", "well-formed"),
        (b"\x22\x02\x08\x01", "unknown field 1"),
        (b"\x22\x00\xf8\x07\x01", "unknown field 127"),
    ],
)
def test_what_no_caller_may_send_ends_the_stream_and_its_work(given, text):
    async def scenario(pipe, desk, _gate, running):
        pipe.begin(1, "a")
        await until(lambda: "a" in desk.calls)
        pipe.inbox.put_nowait(given if isinstance(given, bytes) else pb.EvaluateStreamRequest(**given).SerializeToString())
        with pytest.raises(errors.ArgumentError, match=text):
            await running
        assert desk.cancelled == ["a"]

    session(scenario)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"timeout_s": -1}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"timeout_s": float("inf")}, "timeout_s"),
        ({"request_id": "a b"}, "request_id"),
        ({"request_id": "a" * 65}, "request_id"),
    ],
)
def test_a_request_with_a_wrong_field_is_refused_alone(given, text):
    async def scenario(pipe, desk, _gate, running):
        pipe.begin(1, "a", **given)
        found = await pipe.receive()
        assert found.id == 1
        assert text in found.error.message
        assert found.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert not desk.calls
        assert not running.done()

    session(scenario)


def test_a_request_with_an_unknown_field_is_refused_alone():
    async def scenario(pipe, desk, _gate, running):
        pipe.inbox.put_nowait(pb.EvaluateStreamRequest(id=3, evaluate={}).SerializeToString() + b"\xf8\x07\x01")
        found = await pipe.receive()
        assert found.id == 3
        assert "127" in found.error.message
        assert not running.done()

    session(scenario)


def test_each_request_has_a_deadline_and_a_name_of_its_own():
    async def scenario(pipe, desk, _gate, _running):
        pipe.begin(1, "a", timeout_s=0.5, request_id="mine")
        pipe.begin(2, "b")
        await until(lambda: len(desk.calls) == 2)
        assert (desk.calls["a"].timeout_s, desk.calls["a"].request_id) == (0.5, "mine")
        assert desk.calls["b"].timeout_s == 100.0
        assert len(desk.calls["b"].request_id) == 16

    session(scenario)


def test_the_share_of_an_identity_is_counted_by_request():
    async def scenario(pipe, desk, _gate, running):
        for id in range(2):
            pipe.begin(id, str(id))
        await until(lambda: "0" in desk.calls)
        found = await pipe.receive()
        assert found.id == 1
        assert isinstance(decode_status(Status.FromString(found.error.SerializeToString())), errors.OverloadedError)
        assert not running.done()

    session(scenario, max_identity_call_count=1)


def test_a_stream_that_drains_answers_what_it_read_refuses_the_rest_and_ends():
    async def scenario(pipe, desk, gate, running):
        pipe.begin(1, "a")
        await until(lambda: "a" in desk.calls)
        gate.close()
        pipe.begin(2, "b")
        found = await pipe.receive()
        assert found.id == 2
        assert isinstance(decode_status(Status.FromString(found.error.SerializeToString())), errors.DrainingError)
        assert not running.done()
        desk.answer("a")
        assert (await pipe.receive()).id == 1
        with pytest.raises(errors.DrainingError):
            await running
        assert await gate.drain(0.0)

    session(scenario)


def test_a_stream_without_requests_ends_when_the_server_drains():
    async def scenario(_pipe, _desk, gate, running):
        await asyncio.sleep(0)
        gate.close()
        with pytest.raises(errors.DrainingError):
            await running

    session(scenario)


def test_the_work_of_a_stream_ends_with_it():
    async def scenario(pipe, desk, _gate, running):
        pipe.begin(1, "a")
        pipe.begin(2, "b")
        await until(lambda: len(desk.calls) == 2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert sorted(desk.cancelled) == ["a", "b"]

    session(scenario)


def asks(id: int, text: str, **fields) -> pb.EvaluateStreamRequest:
    return pb.EvaluateStreamRequest(id=id, evaluate=pb.EvaluateRequest(program_name=text), **fields)


def ids(found: pb.EvaluateStreamResponse) -> list[int]:
    return [answer.id for answer in found.joined] or [found.id]


def test_joined_requests_are_answered_each_by_itself_and_together_where_they_are_ready_together():
    async def scenario(pipe, desk, _gate, _running):
        pipe.join(asks(1, "quick"), asks(2, "a"), asks(3, "quick"), asks(4, "b"), asks(5, "quick"))
        assert ids(await pipe.receive()) == [1, 3, 5]
        await until(lambda: len(desk.calls) == 2)
        desk.answer("b")
        desk.answer("a")
        assert ids(await pipe.receive()) == [4, 2]

    session(scenario, joined_count=8)


def test_answers_that_wait_for_the_stream_are_joined_but_what_is_large_goes_alone():
    async def scenario(pipe, desk, _gate, _running):
        pipe.is_free.clear()
        pipe.join(*(asks(id, name) for id, name in enumerate("zabcde")))
        await until(lambda: len(desk.calls) == 6)
        desk.answer("z")
        await asyncio.sleep(0)
        for name in "abc":
            desk.answer(name)
        desk.answers["d"].set_result(Answer(pb.EvaluateResponse(program_name="x" * MOST_BYTES).SerializeToString()))
        desk.answer("e", bytes(CHUNK_BYTES + 1))
        for _ in range(20):
            await asyncio.sleep(0)
        pipe.is_free.set()
        found = [await pipe.receive() for _ in range(6)]
        assert [ids(answer) for answer in found] == [[0], [1, 2, 3], [4], [5], [5], [5]]
        assert all(not part.joined for answer in found for part in answer.joined)

    session(scenario, joined_count=8, max_stream_request_count=6)


@pytest.mark.parametrize(("count", "expected"), [(1, [[1], [2], [3]]), (2, [[1, 2], [3]]), (3, [[1, 2, 3]])])
def test_no_more_answers_are_joined_than_the_caller_takes(count, expected):
    async def scenario(pipe, _desk, _gate, _running):
        pipe.join(*(asks(id, "quick") for id in (1, 2, 3)))
        assert [ids(await pipe.receive()) for _ in expected] == expected

    session(scenario, joined_count=count)


def test_an_error_in_a_joined_request_is_its_alone():
    async def scenario(pipe, desk, _gate, running):
        pipe.join(asks(1, "wrong"), asks(2, "a", request_id="no name"), asks(3, "quick"), asks(4, "b", timeout_s=-1.0))
        found = [part for _ in range(2) for answer in (await pipe.receive(),) for part in (answer.joined or (answer,))]
        found += [] if len(found) == 4 else list((await pipe.receive()).joined)
        assert {part.id: part.WhichOneof("kind") for part in found} == {1: "error", 2: "error", 3: "evaluate", 4: "error"}
        assert not running.done()

    session(scenario, joined_count=8, max_stream_request_count=8)


def test_what_is_answered_at_once_does_not_wait_with_those_that_wait_for_room():
    async def scenario(pipe, desk, _gate, _running):
        pipe.join(asks(1, "a"), asks(2, "b"), asks(3, "c"), asks(4, "quick"), asks(5, "d"), asks(6, "quick"))
        assert ids(await pipe.receive()) == [4]
        assert "d" not in desk.calls
        desk.answer("a")
        assert [ids(await pipe.receive()) for _ in range(2)] == [[1], [6]]
        await until(lambda: "d" in desk.calls)

    session(scenario, joined_count=8)


def test_a_joined_message_may_begin_and_cancel_and_bring_chunks():
    async def scenario(pipe, desk, _gate, _running):
        tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_FLOAT64, shape=[1])
        begins = pb.EvaluateStreamRequest(id=1, evaluate=pb.EvaluateRequest(program_name="a", inputs=[tensor]))
        pipe.join(
            begins,
            pb.EvaluateStreamRequest(id=1, chunk=b"12345678"),
            asks(2, "b"),
            pb.EvaluateStreamRequest(id=2, cancel=pb.Cancel()),
            asks(2, "c"),
        )
        await until(lambda: {"a", "c"} <= desk.calls.keys())
        assert desk.arrived in ([b"12345678"], [])
        desk.answer("c")
        assert (await pipe.receive()).evaluate.program_name == "c"

    session(scenario, joined_count=8)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (pb.EvaluateStreamRequest(joined=[{"joined": [{"id": 1, "cancel": {}}]}]), "not within others"),
        (pb.EvaluateStreamRequest(id=1, cancel={}, joined=[{"id": 1, "cancel": {}}]), "not within others"),
        (pb.EvaluateStreamRequest(joined=[{}]), "needed evaluate, chunk or cancel"),
        (b"\x3a\x00\x08\x01", "nothing beside them"),
        (b"\x3a\x05\x08", "nothing beside them"),
        (b"\x3a", "nothing beside them"),
        (b"\x3a" + 11 * b"\xff", "nothing beside them"),
        (b"\x3a" + 9 * b"\xff" + b"\x01", "nothing beside them"),
    ],
)
def test_joined_messages_that_are_none_end_the_stream(message, text):
    async def scenario(pipe, _desk, _gate, running):
        pipe.inbox.put_nowait(message if isinstance(message, bytes) else message.SerializeToString())
        with pytest.raises(errors.ArgumentError, match=text):
            await running

    session(scenario)


def test_more_joined_messages_than_are_taken_are_refused_before_any_is_looked_at():
    async def scenario(pipe, desk, _gate, running):
        pipe.inbox.put_nowait(b"\x3a\x02\x22\x00" * 10**6)
        with pytest.raises(errors.LimitError) as error:
            await running
        assert error.value.metadata["limit"] == "stream_joined_count"
        assert not desk.calls

    session(scenario, max_stream_joined_count=4)


def test_a_long_message_of_what_is_answered_at_once_lets_others_have_their_turn(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("gradwire_server.streams.time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("gradwire_server.admission.time", types.SimpleNamespace(perf_counter=lambda: 0.0))

    async def scenario(pipe, _desk, _gate, _running):
        pipe.join(*(asks(id, "quick") for id in range(1, 6)))
        assert [ids(await pipe.receive()) for _ in range(3)] == [[1, 2], [3, 4], [5]]

    session(scenario, joined_count=100)


def test_a_used_up_turn_is_left_to_others_between_requests_of_one_message(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("gradwire_server.admission.time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr("gradwire_server.streams._MOMENT_S", float("inf"))  # a busy machine takes longer than that

    async def scenario(pipe, desk, _gate, _running):
        turns: list[int] = []

        async def other() -> None:
            while True:
                turns.append(desk.quick_count)
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        pipe.join(*(asks(id, "quick") for id in range(1, 5)))
        assert ids(await pipe.receive()) == [1, 2, 3, 4]
        task.cancel()
        assert {1, 2, 3} <= set(turns), "each took longer than a turn"

    session(scenario, joined_count=100)


@pytest.mark.parametrize("size", [1000, 100_000])
@pytest.mark.parametrize("timeout_s", [0.0, 60.0])
def test_a_large_request_is_read_where_it_came(size, timeout_s):
    request = pb.EvaluateRequest(program_name=size * "x")
    part = parse(pb.EvaluateStreamRequest(id=300, evaluate=request, timeout_s=timeout_s).SerializeToString())
    assert (part.id, part.timeout_s, bytes(part.content)) == (300, timeout_s, request.SerializeToString())
    assert isinstance(part.content, memoryview) == (size > 2**16)


def announce(pipe: Pipe, id: int, name: str, *lengths: int, **fields) -> None:
    """Begin a request with tensors in chunks, between others that have their elements, or none."""
    apart = [tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_FLOAT64, shape=[length]) for length in lengths]
    others = [encode_tensor(X), tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_FLOAT64, shape=[0, 3])]
    pipe.send(id=id, evaluate=pb.EvaluateRequest(program_name=name, inputs=[*others, *apart]), **fields)


async def failure(pipe: Pipe, id: int) -> errors.GradwireError:
    found = await pipe.receive()
    assert found.id == id
    return decode_status(Status.FromString(found.error.SerializeToString()))


def test_tensors_come_in_chunks_one_after_the_other_between_those_of_other_requests():
    async def scenario(pipe, desk, _gate, running):
        first, second = np.arange(5.0).tobytes(), np.arange(2.0).tobytes()
        announce(pipe, 1, "a", 5, 2)
        announce(pipe, 2, "b", 1)
        for chunk in (first[:7], b"", first[7:], second):
            pipe.send(id=1, chunk=chunk)
            pipe.send(id=2, chunk=chunk[:1])
        await until(lambda: "a" in desk.calls)
        assert desk.arrived == [first, second]
        assert "b" not in desk.calls
        pipe.send(id=1, chunk=b"x")
        with pytest.raises(errors.ArgumentError, match="chunk"):
            await running

    session(scenario)


def test_results_go_in_chunks_and_others_get_in_between():
    async def scenario(pipe, desk, _gate, _running):
        large, small = random.Random(0).randbytes(2 * CHUNK_BYTES + 3), b"abc"
        pipe.is_free.clear()
        pipe.begin(1, "a")
        pipe.begin(2, "b")
        await until(lambda: len(desk.calls) == 2)
        desk.answer("a", large, small)
        await asyncio.sleep(0)
        desk.answer("b")
        await asyncio.sleep(0)
        pipe.is_free.set()
        found = [await pipe.receive() for _ in range(6)]
        assert found.pop(1).id == 2
        assert found[0].evaluate.program_name == "a"
        assert [answer.id for answer in found] == [1] * 5
        assert [len(answer.chunk) for answer in found[1:]] == [CHUNK_BYTES, CHUNK_BYTES, 3, 3]
        assert b"".join(answer.chunk for answer in found[1:]) == large + small

    session(scenario)


def test_too_many_bytes_end_the_request_alone_and_what_follows_comes_for_nothing():
    async def scenario(pipe, desk, _gate, running):
        announce(pipe, 1, "a", 1, 1)
        for _ in range(3):
            pipe.send(id=1, chunk=bytes(9))
        error = await failure(pipe, 1)
        assert "input 2: needed 8 bytes for float64[1], got 9" in error.message
        pipe.send(id=1, chunk=bytes(8))
        announce(pipe, 1, "b", 1)
        pipe.send(id=1, chunk=bytes(8))
        await until(lambda: "b" in desk.calls)
        assert not running.done()

    session(scenario)


def test_the_chunks_of_a_refused_request_come_for_nothing():
    async def scenario(pipe, desk, _gate, running):
        pipe.begin(1, "wrong")
        pipe.send(id=1, chunk=b"abc")
        assert isinstance(await failure(pipe, 1), errors.DtypeError)
        pipe.send(id=1, chunk=b"abc")
        pipe.begin(2, "a")
        await until(lambda: "a" in desk.calls)
        assert not running.done()

    session(scenario)


def test_a_request_whose_chunks_do_not_come_is_given_up():
    async def scenario(pipe, desk, _gate, running):
        announce(pipe, 1, "a", 1)
        assert isinstance(await failure(pipe, 1), errors.DeadlineError)
        pipe.send(id=1, chunk=bytes(8))
        announce(pipe, 2, "b", 10**6)
        for _ in range(20):
            await asyncio.sleep(0.001)
            pipe.send(id=2, chunk=b"x")
        assert (await pipe.receive()).id == 2
        assert not desk.calls
        assert not running.done()

    session(scenario, stall_timeout_s=0.01)


def test_a_request_whose_chunks_can_come_no_more_is_refused_at_once():
    async def scenario(pipe, _desk, _gate, running):
        announce(pipe, 1, "a", 2)
        pipe.send(id=1, chunk=bytes(9))
        pipe.end()
        error = await failure(pipe, 1)
        assert isinstance(error, errors.ArgumentError)
        assert "needed 16 bytes for float64[2], got 9 before the end" in error.message
        await running

    session(scenario)


def test_a_deadline_ends_a_request_whose_chunks_come_slowly():
    async def scenario(pipe, _desk, _gate, _running):
        announce(pipe, 1, "a", 1, timeout_s=0.02)
        assert isinstance(await failure(pipe, 1), errors.DeadlineError)

    session(scenario)


def test_bytes_of_chunks_are_bounded_before_memory_is_taken_and_given_back():
    async def scenario(pipe, desk, _gate, _running):
        announce(pipe, 1, "a", 10**15)
        error = await failure(pipe, 1)
        assert isinstance(error, errors.LimitError)
        assert error.metadata["limit"] == "stream_tensor_bytes"
        announce(pipe, 2, "b", 5 * 2**20)
        announce(pipe, 3, "c", 5 * 2**20)
        error = await failure(pipe, 3)
        assert isinstance(error, errors.OverloadedError)
        assert error.metadata["limit"] == "stream_tensor_bytes"
        pipe.send(id=2, cancel=pb.Cancel())
        announce(pipe, 4, "d", 5 * 2**20)
        for _ in range(40):
            pipe.send(id=4, chunk=bytes(CHUNK_BYTES))
        await until(lambda: "d" in desk.calls)

    session(scenario, max_stream_tensor_bytes=64 * 2**20)


def test_nothing_is_evaluated_while_a_caller_leaves_too_much_unread():
    async def scenario(pipe, desk, _gate, _running):
        pipe.is_free.clear()
        pipe.begin(1, "a")
        await until(lambda: "a" in desk.calls)
        desk.answer("a", bytes(11))
        pipe.begin(2, "b")
        for _ in range(100):
            await asyncio.sleep(0)
        assert "b" not in desk.calls
        pipe.is_free.set()
        await until(lambda: "b" in desk.calls)
        pipe.is_free.clear()
        desk.answer("b", bytes(11))
        pipe.begin(3, "c", timeout_s=0.01)
        await until(lambda: desk.refused)
        pipe.is_free.set()

    session(scenario, max_stream_tensor_bytes=10)


def test_what_is_answered_at_once_overtakes_what_is_not():
    async def scenario(pipe, desk, gate, running):
        pipe.begin(1, "a")
        await until(lambda: "a" in desk.calls)
        for id in range(2, 5):
            pipe.begin(id, "quick")
            found = await pipe.receive()
            assert (found.id, found.evaluate.program_name) == (id, "quick")
        desk.fails = True
        pipe.begin(2, "quick")
        assert isinstance(await failure(pipe, 2), errors.ArgumentError)
        desk.answer("a")
        assert (await pipe.receive()).id == 1
        gate.close()
        with pytest.raises(errors.DrainingError):
            await running
        assert desk.quick_count == 4

    session(scenario)


FULL = errors.OverloadedError("queue: needed a place, got 3 tasks; retry", waiting=3, retry_after_s="0.25", refused_for_s="0.003")


def test_the_like_of_what_was_refused_for_want_of_room_is_refused_unseen():
    async def scenario(pipe, desk, _gate, _running):
        like = "programs/" + 64 * "a"
        pipe.begin(1, like)
        await until(lambda: like in desk.answers)
        desk.answers.pop(like).set_exception(FULL)
        refused = await failure(pipe, 1)
        for id in (2, 3):
            pipe.begin(id, like)
            again = await failure(pipe, id)
            assert (type(again), again.message) == (errors.OverloadedError, FULL.message)
            for text in ("waiting", "retry_after_s"):
                assert again.metadata[text] == refused.metadata[text]
            assert again.metadata["request_id"] != refused.metadata["request_id"]
        assert not desk.answers
        pipe.begin(4, "programs/" + 64 * "b")
        await until(lambda: desk.answers)

    session(scenario)


def test_what_was_refused_for_another_reason_is_looked_at_again():
    async def scenario(pipe, desk, _gate, _running):
        like = "programs/" + 64 * "a"
        for id in (1, 2):
            pipe.begin(id, like)
            await until(lambda: like in desk.answers)
            desk.answers.pop(like).set_exception(errors.LimitError("evaluation: needed less, got more; ask for less"))
            assert isinstance(await failure(pipe, id), errors.LimitError)

    session(scenario)


def test_the_share_of_an_identity_and_the_drain_come_before_what_was_refused():
    async def scenario(pipe, desk, gate, running):
        like = "programs/" + 64 * "a"
        for id in (1, 2):
            pipe.begin(id, like)
            await until(lambda: like in desk.answers)
            desk.answers.pop(like).set_exception(FULL)
            assert (await failure(pipe, id)).message == FULL.message
        pipe.begin(3, "b")
        await until(lambda: "b" in desk.answers)
        gate.close()
        pipe.begin(4, like)
        assert isinstance(await failure(pipe, 4), errors.DrainingError)
        desk.answer("b")
        with pytest.raises(errors.DrainingError):
            await running

    session(scenario, max_identity_call_count=10)


def test_what_is_answered_at_once_waits_for_what_is_being_written():
    async def scenario(pipe, desk, _gate, _running):
        pipe.is_free.clear()
        pipe.begin(1, "a")
        await until(lambda: "a" in desk.calls)
        desk.answer("a", bytes(CHUNK_BYTES + 1))
        for _ in range(20):
            await asyncio.sleep(0)
        pipe.begin(2, "quick")
        pipe.begin(3, "quick")
        for _ in range(20):
            await asyncio.sleep(0)
        pipe.is_free.set()
        found = [await pipe.receive() for _ in range(5)]
        assert sorted(answer.id for answer in found) == [1, 1, 1, 2, 3]

    session(scenario)


@pytest.mark.parametrize("told", [{"request_id": "mine"}, {"timeout_s": 0.001}])
def test_a_request_with_a_name_or_a_close_deadline_of_its_own_is_not_answered_at_once(told):
    async def scenario(pipe, desk, _gate, _running):
        pipe.begin(1, "quick", **told)
        await until(lambda: "quick" in desk.calls)
        assert not desk.quick_count

    session(scenario)


def test_a_deadline_far_off_is_kept_by_what_is_answered_at_once():
    async def scenario(pipe, desk, _gate, _running):
        pipe.begin(1, "quick", timeout_s=60.0)
        assert (await pipe.receive()).id == 1
        assert desk.quick_count == 1

    session(scenario)


def test_no_descriptor_outlives_a_session():
    before = len(list(Path("/proc/self/fd").iterdir()))

    async def scenario(pipe, desk, _gate, running):
        announce(pipe, 1, "a", 1, 1)
        pipe.send(id=1, chunk=bytes(8))
        pipe.begin(2, "b")
        await until(lambda: "b" in desk.calls)
        pipe.is_free.clear()
        desk.answer("b", b"abc", b"def")
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait((running,))

    session(scenario)
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_messages_are_read_as_protobuf_reads_them_or_refused():
    rng = random.Random(7)
    seeds = [
        pb.EvaluateStreamRequest(id=id, **kind, timeout_s=timeout_s, request_id=request_id).SerializeToString()
        for id in (0, 5, -1, 2**62)
        for kind in ({"evaluate": quick()}, {"chunk": b"abc"}, {"cancel": {}}, {"evaluate": {}})
        for timeout_s in (0.0, 1.5)
        for request_id in ("", "name")
    ]
    compared = 0
    for _ in range(20_000):
        message = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(3)):
            message[rng.randrange(min(len(message), 40))] = rng.choice([0, 1, 8, 10, 18, 26, 34, 41, 50, 58, 127, 128, 255])
        try:
            found = parse(bytes(message))
        except errors.ArgumentError:
            continue
        if found.unknown:
            continue
        try:
            read = pb.EvaluateStreamRequest.FromString(bytes(message))
        except DecodeError:
            continue  # what the content is, its reader finds out
        with contextlib.suppress(errors.ArgumentError):
            check_known(read)
            compared += 1
            kind = read.WhichOneof("kind")
            content = read.chunk if kind == "chunk" else getattr(read, kind).SerializeToString()
            assert (found.id, found.request_id) == (read.id % 2**64, read.request_id)
            assert np.array_equal(found.timeout_s, read.timeout_s, equal_nan=True)
            assert pb.EvaluateStreamRequest.DESCRIPTOR.fields_by_name[kind].number == found.kind
            if kind == "chunk":
                assert bytes(found.chunk) == content
            else:
                assert type(getattr(read, kind)).FromString(bytes(found.content)) == getattr(read, kind)
    assert compared > 5000


@pytest.mark.parametrize("id", [0, 1, 127, 128, 2**63 - 1])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000])
def test_answers_are_written_as_protobuf_reads_them(id, size):
    assert pb.EvaluateStreamResponse.FromString(encode_part(id, 3, bytes(size))) == pb.EvaluateStreamResponse(
        id=id, chunk=bytes(size)
    )


def requests(*given, **fields):
    return iter([pb.EvaluateStreamRequest(id=id, evaluate=request, **fields) for id, request in enumerate(given)])


def test_over_grpc_requests_are_answered_and_refused(stub):
    wrong = evaluation(product(), np.ones(4))
    found = {answer.id: answer for answer in stub.EvaluateStream(requests(quick(), wrong, quick(), request_id="mine"))}
    assert sorted(found) == [0, 1, 2]
    for id in (0, 2):
        np.testing.assert_allclose(value(found[id].evaluate), np.sin(X) * X, rtol=1e-15)
    error = decode_status(Status.FromString(found[1].error.SerializeToString()))
    assert isinstance(error, errors.ShapeError)
    assert error.metadata["request_id"] == "mine"


@pytest.mark.parametrize("says_so", [True, False])
def test_over_grpc_messages_are_joined_once_both_sides_have_said_that_they_read_such(stub, says_so):
    call = stub.EvaluateStream(
        iter([pb.EvaluateStreamRequest(joined=requests(quick(), quick(), quick()))]), metadata=[(KEY, "100")] if says_so else None
    )
    assert dict(call.initial_metadata()).get(KEY) == (str(ServerConfig().max_stream_joined_count) if says_so else None)
    found = list(call)
    assert says_so or not any(answer.joined for answer in found)
    parts = [part for answer in found for part in (answer.joined or (answer,))]
    assert sorted(part.id for part in parts) == [0, 1, 2]
    for part in parts:
        np.testing.assert_allclose(value(part.evaluate), np.sin(X) * X, rtol=1e-15)


def test_over_grpc_a_deadline_ends_one_request(stub):
    late, quickly = slow(10_000), quick()
    asked = iter([pb.EvaluateStreamRequest(id=1, evaluate=late, timeout_s=0.3), pb.EvaluateStreamRequest(id=2, evaluate=quickly)])
    found = {answer.id: answer for answer in stub.EvaluateStream(asked)}
    assert found[1].error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert found[2].HasField("evaluate")


def test_over_grpc_a_stream_whose_caller_vanishes_stops_its_work():
    with serving("--workers", "1", "--spare-workers", "0") as server:
        (pid,) = server.worker_pids
        before = cpu_ticks(pid)
        call = server.stub.EvaluateStream(requests(slow(10_000)))
        wait_until(lambda: cpu_ticks(pid) > before + 10)
        call.cancel()
        wait_until(lambda: not is_alive(pid))
        np.testing.assert_allclose(value(server.stub.Evaluate(quick(), wait_for_ready=True)), np.sin(X) * X, rtol=1e-15)


def test_over_grpc_garbage_ends_the_stream_with_its_reason(channel):
    call = channel.stream_stream(f"/{SERVICE}/EvaluateStream")
    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter([b"\xff\xff"])))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "well-formed" in caught.value.details()


def test_over_grpc_large_tensors_go_in_chunks_both_ways(stub):
    x = np.linspace(0, 1, 400_000)
    wide = product(TensorType(Dtype.FLOAT64, x.shape))
    request = evaluation(wide, x)
    data, request.inputs[0].data = request.inputs[0].data, b""
    chunks = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    sent = [pb.EvaluateStreamRequest(id=1, evaluate=request), *(pb.EvaluateStreamRequest(id=1, chunk=chunk) for chunk in chunks)]
    head, *rest = stub.EvaluateStream(iter(sent))
    assert not head.evaluate.results[0].results[0].dense.data
    assert [answer.WhichOneof("kind") for answer in rest] == ["chunk"] * len(chunks)
    found = np.frombuffer(b"".join(answer.chunk for answer in rest))
    np.testing.assert_allclose(found, np.sin(x) * x, rtol=1e-14)


def named(x: np.ndarray) -> pb.EvaluateRequest:
    request = quick()
    request.inputs[0].CopyFrom(encode_name(x))
    return request


def test_over_grpc_a_tensor_is_named_in_a_call_and_in_a_session(stub):
    x = 3 * X
    for found in (refused(stub, named(x)), refused_in_session(stub, named(x))):
        assert isinstance(found, errors.TensorMissingError)
        assert found.metadata["names"] == encode_name(x).name
    stub.CreateTensor(iter([pb.CreateTensorRequest(tensor=encode_tensor(x))]))
    (answer,) = stub.EvaluateStream(requests(named(x)))
    for response in (stub.Evaluate(named(x)), answer.evaluate):
        np.testing.assert_allclose(value(response), np.sin(x) * x, rtol=1e-15)
    both = named(x)
    both.inputs[0].data = x.tobytes()
    assert "needed a name or elements" in refused(stub, both).message
    other = named(x)
    other.inputs[0].shape[0] = 4
    assert isinstance(refused(stub, other), errors.ShapeError)
    nothing = quick()
    nothing.inputs[0].data = b""
    assert "needed 24 bytes" in refused(stub, nothing).message


def refused(stub, request) -> errors.GradwireError:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Evaluate(request)
    return decode_status(rpc_status.from_call(caught.value))


def refused_in_session(stub, request) -> errors.GradwireError:
    (answer,) = stub.EvaluateStream(requests(request))
    return decode_status(Status.FromString(answer.error.SerializeToString()))


def test_much_memory_is_freed_in_a_thread():
    threads: list[int] = []

    class Watched(Segment):
        def close(self) -> None:
            threads.append(threading.get_ident())
            super().close()

    async def scenario() -> None:
        for size in (1, 2**25):
            let_go(Watched.create(size))
        await until(lambda: len(threads) == 2)

    asyncio.run(scenario())
    assert threads[0] == threading.get_ident() != threads[1]


class InProcess:
    """A pool that is one worker of this process."""

    def __init__(self) -> None:
        self.worker = Worker(ServerConfig())
        self.kinds: list[Kind] = []

    async def run(self, task: Frame, timeout_s: float) -> Frame:
        assert timeout_s > 0
        self.kinds.append(task.kind)
        return self.worker.answer(task)


def test_what_is_known_to_be_answered_without_chunks_is_asked_for_as_in_calls():
    async def scenario() -> None:
        config, pool = ServerConfig(inline_budget_s=0), InProcess()
        service = DifferentiationService(config, pool, local_stores(config, {}, NoMetrics()), b"")

        async def none() -> Sequence[Segment]:
            return ()

        async def ask(program: Program, x: np.ndarray) -> Answer:
            request = evaluation(program, x)
            await service.create_program(pb.CreateProgramRequest(program=request.program).SerializeToString(), Call("id", 9.0))
            request.program_name = "programs/" + program.digest
            pool.kinds.clear()
            return await service.evaluate_in_chunks(request.SerializeToString(), Call("id", 9.0), [], none)

        answers = [(await ask(product(), x)).response for x in (X, X, 2 * X)]
        assert answers[0] == answers[1] != answers[2]
        assert set(pool.kinds) == {Kind.EVALUATE}
        wide = TensorType(Dtype.FLOAT64, (2**17 + 1,))
        for _ in range(2):
            assert len((await ask(product(wide), np.ones(wide.shape))).segments) == 1
            assert set(pool.kinds) == {Kind.EVALUATE_IN_CHUNKS}

    asyncio.run(scenario())


def test_a_request_like_those_before_is_still_refused_to_who_does_not_see_its_program():
    async def scenario() -> None:
        config, pool = ServerConfig(inline_budget_s=0), InProcess()
        service = DifferentiationService(config, pool, local_stores(config, {}, NoMetrics()), b"")
        mine, program = Call("id", 9.0, "me"), product()
        request = evaluation(program, X)
        await service.create_program(pb.CreateProgramRequest(program=request.program).SerializeToString(), mine)
        request.program_name = "programs/" + program.digest
        message = request.SerializeToString()
        answers = [await service.evaluate(message, mine) for _ in range(3)]
        assert answers[0] == answers[1] == answers[2]
        asked = len(pool.kinds)
        with pytest.raises(errors.ProgramMissingError):
            await service.evaluate(message, Call("id", 9.0, "you"))
        await service.delete_program(pb.DeleteProgramRequest(name=request.program_name).SerializeToString(), mine)
        with pytest.raises(errors.ProgramMissingError):
            await service.evaluate(message, mine)
        assert len(pool.kinds) == asked

    asyncio.run(scenario())


class Large:
    """A service over one worker of this process, asked for twice the elements of a large tensor in chunks."""

    def __init__(self) -> None:
        config = ServerConfig(inline_budget_s=0)
        self.pool = InProcess()
        self.service = DifferentiationService(config, self.pool, local_stores(config, {}, NoMetrics()), b"")
        self.x = np.arange(2.0**17 + 1)
        self.program = product(TensorType(Dtype.FLOAT64, self.x.shape))

    async def ask(self, identity: str = "me", scale: float = 1.0) -> list[str]:
        """Check an answer, and return the marks of its segments, which are idle then."""
        message = evaluation(self.program, scale * self.x).SerializeToString()
        request = pb.EvaluateRequest.FromString(message)
        request.inputs[0].data = b""
        call = Call("id", 9.0, identity)
        with filled((scale * self.x).tobytes()) as segment:

            async def arrived() -> Sequence[Segment]:
                return (segment,)

            apart = await self.service.find_apart(request.SerializeToString())
            answer = await self.service.evaluate_in_chunks(request.SerializeToString(), call, apart, arrived)
        marks = [segment.mark for segment in answer.segments]
        for segment in answer.segments:
            np.testing.assert_array_equal(np.frombuffer(segment.buffer), np.sin(scale * self.x) * (scale * self.x))
            self.service.idle.give(identity, segment)
        return marks


def test_large_results_come_in_the_memory_of_those_before_of_the_same_identity():
    async def scenario() -> None:
        large = Large()
        (first,) = await large.ask()
        assert await large.ask(scale=2.0) == [first]
        (theirs,) = await large.ask("you")
        assert theirs != first
        assert await large.ask("you", scale=3.0) == [theirs]
        assert await large.ask() == [first]
        assert large.service.idle.nbytes == 2 * large.x.nbytes

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [errors.DeadlineError("late"), asyncio.CancelledError()])
def test_memory_that_a_worker_may_be_at_is_not_used_again(monkeypatch, error):
    async def scenario() -> None:
        large = Large()
        (first,) = await large.ask()

        async def fail(_task: Frame, _timeout_s: float) -> Frame:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(large.pool, "run", fail)
            with pytest.raises(type(error)):
                await large.ask()
        assert large.service.idle.nbytes == 0
        assert await large.ask() != [first]

    asyncio.run(scenario())


@pytest.mark.parametrize("is_read", [True, False])
def test_the_memory_of_tensors_that_came_is_used_again_once_a_worker_is_done_with_it(is_read):
    async def scenario() -> None:
        held, kept = Held("chunked_bytes", 2**23), Idle()
        tensors = [Apart("input 0", TensorType(Dtype.FLOAT64, (2**17,)), "")]
        marks = []
        for byte in b"xy":
            arriving = Arriving(tensors, held, 1.0, kept, "me")
            arriving.add(memoryview(bytes([byte]) * 2**19))
            arriving.add(memoryview(bytes([byte]) * 2**19))
            (segment,) = await arriving.wait(1.0)
            assert bytes(segment.buffer) == bytes([byte]) * 2**20
            marks.append(segment.mark)
            arriving.close(is_read=is_read)
            arriving.close(is_read=is_read)
            assert kept.nbytes == is_read * 2**20
        assert (marks[0] == marks[1]) is is_read
        half = Arriving(tensors, held, 1.0, kept, "me")
        half.add(memoryview(b"z" * 2**19))
        half.close()
        assert kept.nbytes == 0

    asyncio.run(scenario())
