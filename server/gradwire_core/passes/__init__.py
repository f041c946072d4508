"""Passes: Program -> Program, with the meaning kept to the bit, on NaN, inf and -0.0 too; only sums in contractions change order.

`PIPELINE` holds them in the order in which the engine runs them. What would change a value (`x / x -> 1`) is no pass.
"""

from __future__ import annotations

from collections.abc import Callable

from gradwire_core.passes.constants import fold_constants
from gradwire_core.passes.contraction import order_contractions
from gradwire_core.passes.loops import merge_loops
from gradwire_core.passes.merging import merge_contractions
from gradwire_core.passes.prune import prune
from gradwire_core.passes.simplify import simplify
from gradwire_core.program import Program

PIPELINE: tuple[Callable[[Program], Program], ...] = (
    prune,
    simplify,
    merge_loops,
    merge_contractions,
    order_contractions,
    fold_constants,
)


def run_passes(program: Program) -> Program:
    """Return the program after every pass of the pipeline."""
    for one in PIPELINE:
        program = one(program)
    return program


__all__ = [
    "PIPELINE",
    "fold_constants",
    "merge_contractions",
    "merge_loops",
    "order_contractions",
    "prune",
    "run_passes",
    "simplify",
]
