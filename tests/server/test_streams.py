"""Sessions: without gRPC, over streams that the tests feed and read themselves; then over gRPC, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import random

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from gradwire_core import errors
from gradwire_proto.known import check_known
from gradwire_proto.status import decode_status
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.admission import Admission, Gate
from gradwire_server.calls import Call
from gradwire_server.config import ServerConfig
from gradwire_server.metrics import NoMetrics
from gradwire_server.quotas import Quotas
from gradwire_server.service import SERVICE
from gradwire_server.streams import Session, encode_part, parse
from tests.server.processes import cpu_ticks, is_alive, serving
from tests.server.requests import PATIENCE_S, X, evaluation, product, quick, slow, until, value, wait_until

FEW = 3


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

    def end(self) -> None:
        self.inbox.put_nowait(None)

    async def receive(self) -> pb.EvaluateStreamResponse:
        async with asyncio.timeout(PATIENCE_S):
            return pb.EvaluateStreamResponse.FromString(await self.outbox.get())


class Desk:
    """Answers requests when the test says so."""

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}
        self.answers: dict[str, asyncio.Future[bytes]] = {}
        self.cancelled: list[str] = []

    async def __call__(self, message: bytes, call: Call) -> bytes:
        name = pb.EvaluateRequest.FromString(message).program_name
        self.calls[name] = call
        self.answers[name] = asyncio.get_running_loop().create_future()
        try:
            return await self.answers[name]
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise

    def answer(self, name: str) -> None:
        self.answers[name].set_result(pb.EvaluateResponse(program_name=name).SerializeToString())


def session(scenario, config: ServerConfig | None = None, timeout_s: float = 100.0) -> None:
    """Run a scenario with the other end of a session, the desk behind it, the gate before it, and its task."""

    async def run() -> None:
        pipe, desk, gate = Pipe(), Desk(), Gate()
        admission = Admission(gate, Quotas(config or ServerConfig()), NoMetrics())
        running = asyncio.create_task(Session(pipe, Call("stream", timeout_s), admission, desk, FEW).run())
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

    session(scenario, ServerConfig(max_identity_call_count=1))


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
            message[rng.randrange(min(len(message), 40))] = rng.choice([0, 1, 8, 10, 18, 26, 34, 41, 50, 127, 128, 255])
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
                assert found.content == content
            else:
                assert type(getattr(read, kind)).FromString(found.content) == getattr(read, kind)
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
