"""Slices, gathers, stencils and other moves keep a Jacobian as sparse as it is: what terms hold, and every array on the way.

Windows are checked against the columns of the linearized program, and at sizes whose dense Jacobian would be refused.
"""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import gradwire.numpy  # noqa: F401  # np.roll, np.tile and the like
from gradwire_core.builder import Builder
from gradwire_core.check import check_program
from gradwire_core.engine import Output, compile
from gradwire_core.ops import shaping
from gradwire_core.ops._declare import call, find_primitive
from gradwire_core.program import Program
from gradwire_core.structure import joining
from gradwire_core.structure.structured import StructuredJacobian
from gradwire_core.testing import interpret
from gradwire_core.transforms import Transform, jacobian, jvp, structured_hessian, structured_jacobian, vmap
from gradwire_core.types import Dtype, TensorType
from tests.core.strategies import examples

T = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8])


def traced(function, *shapes) -> Program:
    with Builder().tracing() as builder:
        returned = function(*[builder.input(TensorType(Dtype.FLOAT64, shape)) for shape in shapes])
        return builder.build(returned if isinstance(returned, tuple) else (returned,))


def largest(program: Program) -> int:
    """The most elements of an array that a program computes."""
    return max((var.type.size for equation in program.equations for var in equation.results), default=0)


def by_columns(program: Program, arrays) -> np.ndarray:
    """The dense Jacobian by the first input, column by column."""
    x = arrays[0]
    seeds = np.eye(x.size).reshape((x.size, *x.shape))
    (rows,) = interpret(vmap(jvp(program), (*[None] * len(arrays), 0), x.size), [*arrays, seeds])
    return np.moveaxis(rows, 0, -1).reshape((*rows.shape[1:], *x.shape))


def inputs(*shapes) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in shapes]


def laplacian(x):
    return 4 * x[1:-1, 1:-1] - x[2:, 1:-1] - x[:-2, 1:-1] - x[1:-1, 2:] - x[1:-1, :-2]


def rosenbrock(x):
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


MOVES = {
    # name: function, shapes, elements that factors and tables may hold
    "difference": (lambda x: x[1:] - x[:-1], [(60,)], 1),
    "product of neighbours": (lambda x: x[1:] * x[:-1], [(60,)], 120),
    "even times odd": (lambda x: x[::2] * x[1::2], [(60,)], 60),
    "backward": (lambda x: x[::-1] * x, [(60,)], 120),
    "every third backward": (lambda x: np.sin(x[50:3:-3]), [(60,)], 16),
    "roll": (lambda x: np.roll(x, 7) * x, [(60,)], 180),
    "halves": (lambda x: np.concatenate([np.sin(x[:20]), np.cos(x[20:])]), [(60,)], 60),
    "halves that meet": (lambda x: np.concatenate([x[:30], x[30:] * np.exp(x[:30])]), [(60,)], 60),
    "stack": (lambda x: np.stack([np.sin(x), x[::-1]], 1), [(60,)], 60),
    "literal index": (lambda x: np.sin(x[T]), [(60,)], 24),
    "literal index backward": (lambda x: x[np.arange(59, -1, -1)], [(60,)], 0),
    "indexed twice": (lambda x: x[T][T[:5]], [(60,)], 5),
    "index of a slice": (lambda x: x[10:50][T], [(60,)], 12),
    "slice of an index": (lambda x: x[T][2:7], [(60,)], 5),
    "two literal indices": (lambda x: np.sin(x[T[:6], T[6:]]), [(12, 13)], 18),
    "set": (lambda x: x.at[3:7].set(x[10:14] ** 2), [(60,)], 70),
    "set by an index": (lambda x: x.at[np.array([5, 2, 8])].set(np.sin(x[:3])), [(60,)], 70),
    "add by an index": (lambda x: x.at[T].add(x[:12]), [(60,)], 12),
    "Laplacian": (laplacian, [(30, 40)], 5),
    "Laplacian, flattened": (lambda x: laplacian(np.reshape(x, (30, 40))).ravel(), [(1200,)], 5),
    "Laplacian of a nonlinear one": (lambda x: laplacian(np.exp(laplacian(x))), [(14, 15)], 5 * 5 * 13 * 12),
    "axes swapped": (lambda x: x[1:, :-1].T * x[:-1, 1:].T, [(20, 20)], 800),
    "reshaped slice": (lambda x: np.sin(np.reshape(x[1:], (8, 8))), [(65,)], 64),
    "slice of a reshape": (lambda x: np.reshape(x, (60,))[7:53], [(12, 5)], 3),
    "every other of a reshape": (lambda x: np.reshape(x, (60,))[::2], [(12, 5)], 90),
    "reshape that does not factor": (lambda x: np.sin(np.reshape(x, (9, 4))), [(6, 6)], 36 * 5),
    "convolution": (np.convolve, [(50,), (4,)], 4),
    "nonlinear convolution": (lambda x, y: np.sin(np.convolve(x, y)), [(50,), (4,)], 53 + 200 + 4),
    "strided convolution": (lambda x, y: np.convolve(x, y, "valid")[::3], [(50,), (4,)], 3 * 64),
    "tile": (lambda x: np.tile(np.sin(x), 3), [(20,)], 20),
    "repeat": (lambda x: np.repeat(np.sin(x), 3), [(20,)], 120),
    "kron": (np.kron, [(6, 5), (3, 2)], 6),
    "trace": (np.trace, [(20, 20)], 0),
    "off diagonal": (lambda x: np.diagonal(x, 3), [(20, 20)], 0),
    "diag of a vector": (lambda x: np.diag(np.sin(x), 2), [(20,)], 20),
    "triangle": (lambda x: np.tril(np.sin(x)), [(20, 20)], 400),
    "sort": (np.sort, [(60,)], 60),
    "sort of rows": (lambda x: np.sort(np.sin(x), axis=1), [(6, 20)], 240),
    "take along rows": (lambda x: np.take_along_axis(x, np.argsort(x, axis=0), 0) ** 2, [(20, 6)], 240),
    "running sum of rows": (lambda x: np.cumsum(np.sin(x), axis=1), [(50, 6)], 336),
    "running product of rows": (lambda x: np.cumprod(x, axis=1), [(50, 6)], 50 * 36),
    "batched solves": (lambda x, a: np.linalg.solve(a + 9 * np.eye(3), np.sin(x)[..., None]), [(40, 3), (40, 3, 3)], 40 * 9),
    "Cholesky": (lambda x, a: np.linalg.cholesky(x) @ np.ones(3), [(3, 3), (1,)], 200),
    "transform of rows": (lambda x: np.fft.irfft(np.fft.rfft(x, axis=1) * 2, axis=1), [(20, 6)], 20 * 36),
    "magnitude of a transform": (lambda x: np.abs(np.fft.fft(np.sin(x), axis=1)), [(20, 6)], 20 * 36),
}


@pytest.mark.parametrize("name", MOVES)
def test_terms_hold_what_the_structure_needs(name):
    function, shapes, held = MOVES[name]
    program = traced(function, *shapes)
    arrays = inputs(*shapes)
    if name == "Cholesky":
        arrays[0] = arrays[0] @ arrays[0].T + np.eye(3)
    needed = by_columns(program, arrays)
    derived, (spec,) = structured_jacobian(program)
    check_program(derived)
    found = spec.fill(interpret(derived, arrays))
    np.testing.assert_allclose(found.todense(), needed, rtol=1e-9, atol=1e-9)
    (dense,) = interpret(jacobian(program), arrays)
    np.testing.assert_allclose(dense, needed, rtol=1e-9, atol=1e-9)
    assert found.nbytes <= 8 * held
    assert largest(derived) <= max(largest(program), arrays[0].size, 2 * held)


def run_structured(program: Program, arrays, transform: str = "jacobian") -> tuple[StructuredJacobian, int]:
    """A structured result, and the bytes its plan needs at the peak."""
    executable = compile(program, [Output((Transform(transform),), "structured")])
    ((found,),) = executable.run(arrays, [[]])
    assert isinstance(found, StructuredJacobian)
    return found, executable.plan.peak_bytes


LARGE = {
    # name: function, shape, peak in arrays of the size of the input, derivative
    "difference": (lambda x: x[1:] - x[:-1], (1_000_000,), 1.1, "jacobian"),
    "product of neighbours": (lambda x: np.sin(x[1:]) * x[:-1], (200_000,), 8, "jacobian"),
    "halves": (lambda x: np.concatenate([np.sin(x[:100_000]), np.cos(x[100_000:])]), (200_000,), 4, "jacobian"),
    "Laplacian": (laplacian, (300, 300), 1.1, "jacobian"),
    "Bratu": (lambda x: laplacian(x) - 1e-4 * np.exp(x[1:-1, 1:-1]), (300, 300), 4, "jacobian"),
    "sort": (np.sort, (100_000,), 8, "jacobian"),
    "literal index": (lambda x: np.sin(x[np.random.default_rng(0).permutation(50_000)]), (50_000,), 8, "jacobian"),
    "Rosenbrock": (rosenbrock, (100_000,), 20, "hessian"),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_windows_need_a_few_arrays_of_the_size_of_the_input(name):
    function, shape, peak, transform = LARGE[name]
    program = traced(function, shape)
    x = np.random.default_rng(0).normal(size=shape)
    found, bytes = run_structured(program, [x], transform)
    assert bytes <= 8 * peak * x.size + 10_000
    tangent = np.random.default_rng(1).normal(size=shape)
    gradient = jacobian(program) if transform == "hessian" else program
    (needed,) = interpret(jvp(gradient), [x, tangent])
    np.testing.assert_allclose(found @ tangent, needed, rtol=1e-9, atol=1e-9)


def test_the_hessian_of_rosenbrock_is_tridiagonal():
    n = 1000
    derived, (spec,) = structured_hessian(traced(rosenbrock, (n,)))
    x = np.linspace(-1, 2, n)
    found = spec.fill(interpret(derived, [x]))
    assert largest(derived) <= n
    assert found.nbytes <= 8 * 8 * n
    dense = found.todense()
    np.testing.assert_allclose(np.diagonal(dense, 1), -400 * x[:-1], rtol=1e-12)
    np.testing.assert_array_equal(np.triu(dense, 2), 0)
    np.testing.assert_allclose(dense, dense.T, rtol=1e-12)


def nine_points(x):
    inner = [slice(1 + shift, length - 1 + shift) for length in x.shape[:1] for shift in (-1, 0, 1)]
    return sum(x[row, column] * float(3 * i + j + 1) for i, row in enumerate(inner) for j, column in enumerate(inner))


def diffused(x):
    return x.at[1:-1, 1:-1].set(laplacian(np.sin(x)))


def repeated(function, count):
    def chain(x):
        for _ in range(count):
            x = np.sin(function(x))
        return x

    return chain


DEEP = {
    # name: function, shape, entries a row at most
    "nine points": (nine_points, (20, 20), 9),
    "nine points, twice": (repeated(nine_points, 2), (24, 24), 25),
    "nine points, four times": (repeated(nine_points, 4), (22, 22), 81),
    "diffusion, twice": (repeated(diffused, 2), (24, 24), 13),
    "diffusion, four times": (repeated(diffused, 4), (20, 20), 41),
    "blur, ten times": (repeated(lambda x: x[2:] + x[1:-1] + x[:-2], 10), (120,), 21),
    "shuffles": (repeated(lambda x: x[np.random.default_rng(0).permutation(90)] * x[::-1], 3), (90,), 8),
    "halves that are joined again": (repeated(lambda x: np.concatenate([np.sin(x[:30]), np.cos(x[30:])]), 5), (60,), 1),
}


@pytest.mark.parametrize("name", DEEP)
def test_chains_hold_their_entries_however_many_terms_they_pass(name):
    function, shape, row = DEEP[name]
    program = traced(function, shape)
    arrays = inputs(shape)
    derived, (spec,) = structured_jacobian(program)
    found = spec.fill(interpret(derived, arrays))
    assert len(found.terms) <= 64
    entries = row * np.prod(spec.shape_out, dtype=int)
    axes = len(spec.shape_out) + len(spec.shape_in)
    assert found.nbytes <= 8 * entries * (1 + axes)
    assert largest(derived) <= max(20 * entries, arrays[0].size)
    np.testing.assert_allclose(found.todense(), by_columns(program, arrays), rtol=1e-9, atol=1e-9)


def test_windows_of_one_diagonal_are_one_term():
    program = traced(lambda x: np.concatenate([np.sin(x[:20]), np.cos(x[20:50]), np.exp(x[50:])]), (60,))
    _, (spec,) = structured_jacobian(program)
    (pattern,) = spec.patterns
    assert str(pattern) == "dY[i]/dX[i] = A[i]"


# -- random programs ---------------------------------------------------------------------------------------------------------


def move(draw, rng, value):  # noqa: PLR0911  # one a kind
    """One slice, flip, roll, concatenation, gather, reshape, transposition or scatter of a value."""
    kind = draw(st.sampled_from(["slice", "flip", "roll", "join", "gather", "reshape", "transpose", "pad", "set"]))
    axis = draw(st.integers(0, value.ndim - 1)) if value.ndim else 0
    length = value.shape[axis] if value.ndim else 0
    index = [slice(None)] * value.ndim
    if kind == "slice" and length > 3:
        step = draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        low = draw(st.integers(0, 2))
        index[axis] = slice(low, length - draw(st.integers(0, 1)), step) if step > 0 else slice(length - 1 - low, None, step)
        return value[tuple(index)]
    if kind == "flip" and length:
        return np.flip(value, axis)
    if kind == "roll" and length:
        return np.roll(value, draw(st.integers(-3, 3)), axis)
    if kind == "join" and 2 <= length <= 12:
        cut = draw(st.integers(1, length - 1))
        index[axis] = slice(0, cut)
        return np.concatenate([value[tuple(index)], value], axis)
    if kind == "gather" and length:
        index[axis] = rng.integers(-length, length, draw(st.integers(1, 8)))
        return value[tuple(index)]
    if kind == "reshape" and value.size <= 400:
        lengths = [item for item in range(1, value.size + 1) if value.size % item == 0]
        first = draw(st.sampled_from(lengths))
        return np.reshape(value, draw(st.sampled_from([(first, value.size // first), (value.size,)])))
    if kind == "transpose":
        return np.transpose(value, draw(st.permutations(range(value.ndim))))
    if kind == "pad" and value.ndim:
        widths = [tuple(draw(st.integers(0, 1)) for _ in range(value.ndim)) for _ in range(3)]
        return shaping.pad_with_zeros(value, *widths)
    if kind == "set" and length > 4:
        index[axis] = rng.permutation(length)[:3]
        return value.at[tuple(index)].set(2.0)
    return value


@st.composite
def moving_programs(draw) -> tuple[Program, list[np.ndarray]]:
    """Moves and elementwise functions of one or two values that meet again."""
    builder = Builder()
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    shape = draw(st.sampled_from([(24,), (30,), (6, 5), (4, 9), (3, 4, 5)]))
    x = builder.input(TensorType(Dtype.FLOAT64, shape))
    value = x
    for _ in range(draw(st.integers(1, 5))):
        before, value = value, move(draw, rng, value)
        if draw(st.booleans()):
            value = draw(st.sampled_from([np.sin, np.square, lambda x: 2 * x]))(value)
        if before.shape == value.shape and draw(st.booleans()):
            value = value * before
        assume(0 < value.size <= 400)
    return builder.build([value]), [rng.normal(size=shape)]


@examples(50)
@given(moving_programs())
def test_moves_are_as_sparse_as_they_are(case):
    check_moves(*case)


@examples(30)
@given(moving_programs())
def test_entries_that_are_listed_are_those_of_the_terms(case):
    """As above, where more than one term is too many."""
    with mock.patch.multiple(joining, MANY_TERMS=1, MOST_TERMS=1):
        check_moves(*case)


def check_moves(program, arrays):
    derived, (spec,) = structured_jacobian(program)
    check_program(derived)
    found = spec.fill(interpret(derived, arrays))
    needed = by_columns(program, arrays)
    np.testing.assert_allclose(found.todense(), needed, rtol=1e-9, atol=1e-9 * max(1, np.abs(needed).max()))
    tangent = np.random.default_rng(3).normal(size=arrays[0].shape)
    (product,) = interpret(jvp(program), [*arrays, tangent])
    np.testing.assert_allclose(found @ tangent, product, rtol=1e-8, atol=1e-8 * max(1, np.abs(product).max()))
    size = needed.size // arrays[0].size
    assert sum(factor.size for factors in found.factors for factor in factors) <= 200 * max(size, arrays[0].size)


def test_places_that_are_computed_go_to_places_that_are_not():
    def scattered(x, indices, size):
        return call(find_primitive("scatter_add"), x, indices, axis=0, batch=0, size=size)

    literal, places, x = np.array([2, 0, 1, -1]), np.array([1, 0, 3, -2]), np.arange(4.0)
    with Builder().tracing() as builder:
        value, indices = [builder.input(TensorType.of(array)) for array in (x, places)]
        once = scattered(value, indices, 4)
        program = builder.build([scattered(once, literal, 5), once[literal]])
    entries = np.eye(4)[places].T
    needed = np.zeros((5, 4))
    np.add.at(needed, literal, entries)
    for found, expected in zip(interpret(jacobian(program), [x, places]), [needed, entries[literal]], strict=True):
        np.testing.assert_array_equal(found, expected)
