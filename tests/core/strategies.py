"""Programs drawn at random, over the primitives: what the transforms are tested on.

A program grows operation by operation over values of up to 36 elements, axes of length 0 and 1 included. Arguments of functions
with poles are kept away from them, so every derivative is finite and of moderate size; matrices are well conditioned. The number of
examples of every test grows with the environment variable EXAMPLES (a factor, 1 by default).
"""

from __future__ import annotations

import math
import os
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from gradwire_core.builder import Builder
from gradwire_core.ops import indexing, shaping
from gradwire_core.ops._declare import call
from gradwire_core.ops.elementwise import hypot, logistic
from gradwire_core.program import Program
from gradwire_core.types import Dtype, TensorType

MOST_ELEMENTS = 36
FACTOR = float(os.environ.get("EXAMPLES", "1"))
Draw = Callable[[st.SearchStrategy[Any]], Any]


def examples(count: int) -> settings:
    """How many programs a test draws."""
    return settings(
        max_examples=max(1, int(count * FACTOR)),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        deadline=None,
    )


@dataclass
class Case:
    """A program and its inputs."""

    program: Program
    arrays: list[np.ndarray]

    def __repr__(self) -> str:
        return f"{self.program}\n{self.arrays}"

    @property
    def argnums(self) -> tuple[int, ...]:
        return tuple(range(len(self.arrays)))


def shapes(most_axes: int = 3) -> st.SearchStrategy[tuple[int, ...]]:
    length = st.sampled_from([2, 3, 1, 4, 0])
    return st.lists(length, max_size=most_axes).map(tuple).filter(lambda shape: math.prod(shape) <= MOST_ELEMENTS)


@st.composite
def programs(draw: Draw, *, outputs: int = 2, operations: int = 7) -> Case:
    """A program of one to three float64 inputs and up to the given number of float64 outputs."""
    builder = Builder()
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    values = [builder.input(TensorType(Dtype.FLOAT64, draw(shapes()))) for _ in range(draw(st.integers(1, 3)))]
    arrays = [rng.normal(size=value.shape) for value in values]
    grow(draw, rng, values, draw(st.integers(1, operations)))
    chosen = [values[-1], *draw(st.lists(st.sampled_from(values), max_size=outputs - 1))]
    return Case(builder.build(chosen), arrays)


@st.composite
def scalar_programs(draw: Draw, *, operations: int = 6) -> Case:
    """A program of one scalar output."""
    builder = Builder()
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    values = [builder.input(TensorType(Dtype.FLOAT64, draw(shapes(2)))) for _ in range(draw(st.integers(1, 2)))]
    arrays = [rng.normal(size=value.shape) for value in values]
    grow(draw, rng, values, draw(st.integers(1, operations)))
    last = np.sum(np.sin(values[-1]) * rng.normal(size=values[-1].shape))
    return Case(builder.build([last]), arrays)


def grow(draw: Draw, rng: np.random.Generator, values: list[Any], count: int) -> None:
    """Add operations; those that do not fit the values drawn for them are left out."""
    for _ in range(count):
        operation = draw(st.sampled_from(OPERATIONS))
        made = operation(draw, rng, values)
        if made is not None and made.size <= MOST_ELEMENTS:
            values.append(made)


# -- elementwise -------------------------------------------------------------------------------------------------------------

UNARY: list[Callable[[Any], Any]] = [
    np.sin, np.cos, np.tanh, np.arctan, np.negative, logistic, np.absolute, np.square, np.sign,
    lambda x: np.exp(np.sin(x)), lambda x: np.expm1(np.tanh(x)), lambda x: np.log(1.5 + np.sin(x)), lambda x: np.log1p(x * x),
    lambda x: np.sqrt(1 + x * x), lambda x: np.reciprocal(2 + np.sin(x)), lambda x: np.tan(np.tanh(x)),
    lambda x: np.arcsin(0.9 * np.sin(x)), lambda x: np.arccos(0.9 * np.cos(x)),
    lambda x: np.sinh(np.sin(x)), lambda x: np.cosh(np.sin(x)),
    lambda x: x * x, lambda x: x**3 / (1 + x * x), lambda x: 2 - x, lambda x: x / 4,
]  # fmt: skip
BINARY: list[Callable[[Any, Any], Any]] = [
    np.add, np.subtract, np.multiply, lambda x, y: x / (2 + np.sin(y)), np.maximum, np.minimum,
    lambda x, y: np.where(x > y, x * y, y),
    lambda x, y: np.arctan2(1.5 + np.sin(x), y), lambda x, y: (1.5 + np.sin(x)) ** np.tanh(y), lambda x, y: hypot(x, 1 + y * y),
    lambda x, y: np.where(x <= 0, np.sin(x), y),
]  # fmt: skip


def unary(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    return draw(st.sampled_from(UNARY))(draw(st.sampled_from(values)))


def binary(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    x = draw(st.sampled_from(values))
    fitting = [value for value in values if broadcasts(x.shape, value.shape)]
    return draw(st.sampled_from(BINARY))(x, draw(st.sampled_from(fitting)))


def with_constant(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    """With a literal that broadcasts: some axes are of length 1 or missing."""
    x = draw(st.sampled_from(values))
    shape = [length if draw(st.booleans()) else 1 for length in x.shape]
    return draw(st.sampled_from(BINARY))(x, rng.normal(size=shape[draw(st.integers(0, len(shape))) :]))


def broadcasts(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    try:
        return math.prod(np.broadcast_shapes(one, other)) <= MOST_ELEMENTS
    except ValueError:
        return False


# -- reductions --------------------------------------------------------------------------------------------------------------


def reduction(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    x = draw(st.sampled_from(values))
    axes = tuple(axis for axis in range(x.ndim) if draw(st.booleans()))
    functions = [np.sum, np.prod]
    if all(x.shape[axis] for axis in axes):
        functions += [np.mean, np.max, np.min]
    return draw(st.sampled_from(functions))(x, axis=axes, keepdims=draw(st.booleans()))


def running(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    """Along an axis: sums, products, extremes, the order."""
    x = draw(st.sampled_from([value for value in values if value.ndim and value.size] or [None]))
    if x is None:
        return None
    functions = [np.cumsum, np.cumprod, np.maximum.accumulate, np.sort]
    return draw(st.sampled_from(functions))(x, axis=draw(st.integers(0, x.ndim - 1)))


# -- shapes ------------------------------------------------------------------------------------------------------------------


def reshape(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    """To any shape of that size, whether or not its lengths factor as the old ones."""
    x = draw(st.sampled_from(values))
    left, lengths = x.size, []
    while left > 1 and len(lengths) < 4:
        lengths.append(draw(st.sampled_from([item for item in range(1, left + 1) if left % item == 0])))
        left //= lengths[-1]
    if x.size == 0:
        return np.reshape(x, (*draw(st.permutations([0, draw(st.integers(1, 3))])),))
    return np.reshape(x, (*lengths, left) if left > 1 else tuple(lengths))


def transpose(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    x = draw(st.sampled_from(values))
    return np.transpose(x, draw(st.permutations(range(x.ndim))))


def flip(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    x = draw(st.sampled_from(values))
    return np.flip(x, tuple(axis for axis in range(x.ndim) if draw(st.booleans())))


def broadcast(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    x = draw(st.sampled_from(values))
    shape = (*draw(shapes(1)), *[draw(st.sampled_from([length, 1, 3])) if length == 1 else length for length in x.shape])
    return np.broadcast_to(x, shape) if math.prod(shape) <= MOST_ELEMENTS else None


def basic_index(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    x = draw(st.sampled_from(values))
    index: list[Any] = []
    for length in x.shape:
        kind = draw(st.sampled_from(["all", "slice", "back", "integer", "new"]))
        if kind == "integer" and length:
            index.append(draw(st.integers(-length, length - 1)))
        elif kind in {"slice", "back"}:
            bounds = st.one_of(st.none(), st.integers(-length - 1, length + 1))
            step = draw(st.integers(1, 3))
            index.append(slice(draw(bounds), draw(bounds), -step if kind == "back" else step))
        else:
            index += [None, slice(None)] if kind == "new" else [slice(None)]
    return x[tuple(index)]


def array_index(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    """By one or two arrays of integers, with repeats, beside slices and integers."""
    x = draw(st.sampled_from([value for value in values if value.ndim and value.size] or [None]))
    if x is None:
        return None
    shape = draw(shapes(2))
    index: list[Any] = []
    for length in x.shape:
        kind = draw(st.sampled_from(["array", "all", "integer", "slice"]))
        if kind == "array":
            index.append(rng.integers(-length, length, shape))
        else:
            index.append({"all": slice(None), "integer": length - 1, "slice": slice(None, None, -1)}[kind])
    return x[tuple(index)]


def scatter(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    x = draw(st.sampled_from([value for value in values if value.ndim] or [None]))
    if x is None:
        return None
    axis, size = draw(st.integers(0, x.ndim - 1)), draw(st.integers(1, 4))
    indices = x.builder.literal(rng.integers(-size, size, x.shape[axis]))
    return call(indexing._scatter_primitive, x, indices, axis=axis, batch=0, size=size)


def pad(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    x = draw(st.sampled_from(values))
    widths = [tuple(draw(st.integers(0, 1)) for _ in range(x.ndim)) for _ in range(3)]
    return shaping.pad_with_zeros(x, *widths)


def join(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    x = draw(st.sampled_from(values))
    same = [value for value in values if value.shape == x.shape]
    others = [draw(st.sampled_from(same)) for _ in range(draw(st.integers(1, 2)))]
    if draw(st.booleans()) or not x.ndim:
        return np.stack([x, *others], draw(st.integers(-x.ndim - 1, x.ndim)))
    axis = draw(st.integers(0, x.ndim - 1))
    fitting = [
        value for value in values if [*value.shape[:axis], *value.shape[axis + 1 :]] == [*x.shape[:axis], *x.shape[axis + 1 :]]
    ]
    fitting = [value for value in fitting if value.ndim == x.ndim]
    return np.concatenate([x, *[draw(st.sampled_from(fitting)) for _ in others]], axis)


# -- contractions ------------------------------------------------------------------------------------------------------------


def einsum(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    """Of one to three operands, with labels shared, summed, kept and repeated at will."""
    operands = [draw(st.sampled_from(values)) for _ in range(draw(st.integers(1, 3)))]
    names: dict[int, list[str]] = {}
    free = iter(string.ascii_letters)
    groups = []
    for operand in operands:
        group = ""
        for length in operand.shape:
            known = names.setdefault(length, [])
            if not known or draw(st.booleans()):
                known.append(next(free))
            group += draw(st.sampled_from(known))
        groups.append(group)
    sizes = {label: length for length, labels in names.items() for label in labels}
    output: list[str] = []
    for label in draw(st.permutations(sorted(set("".join(groups))))):
        if draw(st.booleans()) and math.prod(sizes[item] for item in (*output, label)) <= MOST_ELEMENTS:
            output.append(label)
    return np.einsum(f"{','.join(groups)}->{''.join(output)}", *operands)


def matmul(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    x = draw(st.sampled_from([value for value in values if value.ndim] or [None]))
    if x is None:
        return None
    fitting = [value for value in values if value.ndim in (1, 2) and value.shape[0] == x.shape[-1]]
    other = draw(st.sampled_from([*fitting, None]))
    return x @ (rng.normal(size=(x.shape[-1], 2)) if other is None else other)


# -- linear algebra ----------------------------------------------------------------------------------------------------------


def matrices(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    """Square matrices, well conditioned, of a value of any shape."""
    x = draw(st.sampled_from(values))
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        flat = np.reshape(x, (x.size,))[:3]
        x = np.tanh(flat[:, None] * rng.normal(size=(1, flat.shape[0]))) + 0.1 * flat
    return 0.3 * np.sin(x) + 2.5 * np.eye(x.shape[-1])


def linear_algebra(draw: Draw, rng: np.random.Generator, values: Sequence[Any]) -> Any:
    x = matrices(draw, rng, values)
    kind = draw(st.sampled_from(["det", "slogdet", "inv", "solve", "solve_vector"]))
    if kind == "det":
        return np.linalg.det(x)
    if kind == "slogdet":
        return np.linalg.slogdet(x)[1]
    if kind == "inv":
        return np.linalg.inv(x)
    n = x.shape[-1]
    fitting = [value for value in values if value.shape == (n,) or value.shape[-2:-1] == (n,)]
    b = draw(st.sampled_from([*fitting, None]))
    if b is None:
        b = np.ones(n) if kind == "solve_vector" else rng.normal(size=(n, 2))
    if b.ndim > 1 and x.ndim > 2:
        return None if not broadcasts(x.shape[:-2], b.shape[:-2]) else np.linalg.solve(x, b)
    return np.linalg.solve(x, b)


OPERATIONS = [
    unary, unary, binary, binary, with_constant, reduction, running, reshape, transpose, flip, broadcast, basic_index, array_index,
    scatter, pad, join, einsum, einsum, matmul, linear_algebra,
]  # fmt: skip


# -- maps whose Jacobian is square -------------------------------------------------------------------------------------------


@st.composite
def square_maps(draw: Draw, *, operations: int = 4) -> Case:
    """A program from n numbers to n numbers, whose Jacobian is far from singular in most cases."""
    builder = Builder()
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    shape = draw(shapes().filter(lambda item: math.prod(item) <= 12))
    x = builder.input(TensorType(Dtype.FLOAT64, shape))
    array = rng.normal(size=shape)
    y: Any = x
    for _ in range(draw(st.integers(0, operations))):
        y = draw(st.sampled_from(LAYERS))(draw, rng, y)
    return Case(builder.build([y]), [array])


def _stretch(draw: Draw, rng: np.random.Generator, y: Any) -> Any:
    return draw(
        st.sampled_from([np.arctan, np.tanh, lambda x: x + 0.5 * np.sin(x), lambda x: -2 * x, lambda x: x * (1 + 1 / (1 + x * x))])
    )(y)


def _scale(draw: Draw, rng: np.random.Generator, y: Any) -> Any:
    shape = [length if draw(st.booleans()) else 1 for length in y.shape]
    return y * rng.uniform(0.5, 1.5, shape) * draw(st.sampled_from([1.0, -1.0]))


def _move(draw: Draw, rng: np.random.Generator, y: Any) -> Any:
    return draw(st.sampled_from([transpose, flip, reshape]))(draw, rng, [y])


def _permute(draw: Draw, rng: np.random.Generator, y: Any) -> Any:
    if not y.ndim:
        return y
    axis = draw(st.integers(0, y.ndim - 1))
    return np.take(y, rng.permutation(y.shape[axis]), axis)


def _mix(draw: Draw, rng: np.random.Generator, y: Any) -> Any:
    if not y.ndim:
        return y
    axis = draw(st.integers(0, y.ndim - 1))
    n = y.shape[axis]
    return np.tensordot(y, rng.normal(size=(n, n)) + 2 * np.eye(n), ([axis], [0]))


def _couple(draw: Draw, rng: np.random.Generator, y: Any) -> Any:
    flat = np.reshape(y, (y.size,))
    half = y.size // 2
    first, second = flat[:half], flat[half:]
    if half == 0:
        return y
    weights = rng.normal(size=(half, y.size - half))
    joined = np.concatenate([first, second * np.exp(np.tanh(first @ weights)) + first @ weights])
    return np.reshape(joined, y.shape)


def _gate(draw: Draw, rng: np.random.Generator, y: Any) -> Any:
    """By a number of all elements: diagonal plus rank one."""
    return y * (2 + np.tanh(np.sum(y)))


LAYERS = [_stretch, _scale, _move, _permute, _mix, _couple, _gate]
