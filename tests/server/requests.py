"""Programs and requests the tests of this folder share, and waiting for what will come true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np

from gradwire_core.ops import find_primitive
from gradwire_core.program import Equation, Operand, Param, Program, Var
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.program import encode_program
from gradwire_proto.tensor import decode_tensor, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb

VECTOR = TensorType(Dtype.FLOAT64, (3,))
MATRIX = TensorType(Dtype.FLOAT64, (300, 300))
X = np.array([0.5, 1.0, 2.0])
PATIENCE_S = 30.0
FOREVER = 20_000


def equation(name: str, operands: tuple[Operand, ...], result: TensorType, **params: Param) -> Equation:
    return Equation(find_primitive(name), operands, params, (Var(result),))


def product(type: TensorType = VECTOR) -> Program:
    """sin(x) * x."""
    x = Var(type)
    sine = equation("sin", (x,), type)
    times = equation("multiply", (sine.results[0], x), type)
    return Program((x,), (sine, times), times.results)


def chain(count: int) -> Program:
    """sin of sin of ... of x."""
    x = last = Var(VECTOR)
    equations = []
    for _ in range(count):
        equations.append(equation("sin", (last,), VECTOR))
        last = equations[-1].results[0]
    return Program((x,), tuple(equations), (last,))


def inverses(count: int) -> Program:
    """sin(inv(x)), `count` times over: some milliseconds each."""
    x = last = Var(MATRIX)
    equations = []
    for _ in range(count):
        equations.append(equation("inv", (last,), MATRIX))
        equations.append(equation("sin", equations[-1].results, MATRIX))
        last = equations[-1].results[0]
    return Program((x,), tuple(equations), (last,))


def evaluation(program: Program, *inputs: np.ndarray) -> pb.EvaluateRequest:
    """The value of an inline program."""
    return pb.EvaluateRequest(program=encode_program(program), inputs=map(encode_tensor, inputs), outputs=[pb.Output()])


def quick() -> pb.EvaluateRequest:
    return evaluation(product(), X)


def slow(count: int) -> pb.EvaluateRequest:
    return evaluation(inverses(count), 2 * np.eye(MATRIX.shape[0]))


def locking() -> pb.EvaluateRequest:
    """Many seconds in one call of LAPACK."""
    type = TensorType(Dtype.FLOAT64, (1, 1))
    x = Var(type)
    wide = TensorType(Dtype.FLOAT64, (5000, 5000))
    spread = equation("broadcast_to", (x,), wide, shape=wide.shape)
    found = equation("inv", spread.results, wide)
    total = equation("sum", found.results, TensorType(Dtype.FLOAT64, ()), axes=(0, 1))
    return evaluation(Program((x,), (spread, found, total), total.results), np.ones((1, 1)))


def value(response: pb.EvaluateResponse) -> np.ndarray:
    """The first result of the first output."""
    return decode_tensor(response.results[0].results[0].dense)


def wait_until(is_true: Callable[[], object]) -> None:
    """Ask again and again, as each answer takes its own time, until it is true."""
    end = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < end, "waited in vain"


async def until(is_true: Callable[[], object]) -> None:
    """Let the event loop run until something is true."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_true():  # noqa: ASYNC110  # nobody tells: it is seen from outside
            await asyncio.sleep(0)
