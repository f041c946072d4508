"""Transforms: program in, program out, meaning changed. A `Transform` names one with its static arguments.

Inputs that a transform adds (tangents, cotangents) stand behind the inputs of its program, so transforms compose in any order.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gradwire_core.errors import ArgumentError
from gradwire_core.program import Program
from gradwire_core.transforms import control
from gradwire_core.transforms.determinant import jacobian_det, jacobian_logvolume, jacobian_slogdet
from gradwire_core.transforms.grad import grad
from gradwire_core.transforms.jacobian import (
    hessian,
    jacobian,
    sparse_hessian,
    sparse_jacobian,
    structured_hessian,
    structured_jacobian,
)
from gradwire_core.transforms.jvp import hvp, jvp
from gradwire_core.transforms.vjp import vjp
from gradwire_core.transforms.vmap import vmap


@dataclass(frozen=True, slots=True)
class Transform:
    """A transform with its static arguments.

    Attributes:
        name: a key of `TRANSFORMS`, or "vmap".
        argnums: the inputs to differentiate in, counted from 0; vmap takes none.
        in_axes: for vmap, the batch axis of each input, None where it has none.
        axis_size: for vmap, the number of elements of the batch.
    """

    name: str
    argnums: tuple[int, ...] = (0,)
    in_axes: tuple[int | None, ...] = ()
    axis_size: int = 0
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.name, self.argnums, self.in_axes, self.axis_size)))

    def __hash__(self) -> int:
        return self._hash


TRANSFORMS: dict[str, Callable[[Program, Sequence[int]], Program]] = {
    "grad": grad,
    "hessian": hessian,
    "hvp": hvp,
    "jacobian": jacobian,
    "jacobian_det": jacobian_det,
    "jacobian_logvolume": jacobian_logvolume,
    "jacobian_slogdet": jacobian_slogdet,
    "jvp": jvp,
    "vjp": vjp,
}
STRUCTURED = {"hessian": structured_hessian, "jacobian": structured_jacobian}
SPARSE = {"hessian": sparse_hessian, "jacobian": sparse_jacobian}
NAMES = (*TRANSFORMS, "vmap")


def apply(program: Program, transform: Transform) -> Program:
    """Return the program that a transform makes of a program.

    Raises:
        ArgumentError: there is no such transform, or its arguments do not fit.
        ShapeError, NotDifferentiableError: as the transform raises.
    """
    if transform.name == "vmap":
        return vmap(program, transform.in_axes, transform.axis_size)
    found = TRANSFORMS.get(transform.name)
    if found is None:
        (nearest,) = difflib.get_close_matches(transform.name, NAMES, n=1, cutoff=0.0)
        text = f"transform: needed one of {', '.join(NAMES)}, got {transform.name!r}; did you mean {nearest!r}?"
        raise ArgumentError(text, given=transform.name, nearest=nearest)
    return found(program, transform.argnums)


__all__ = [
    "NAMES",
    "SPARSE",
    "STRUCTURED",
    "TRANSFORMS",
    "Transform",
    "apply",
    "control",
    "grad",
    "hessian",
    "hvp",
    "jacobian",
    "jacobian_det",
    "jacobian_logvolume",
    "jacobian_slogdet",
    "jvp",
    "sparse_hessian",
    "sparse_jacobian",
    "structured_hessian",
    "structured_jacobian",
    "vjp",
    "vmap",
]  # fmt: skip
