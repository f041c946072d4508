"""Streams and calls over loopback, with servers that are made of a few lines: what the backends do when things go wrong."""

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

import gradwire as gw
from gradwire._lines import Lines
from gradwire_core import errors
from gradwire_proto import joined
from gradwire_proto.evaluation import encode_result
from gradwire_proto.status import encode_status
from gradwire_proto.tensor import decode_tensor, tensor_hash, tensor_name
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from tests.client.wires import Wire
from tests.server.secure import Authority

X = np.array([1.0, 2.0])
WAIT_S = 60.0


class Fake:
    """A server that answers an evaluation by its first input, squared. What it does else is set by its attributes.

    Attributes:
        has_streams: whether it knows EvaluateStream.
        held: set to let requests that say they wait be answered.
        refusals: errors that the next requests get instead of an answer.
        peers: who opened streams.
        left: counts the streams that their callers left.
        broken: how many streams are broken off at their first request.
        counts: how many messages came, by rpc.
    """

    def __init__(self, *, has_streams=True, credentials=None):
        self.has_streams = has_streams
        self.held = threading.Event()
        self.held.set()
        self.refusals = []
        self.broken = 0
        self.counts = {"Evaluate": 0, "EvaluateStream": 0, "CreateTensor": 0, "cancel": 0}
        self.peers = set()
        self.left = threading.Semaphore(0)
        self.tensor_bytes = 0
        self.tensors = {}
        self.came = threading.Semaphore(0)
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(16))
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("gradwire.v1.DifferentiationService", self._rpcs()),)
        )
        if credentials is None:
            self.port = self.server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self.server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{self.port}"
        self.server.start()

    def _rpcs(self):
        found = {
            "Evaluate": grpc.unary_unary_rpc_method_handler(
                self.evaluate, pb.EvaluateRequest.FromString, pb.EvaluateResponse.SerializeToString
            ),
            "CreateTensor": grpc.stream_unary_rpc_method_handler(
                self.create_tensor, pb.CreateTensorRequest.FromString, pb.CreateTensorResponse.SerializeToString
            ),
        }
        if self.has_streams:
            found["EvaluateStream"] = grpc.stream_stream_rpc_method_handler(
                self.evaluate_stream, pb.EvaluateStreamRequest.FromString, pb.EvaluateStreamResponse.SerializeToString
            )
        return found

    def answer(self, request):
        named = request.inputs[0].name
        array = self.tensors[named] if named else decode_tensor(request.inputs[0])
        return pb.EvaluateResponse(results=[pb.OutputResult(results=[encode_result(array**2)])])

    def evaluate(self, request, context):
        self.counts["Evaluate"] += 1
        self.came.release()
        self.held.wait(WAIT_S)
        if self.refusals:
            error = self.refusals.pop(0)
            context.set_trailing_metadata((("grpc-status-details-bin", encode_status(error).SerializeToString()),))
            context.abort(getattr(grpc.StatusCode, error.code), error.message)
        return self.answer(request)

    def evaluate_stream(self, requests, context):
        self.peers.add(context.peer())
        context.add_callback(self.left.release)
        for message in requests:
            kind = message.WhichOneof("kind")
            self.counts["cancel" if kind == "cancel" else "EvaluateStream"] += 1
            self.came.release()
            if kind != "evaluate":
                continue
            if self.broken:
                self.broken -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "broken off")
            self.held.wait(WAIT_S)
            if self.refusals:
                status = encode_status(self.refusals.pop(0))
                error = pb.Status.FromString(status.SerializeToString())
                yield pb.EvaluateStreamResponse(id=message.id, error=error)
            else:
                yield pb.EvaluateStreamResponse(id=message.id, evaluate=self.answer(message.evaluate))

    def create_tensor(self, requests, context):
        self.counts["CreateTensor"] += 1
        first = next(requests).tensor
        data = first.data + b"".join(item.data for item in requests)
        self.tensor_bytes += len(data)
        array = decode_tensor(first, elements=data)
        from gradwire_core.types import TensorType

        hash = tensor_hash(TensorType.of(array))
        hash.update(data)
        name = tensor_name(hash.hexdigest())
        self.tensors[name] = array
        return pb.CreateTensorResponse(name=name)

    def stop(self):
        self.held.set()
        self.server.stop(None).wait()


class JoiningFake(Fake):
    """One that reads joined requests, and joins the answers to them.

    Attributes:
        joined: how many requests came in each message.
    """

    def __init__(self):
        self.joined = []
        super().__init__()

    def evaluate_stream(self, requests, context):
        assert int(dict(context.invocation_metadata())[joined.KEY]) > 1
        context.send_initial_metadata([(joined.KEY, "8")])
        for message in requests:
            parts = message.joined or (message,)
            self.joined.append(len(parts))
            yield pb.EvaluateStreamResponse(joined=super().evaluate_stream(iter(parts), context))


@pytest.fixture
def fake():
    found = Fake()
    yield found
    found.stop()


@contextlib.contextmanager
def sync_client(address, **settings):
    with gw.connect(address, **settings) as client:
        yield client.evaluate(np.square)


@contextlib.contextmanager
def async_client(address, **settings):
    with asyncio.Runner() as runner:
        client = gw.AsyncClient(address, gw.ClientConfig(**settings))

        async def evaluate(x):
            return await client.evaluate(np.square)(x)

        async def close():
            await client.close()

        try:
            yield lambda x: runner.run(evaluate(x))
        finally:
            runner.run(close())


@pytest.fixture(params=[sync_client, async_client], ids=["sync", "async"])
def connect(request):
    return request.param


def test_requests_share_a_stream(fake, connect):
    with connect(fake.address) as square:
        for step in range(5):
            np.testing.assert_array_equal(square(X + step), (X + step) ** 2)
    assert fake.counts["EvaluateStream"] == 5
    assert fake.counts["Evaluate"] == 0


def test_an_older_server_is_asked_by_calls(connect):
    fake = Fake(has_streams=False)
    try:
        with connect(fake.address) as square:
            for _ in range(3):
                np.testing.assert_array_equal(square(X), X**2)
        assert fake.counts["Evaluate"] == 3
    finally:
        fake.stop()


def test_sessions_can_be_switched_off(fake, connect):
    with connect(fake.address, sessions=False) as square:
        np.testing.assert_array_equal(square(X), X**2)
    assert fake.counts == {"Evaluate": 1, "EvaluateStream": 0, "CreateTensor": 0, "cancel": 0}


def test_what_a_retry_helps_is_repeated_in_the_stream(fake, connect):
    fake.refusals = [errors.OverloadedError("server: needed room, got none; retry", retry_after_s=0.01)] * 3
    with connect(fake.address) as square:
        np.testing.assert_array_equal(square(X), X**2)
    assert fake.counts["EvaluateStream"] == 4


def test_a_draining_server_is_left_for_a_new_connection(fake, connect):
    with connect(fake.address) as square:
        square(X)
        fake.refusals = [errors.DrainingError("server: needed to run, got told to stop; retry")]
        np.testing.assert_array_equal(square(X), X**2)
        assert len(fake.peers) == 2


def test_an_old_connection_is_replaced_and_closed_without_a_failed_call(fake, connect):
    with connect(fake.address, connection_age_s=1e-9) as square:
        for _ in range(3):
            count = len(fake.peers)
            while len(fake.peers) == count:
                np.testing.assert_array_equal(square(X), X**2)
        assert fake.left.acquire(timeout=WAIT_S)
        assert fake.left.acquire(timeout=WAIT_S)
    assert fake.counts["Evaluate"] == fake.counts["cancel"] == 0


@pytest.fixture
def replaced(monkeypatch):
    """Counts the connections that were replaced."""
    count = threading.Semaphore(0)
    replace = Lines.replace

    def noted(*arguments):
        replace(*arguments)
        count.release()

    monkeypatch.setattr(Lines, "replace", noted)
    return count


def test_a_call_over_an_old_connection_is_answered_there(fake, replaced):
    fake.held.clear()
    with gw.connect(fake.address, connection_age_s=1e-9) as client, concurrent.futures.ThreadPoolExecutor(4) as pool:
        square = client.evaluate(np.square)
        calls = [pool.submit(square, X)]
        assert fake.came.acquire(timeout=WAIT_S)
        calls.append(pool.submit(square, X))  # it finds the connection old, but goes over it
        assert replaced.acquire(timeout=WAIT_S)
        calls.append(pool.submit(square, X))
        assert fake.came.acquire(timeout=WAIT_S)
        assert len(fake.peers) == 2
        assert not fake.left.acquire(blocking=False)
        fake.held.set()
        for call in calls:
            np.testing.assert_array_equal(call.result(), X**2)
        assert fake.left.acquire(timeout=WAIT_S)
    assert fake.counts == {"Evaluate": 0, "EvaluateStream": 3, "CreateTensor": 0, "cancel": 0}


@pytest.mark.parametrize("is_session", [True, False])
def test_calls_that_are_under_way_at_a_time_outlive_their_connections(fake, replaced, is_session):
    with gw.connect(fake.address, connection_age_s=1e-9, sessions=is_session) as client:
        found = list(client.map(np.square, [X + step for step in range(300)], in_flight=8))
    for step, item in enumerate(found):
        np.testing.assert_array_equal(item, (X + step) ** 2)
    assert replaced.acquire(timeout=WAIT_S)
    assert fake.counts["EvaluateStream" if is_session else "Evaluate"] == 300


def test_an_old_connection_is_kept_where_no_other_can_be_made(fake, connect, monkeypatch):
    tried = threading.Semaphore(0)
    give_back = Lines.give_back
    spares = set()
    monkeypatch.setattr(Lines, "spare", lambda self, replica, spare=Lines.spare: spares.add(line := spare(self, replica)) or line)

    def noted(self, line):
        give_back(self, line)
        if line in spares:
            tried.release()

    monkeypatch.setattr(Lines, "give_back", noted)
    wire = Wire(fake.address)
    try:
        with connect(wire.address, connection_age_s=1e-9, unreachable_s=0.1) as square:
            square(X)
            wire.end()
            while not tried.acquire(blocking=False):
                np.testing.assert_array_equal(square(X), X**2)
        assert len(fake.peers) == 1
    finally:
        wire.close()


def test_a_stream_broken_off_is_opened_again(fake, connect):
    with connect(fake.address) as square:
        square(X)
        fake.broken = 2
        np.testing.assert_array_equal(square(X), X**2)
    assert fake.counts["EvaluateStream"] == 4


def test_large_arrays_cross_once_and_back_each_time(fake, connect):
    data = np.arange(20_000.0)
    with connect(fake.address) as square:
        for _ in range(5):
            np.testing.assert_array_equal(square(data.copy()), data**2)
    assert fake.counts["CreateTensor"] == 1
    assert fake.tensor_bytes == data.nbytes


def test_a_late_answer_is_given_up(fake, connect):
    fake.held.clear()
    with connect(fake.address, timeout_s=0.2) as square:
        with pytest.raises(gw.DeadlineError, match=r"needed an answer within 0.2 s"):
            square(X)
        fake.held.set()
        np.testing.assert_array_equal(square(X), X**2)
        assert fake.counts["cancel"] == 1


def test_a_hedge_is_asked_when_an_answer_takes_long(connect):
    slow, quick = Fake(), Fake()
    slow.held.clear()
    try:
        with connect(f"ipv4:127.0.0.1:{slow.port},127.0.0.1:{quick.port}", hedge_after_s=0.05) as square:
            for _ in range(2):
                np.testing.assert_array_equal(square(X), X**2)
        assert quick.counts["EvaluateStream"] >= 2
    finally:
        slow.stop()
        quick.stop()


def test_one_of_two_addresses_may_be_dead_from_the_start(fake, connect):
    dead = Fake()
    dead.stop()
    with connect(f"ipv4:127.0.0.1:{dead.port},127.0.0.1:{fake.port}") as square:
        for _ in range(4):
            np.testing.assert_array_equal(square(X), X**2)


def test_both_addresses_are_asked(fake, connect):
    other = Fake()
    try:
        with connect(f"ipv4:127.0.0.1:{other.port},127.0.0.1:{fake.port}") as square:
            for _ in range(6):
                square(X)
        assert fake.counts["EvaluateStream"] == other.counts["EvaluateStream"] == 3
    finally:
        other.stop()


def test_a_name_of_several_addresses_is_looked_up(fake, connect, monkeypatch):
    looked_up = []

    def look_up(host, port, *args, **kwargs):
        looked_up.append((host, port))
        return [(2, 1, 6, "", ("127.0.0.1", fake.port)), (10, 1, 6, "", ("::1", fake.port, 0, 0))]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    with connect("dns:///replicas.example.org:1", unreachable_s=5.0) as square:
        for _ in range(3):
            np.testing.assert_array_equal(square(X), X**2)
    assert looked_up == [("replicas.example.org", 1)]
    assert fake.counts["EvaluateStream"] == 3  # nobody listens at the other


def test_a_name_that_nobody_has_is_unreachable(connect, monkeypatch):
    def look_up(*args, **kwargs):
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    with (
        connect("dns:///nobody.example.org:1", unreachable_s=0.2) as square,
        pytest.raises(gw.UnreachableError, match="Name or service not known"),
    ):
        square(X)


@pytest.mark.parametrize("name", ["replicas.example.org", "others.example.org"])
def test_certificates_are_for_the_name_not_for_its_addresses(connect, monkeypatch, tmp_path, name):
    authority = Authority(tmp_path)
    chain, key = (Path(file).read_bytes() for file in authority.issue("replicas.example.org"))
    fake = Fake(credentials=grpc.ssl_server_credentials([(key, chain)]))
    found = [(2, 1, 6, "", ("127.0.0.1", fake.port))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: found)
    try:
        with connect(f"dns:///{name}:1", ca_file=authority.ca_file, unreachable_s=0.5) as square:
            if name == "replicas.example.org":
                np.testing.assert_array_equal(square(X), X**2)
            else:
                with pytest.raises(gw.UnreachableError, match="certificate for that name"):
                    square(X)
    finally:
        fake.stop()


def test_threads_share_a_client(fake):
    with gw.connect(fake.address) as client, concurrent.futures.ThreadPoolExecutor(8) as pool:
        square = client.evaluate(np.square)
        found = list(pool.map(lambda step: square(X + step), range(200)))
    for step, item in enumerate(found):
        np.testing.assert_array_equal(item, (X + step) ** 2)


def test_connections_that_break_fail_no_call(fake):
    other = Fake()
    wires = [Wire(fake.address), Wire(other.address)]
    data = np.arange(10_000.0)
    points = [data if step % 7 == 0 else X + step for step in range(40)]
    try:
        with (
            gw.connect("ipv4:" + ",".join(wire.address for wire in wires), unreachable_s=WAIT_S) as client,
            concurrent.futures.ThreadPoolExecutor(6) as pool,
        ):
            square = client.evaluate(np.square)
            calls = [pool.submit(lambda: list(map(square, points))) for _ in range(5)]
            calls.append(pool.submit(lambda: list(client.map(square, points, in_flight=5))))
            for number in range(20):
                wires[number % 2].cut()
                concurrent.futures.wait(calls, timeout=0.05)
            for call in calls:
                for item, x in zip(call.result(WAIT_S), points, strict=True):
                    np.testing.assert_array_equal(item, x**2)
    finally:
        for item in (*wires, fake, other):
            (item.close if isinstance(item, Wire) else item.stop)()


def test_closing_cancels_what_is_under_way(fake):
    fake.held.clear()
    client = gw.connect(fake.address)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(client.evaluate(np.square), X) for _ in range(3)]
        assert fake.came.acquire(timeout=WAIT_S)
        client.close()
        for call in calls:
            with pytest.raises(gw.CancelledError, match="the call was cancelled"):
                call.result(WAIT_S)
    with pytest.raises(gw.ArgumentError, match="needed an open client"):
        client.evaluate(np.square)(X)
    client.close()


@pytest.mark.parametrize("sessions", [True, False])
@pytest.mark.parametrize("is_map", [True, False])
def test_closing_ends_pauses(fake, sessions, is_map):
    fake.refusals = [errors.OverloadedError("server: needed room, got none; retry", retry_after_s=50.0)]
    client = gw.connect(fake.address, sessions=sessions)
    square = (lambda x: list(client.map(np.square, [x]))) if is_map else client.evaluate(np.square)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(square, X)
        assert fake.came.acquire(timeout=WAIT_S)
        concurrent.futures.wait([call], timeout=0.1)  # so that it pauses
        client.close()
        with pytest.raises(gw.CancelledError):
            call.result(20.0)


async def test_closing_cancels_what_is_awaited(fake):
    fake.held.clear()
    client = gw.AsyncClient(fake.address)
    calls = [asyncio.create_task(client.evaluate(np.square)(X)) for _ in range(3)]
    assert await asyncio.to_thread(fake.came.acquire, timeout=WAIT_S)
    await client.close()
    for call in calls:
        with pytest.raises(gw.CancelledError, match="the call was cancelled"):
            await call


async def test_a_task_that_is_cancelled_takes_its_request_back(fake):
    fake.held.clear()
    async with gw.AsyncClient(fake.address) as client:
        call = asyncio.create_task(client.evaluate(np.square)(X))
        assert await asyncio.to_thread(fake.came.acquire, timeout=WAIT_S)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        fake.held.set()
        np.testing.assert_array_equal(await client.evaluate(np.square)(X), X**2)
    assert fake.counts["cancel"] == 1


# -- many at a time ------------------------------------------------------------------------------------------------------------


def test_a_map_keeps_the_order_and_the_bound(fake):
    taken = []

    def batches():
        for step in range(50):
            taken.append(step)
            yield X + step

    with gw.connect(fake.address) as client:
        found = client.map(client.evaluate(np.square), batches(), in_flight=7)
        assert taken == []
        for step in range(50):
            np.testing.assert_array_equal(next(found), (X + step) ** 2)
            assert len(taken) <= step + 7
        assert list(found) == []


def test_a_map_takes_as_many_arguments_as_its_function(fake):
    with gw.connect(fake.address) as client:
        found = list(client.map(lambda x, y: x + 0 * y, [X, X + 1], (1.0, 2.0)))
        np.testing.assert_array_equal(found, [X**2, (X + 1) ** 2])  # as this server has it
        with pytest.raises(ValueError, match="shorter"):
            list(client.map(lambda x, y: x, [X, X], [1.0]))
        for wrong in (0, -1, 2.5, None):
            with pytest.raises(gw.ArgumentError, match="in_flight as a positive integer"):
                client.map(np.square, [X], in_flight=wrong)
        with pytest.raises(gw.ArgumentError, match="needed values"):
            client.map(np.square)


def test_a_map_that_fails_says_so_in_its_turn(fake):
    fake.refusals = [errors.OverloadedError("server: needed room, got none; retry", retry_after_s=0.01)] * 2
    with gw.connect(fake.address) as client:
        found = client.map(np.square, [X, X + 1, X + 2], in_flight=2)
        np.testing.assert_array_equal(next(found), X**2)
        fake.refusals = [errors.ShapeError("here: needed this, got that; do so")] * 2
        with pytest.raises(gw.ShapeError):
            list(found)
        fake.refusals = []
        np.testing.assert_array_equal(client.evaluate(np.square)(X), X**2)


def test_a_map_that_is_left_takes_its_requests_back(fake):
    with gw.connect(fake.address) as client:
        found = client.map(np.square, [X + step for step in range(20)], in_flight=5)
        next(found)
        fake.held.clear()
        found.close()
        fake.held.set()
        np.testing.assert_array_equal(client.evaluate(np.square)(X), X**2)
        assert fake.counts["EvaluateStream"] <= 7


def test_a_map_outlives_lost_streams_and_late_answers(fake):
    with gw.connect(fake.address) as client:
        list(client.map(np.square, [X]))
        fake.broken = 2
        found = list(client.map(np.square, [X + step for step in range(10)], in_flight=4))
        np.testing.assert_array_equal(found, [(X + step) ** 2 for step in range(10)])
    fake.held.clear()
    with gw.connect(fake.address, timeout_s=0.2) as client, pytest.raises(gw.DeadlineError):
        list(client.map(np.square, [X, X]))


def test_a_map_stores_a_tensor_once(fake):
    data = np.arange(20_000.0)
    with gw.connect(fake.address) as client:
        found = list(client.map(lambda d, x: d * x, [data] * 10, range(10), in_flight=5))
    assert len(found) == 10
    assert fake.counts["CreateTensor"] == 1


def test_a_map_asks_an_older_server_too():
    fake = Fake(has_streams=False)
    try:
        with gw.connect(fake.address) as client:
            found = list(client.map(np.square, [X + step for step in range(10)], in_flight=4))
        np.testing.assert_array_equal(found, [(X + step) ** 2 for step in range(10)])
    finally:
        fake.stop()


async def test_a_map_is_awaited(fake):
    async with gw.AsyncClient(fake.address) as client:
        found = [item async for item in client.map(np.square, [X + step for step in range(20)], in_flight=5)]
        np.testing.assert_array_equal(found, [(X + step) ** 2 for step in range(20)])
        fake.refusals = [errors.ShapeError("here: needed this, got that; do so")]
        with pytest.raises(gw.ShapeError):
            _ = [item async for item in client.map(np.square, [X, X], in_flight=5)]


async def test_what_waits_at_the_same_time_goes_as_one_and_is_answered_each_by_itself():
    fake = JoiningFake()
    try:
        async with gw.AsyncClient(fake.address) as client:
            square = client.evaluate(np.square)
            np.testing.assert_array_equal(await square(X), X**2)
            found = await asyncio.gather(*(square(X + step) for step in range(20)))
            np.testing.assert_array_equal(found, [(X + step) ** 2 for step in range(20)])
            assert max(fake.joined) == 8, "as many as the server takes"
            fake.refusals = [errors.ShapeError("here: needed this, got that; do so")]
            found = await asyncio.gather(*(square(X + step) for step in range(20)), return_exceptions=True)
            assert [isinstance(item, gw.ShapeError) for item in found].count(True) == 1
    finally:
        fake.stop()


def test_threads_and_maps_share_a_stream_whose_messages_are_joined():
    fake = JoiningFake()
    try:
        with gw.connect(fake.address) as client, concurrent.futures.ThreadPoolExecutor(8) as threads:
            found = list(client.map(np.square, [X + step for step in range(50)], in_flight=20))
            np.testing.assert_array_equal(found, [(X + step) ** 2 for step in range(50)])
            square = client.evaluate(np.square)
            found = list(threads.map(lambda step: square(X + step), range(50)))
            np.testing.assert_array_equal(found, [(X + step) ** 2 for step in range(50)])
        assert sum(fake.joined) == 100
    finally:
        fake.stop()


# -- processes -----------------------------------------------------------------------------------------------------------------


def run(script, address):
    source = f"import gradwire as gw, numpy as np, os, sys\naddress = {address!r}\n{textwrap.dedent(script)}"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_forked_process_is_told_to_connect_itself(fake):
    script = """
        client = gw.connect(address)
        square = client.evaluate(np.square)
        square(np.ones(2))
        if os.fork() == 0:
            try:
                square(np.ones(2))
            except gw.ArgumentError as error:
                print(error, flush=True)
            client.close()
            os._exit(0)
        os.wait()
        print(square(np.ones(2)))
    """
    with run(script, fake.address) as process:
        out, err = process.communicate(timeout=WAIT_S)
    assert "needed a client of this process, got one from before it was forked; connect here, or start processes by" in out
    assert out.endswith("[1. 1.]\n"), err


@pytest.mark.parametrize("opened", ["gw.connect(address)", "gw.connect(address, sessions=False)"])
def test_a_process_ends_although_a_client_is_open(fake, opened):
    with run(f"client = {opened}\nprint(client.evaluate(np.square)(np.ones(2)))", fake.address) as process:
        out, err = process.communicate(timeout=WAIT_S)
    assert (out, err, process.returncode) == ("[1. 1.]\n", "", 0)


def test_a_process_ends_although_an_asyncio_client_is_open(fake):
    script = """
        import asyncio
        async def main():
            global client
            client = gw.AsyncClient(address)
            print(await client.evaluate(np.square)(np.ones(2)))
        asyncio.run(main())
    """
    with run(script, fake.address) as process:
        out, _ = process.communicate(timeout=WAIT_S)
    assert (out, process.returncode) == ("[1. 1.]\n", 0)


@pytest.mark.parametrize("call", ["client.evaluate(np.square)(np.ones(2))", "list(client.map(np.square, [np.ones(2)] * 3))"])
def test_a_call_can_be_interrupted(fake, call):
    fake.held.clear()
    script = f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background is born to ignore
        client = gw.connect(address)
        try:
            {call}
        except KeyboardInterrupt:
            print("interrupted")
    """
    with run(script, fake.address) as process:
        assert fake.came.acquire(timeout=WAIT_S)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)  # so that it waits
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S)
    assert out == "interrupted\n", err


def test_a_client_that_is_dropped_closes_its_connection(fake):
    client = gw.connect(fake.address)
    client.evaluate(np.square)(X)
    line = next(iter(client._backend._lines))
    del client
    assert line._stream.error is not None
