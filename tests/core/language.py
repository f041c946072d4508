"""More operations for programs drawn at random: nested branches and loops, factorizations, order, updates, running sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

import gradwire.linalg  # enters its compositions
import gradwire.numpy  # the same
from gradwire_core.builder import Builder
from gradwire_core.ops._declare import call
from gradwire_core.ops.control import cond_primitive, custom_primitive, scan_primitive
from gradwire_core.program import Program
from gradwire_core.types import Dtype, TensorType
from tests.core.strategies import MOST_ELEMENTS, OPERATIONS, Case, Draw, grow, matrices, shapes

DEPTH = 2  # loops within branches within programs


@st.composite
def language_programs(draw: Draw, *, operations: int = 4, is_scalar: bool = False) -> Case:
    """A program of one or two inputs, with at least one operation of this module."""
    builder = Builder()
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    values = [builder.input(TensorType(Dtype.FLOAT64, draw(shapes(2)))) for _ in range(draw(st.integers(1, 2)))]
    arrays = [rng.normal(size=value.shape) for value in values]
    grow(draw, rng, values, draw(st.integers(0, operations)))
    made = draw(st.sampled_from(LANGUAGE))(draw, rng, values)
    values.append(np.tanh(values[-1] if made is None else made))
    grow(draw, rng, values, draw(st.integers(0, 2)))
    last = np.sum(np.sin(values[-1]) * rng.normal(size=values[-1].shape)) if is_scalar else values[-1]
    return Case(builder.build([last]), arrays)


# -- control flow ------------------------------------------------------------------------------------------------------------


def _body(
    draw: Draw, rng: np.random.Generator, types: Sequence[TensorType], depth: int, carries: Sequence[int], extra: int
) -> Program:
    """A sub-program whose first outputs have the types of chosen inputs, and which uses what it grows."""
    builder = Builder()
    values = [builder.input(type) for type in types]
    inputs = list(values)
    grow(draw, rng, values, draw(st.integers(1, 3)))
    if depth < DEPTH and draw(st.booleans()):
        made = draw(st.sampled_from([branch, loop]))(draw, rng, values, depth + 1)
        values += [] if made is None else [made]
    mixed = np.sum(np.sin(values[-1]))
    outputs = [np.tanh(inputs[index] * mixed + np.cos(inputs[index])) for index in carries]
    return builder.build([*outputs, *[np.sin(values[-1 - index % len(values)]) for index in range(extra)]])


def branch(draw: Draw, rng: np.random.Generator, values: Sequence[Any], depth: int = 0) -> Any:
    x, y = draw(st.sampled_from(values)), draw(st.sampled_from(values))
    types = [x.type, y.type]
    programs = [_body(draw, rng, types, depth, [0], 0) for _ in range(2)]
    condition = np.sum(y) > rng.normal()
    return call(cond_primitive, condition, x, y, on_true=programs[0], on_false=programs[1])


def loop(draw: Draw, rng: np.random.Generator, values: Sequence[Any], depth: int = 0) -> Any:
    """A scan of which the result is the last carry times the sum of what it stacked."""
    rows = [value for value in values if value.ndim and value.shape[0] > 0]
    if not rows:
        return None
    constant, carry, xs = draw(st.sampled_from(values)), draw(st.sampled_from(values)), draw(st.sampled_from(rows))
    element = xs.type.with_shape(xs.shape[1:])
    body = _body(draw, rng, [constant.type, carry.type, element], depth, [1], 1)
    last, stacked = call(
        scan_primitive,
        constant,
        carry,
        xs,
        body=body,
        length=xs.shape[0],
        const_count=1,
        carry_count=1,
        is_reversed=draw(st.booleans()),
        is_checkpointed=draw(st.booleans()),
    )
    return last * np.sum(stacked)


def custom(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    """A function whose tangent is given, and is the right one."""
    x = draw(st.sampled_from(values))
    body, tangent = Builder(), Builder()
    y = body.input(x.type)
    primal, dot = tangent.input(x.type), tangent.input(x.type)
    return call(
        custom_primitive,
        x,
        body=body.build([np.sin(y) * y]),
        tangent=tangent.build([(np.cos(primal) * primal + np.sin(primal)) * dot]),
    )


# -- arrays ------------------------------------------------------------------------------------------------------------------


def factorization(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    x = matrices(draw, rng, values)
    if x.size == 0 or x.size > MOST_ELEMENTS:
        return None
    n = x.shape[-1]
    symmetric = x + np.swapaxes(x, -1, -2) + np.diag(np.arange(1.0, n + 1))
    spread = x + np.diag(np.arange(1.0, n + 1))
    functions = {
        "cholesky": lambda: np.linalg.cholesky(symmetric),
        "eigh": lambda: np.linalg.eigh(symmetric)[0],
        "svd": lambda: np.linalg.svd(spread, compute_uv=False),
        "qr": lambda: np.linalg.qr(x)[1],
        "pinv": lambda: np.linalg.pinv(x),
        "expm": lambda: gradwire.linalg.expm(x / 4),
        "power": lambda: np.linalg.matrix_power(x, 3),
    }
    return functions[draw(st.sampled_from(sorted(functions)))]()


def order(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    rows = [value for value in values if value.ndim and value.size]
    if not rows:
        return None
    x = draw(st.sampled_from(rows))
    axis = draw(st.integers(0, x.ndim - 1))
    distinct = x + rng.normal(size=x.shape)  # repeated elements are a kink
    kind = draw(st.sampled_from(["sort", "cumsum", "cumprod", "along", "median", "diff"]))
    if kind == "along":
        return np.take_along_axis(x, np.argsort(distinct, axis=axis), axis=axis)
    if kind == "diff":
        return np.diff(x, axis=axis) if x.shape[axis] > 1 else None
    return {"sort": np.sort, "cumsum": np.cumsum, "cumprod": np.cumprod, "median": np.median}[kind](distinct, axis=axis)


def update(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    rows = [value for value in values if value.ndim and value.size]
    if not rows:
        return None
    x = draw(st.sampled_from(rows))
    index = rng.integers(-x.shape[0], x.shape[0], draw(st.integers(1, 3)))
    place = x.at[index]
    new = np.sin(np.sum(x)) * rng.normal(size=(len(index), *x.shape[1:]))
    return getattr(place, draw(st.sampled_from(["set", "add", "multiply"])))(new)


LANGUAGE = [branch, branch, loop, loop, custom, factorization, order, update]
ALL = [*OPERATIONS, *LANGUAGE]
