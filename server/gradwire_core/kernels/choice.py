"""Which kernel runs a cluster: how many threads share its blocks, and what numexpr computes of them, as the calibration predicts.

    its body, the table --predicted seconds of each--> the fewest; NumPy, and fewer threads, where the difference is small

Until the machine is calibrated, in the background, a cluster runs by NumPy on the thread that calls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradwire_core.kernels.blocks import Blocks
from gradwire_core.kernels.calibration import Calibration, Table
from gradwire_core.kernels.expressions import REAL, TEMPLATES, is_written
from gradwire_core.kernels.team import Team
from gradwire_core.program import Equation, Program
from gradwire_core.types import Array, Dtype

Kernel = Callable[..., Any]

KERNELS = ("auto", "blocks", "numexpr")
WORTHWHILE = 0.9
"""numexpr is chosen where it takes at most this share of the time of NumPy, for it changes last bits."""
SIMILAR = 1.05
"""Fewer threads are chosen where they take at most so many times the shortest time."""


@dataclass(frozen=True)
class Way:
    """A way to run a cluster.

    Attributes:
        threads: how many share its blocks.
        given: the operations that numexpr computes; the others are NumPy's.
        seconds: what it is predicted to take; None where nothing was measured.
    """

    threads: int = 1
    given: frozenset[str] = field(default_factory=frozenset)
    seconds: float | None = None

    def __str__(self) -> str:
        kernel = (
            f"numexpr for {', '.join(sorted(self.given))}" if 0 < len(self.given) <= 4 else "numexpr" if self.given else "blocks"
        )
        predicted = "" if self.seconds is None else f", {1e3 * self.seconds:.3g} ms"
        return f"{kernel} on {self.threads} thread{'s' * (self.threads > 1)}{predicted}"


def choose(body: Program, table: Table) -> tuple[Way, list[Way]]:
    """Return the way to run a cluster, and what was rejected, the quickest first."""
    plain = [_predict(body, table, threads, with_numexpr=False) for threads in table.threads]
    joined = [_predict(body, table, threads, with_numexpr=True) for threads in table.threads]
    best = _quickest(plain)
    other = _quickest([way for way in joined if way.given] or plain)
    if other.given and _seconds(other) <= WORTHWHILE * _seconds(best):
        best = other
    ways = {*plain, *joined} - {best}
    return best, sorted(ways, key=_seconds)


def _quickest(ways: list[Way]) -> Way:
    """Return the first, in the order of threads, that takes about as little as any."""
    least = min(map(_seconds, ways))
    return next(way for way in ways if _seconds(way) <= SIMILAR * least)


def _seconds(way: Way) -> float:
    assert way.seconds is not None
    return way.seconds


def _predict(body: Program, table: Table, threads: int, *, with_numexpr: bool) -> Way:
    """Return the way on so many threads, in which numexpr computes what it is quicker at."""
    seconds, given = table.call_s[table.threads.index(threads)], set()
    for equation, name, dtype, size in _work(body):
        found = table.seconds("numpy", dtype, name, threads)
        if with_numexpr and is_written(equation):
            other = table.seconds("numexpr", dtype, name, threads)
            if other < found:
                given.add(name)
                found = other
        seconds += size * found
    return Way(threads, frozenset(given), seconds)


def _work(body: Program) -> Iterator[tuple[Equation, str, Dtype, int]]:
    """Yield the equations that compute, with the operation, the dtype and the elements that they are counted as."""
    for equation in body.equations:
        operand = equation.operands[-1].type
        if equation.primitive.is_elementwise:
            dtype = operand.dtype if operand.dtype in REAL else Dtype.FLOAT64
            yield equation, equation.primitive.name, dtype, equation.results[0].type.size
        elif equation.primitive.name == "sum":
            yield equation, "add", operand.dtype if operand.dtype in REAL else Dtype.FLOAT64, operand.size


class Chooser:
    """What chooses in a process; its clusters share a team of threads.

    Args:
        threads: the most threads of a cluster.
        kernels: "blocks" or "numexpr" on all threads, or "auto" for what the calibration says.
        calibration: of so many threads; None: none, and "auto" stays with NumPy on the thread that calls.
    """

    def __init__(self, threads: int = 1, kernels: str = "auto", calibration: Calibration | None = None) -> None:
        self.threads = threads
        self._kernels = kernels
        self._calibration = calibration
        self._team = Team(threads) if threads > 1 else None

    def kernel(self, body: Program) -> Kernel:
        """Return what runs a cluster; printing it tells how."""
        return Chosen(self, body)

    def find_way(self, body: Program) -> tuple[Way, list[Way]] | None:
        """Return the way to run a cluster, and what was rejected; None as long as that is not known."""
        if self._kernels != "auto":
            given: Collection[str] = TEMPLATES if self._kernels == "numexpr" else ()
            return Way(self.threads, frozenset(given)), []
        table = None if self._calibration is None else self._calibration.ask()
        return None if table is None else choose(body, table)

    def blocks(self, body: Program, way: Way) -> Blocks:
        """Return what runs a cluster in a way."""
        return Blocks(body, self._team, way.threads, way.given)


class Chosen:
    """A cluster that runs the way its chooser finds, once it does; threads may share it."""

    def __init__(self, chooser: Chooser, body: Program) -> None:
        self._chooser = chooser
        self._body = body
        self._run = Blocks(body)
        self._way, self._rejected = Way(), list[Way]()
        self._is_chosen = False

    def __call__(self, *operands: Array, out: Sequence[Array | None] | Array | None = None) -> Any:
        """Return the outputs: an array, or a sequence of several; `out` is memory for it, or for each of them."""
        if not self._is_chosen:
            self._choose()
        return self._run(*operands, out=out)

    def __str__(self) -> str:
        if not self._is_chosen:
            self._choose()
        rejected = f"; rejected: {', '.join(map(str, self._rejected[:3]))}" if self._rejected else ""
        return f"{self._way}{'' if self._is_chosen else ', until this machine is calibrated'}{rejected}"

    def _choose(self) -> None:
        found = self._chooser.find_way(self._body)
        if found is not None:
            self._way, self._rejected = found
            self._run = self._chooser.blocks(self._body, self._way)
            self._is_chosen = True


@functools.cache
def open_chooser(threads: int, kernels: str, folder: str) -> Chooser:
    """Return the chooser of this process, whose calibration is kept in a folder, or nowhere for an empty text."""
    return Chooser(threads, kernels, Calibration(threads, Path(folder) if folder else None))
