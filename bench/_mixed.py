"""Mixed requests with their right answers: small and large, calls and sessions, tensors whole, in chunks and by name."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
import numpy as np
from _servers import stub
from google.rpc.status_pb2 import Status

import gradwire as gw
from gradwire_core.errors import OverloadedError
from gradwire_proto.program import encode_program
from gradwire_proto.status import decode_status
from gradwire_proto.tensor import decode_tensor, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import tensor_pb2, transform_pb2

CALL_TIMEOUT_S = 60.0
REFUSED, REFUSED_PAUSE_S = "told to come again", 0.1
CHUNK_BYTES = 2**18


@dataclass(frozen=True)
class Question:
    """A request, and its right answer: the first result of its first output."""

    request: pb.EvaluateRequest
    answer: np.ndarray

    def is_right(self, response: pb.EvaluateResponse, data: bytes = b"") -> bool:
        """Tell whether a response, or the bytes that came in chunks for it, is the answer."""
        tensor = response.results[0].results[0].dense
        if data:
            tensor.data = data
        return np.allclose(decode_tensor(tensor), self.answer, rtol=1e-9, atol=1e-12)


def questions() -> list[Question]:
    """Return requests of a tenth of a millisecond to some tenths of a second."""
    rng = np.random.default_rng(0)
    small, wide, matrix = rng.normal(size=10), rng.normal(size=50_000), np.eye(150) + 0.01 * rng.normal(size=(150, 150))
    identity = np.linalg.inv(np.linalg.inv(matrix))

    def powers(x):
        for _ in range(20):
            x = np.linalg.inv(x)
        return x

    gradient = [transform_pb2.Transform(grad=transform_pb2.Grad())]
    jacobian = [transform_pb2.Transform(jacobian=transform_pb2.Jacobian())]
    return [
        _question(lambda x: np.sin(x) * x, small, np.sin(small) * small),
        _question(lambda x: np.sum(np.sin(x) * x), small, np.sin(small) + small * np.cos(small), gradient),
        _question(lambda x: np.sum(np.sin(x) * x), wide, np.sin(wide) + wide * np.cos(wide), gradient),
        _question(np.tanh, small, np.diag(1 - np.tanh(small) ** 2), jacobian),
        _question(powers, matrix, identity),
    ]


def large() -> Question:
    """Return a request whose answer is larger than what a server sends in one piece."""
    x = np.linspace(0.0, 1.0, 200_000)
    return _question(lambda x: np.sin(x) * x, x, np.sin(x) * x)


def _question(function: Callable, x: np.ndarray, answer: np.ndarray, transforms=()) -> Question:
    request = pb.EvaluateRequest(
        program=encode_program(gw.trace(function, x)), inputs=[encode_tensor(x)], outputs=[pb.Output(transforms=transforms)]
    )
    return Question(request, answer)


class Caller(threading.Thread):
    """Asks a server in one way until it is told to stop, and counts what came of it.

    Args:
        address: of the server.
        ask: yields whether each answer was right, for as long as it is asked.
        stopping: set when it is to stop.
    """

    def __init__(self, address: str, ask: Callable[[str, random.Random], Iterator[bool]], stopping: threading.Event) -> None:
        super().__init__(daemon=True)
        self._address, self._ask, self._stopping = address, ask, stopping
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        rng = random.Random(self.name)
        while not self._stopping.is_set():
            try:
                for is_right in self._ask(self._address, rng):
                    self.outcomes["right" if is_right else "wrong"] += 1
                    if self._stopping.is_set():
                        break
            except Exception as error:  # noqa: BLE001  # whatever it is, it is counted
                found = _reason(error)
                if isinstance(found, OverloadedError):  # told to come again, as the SDK does by itself
                    self.outcomes[REFUSED] += 1
                    time.sleep(REFUSED_PAUSE_S)
                else:
                    self.outcomes[f"{self._ask.__name__}: {found!r}"[:300]] += 1


def calls(address: str, rng: random.Random) -> Iterator[bool]:
    """Ask by unary calls."""
    asked = questions()
    with stub(address) as server:
        while True:
            question = rng.choice(asked)
            yield question.is_right(server.Evaluate(question.request, timeout=CALL_TIMEOUT_S))


def sessions(address: str, rng: random.Random) -> Iterator[bool]:
    """Ask over streams, several questions at a time on each."""
    asked = questions()
    with stub(address) as server:
        while True:
            chosen = [rng.choice(asked) for _ in range(20)]
            messages = [pb.EvaluateStreamRequest(id=id, evaluate=question.request) for id, question in enumerate(chosen)]
            for found in server.EvaluateStream(iter(messages), timeout=2 * CALL_TIMEOUT_S):
                yield _check(found).HasField("evaluate") and chosen[found.id].is_right(found.evaluate)


def chunks(address: str, _rng: random.Random) -> Iterator[bool]:
    """Ask over streams with tensors in chunks, both ways."""
    question = large()
    data = question.request.inputs[0].data
    bare = pb.EvaluateRequest.FromString(question.request.SerializeToString())
    bare.inputs[0].ClearField("data")
    messages = [pb.EvaluateStreamRequest(id=1, evaluate=bare)]
    messages += [
        pb.EvaluateStreamRequest(id=1, chunk=data[place : place + CHUNK_BYTES]) for place in range(0, len(data), CHUNK_BYTES)
    ]
    with stub(address) as server:
        while True:
            answer, *parts = map(_check, server.EvaluateStream(iter(messages), timeout=CALL_TIMEOUT_S))
            yield question.is_right(answer.evaluate, b"".join(part.chunk for part in parts))


def names(address: str, _rng: random.Random) -> Iterator[bool]:
    """Ask by unary calls with tensors that are stored and named."""
    question = large()
    named = pb.EvaluateRequest.FromString(question.request.SerializeToString())
    tensor = named.inputs[0]
    pieces = [pb.CreateTensorRequest(tensor=tensor_pb2.Tensor(dtype=tensor.dtype, shape=tensor.shape))]
    pieces += [
        pb.CreateTensorRequest(data=tensor.data[place : place + CHUNK_BYTES]) for place in range(0, len(tensor.data), CHUNK_BYTES)
    ]
    tensor.ClearField("data")
    with stub(address) as server:
        while True:
            tensor.name = server.CreateTensor(iter(pieces), timeout=CALL_TIMEOUT_S).name
            for _ in range(20):
                yield question.is_right(server.Evaluate(named, timeout=CALL_TIMEOUT_S))


def sdk(address: str, rng: random.Random) -> Iterator[bool]:
    """Ask by the SDK, as users do."""
    data = np.linspace(0.0, 1.0, 100_000)
    with gw.connect(address) as client:
        slope = client.grad(lambda w: np.sum(np.sin(data * w)))
        while True:
            w = rng.random()
            yield bool(np.isclose(slope(w), np.sum(data * np.cos(data * w)), rtol=1e-9, atol=1e-9))


WAYS = (calls, sessions, chunks, names, sdk)


def _check(found: pb.EvaluateStreamResponse) -> pb.EvaluateStreamResponse:
    if found.HasField("error"):
        raise decode_status(Status.FromString(found.error.SerializeToString()))
    return found


def _reason(error: Exception) -> Exception:
    """Return the error of gradwire that an error of gRPC tells of, or the error as it is."""
    if isinstance(error, grpc.RpcError):
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                return decode_status(Status.FromString(value))
    return error
