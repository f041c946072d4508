"""Work that takes time, arrays that take memory, and data that crosses the wire: where processes and bytes are what counts."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
import numpy as np
from _generator import Generators, Target, median
from _servers import ANY_SIZE, SERVICE, Running, gradwire, running, stub
from _verdicts import Report

import gradwire as gw
from gradwire_core.engine import Output, compile
from gradwire_proto.program import encode_program
from gradwire_proto.tensor import encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.wire import fields

HERE = Path(__file__).parent
MIB = 2**20

# -- two workers -------------------------------------------------------------------------------------------------------------

TASK_S = 0.02
MATRIX = 2.0 * np.eye(200)


def _task(count: int):
    def task(x):
        for _ in range(count):
            x = np.sin(np.linalg.inv(x)) + x
        return x

    return task


def _calibrated() -> gw.Program:
    """Return a program that takes about 20 ms on one thread here and now."""
    program = gw.trace(_task(4), MATRIX)
    executable = compile(program, [Output()])
    executable.run([MATRIX])
    spent_s = min(_timed(lambda: executable.run([MATRIX])) for _ in range(9))
    return gw.trace(_task(max(1, round(4 * TASK_S / spent_s))), MATRIX)


def _timed(call: Callable[[], object]) -> float:
    began_s = time.process_time()
    call()
    return time.process_time() - began_s


def two_workers(report: Report, generators: Generators, *, seconds: float, rounds: int) -> None:
    """Measure two workers beside one, on tasks of 20 ms, and beside what the machine has to give: two servers beside one."""
    program = _calibrated()
    with contextlib.ExitStack() as stack:
        addresses = [stack.enter_context(gradwire("--workers", str(count))).address for count in (1, 2)]
        requests = [_name(address, program) for address in addresses]
        targets = [
            Target(f"{count} workers", "session", address, (SERVICE + "EvaluateStream",), (request,))
            for count, address, request in zip((1, 2), addresses, requests, strict=True)
        ]
        turns = [[generators.run(target, 8, seconds) for target in targets] for _ in range(rounds)]
    one, two = [median(column) for column in zip(*turns, strict=True)]
    report.figures["two_workers"] = {"one": one, "two": two}
    report.at_least("two workers by one, tasks of 20 ms: rate", two.rate / one.rate, 1.8)


def _name(address: str, program: gw.Program) -> bytes:
    """Register a program of the matrix, and return a request that names it and asks for its sum by a small answer."""
    inputs, outputs = [encode_tensor(MATRIX)], [pb.Output()]
    with stub(address) as found:
        answer = found.Evaluate(pb.EvaluateRequest(program=encode_program(program), inputs=inputs, outputs=outputs))
        return pb.EvaluateRequest(program_name=answer.program_name, inputs=inputs, outputs=outputs).SerializeToString()


# -- large arrays ------------------------------------------------------------------------------------------------------------

LARGE_BYTES = 100_000_000
LONG_RUN_S = 60.0
"""So long at most until a worker runs compiled loops."""
ROUNDS_AFTER = 30


def waves(x):
    """A function whose loops are worth compiling."""
    return x * np.exp(-0.5 * x * x) + np.tanh(x)


def large(report: Report, *, size: int, rounds: int) -> None:
    """Measure an array in and one of its size out, beside a bare stream of the same chunks, and the memory that this takes.

    The messages are made beforehand, and of those that come the first bytes are looked at: what is measured is the service. Then a
    function goes over to compiled loops, and what that takes is memory of the server too.
    """
    x = np.random.default_rng(0).normal(size=size // 8)
    limits = ("--max-peak-bytes", str(16 * size), "--max-element-count", str(max(2**28, size)))
    with gradwire("--workers", "2", *limits) as server, running([sys.executable, str(HERE / "_bare.py")]) as bare:
        before = server.settle()
        content, expected = x.tobytes(), 2.0 * x
        asked, given = _messages(encode_program(gw.trace(lambda x: 2.0 * x, x)), x.shape, content), _bare_messages(content)

        async def measure() -> tuple[list[float], list[float], int]:
            async with _channel(server.address) as ours, _channel(bare.address) as theirs:
                await _in_chunks(ours, asked, expected)
                await _bare(theirs, given, expected)
                spent: list[tuple[float, float]] = []
                with _watching(server) as peak:
                    for _ in range(rounds):
                        mine = await _clock(_in_chunks(ours, asked, expected))
                        spent.append((mine, await _clock(_bare(theirs, given, expected))))
                return *map(list, zip(*spent, strict=True)), peak.most

        mine, other, peak = asyncio.run(measure())
        ours_s, bare_s = statistics.median(mine), statistics.median(other)
        report.figures["large"] = {
            "bytes": size, "gradwire_s": ours_s, "bare_s": bare_s, "peak_bytes": peak, "bytes_before": before
        }  # fmt: skip
        report.at_most(f"{size / 1e6:.0f} MB in and out ({ours_s:.2f} s) by a bare stream ({bare_s:.2f} s)", ours_s / bare_s, 1.3)
        report.at_most(f"{MEMORY}, by the payload", (peak - before) / size, 3.0)
    with gradwire("--workers", "2", *limits) as server:
        _in_long_run(report, server, x)


MEMORY = "proportional set size of front end and workers, over that of an unused server"


def _in_long_run(report: Report, server: Running, x: np.ndarray) -> None:
    """Measure the memory until, and while, a worker runs compiled loops."""
    if importlib.util.find_spec("numba") is None:
        print('numba is not installed (pip install "gradwire[jit]"): nothing is compiled', file=sys.stderr)
        return
    before = server.settle()
    asked, expected = _messages(encode_program(gw.trace(waves, x)), x.shape, x.tobytes()), waves(x)

    async def measure() -> tuple[Watched, bool]:
        began_s, left = time.perf_counter(), ROUNDS_AFTER
        async with _channel(server.address) as channel:
            with _watching(server) as peak:
                while left and time.perf_counter() < began_s + LONG_RUN_S:
                    await _in_chunks(channel, asked, expected)
                    left -= server.is_native
            return peak, not left

    peak, is_native = asyncio.run(measure())
    if not is_native:
        raise RuntimeError(f"no worker went over to compiled loops within {LONG_RUN_S:.0f} s")
    report.figures["large_native"] = {"bytes_before": before, "peak_bytes": peak.most, "helper_bytes": peak.most_of_helpers}
    helpers = f"what compiles and calibrates, apart: {peak.most_of_helpers / 1e6:.0f} MB"
    report.at_most(f"{MEMORY}, by the payload, with compiled loops ({helpers})", (peak.most - before) / x.nbytes, 3.0)


def _channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=ANY_SIZE)


async def _clock(work: Awaitable[object]) -> float:
    began_s = time.perf_counter()
    await work
    return time.perf_counter() - began_s


async def _in_chunks(channel: grpc.aio.Channel, messages: Sequence[bytes], expected: np.ndarray) -> None:
    """Send a tensor in chunks over a session, and take the answer in chunks."""
    stream = channel.stream_stream(SERVICE + "EvaluateStream")()

    async def receive() -> None:
        place = 0
        while (message := await stream.read()) is not grpc.aio.EOF:
            (_, _, id, _), (kind, _, start, end) = fields(message)
            if id != 1 or kind == pb.EvaluateStreamResponse.ERROR_FIELD_NUMBER:
                raise RuntimeError(pb.EvaluateStreamResponse.FromString(message).error.message)
            if kind == pb.EvaluateStreamResponse.CHUNK_FIELD_NUMBER:
                _check_part(message[start : start + 64], expected, place)
                place += end - start
        if place != expected.nbytes:
            raise RuntimeError(f"{place} bytes of {len(expected)} arrived")

    await asyncio.gather(_send(stream, messages), receive())


def _messages(program, shape: tuple[int, ...], content: bytes) -> list[bytes]:
    """Return what asks for twice the elements of a tensor, which follow in chunks."""
    tensor = pb.EvaluateRequest().inputs.add(dtype=1, shape=shape)
    request = pb.EvaluateRequest(program=program, inputs=[tensor], outputs=[pb.Output()])
    chunks = [pb.EvaluateStreamRequest(id=1, chunk=part) for part in _parts(content)]
    return [message.SerializeToString() for message in (pb.EvaluateStreamRequest(id=1, evaluate=request), *chunks)]


async def _bare(channel: grpc.aio.Channel, messages: Sequence[bytes], expected: np.ndarray) -> None:
    """Send the same bytes in the same chunks to the bare service."""
    stream = channel.stream_stream("/bare.Service/Double")()

    async def receive() -> None:
        place = 0
        while (part := await stream.read()) is not grpc.aio.EOF:
            _check_part(part[:64], expected, place)
            place += len(part)

    await asyncio.gather(_send(stream, messages), receive())


def _bare_messages(content: bytes) -> list[bytes]:
    return [f"{len(content)} {MIB}".encode(), *_parts(content)]


def _parts(content: bytes) -> Iterator[bytes]:
    return (content[place : place + MIB] for place in range(0, len(content), MIB))


async def _send(stream: grpc.aio.StreamStreamCall, messages: Sequence[bytes]) -> None:
    for message in messages:
        await stream.write(message)
    await stream.done_writing()


def _check_part(part: bytes, expected: np.ndarray, place: int) -> None:
    found = np.frombuffer(part, np.float64, 8)
    if not np.allclose(found, expected[place // 8 : place // 8 + 8], rtol=1e-13, atol=1e-300):
        raise RuntimeError(f"wrong numbers at {place}")


@dataclass
class Watched:
    """The most memory found, of the front ends and workers of a server, and of what helps them."""

    most: int = 0
    most_of_helpers: int = 0


@contextlib.contextmanager
def _watching(server: Running) -> Iterator[Watched]:
    """Sample the memory of a server during a block; yield the most found."""
    found, is_over = Watched(), threading.Event()

    def watch() -> None:
        while not is_over.wait(0.01):
            found.most = max(found.most, server.proportional_bytes)
            found.most_of_helpers = max(found.most_of_helpers, server.helper_bytes)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()


# -- bytes on the wire -------------------------------------------------------------------------------------------------------

DATA_BYTES = 5_000_000
CALLS = 200


class CountingProxy:
    """Stands between a client and a server, in a thread, and counts the bytes of either way."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self.sent = self.received = 0
        self.address = ""
        self._is_ready, self._stopping = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_ready.wait()
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = "{}:{}".format(*server.sockets[0].getsockname())
        self._is_ready.set()
        await self._stopping.wait()
        server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection(self._host, self._port)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(self._pump(reader, other_writer, is_up=True), self._pump(other_reader, writer, is_up=False))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool) -> None:
        while part := await reader.read(2**18):
            if is_up:
                self.sent += len(part)
            else:
                self.received += len(part)
            writer.write(part)
            await writer.drain()
        writer.close()


def calibration(report: Report) -> None:
    """Fit a model to data by many gradient calls of the SDK, and count how often the data crosses the wire."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(DATA_BYTES // 8 // 25, 25))
    labels = features @ np.linspace(-1.0, 1.0, 25) + 0.1 * rng.normal(size=len(features))

    def loss(weights):
        residuals = features @ weights - labels
        return np.mean(residuals * residuals)

    weights, began_s = np.zeros(25), time.perf_counter()
    with gradwire("--workers", "2") as server, CountingProxy(server.address) as proxy:
        with gw.connect(proxy.address) as client:
            slope = client.grad(loss)
            for _ in range(CALLS):
                weights = weights - 0.05 * slope(weights)
        sent, spent_s = proxy.sent, time.perf_counter() - began_s
    np.testing.assert_allclose(weights, np.linspace(-1.0, 1.0, 25), atol=0.05)
    data = features.nbytes + labels.nbytes
    report.figures["calibration"] = {"data_bytes": data, "sent_bytes": sent, "received_bytes": proxy.received, "seconds": spent_s}
    report.at_most(f"{CALLS} gradients of a data set of {data / 1e6:.1f} MB: bytes sent, in data sets", sent / data, 1.1)
