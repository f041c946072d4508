"""What is no evaluation, while every worker is busy and the queue is full: how soon health, capabilities and metrics answer."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc
import numpy as np
from _generator import Target, h2load, has_h2load, summary
from _mixed import REFUSED_PAUSE_S
from _servers import ANY_SIZE, SERVICE, Running, stub
from _serving_small import register, rosenbrock_request
from _verdicts import Progress, Report
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gradwire_proto.v1 import differentiation_service_pb2 as pb

LATE_MS = 50.0
PAUSE_S = 0.02
LEAD_S = 2.0
IN_FLIGHT = 64
METHOD = (SERVICE + "Evaluate",)
Load: TypeAlias = tuple[Any, ...]
"""A function and its arguments."""


def busy(server: Running, chosen: argparse.Namespace, report: Report) -> None:
    """Keep a server full, and ask it how it is; then also flood it with calls that it refuses or answers at once."""
    heavy, tiny = heavy_request(server.address), rosenbrock_request(server.address, 10)
    seconds = chosen.seconds / 2
    _measure(server, report, "all workers busy, the queue full", [(_press, server.address, heavy)], seconds, is_flood=False)
    if not has_h2load():
        print("h2load is not installed (Debian: nghttp2-client): no flood of calls", file=sys.stderr)
        return
    flood = [(h2load, Target("gradwire", "unary", server.address, METHOD, (item,)), IN_FLIGHT) for item in (heavy, tiny)]
    _measure(server, report, "a flood of calls", flood, seconds, is_flood=True)


def _measure(server: Running, report: Report, name: str, loads: Sequence[Load], seconds: float, *, is_flood: bool) -> None:
    """Ask while there is a load. In a flood more processes want to run than there are processors: the bar is for 99 of 100."""
    progress = Progress()
    with _loaded(server, [(*load, seconds + LEAD_S) for load in loads]):
        before = _refused(server)
        found = _ask(server, seconds, lambda text: progress.tell(f"{name}: {text}"))
        refused = _refused(server) - before
    for what, latencies in found.items():
        figure = summary(what, latencies, 0.0)
        report.figures[f"{name}: {what}"] = latencies
        print(
            f"{name}: {what}: p50 {figure.p50_ms:.2f} ms, p99 {figure.p99_ms:.2f} ms, the latest {max(latencies):.2f} ms, "
            f"of {len(latencies)}"
        )
        latest_ms, which = (figure.p99_ms, "p99") if is_flood else (max(latencies), "the latest answer")
        report.at_most(f"{name}: {what}, {which}", latest_ms, LATE_MS, "ms")
    report.at_least(f"{name}: refused meanwhile", refused, 1)


def heavy_request(address: str) -> bytes:
    """Return a request of some tens of milliseconds, once it was answered."""
    x = np.linspace(0.0, 1.0, 600)
    function = lambda x: np.sum(np.linalg.inv(np.exp(-50.0 * np.abs(x[:, None] - x[None, :]))))
    return register(address, function, [x], [pb.Output()])[0]


@contextmanager
def _loaded(server: Running, loads: Sequence[Load]) -> Iterator[None]:
    """Have functions run with arguments, in processes of their own, from before the block, once calls are refused."""
    with ProcessPoolExecutor(len(loads), multiprocessing.get_context("spawn")) as pool:
        before, running = _refused(server), [pool.submit(*load) for load in loads]
        while _refused(server) == before and not any(item.done() for item in running):
            time.sleep(PAUSE_S)
        yield
        for item in running:
            item.result()


def _press(address: str, request: bytes, seconds: float) -> None:
    """Keep calls in flight for so long, each of which comes again after a pause where it is refused, as clients do."""
    asyncio.run(_keep_pressing(address, request, seconds))


async def _keep_pressing(address: str, request: bytes, seconds: float) -> None:
    end_s = time.monotonic() + seconds

    async def repeat() -> None:
        while time.monotonic() < end_s:
            try:
                await call(request, timeout=60)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(REFUSED_PAUSE_S)

    async with grpc.aio.insecure_channel(address, options=ANY_SIZE) as channel:
        call = channel.unary_unary(METHOD[0])
        await asyncio.gather(*[repeat() for _ in range(IN_FLIGHT)])


def _refused(server: Running) -> float:
    return server.metric("gradwire_call_seconds_count", 'code="UNAVAILABLE"')


def _ask(server: Running, seconds: float, tell: Callable[[str], None]) -> dict[str, list[float]]:
    """Ask in turns for so long, and return the latencies in milliseconds."""
    found: dict[str, list[float]] = {"health": [], "capabilities": [], "metrics": []}
    with stub(server.address) as service, stub(server.address, health_pb2_grpc.HealthStub) as health:
        asked: dict[str, Callable[[], object]] = {
            "health": lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=10),
            "capabilities": lambda: service.GetCapabilities(pb.GetCapabilitiesRequest(), timeout=10),
            "metrics": lambda: urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10).read(),
        }
        for ask in asked.values():
            ask()
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            for name, ask in asked.items():
                began_s = time.perf_counter()
                ask()
                found[name].append((time.perf_counter() - began_s) * 1e3)
                time.sleep(PAUSE_S)
            tell(f"{len(found['health'])} times asked")
    return found
