"""vjp: the derivative of a weighted sum of outputs, backward; derived by transposing the tangents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gradwire_core.builder import Builder, Value
from gradwire_core.errors import NotDifferentiableError
from gradwire_core.program import Program
from gradwire_core.transforms.linearize import instantiate, linearize
from gradwire_core.transforms.transpose import transpose


def vjp(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of the cotangents of the chosen inputs, `ct J`.

    It takes the program's inputs, then the cotangent of each output.

    Raises:
        ArgumentError: an input does not exist or is named twice.
        NotDifferentiableError: an input or an output is of an integer or boolean dtype.
    """
    return pull_back(program, argnums, lambda builder, output: builder.input(output.type))


def pull_back(program: Program, argnums: Sequence[int], seed: Callable[[Builder, Value], Value]) -> Program:
    """Return the program of the cotangents of the chosen inputs, where `seed` gives the cotangent of each output."""
    linear = linearize(program, argnums)
    for index, output in enumerate(linear.outputs):
        if not output.type.dtype.is_inexact:
            text = f"output {index}: needed a floating dtype to differentiate, got {output.type}; convert it with astype"
            raise NotDifferentiableError(text, given=output.type, output=index)
    cotangents = [seed(linear.builder, output) for output in linear.outputs]
    pairs = zip(linear.tangent_outputs, cotangents, strict=True)
    found = transpose(linear.builder, linear.equations, linear.tangents, pairs)
    filled = [instantiate(linear.builder, value, tangent.type) for value, tangent in zip(found, linear.tangents, strict=True)]
    return linear.builder.build(filled)
