"""Compressed Jacobians: several columns, or rows, in one vmapped evaluation of the linear equations.

Columns of one colour share a tangent, so that `count` tangents give all entries; with a colour for each column that is the dense
Jacobian. Rows and the transposed equations alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops.shaping import broadcast_to, concatenate, eye, pad_with_zeros, reshape
from gradwire_core.program import Equation, Operand
from gradwire_core.structure.colouring import Colouring
from gradwire_core.transforms.vmap import batch_equations
from gradwire_core.types import Array


def compress(
    builder: Builder,
    equations: Sequence[Equation],
    inputs: Sequence[Value],
    outputs: Sequence[Value | None],
    likes: Sequence[Value],
    seeds: Sequence[Value],
) -> list[Value]:
    """Return each output of linear equations for a batch of inputs, [count, size of the output].

    Args:
        builder: where the equations are, and the batch is built.
        equations: linear equations, in order.
        inputs: what they are linear in.
        outputs: their results; None for zero.
        likes: values of the types of the outputs.
        seeds: the batch of each input, its axis first.
    """
    batched: set[Operand] = {item.operand for item in inputs}
    linear = batched.union(*[equation.results for equation in equations])
    residuals = {operand for equation in equations for operand in equation.operands if operand not in linear}
    known = {operand: Value(builder, operand) for operand in residuals}
    known.update({item.operand: seed for item, seed in zip(inputs, seeds, strict=True)})
    batch_equations(builder, equations, known, batched)
    count = seeds[0].shape[0]
    found = []
    for output, like in zip(outputs, likes, strict=True):
        if output is None:
            zero = builder.literal(np.zeros((), like.dtype))
            found.append(broadcast_to(zero, (count, like.size)))
        else:
            found.append(reshape(known[output.operand], (count, like.size)))
    return found


def coloured_seeds(builder: Builder, inputs: Sequence[Value], colouring: Colouring) -> list[Value]:
    """Return the seeds of each input: for each colour, ones at its elements."""
    ends = list(itertools.accumulate((item.size for item in inputs), initial=0))
    return [
        builder.literal(_indicators(colouring.colours[start:stop], colouring.count, item))
        for item, (start, stop) in zip(inputs, itertools.pairwise(ends), strict=True)
    ]


def _indicators(colours: Array, count: int, like: Value) -> Array:
    seeds = np.zeros((count, like.size), like.dtype)
    seeds[colours, np.arange(like.size)] = 1
    return seeds.reshape((count, *like.shape))


def dense_seeds(builder: Builder, inputs: Sequence[Value]) -> list[Value]:
    """Return the seeds of each input for all columns: the identity matrix of all inputs, by the columns of each."""
    total = sum(item.size for item in inputs)
    start, seeds = 0, []
    for item in inputs:
        matrix = eye(builder, item.size, item.size, item.type.dtype)
        if item.size < total:
            matrix = pad_with_zeros(matrix, (start, 0), (total - start - item.size, 0), (0, 0))
        seeds.append(reshape(matrix, (total, *item.shape)))
        start += item.size
    return seeds


def flattened(compressed: Sequence[Value]) -> Value:
    """Return compressed outputs as one vector: colour by colour, all outputs one behind the other."""
    joint: Value = compressed[0] if len(compressed) == 1 else concatenate(compressed, 1)
    vector: Value = reshape(joint, (joint.size,))
    return vector
