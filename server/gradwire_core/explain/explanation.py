"""What is explained: derivations of a program and of its derivatives, what is asked of them, and the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradwire_core import engine
from gradwire_core.engine import Output
from gradwire_core.explain.derivation import Derivation, Total
from gradwire_core.explain.deriving import derive
from gradwire_core.passes import run_passes
from gradwire_core.planner import Plan, plan
from gradwire_core.program import Program
from gradwire_core.transforms import Transform
from gradwire_core.types import Dtype, Shape

MOST_PLANNED = 2000
"""Longer programs are not planned only to be explained."""
OF_GRADIENT = frozenset({"hessian", "hvp"})


@dataclass(frozen=True, slots=True)
class Asked:
    """One derivative that is asked for.

    Attributes:
        what: the transform.
        of: the name of the output.
        by: the name of the input.
        dtype: of the result.
        shape: of the result.
        entries: the shape of the Jacobian that it is, or is made of.
        total: that Jacobian; None where it is zero, or left out.
        is_zero: whether there is no path from the input to the output.
    """

    what: str
    of: str
    by: str
    dtype: Dtype
    shape: Shape
    entries: Shape
    total: Total | None
    is_zero: bool


@dataclass(frozen=True, slots=True)
class Section:
    """The derivation of one program.

    Attributes:
        title: what the program is; empty for the one that was given.
        derivation: its derivation.
        asked: the derivatives that are asked for.
    """

    title: str
    derivation: Derivation
    asked: tuple[Asked, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Derivations, and how everything would be computed.

    Attributes:
        sections: the derivation of the program, then of programs made of it, such as the gradient for a Hessian.
        plan: how the outputs would be computed; None for a long program that was not planned.
    """

    sections: tuple[Section, ...]
    plan: Plan | None


def explanation(program: Program, outputs: Sequence[Output], names: Sequence[str], planned: Plan | None) -> Explanation:
    """Return the explanation of outputs of a program.

    Raises:
        ArgumentError, ShapeError, NotDifferentiableError: a transform does not fit.
    """
    if planned is None and len(program.equations) <= MOST_PLANNED:
        planned = engine.compile(program, outputs).plan if outputs else plan(program)
    asked: dict[tuple[Transform, ...], list[Transform]] = {(): []}
    for output in outputs:
        chain = output.transforms
        if chain and chain[-1].name != "vmap":
            last = chain[-1]
            base = (*chain[:-1], Transform("grad", last.argnums)) if last.name in OF_GRADIENT else chain[:-1]
            asked.setdefault(base, []).append(last)
        elif chain:
            asked.setdefault(chain, [])
    return Explanation(tuple(_section(program, base, found, names) for base, found in asked.items()), planned)


def _section(program: Program, base: tuple[Transform, ...], asked: Sequence[Transform], names: Sequence[str]) -> Section:
    derived = run_passes(engine.derive(program, base)) if base else program
    argnums = tuple(dict.fromkeys(index for transform in asked for index in transform.argnums))
    found = derive(derived, argnums or None, names)
    rows = tuple(row for transform in dict.fromkeys(asked) for row in _rows(derived, transform, found))
    return Section(" of ".join(transform.name for transform in reversed(base)), found, rows)


def _rows(program: Program, transform: Transform, found: Derivation) -> list[Asked]:
    """Return what a transform asks of each output and input."""
    rows = []
    known = {(paths.of, paths.by) for paths in found.paths}
    for output, name in zip(program.outputs, found.outputs, strict=True):
        for index in transform.argnums:
            by, type = found.inputs[index]
            entries = (*output.type.shape, *type.shape)
            total = None if name is None else found.total(name, by)
            shape = _shape(transform.name, output.type.shape, type.shape)
            is_zero = (name, by) not in known and total is None and not found.left_out
            rows.append(Asked(transform.name, name or "an output", by, output.type.dtype, shape, entries, total, is_zero))
    return rows


def _shape(name: str, out: Shape, into: Shape) -> Shape:
    if name.startswith("jacobian_"):
        return ()
    if name == "jvp":
        return out
    return into if name in ("vjp", "grad") else (*out[: len(out)], *into) if name != "hvp" else out
