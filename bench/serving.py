"""The service end to end, beside a bare grpc.aio service that computes the same by hand-written NumPy.

One request asks for the value and the gradient of Rosenbrock's function. Both servers run as processes of their own on
loopback; requests are serialized beforehand, so that the client costs both the same.
"""

from __future__ import annotations

from _measure import THREADS  # isort: skip  # sets thread counts before NumPy is imported

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np

import gradwire as gw
from gradwire_core.engine import Output
from gradwire_core.transforms import Transform
from gradwire_proto.evaluation import encode_output
from gradwire_proto.program import encode_program
from gradwire_proto.tensor import encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb

EVALUATE = "/gradwire.v1.DifferentiationService/Evaluate"
BARE = "/bare.Rosenbrock/Evaluate"


def rosenbrock(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def by_hand(request: bytes) -> bytes:
    x = np.frombuffer(request)
    inner = x[1:] - x[:-1] ** 2
    answer = np.zeros(x.size + 1)
    answer[0] = np.sum(100.0 * inner**2 + (1.0 - x[:-1]) ** 2)
    answer[2:] = 200.0 * inner
    answer[1:-1] -= 400.0 * x[:-1] * inner + 2.0 * (1.0 - x[:-1])
    return answer.tobytes()


async def serve_bare() -> None:
    """Serve the hand-written formula: what `--bare` starts as a process."""
    server = grpc.aio.server()

    async def evaluate(request, context):
        return by_hand(request)

    handlers = {"Evaluate": grpc.unary_unary_rpc_method_handler(evaluate)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Rosenbrock", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


@contextlib.contextmanager
def running(*command: str):
    """Run a server, and yield its address."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(30)


@dataclass(frozen=True)
class Figure:
    """What one server did with one load."""

    server: str
    elements: int
    in_flight: int
    p50_ms: float
    p99_ms: float
    requests_per_second: float


async def load(server: str, address: str, method: str, request: bytes, elements: int, in_flight: int, count: int) -> Figure:
    """Send a bounded number of requests, a fixed number in flight."""
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(method)
        await call(request)
        pending = iter(range(count))

        async def worker() -> None:
            for _ in pending:
                began = time.perf_counter()
                await call(request)
                latencies.append((time.perf_counter() - began) * 1e3)

        began = time.perf_counter()
        await asyncio.gather(*[worker() for _ in range(in_flight)])
        spent = time.perf_counter() - began
    ordered = sorted(latencies)
    return Figure(server, elements, in_flight, statistics.median(ordered), ordered[int(0.99 * len(ordered))], count / spent)


async def encode(address: str, x: np.ndarray) -> bytes:
    """Register the program, and return a request that names it."""
    program = gw.trace(rosenbrock, x)
    outputs = [encode_output(Output(), []), encode_output(Output((Transform("grad"),)), [])]
    first = pb.EvaluateRequest(program=encode_program(program), inputs=[encode_tensor(x)], outputs=outputs)
    async with grpc.aio.insecure_channel(address) as channel:
        answer = pb.EvaluateResponse.FromString(await channel.unary_unary(EVALUATE)(first.SerializeToString()))
    gradient = np.frombuffer(answer.results[1].results[0].dense.data)
    np.testing.assert_allclose(gradient, np.frombuffer(by_hand(x.tobytes()))[1:], rtol=1e-9, atol=1e-9)
    return pb.EvaluateRequest(program_name=answer.program_name, inputs=[encode_tensor(x)], outputs=outputs).SerializeToString()


async def measure(rounds: int) -> list[Figure]:
    """Measure both servers in turns, and keep the median round of each."""
    figures = []
    with running(__file__, "--bare") as bare, running("-m", "gradwire_server", "--listen", "127.0.0.1:0", "--workers", "2") as ours:
        for elements in (10, 1000, 100_000):
            x = np.linspace(-1.0, 1.0, elements)
            request = await encode(ours, x)
            for in_flight in (1, 8, 32):
                count = 200 if elements > 10_000 else 1500
                turns = [
                    (
                        await load("gradwire", ours, EVALUATE, request, elements, in_flight, count),
                        await load("bare", bare, BARE, x.tobytes(), elements, in_flight, count),
                    )
                    for _ in range(rounds)
                ]
                figures += [sorted(column, key=lambda figure: figure.p50_ms)[rounds // 2] for column in zip(*turns, strict=True)]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="the service beside a bare grpc.aio service")
    parser.add_argument("--bare", action="store_true", help="serve the bare service")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--rounds", type=int, default=3, help="how often each load runs; the median round is reported")
    chosen = parser.parse_args()
    if chosen.bare:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve_bare())
        return
    figures = asyncio.run(measure(chosen.rounds))
    threads = ", ".join(f"{name}={os.environ[name]}" for name in THREADS)
    print(f"serving  (value and gradient of Rosenbrock, unary, loopback, two workers, {threads}; median rounds)")
    print(f"{'n':>8} {'in flight':>10} {'gradwire p50/p99 ms':>22} {'bare p50/p99 ms':>22} {'requests/s':>18} {'of bare':>8}")
    for ours, bare in zip(figures[::2], figures[1::2], strict=True):
        ratio = ours.requests_per_second / bare.requests_per_second
        rates = f"{ours.requests_per_second:.0f} / {bare.requests_per_second:.0f}"
        mine, other = [f"{figure.p50_ms:.2f} / {figure.p99_ms:.2f}" for figure in (ours, bare)]
        print(f"{ours.elements:8} {ours.in_flight:10} {mine:>22} {other:>22} {rates:>18} {ratio:8.2f}")
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


if __name__ == "__main__":
    main()
