"""Closed loops of requests, a fixed number in flight, from processes of their own or by h2load; latencies of all of them.

A generator sends bytes that were made beforehand and looks at nothing but the first bytes of an answer, so that it costs every
server the same. In a session of gradwire it joins the requests that wait when it comes to write, as the SDK does, within what the
server takes; the peers have no such thing. The bare session is one message a request: it is the limit of gRPC as it is written by
hand. h2load is compiled, and knows unary calls only; it looks at no gRPC status, so answers are checked apart.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gradwire_proto import joined

PROCESSES = 2
WARM_UP_S = 0.2
CONNECTIONS = 8
_ID, _ANSWERED = 0x08, 0x12  # tags of EvaluateStreamResponse: id, evaluate


@dataclass(frozen=True)
class Target:
    """What is sent where.

    Attributes:
        server: who serves it.
        kind: "unary" or "session" of gRPC, "bare session", "plain session" (answers in order), or "http".
        address: HOST:PORT.
        methods: the paths: that of the call, or for HTTP those of the calls that make one evaluation.
        requests: the bodies, which are sent in turn; for HTTP, one for each path.
        headers: of HTTP.
    """

    server: str
    kind: str
    address: str
    methods: tuple[str, ...]
    requests: tuple[bytes, ...]
    headers: str = ""


@dataclass(frozen=True)
class Figure:
    """What a server did with a load: latencies in milliseconds, evaluations a second."""

    server: str
    p50_ms: float
    p99_ms: float
    rate: float


class Generators:
    """Processes that send; used as a context manager."""

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._pools = [ProcessPoolExecutor(1, context, _prepare) for _ in range(PROCESSES)]
        return self

    def __exit__(self, *_error: object) -> None:
        for pool in self._pools:
            pool.shutdown()

    def run(self, target: Target, in_flight: int, seconds: float) -> Figure:
        """Keep so many requests in flight for so long."""
        shares = [in_flight // len(self._pools) + (place < in_flight % len(self._pools)) for place in range(len(self._pools))]
        running = [pool.submit(_send, target, share, seconds) for pool, share in zip(self._pools, shares, strict=True) if share]
        found = [item.result() for item in running]
        latencies = [latency for latencies, _ in found for latency in latencies]
        if not latencies:  # one exchange takes longer than all of them were to
            return self.run(target, in_flight, 4 * seconds)
        return summary(target.server, latencies, sum(rate for _, rate in found))


def summary(server: str, latencies_ms: Sequence[float], rate: float) -> Figure:
    """Return the percentiles of latencies."""
    ordered = sorted(latencies_ms)
    return Figure(server, statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], rate)


def median(figures: Sequence[Figure]) -> Figure:
    """Return the medians of what rounds gave."""
    columns = ([getattr(figure, name) for figure in figures] for name in ("p50_ms", "p99_ms", "rate"))
    return Figure(figures[0].server, *map(statistics.median, columns))


# -- h2load ------------------------------------------------------------------------------------------------------------------


def has_h2load() -> bool:
    """Tell whether h2load is installed (Debian: nghttp2-client)."""
    return shutil.which("h2load") is not None


def h2load(target: Target, in_flight: int, seconds: float) -> Figure:
    """Keep so many unary calls of gRPC in flight for so long, over several connections."""
    (request,), connections = target.requests, min(CONNECTIONS, in_flight)
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(b"\0" + len(request).to_bytes(4, "big") + request)
        command = [
            "h2load",
            f"-D{round(1000 * seconds)}ms",
            "--warm-up-time=200ms",
            f"-c{connections}",
            f"-m{in_flight // connections}",
            "-t1",
        ]
        command += [f"-d{body}", f"--log-file={log}", "-Hcontent-type: application/grpc", "-Hte: trailers"]
        command += ["-w24", "-W28", f"http://{target.address}{target.methods[0]}"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines = [line.split("\t") for line in log.read_text().splitlines()]
    if "0 failed, 0 errored" not in told:
        raise RuntimeError(f"h2load: {told}")
    latencies = [int(microseconds) / 1e3 for _, _, microseconds in lines]
    if not latencies:  # one call takes longer than all of them were to
        return h2load(target, in_flight, 4 * seconds)
    rate = float(next(line for line in told.splitlines() if line.startswith("finished in")).split()[3])
    return summary(target.server, latencies, rate)


# -- in a process of its own -------------------------------------------------------------------------------------------------


def _prepare() -> None:
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


def _send(target: Target, in_flight: int, seconds: float) -> tuple[list[float], float]:
    import uvloop

    return uvloop.run(_loop(target, in_flight, seconds))


Exchange = Callable[[int], Awaitable[None]]


async def _loop(target: Target, in_flight: int, seconds: float) -> tuple[list[float], float]:
    """Return the latencies in milliseconds, and evaluations a second."""
    latencies: list[float] = []
    warm_up: list[float] = []
    opened = {"unary": _unary, "http": _http}.get(target.kind, _stream)
    began_s = time.perf_counter()
    counted_s, end_s = began_s + WARM_UP_S, began_s + WARM_UP_S + seconds
    async for exchange in opened(target, in_flight):
        turns = itertools.count()

        async def repeat(slot: int, exchange: Exchange = exchange, turns: itertools.count[int] = turns) -> None:
            while (sent_s := time.perf_counter()) < end_s:
                await exchange(next(turns) % len(target.requests) if target.kind != "http" else slot, slot)
                (latencies if sent_s >= counted_s else warm_up).append((time.perf_counter() - sent_s) * 1e3)

        await asyncio.gather(*[repeat(slot) for slot in range(1, in_flight + 1)])
    spent_s = time.perf_counter() - (counted_s if latencies else began_s)
    return latencies or warm_up, len(latencies or warm_up) / spent_s  # one exchange may take longer than it was to last


async def _unary(target: Target, _in_flight: int) -> AsyncIterator[Exchange]:
    import grpc

    async with grpc.aio.insecure_channel(target.address, options=_ANY_SIZE) as channel:
        call = channel.unary_unary(target.methods[0])

        async def exchange(number: int, _slot: int) -> None:
            await call(target.requests[number])

        yield exchange


async def _stream(target: Target, in_flight: int) -> AsyncIterator[Exchange]:
    """A stream of gRPC, on which one message is written at a time; each kind of session knows its answers in its own way."""
    import grpc

    kind = _KINDS[target.kind]()
    waiting: dict[int, asyncio.Future[None]] = {}
    sent: asyncio.Queue[bytes | None] = asyncio.Queue()
    messages = {slot: [kind.request(slot, request) for request in target.requests] for slot in range(1, in_flight + 1)}

    async def read() -> None:
        kind.open(await stream.initial_metadata() if kind.metadata else None)
        while (answer := await stream.read()) is not grpc.aio.EOF:
            for slot in kind.slots(answer):
                waiting.pop(slot).set_result(None)

    async def write() -> None:
        while (message := await sent.get()) is not None:
            await stream.write(_with_waiting(message, sent, kind.joined_count))
        await stream.done_writing()

    async def exchange(number: int, slot: int) -> None:
        waiting[slot] = answered = asyncio.get_running_loop().create_future()
        kind.sending(slot)
        sent.put_nowait(messages[slot][number])
        await answered

    def end(_task: asyncio.Task[None]) -> None:
        _fail(waiting.values(), RuntimeError(f"{target.server}: the stream ended before its answer"))

    async with grpc.aio.insecure_channel(target.address, options=_ANY_SIZE) as channel:
        stream = channel.stream_stream(target.methods[0])(metadata=kind.metadata)
        tasks = [asyncio.create_task(read()), asyncio.create_task(write())]
        for task in tasks:
            task.add_done_callback(end)
        yield exchange
        sent.put_nowait(None)
        await asyncio.gather(*tasks)


def _fail(waiting: Iterable[asyncio.Future[None]], error: Exception) -> None:
    for answered in waiting:
        if not answered.done():
            answered.set_exception(error)


def _with_waiting(first: bytes, sent: asyncio.Queue[bytes | None], most: int) -> bytes:
    """Return a message, joined with those that wait behind it."""
    messages, size = [first], len(first)
    while len(messages) < most and size + len(first) <= joined.MOST_BYTES and not sent.empty():
        message = sent.get_nowait()
        if message is None:
            sent.put_nowait(None)  # the end stays the end
            break
        messages.append(message)
        size += len(message)
    return joined.join(joined.REQUESTS, messages)


class _BareSession:
    """That of the bare service: eight bytes come before the numbers, and before the answer."""

    metadata: tuple[tuple[str, str], ...] = ()
    joined_count = 1

    def open(self, metadata: object) -> None:
        pass

    def request(self, slot: int, content: bytes) -> bytes:
        return slot.to_bytes(8, "little") + content

    def sending(self, slot: int) -> None:
        pass

    def slots(self, answer: bytes) -> list[int]:
        return [answer[0]]


class _Session(_BareSession):
    """gradwire's: the id of a request is the number of its slot, less than 128."""

    metadata = ((joined.KEY, str(joined.MOST_COUNT)),)

    def open(self, metadata: object) -> None:
        self.joined_count = joined.told_count(metadata)

    def request(self, slot: int, content: bytes) -> bytes:
        return bytes((_ID, slot)) + _field(2, content)

    def slots(self, answer: bytes) -> list[int]:
        spans = joined.split(joined.RESPONSES, answer, joined.MOST_COUNT)
        return [self._slot(answer)] if spans is None else [self._slot(answer[start:end]) for start, end in spans]

    def _slot(self, answer: bytes) -> int:
        slot, kind = (answer[1], answer[2]) if answer[0] == _ID else (answer[-1], answer[0])
        if kind != _ANSWERED:
            raise RuntimeError(f"a request failed: {answer[:300]!r}")
        return slot


class _PlainSession(_BareSession):
    """One whose answers come in the order of the requests."""

    def __init__(self) -> None:
        self._order: deque[int] = deque()

    def request(self, slot: int, content: bytes) -> bytes:
        return content

    def sending(self, slot: int) -> None:
        self._order.append(slot)

    def slots(self, answer: bytes) -> list[int]:
        return [self._order.popleft()]


async def _http(target: Target, in_flight: int) -> AsyncIterator[Exchange]:
    """Connections that stay open, one for each slot; an evaluation is one request to each path, one after the other."""
    host, _, port = target.address.rpartition(":")
    heads = [
        f"POST {path} HTTP/1.1\r\nHost: {target.address}\r\nContent-Length: {len(body)}\r\n{target.headers}\r\n".encode() + body
        for path, body in zip(target.methods, target.requests, strict=True)
    ]
    connections = {slot: await asyncio.open_connection(host, int(port), limit=2**26) for slot in range(1, in_flight + 1)}

    async def exchange(_number: int, slot: int) -> None:
        reader, writer = connections[slot]
        for request in heads:
            writer.write(request)
            await read_answer(reader)

    yield exchange
    for _, writer in connections.values():
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """Read the answer to a request of HTTP/1.1 and return its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    if " 200 " not in head.partition("\r\n")[0]:
        raise RuntimeError(f"HTTP: {head}{await reader.read(1000)!r}")
    size = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:"))
    return await reader.readexactly(size)


_ANY_SIZE = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
_KINDS = {"session": _Session, "bare session": _BareSession, "plain session": _PlainSession}


def _field(number: int, content: bytes) -> bytes:
    size, parts = len(content), bytearray((number << 3 | 2,))
    while size > 0x7F:
        parts.append(size & 0x7F | 0x80)
        size >>= 7
    parts.append(size)
    return bytes(parts) + content
