"""jvp: the directional derivative, forward. hvp: the Hessian times a vector, forward over reverse."""

from __future__ import annotations

from collections.abc import Sequence

from gradwire_core.program import Program, Var
from gradwire_core.transforms.grad import grad
from gradwire_core.transforms.linearize import instantiate, linearize


def jvp(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of the tangents of the outputs, `J t`.

    It takes the program's inputs, then the tangent of each chosen input.

    Raises:
        ArgumentError: an input does not exist or is named twice.
        NotDifferentiableError: an input is of an integer or boolean dtype.
    """
    linear = linearize(program, argnums)
    for tangent in linear.tangents:
        assert isinstance(tangent.operand, Var)
        linear.builder.inputs.append(tangent.operand)
    pairs = zip(linear.tangent_outputs, linear.outputs, strict=True)
    return linear.builder.build([instantiate(linear.builder, tangent, output.type) for tangent, output in pairs])


def hvp(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of the Hessian of a scalar program times a vector: for each chosen input, `sum_b H_ab t_b`.

    It takes the program's inputs, then the tangent of each chosen input.

    Raises:
        ShapeError: the program has not one scalar output.
        ArgumentError, NotDifferentiableError: as `grad`.
    """
    return jvp(grad(program, argnums), argnums)
