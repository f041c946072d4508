"""A program as a derivation: step by step in index notation, then what the plan says it costs.

The derivation is data (`derivation`, over `notation`); text, LaTeX and JSON are views of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradwire_core.engine import Output
from gradwire_core.errors import ArgumentError
from gradwire_core.explain import data, latex, text
from gradwire_core.explain.explanation import explanation
from gradwire_core.planner import Plan
from gradwire_core.program import Program

FORMATS = {"text": text.render, "latex": latex.render, "data": data.render}


def explain(
    program: Program,
    outputs: Sequence[Output] = (),
    *,
    format: str = "text",
    names: Sequence[str] = (),
    plan: Plan | None = None,
) -> Any:
    """Return outputs of a program as a derivation: equations in index notation, their derivatives, and the totals of the plan.

    A long program is cut after its first equations.

    Args:
        program: the program.
        outputs: what is asked of it; without any, its derivatives by all inputs are derived, and its values planned.
        format: "text", "latex" (for amsmath), or "data" (what JSON can hold).
        names: the names of the first inputs; without any, all values are named as the program prints.
        plan: the plan of the outputs, where it is known.

    Raises:
        ArgumentError: there is no such format, or a transform does not fit.
        ShapeError, NotDifferentiableError: a transform does not fit.
    """
    if format not in FORMATS:
        raise ArgumentError(f"explain: needed a format among {', '.join(FORMATS)}, got {format!r}; choose one", given=format)
    return FORMATS[format](explanation(program, outputs, names, plan))


__all__ = ["FORMATS", "explain"]
