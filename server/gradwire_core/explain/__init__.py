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

NAME_WIDTH = 64
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
    _check_names(program, names)
    return FORMATS[format](explanation(program, outputs, names, plan))


def _check_names(program: Program, names: Sequence[str]) -> None:
    count = len(program.inputs)
    if len(names) > count or len(set(names)) != len(names):
        text = f"explain: needed at most {count} distinct names of inputs, got {len(names)}; name each input once"
        raise ArgumentError(text, needed=count, given=len(names))
    for name in names:
        if not name.isidentifier() or len(name) > NAME_WIDTH:
            text = (
                f"explain: needed names of inputs such as x or x_1, got {name[:NAME_WIDTH]!r}; use letters, digits and underscores"
            )
            raise ArgumentError(text, given=name[:NAME_WIDTH])


__all__ = ["FORMATS", "explain"]
