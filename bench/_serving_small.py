"""Small requests: gradwire beside a bare service that computes the same, and beside its peers."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from _generator import Figure, Generators, Target, h2load, has_h2load, median
from _mathematics import layer_jacobian, value_and_gradient
from _peer_servers import LAYER, PEERS, SIZES, install, point, serving, version
from _servers import SERVICE, gradwire, knows, running, stub
from _verdicts import Progress, Report

import gradwire as gw
from gradwire_core.engine import Output
from gradwire_core.transforms import Transform
from gradwire_proto.evaluation import encode_output
from gradwire_proto.program import encode_program
from gradwire_proto.tensor import decode_tensor, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb

HERE = Path(__file__).parent
IN_FLIGHT = (1, 8, 32)
MIXED = (*(10,) * 8, *(1000,) * 3, 100_000)
SHARE = 0.8
SLOWER = 2.0
WARM_UP_S = 5.0
SPARE = ("--workers", "2", "--queue-count", "1024")

WEIGHTS = np.random.default_rng(0).normal(size=(100, 100)) / 10.0
Run = Callable[[int], Figure]


def rosenbrock(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def rosenbrock_request(address: str, size: int) -> bytes:
    """Register Rosenbrock's function, and return a request of value and gradient that names it, once its answer was found right."""
    x = point(size)
    outputs = [encode_output(Output(), []), encode_output(Output((Transform("grad"),)), [])]
    request, results = register(address, rosenbrock, [x], outputs)
    np.testing.assert_allclose(np.concatenate([results[0].reshape(1), results[1]]), value_and_gradient(x), rtol=1e-9, atol=1e-9)
    return request


def layer_request(address: str) -> bytes:
    """Return a request of the Jacobian of tanh(W x), whose weights are sent along."""
    x = point(LAYER)
    request, results = register(
        address, lambda x, w: np.tanh(w @ x), [x, WEIGHTS], [encode_output(Output((Transform("jacobian"),)), [])]
    )
    np.testing.assert_allclose(results[0], layer_jacobian(WEIGHTS, x), rtol=1e-9, atol=1e-9)
    return request


def register(address, function, arrays, outputs) -> tuple[bytes, list[np.ndarray]]:
    """Have a server answer a request that brings its program; return one that names it, and the results."""
    program = gw.trace(function, *arrays)
    inputs = list(map(encode_tensor, arrays))
    with stub(address) as found:
        answer = found.Evaluate(pb.EvaluateRequest(program=encode_program(program), inputs=inputs, outputs=outputs))
    request = pb.EvaluateRequest(program_name=answer.program_name, inputs=inputs, outputs=outputs)
    return request.SerializeToString(), [decode_tensor(item.dense) for output in answer.results for item in output.results]


# -- beside the bare service -------------------------------------------------------------------------------------------------


@contextmanager
def bare(count: int = 1) -> Iterator[str]:
    """Run the bare service, in one process or in several that share a port; yield its address."""
    with ExitStack() as stack:
        address = stack.enter_context(running([sys.executable, str(HERE / "_bare.py")])).address
        port = address.rpartition(":")[2]
        for _ in range(count - 1):
            stack.enter_context(running([sys.executable, str(HERE / "_bare.py"), "--port", port]))
        yield address


def beside_bare(report: Report, generators: Generators, *, seconds: float, rounds: int) -> None:
    """Measure gradwire, with its inline path and without, and with two front ends, each beside the bare service."""
    variants = [("gradwire", SPARE, 1)]
    if knows("--inline-budget-s"):
        variants.append(("gradwire, not inline", (*SPARE, "--inline-budget-s", "0"), 1))
    if knows("--front-ends"):
        variants.append(("gradwire, 2 front ends", (*SPARE, "--front-ends", "2"), 2))
    rows = report.figures.setdefault("small", [])
    print(f"{'':24} {'call':8} {'n':>7} {'in flight':>9} {'p50 / p99 ms':>17} {'bare':>17} {'evaluations/s':>16} {'of bare':>8}")
    for name, flags, front_ends in variants:
        with gradwire(*flags) as ours, bare(front_ends) as other:
            for kind, size, run, run_bare in _loads(name, ours.address, other, generators, seconds):
                if kind == "unary":  # what a session asks is the same, and as warm
                    _warm(run, run_bare, seconds)
                for in_flight in IN_FLIGHT:
                    turns = [(run(in_flight), run_bare(in_flight)) for _ in range(rounds)]
                    mine, theirs = [median(column) for column in zip(*turns, strict=True)]
                    ratio = mine.rate / theirs.rate
                    rows.append(
                        {"kind": kind, "n": size, "in_flight": in_flight, "of_bare": ratio, "gradwire": mine, "bare": theirs}
                    )
                    shown = f"{mine.rate:7.0f} /{theirs.rate:7.0f}"
                    print(
                        f"{name:24} {kind:8} {size:>7} {in_flight:9} {_ms(mine):>17} {_ms(theirs):>17} {shown} {ratio:8.2f}",
                        flush=True,
                    )
                    if size == 10:
                        where = f"{name}, {kind}, n = 10, {in_flight} in flight"
                        report.at_least(f"{where}: share of the bare service's rate", ratio, SHARE)
                        report.at_most(f"{where}: p99 by the bare service's", mine.p99_ms / theirs.p99_ms, SLOWER)


def _warm(run: Run, run_bare: Run, seconds: float) -> None:
    """Run a load for some seconds: a front end compiles what it answers itself once it has run for a tenth of a second."""
    for _ in range(math.ceil(WARM_UP_S / seconds)):
        run(8)
        run_bare(8)


def _loads(name: str, ours: str, other: str, generators: Generators, seconds: float) -> Iterator[tuple[str, int | str, Run, Run]]:
    """Yield the loads: how the calls are made, of which size, and what runs them, for gradwire and for the bare service."""
    requests = {size: rosenbrock_request(ours, size) for size in SIZES}
    points = {size: point(size).tobytes() for size in SIZES}
    for kind in ("unary", "session"):
        method = "Evaluate" if kind == "unary" else "EvaluateStream"
        for label, sizes in [*((size, (size,)) for size in SIZES), ("mixed", MIXED)]:
            target = Target(name, kind, ours, (SERVICE + method,), tuple(requests[size] for size in sizes))
            theirs = Target(
                "bare",
                "unary" if kind == "unary" else "bare session",
                other,
                ("/bare.Service/Unary" if kind == "unary" else "/bare.Service/Session",),
                tuple(points[size] for size in sizes),
            )
            if kind == "unary" and len(sizes) == 1 and has_h2load():
                yield kind, label, _compiled(target, seconds), _compiled(theirs, seconds)
            else:
                yield kind, label, _generated(generators, target, seconds), _generated(generators, theirs, seconds)


def _compiled(target: Target, seconds: float) -> Run:
    return lambda in_flight: h2load(target, in_flight, seconds)


def _generated(generators: Generators, target: Target, seconds: float) -> Run:
    return lambda in_flight: generators.run(target, in_flight, seconds)


def _ms(figure: Figure) -> str:
    return f"{figure.p50_ms:.2f} / {figure.p99_ms:.2f}"


# -- beside the peers --------------------------------------------------------------------------------------------------------

FASTER = {10: 2.5, 1000: 2.5, 100_000: 3.0}
LATENCY_MS = {10: 0.6, 100_000: 3.0, LAYER: 0.8}
SESSION = (SERVICE + "EvaluateStream",)


def beside_peers(report: Report, generators: Generators, folder: Path, *, seconds: float, rounds: int) -> None:
    """Measure gradwire's sessions and every peer, in its best encoding, in turns."""
    homes = [install(peer, folder) for peer in PEERS]
    report.figures["peers"] = {peer.name: version(peer, home) for peer, home in zip(PEERS, homes, strict=True)}
    rows = report.figures.setdefault("beside_peers", [])
    progress = Progress()
    with ExitStack() as stack:
        ours = stack.enter_context(gradwire(*SPARE)).address
        peers = [stack.enter_context(serving(peer, home)) for peer, home in zip(PEERS, homes, strict=True)]
        print(f"{'workload':>9}  {'':30} {'p50 / p99 ms at 1':>20} {'evaluations/s at 8':>20}")
        for workload in (*SIZES, LAYER):
            request = layer_request(ours) if workload == LAYER else rosenbrock_request(ours, int(workload))
            targets = [Target("gradwire (session)", "session", ours, SESSION, (request,))]
            targets += [target for targets_of in peers for target in targets_of(workload)]
            turns = []
            for _ in range(rounds):
                turns.append([tuple(generators.run(target, in_flight, seconds) for in_flight in (1, 8)) for target in targets])
                progress.tell(f"{workload}: {len(turns)} of {rounds} rounds")
            found = [tuple(map(median, zip(*column, strict=True))) for column in zip(*turns, strict=True)]
            for alone, busy in found:
                rows.append({"workload": workload, "server": alone.server, "at_1": alone, "at_8": busy})
                print(f"{workload:>9}  {alone.server:30} {_ms(alone):>20} {busy.rate:20.0f}", flush=True)
            (alone, busy), *others = found
            _judge(report, workload, alone, busy, others)


def _judge(report: Report, workload: int | str, alone: Figure, busy: Figure, others: Sequence[tuple[Figure, Figure]]) -> None:
    fastest, quickest = max((item for _, item in others), key=lambda item: item.rate), min(item.p50_ms for item, _ in others)
    what = "100 x 100 Jacobian" if workload == LAYER else f"n = {workload}"
    if workload in FASTER:
        report.at_least(f"{what}: rate at 8 in flight by that of {fastest.server}", busy.rate / fastest.rate, FASTER[workload])
    if workload in LATENCY_MS:
        report.at_most(f"{what}: p50 at 1 in flight (quickest peer {quickest:.2f})", alone.p50_ms, LATENCY_MS[workload], "ms")
        report.figures.setdefault("p50_by_quickest_peer", {})[str(workload)] = alone.p50_ms / quickest
