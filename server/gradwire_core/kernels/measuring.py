"""Measuring what the work of clusters takes on this machine, operation by operation, by the kernels that will do it.

`python -m gradwire_core.kernels.measuring COUNT` prints the table for so many threads. It is a process of its own: what measures
would otherwise share the interpreter with what it measures, and with requests.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.kernels.blocks import Blocks
from gradwire_core.kernels.calibration import ARITHMETIC, CLASSES, DTYPES, KERNELS, OPERATIONS, Table, key_of
from gradwire_core.kernels.expressions import TEMPLATES
from gradwire_core.kernels.team import Team
from gradwire_core.ops import PRIMITIVES
from gradwire_core.program import Program
from gradwire_core.types import Array, Dtype, TensorType

REPEATS = 4
"""An operation of arithmetic is measured so many times in a row, as it stands in a cluster."""
SIZE, LARGE_SIZE = 2**15, 2**18
ROUNDS = 5
DISTURBED = 1.25
"""Where a thread took so many times its own time, others had the processor, and the table is measured again by another process."""


def measure(threads: int) -> Table:
    """Return the table for a process of so many threads; takes some tenths of a second."""
    counts = thread_counts(threads)
    watch, team = _Watch(), Team(threads)
    element_s = {
        kernel: {dtype.value: {name: _measure_operation(name, dtype, kernel, watch) for name in OPERATIONS} for dtype in DTYPES}
        for kernel in KERNELS
    }
    shares = {
        kernel: {dtype.value: {name: _measure_shares(name, dtype, kernel, team, counts) for name in CLASSES} for dtype in DTYPES}
        for kernel in KERNELS
    }
    call_s = tuple([_shortest(functools.partial(team.run, lambda _: None, count, count)) for count in counts])
    return Table(key_of(threads), counts, element_s, shares, call_s, watch.is_disturbed)


def thread_counts(threads: int) -> tuple[int, ...]:
    """Return the numbers of threads that are measured: powers of two, and the last."""
    return (*[2**power for power in range(threads.bit_length()) if 2**power < threads], threads)


class _Watch:
    """How much of the time this thread had a processor."""

    def __init__(self) -> None:
        self._wall_s = self._own_s = 0.0

    def shortest(self, run: Callable[[], Any]) -> float:
        """Return the shortest time of some runs."""
        wall_s, own_s = time.perf_counter(), time.thread_time()
        found = _shortest(run)
        self._wall_s += time.perf_counter() - wall_s
        self._own_s += time.thread_time() - own_s
        return found

    @property
    def is_disturbed(self) -> bool:
        return self._wall_s > DISTURBED * self._own_s


def _shortest(run: Callable[[], Any]) -> float:
    run()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return max(min(times), 1e-9)


def _measure_operation(name: str, dtype: Dtype, kernel: str, watch: _Watch) -> float:
    count = REPEATS if name in ARITHMETIC else 1
    program = _program(SIZE, dtype, lambda x, y: _chain(name, count, x, y))
    run = Blocks(program, given=_given(kernel))
    return watch.shortest(lambda: run(*_draw(SIZE, dtype))) / (count * SIZE)


def _measure_shares(name: str, dtype: Dtype, kernel: str, team: Team, counts: Sequence[int]) -> tuple[float, ...]:
    steps = ("multiply", "add", "subtract", "multiply") if name == "arithmetic" else ("exp", "multiply", "log")
    program = _program(LARGE_SIZE, dtype, lambda x, y: functools.reduce(lambda z, step: _chain(step, 1, z, y), steps, x))
    arrays = _draw(LARGE_SIZE, dtype)
    runs = [Blocks(program, team, count, _given(kernel)) for count in counts]
    times = [_shortest(lambda run=run: run(*arrays)) for run in runs]  # type: ignore[misc]  # bound now
    return tuple([item / times[0] for item in times])


def _given(kernel: str) -> Collection[str]:
    return TEMPLATES if kernel == "numexpr" else ()


def _program(size: int, dtype: Dtype, function: Callable[[Value, Value], Value]) -> Program:
    builder = Builder()
    inputs = [builder.input(TensorType(dtype, (size,))) for _ in range(2)]
    return builder.build([function(*inputs)])


def _chain(name: str, count: int, x: Value, y: Value) -> Value:
    """Return an operation applied so many times, to its own result."""
    primitive = PRIMITIVES[name]
    for _ in range(count):
        (x,) = x.builder.emit(primitive, [x, y][: primitive.arity], {})
    return x


@functools.cache
def _draw(size: int, dtype: Dtype) -> tuple[Array, ...]:
    """Return numbers on which all operations are finite, and stay so when repeated."""
    rng = np.random.default_rng(0)
    return tuple(rng.uniform(0.5, 1.0, (2, size)).astype(dtype.numpy))


def main(argv: Sequence[str]) -> int:
    """Measure for a number of threads and print the table; return the exit code."""
    sys.stdout.write(measure(int(argv[0])).to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
