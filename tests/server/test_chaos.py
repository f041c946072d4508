"""Mixed load while workers are killed and suspended: no call fails, no answer is wrong.

`python -m tests.server.test_chaos SECONDS` does it for longer.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections import Counter

import numpy as np

from gradwire_proto.tensor import encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import transform_pb2
from tests.server.processes import Process, serving
from tests.server.requests import MATRIX, PATIENCE_S, X, chain, evaluation, product, quick, slow, value

SHORT_S = 8.0
INTERVAL_S = 1.0
CALLERS = 4
CALL_TIMEOUT_S = 2 * PATIENCE_S


def gradient() -> pb.EvaluateRequest:
    request = quick()
    vjp = transform_pb2.Transform(vjp=transform_pb2.Vjp())
    request.outputs[0].CopyFrom(pb.Output(transforms=[vjp], seeds=[encode_tensor(np.ones(3))]))
    return request


def load() -> list[tuple[pb.EvaluateRequest, np.ndarray]]:
    """Requests of a tenth of a millisecond to some tenths of a second, with their answers."""
    deep, matrix = X, 2 * np.eye(MATRIX.shape[0])
    for _ in range(500):
        deep = np.sin(deep)
    inverse = np.sin(np.linalg.inv(matrix))
    many = np.linspace(0, 1, 100_000)
    large = evaluation(product(type(MATRIX)(MATRIX.dtype, many.shape)), many)
    return [
        (quick(), np.sin(X) * X),
        (gradient(), np.sin(X) + X * np.cos(X)),
        (evaluation(chain(500), X), deep),
        (slow(1), inverse),
        (slow(10), None),
        (large, np.sin(many) * many),
    ]


class Caller(threading.Thread):
    """Calls a server until it is told to stop, and counts what came of it."""

    def __init__(self, server: Process, number: int, stopping: threading.Event) -> None:
        super().__init__()
        self._server = server
        self._rng = random.Random(number)
        self._stopping = stopping
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        requests = load()
        while not self._stopping.is_set():
            request, expected = self._rng.choice(requests)
            try:
                found = value(self._server.stub.Evaluate(request, timeout=CALL_TIMEOUT_S))
            except Exception as error:  # noqa: BLE001  # whatever it is, it is counted
                self.outcomes[repr(error)] += 1
            else:
                is_right = np.isfinite(found).all() if expected is None else np.allclose(found, expected, rtol=1e-12, atol=1e-14)
                self.outcomes["right" if is_right else "wrong"] += 1


def disturb(server: Process, seconds: float) -> int:
    """Kill a worker after the other, and suspend every third; tell how many."""
    rng, end_s = random.Random(0), time.monotonic() + seconds
    pause = threading.Event()
    for count in itertools.count():
        pids = sorted(server.worker_pids)
        if pids:
            with contextlib.suppress(ProcessLookupError):  # it may end meanwhile
                os.kill(rng.choice(pids), signal.SIGSTOP if count % 3 == 2 else signal.SIGKILL)
        if time.monotonic() >= end_s:
            return count
        pause.wait(INTERVAL_S)
    raise AssertionError


def outcomes(seconds: float) -> tuple[Counter[str], int]:
    """What came of all calls to a server whose workers were disturbed, and how often they were."""
    with serving("--workers", "2", "--log-level", "error") as server:
        stopping = threading.Event()
        callers = [Caller(server, number, stopping) for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        try:
            count = disturb(server, seconds)
        finally:
            stopping.set()
            for caller in callers:
                caller.join()
        np.testing.assert_array_equal(value(server.stub.Evaluate(quick(), timeout=PATIENCE_S)), np.sin(X) * X)
        return sum((caller.outcomes for caller in callers), Counter()), count


def test_no_call_fails_while_workers_are_killed_and_suspended():
    found, count = outcomes(SHORT_S)
    assert set(found) == {"right"}, found
    assert count >= SHORT_S / INTERVAL_S / 2


if __name__ == "__main__":
    print(*outcomes(float(sys.argv[1])))
