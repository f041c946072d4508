"""How a plan goes over to compiled loops: it runs by NumPy until it is hot, then both ways in turns, and then by the faster one.

NumPy --`HOT_SECONDS` of running--> NumPy, while the tier compiles in its thread --> both in turns, `TRIALS` times --> the faster
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gradwire_core.kernels.cluster import CLUSTER
from gradwire_core.kernels.fusion import plan_fused
from gradwire_core.native import tier as tiers
from gradwire_core.native.loops import Loops
from gradwire_core.native.nest import Layout, Layouts
from gradwire_core.native.tier import Tier
from gradwire_core.planner import Plan, Step
from gradwire_core.program import Equation, Operand, Program
from gradwire_core.types import Array

TRIALS = 6
"""So often each of the two ways to run a plan is timed."""

Runner = Callable[..., tuple[Array, ...]]
Kernel = Callable[..., Any]
Take = Callable[[Runner], None]


class Warming:
    """Runs a plan, and has the tier compile it once it is hot; threads may share it.

    Args:
        found: the plan.
        plain: runs it by NumPy.
        tier: compiles.
        build: makes what runs a plan whose clusters are compiled.
        kernel: makes what runs a step by NumPy.
        take: called with what is to run the plan from then on.
    """

    def __init__(
        self, found: Plan, plain: Runner, tier: Tier, build: Callable[[Plan], Runner], kernel: Callable[[Step], Kernel], take: Take
    ) -> None:
        self._plan = found
        self._plain = plain
        self._tier = tier
        self._build = build
        self._kernel = kernel
        self._take = take
        self._spent_s = 0.0

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """Return the outputs for the inputs."""
        began = time.perf_counter()
        outputs = self._plain(*arrays)
        self._spent_s += time.perf_counter() - began
        if self._spent_s > tiers.HOT_SECONDS:
            self._spent_s = 0.0  # should too much wait, it asks again after as long
            self._take(self._plain)
            layouts = find_layouts(self._plan, arrays, self._kernel)
            if not self._tier.ask_for(functools.partial(self._compile, layouts), self._take):
                self._take(self)
        return outputs

    def _compile(self, layouts: Mapping[Operand, Layout]) -> _Trial | None:
        """Return what runs the plan by loops as well; None where nothing is gained."""
        fused = plan_fused(self._plan, layouts)
        if fused is None:
            return None
        self._tier.prepare([_cluster_of(item) for item in fused.program.equations if item.primitive is CLUSTER])
        return _Trial(self._take, self._plain, _guarded(self._build(fused), self._plain))


class _Trial:
    """Runs functions that compute the same in turns, and goes over to the fastest; threads may share it."""

    def __init__(self, take: Take, *runs: Runner) -> None:
        self._take = take
        self._runs = runs
        self._seconds: list[list[float]] = [[] for _ in runs]
        self._turns = itertools.count()

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """Return the outputs for the inputs."""
        place = next(self._turns) % len(self._runs)
        began = time.perf_counter()
        outputs = self._runs[place](*arrays)
        self._seconds[place].append(time.perf_counter() - began)
        if min(map(len, self._seconds)) >= TRIALS:
            fastest = min(range(len(self._runs)), key=lambda item: min(self._seconds[item]))
            self._take(self._runs[fastest])
        return outputs


class LeftToNumPyError(Exception):
    """Compiled loops do not compute a cluster of these operands."""


class Native:
    """Runs a cluster by compiled loops.

    Args:
        cluster: the equation.
        tier: compiles it, here and now.
    """

    def __init__(self, cluster: Equation, tier: Tier) -> None:
        body, layouts = _cluster_of(cluster)
        self._loops: Loops = tier.loops(body, layouts)
        self._is_single = len(body.outputs) == 1

    def __call__(self, *operands: Array) -> Any:
        """Return the outputs: an array, or a tuple of several.

        Raises:
            LeftToNumPyError: the loops leave it to others.
        """
        outputs = self._loops(*operands)
        if outputs is None:
            raise LeftToNumPyError
        return outputs[0] if self._is_single else outputs


def _guarded(run: Runner, plain: Runner) -> Runner:
    """Return what runs a plan by loops, and all of it by NumPy where they leave some of it to that."""

    def guarded(*arrays: Array) -> tuple[Array, ...]:
        try:
            return run(*arrays)
        except LeftToNumPyError:
            pass  # only behind this are the arrays of the other run free
        return plain(*arrays)

    return guarded


def _cluster_of(cluster: Equation) -> tuple[Program, Layouts]:
    body, layouts = cluster.params["body"], cluster.params["layouts"]
    assert isinstance(body, Program)
    return body, layouts  # type: ignore[return-value]  # tuples of tuples of integers


@np.errstate(all="ignore")
def find_layouts(found: Plan, arrays: Sequence[Array], kernel: Callable[[Step], Kernel]) -> dict[Operand, Layout]:
    """Run a plan once, and return how its values lie in memory, of those that are not row-major."""
    program = found.program
    layouts: dict[Operand, Layout] = {
        var: _layout(array) for var, array in zip(program.inputs, arrays, strict=True) if not array.flags.c_contiguous
    }
    slots: dict[int, Any] = {slot: array if array.ndim else array[()] for slot, array in enumerate(arrays)}
    slots.update({~index: array if array.ndim else array[()] for index, array in enumerate(found.literals)})
    for step in found.steps:
        operands = [slots[slot] for slot in step.operands]
        results = kernel(step)(*operands, *([operands[step.target]] if step.target >= 0 else []))
        made = results if len(step.results) > 1 else [results]
        for var, slot, array in zip(step.equation.results, step.results, made, strict=True):
            slots[slot] = array
            if var.type.ndim > 1 and not array.flags.c_contiguous:
                layouts[var] = _layout(array)
        slots.update(dict.fromkeys(step.frees))
    return layouts


def _layout(array: Array) -> Layout:
    return tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))
