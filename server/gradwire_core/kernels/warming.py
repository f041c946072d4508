"""A plan whose clusters are compiled loops, and NumPy for all of it where these leave a cluster to that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradwire_core.kernels.cluster import CLUSTER
from gradwire_core.kernels.fusion import plan_fused
from gradwire_core.native.loops import Loops
from gradwire_core.native.nest import Layout, Layouts
from gradwire_core.native.tier import Tier
from gradwire_core.planner import Plan
from gradwire_core.program import Equation, Operand, Program
from gradwire_core.types import Array

Runner = Callable[..., tuple[Array, ...]]


class Fused:
    """A plan with compiled loops.

    Args:
        found: the plan.
        run: computes it.
        plain: computes the same by NumPy.

    Attributes:
        run: returns the outputs for the inputs.
        kernels: of its clusters.
    """

    def __init__(self, found: Plan, run: Runner, plain: Runner) -> None:
        self.run = _guarded(run, plain)
        self.kernels = [f"compiled loops, {_describe(item)}" for item in found.program.equations if item.primitive is CLUSTER]

    @classmethod
    def of(
        cls, found: Plan, plain: Runner, layouts: Mapping[Operand, Layout], tier: Tier, build: Callable[[Plan], Runner]
    ) -> Fused | None:
        """Return a plan with its clusters compiled here and now; None where nothing is gained.

        Args:
            found: the plan.
            plain: computes it by NumPy.
            layouts: how its values lie in memory, of those that are not row-major.
            tier: compiles.
            build: makes what runs a plan whose clusters are compiled.
        """
        fused = plan_fused(found, layouts)
        if fused is None:
            return None
        tier.prepare([_cluster_of(item) for item in fused.program.equations if item.primitive is CLUSTER])
        return cls(fused, build(fused), plain)


def _describe(cluster: Equation) -> str:
    body, _ = _cluster_of(cluster)
    count = len(body.equations)
    return f"{count} equation{'s' * (count > 1)} to {', '.join(map(str, body.output_types))}"


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

    def __call__(self, *operands: Array, out: Sequence[Array | None] | Array | None = None) -> Any:
        """Return the outputs: an array, or a tuple of several; `out` is memory for it, or for each of them.

        Raises:
            LeftToNumPyError: the loops leave it to others.
        """
        outputs = self._loops(*operands, out=(out,) if self._is_single else out)  # type: ignore[arg-type]  # one, or several
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


def layout_of(array: Array) -> Layout:
    """Return the axes of an array from the outermost in memory to the innermost."""
    return tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))
