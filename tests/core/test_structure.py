"""Jacobians as sums of terms: what their labels mean, and that no array is larger than the structure needs.

A Jacobian computed densely and compressed afterwards would fail here: the size of every intermediate array of a derived program is
bounded, and so are the bytes at the peak of its evaluation.
"""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gradwire_core.builder import Builder
from gradwire_core.check import check_program
from gradwire_core.engine import Output, compile
from gradwire_core.ops import shaping
from gradwire_core.program import Program
from gradwire_core.structure.structured import (
    AxisPattern,
    JacobianSpec,
    PartPattern,
    Pattern,
    StructuredJacobian,
    run_pattern,
)
from gradwire_core.testing import interpret
from gradwire_core.transforms import Transform, hessian, jacobian, jvp, structured_hessian, structured_jacobian, vmap
from gradwire_core.types import Dtype, TensorType
from tests.core.strategies import examples


def traced(function, *shapes) -> Program:
    with Builder().tracing() as builder:
        returned = function(*[builder.input(TensorType(Dtype.FLOAT64, shape)) for shape in shapes])
        return builder.build(returned if isinstance(returned, tuple) else (returned,))


def largest(program: Program) -> int:
    """The most elements of an array that a program computes."""
    return max((var.type.size for equation in program.equations for var in equation.results), default=0)


def structured(program: Program, argnum: int = 0, *, arrays, order: int = 1) -> tuple[Program, StructuredJacobian]:
    derived, (spec,) = (structured_jacobian if order == 1 else structured_hessian)(program, (argnum,))
    check_program(derived)
    return derived, spec.fill(interpret(derived, arrays))


def peak_bytes(function) -> int:
    """The bytes allocated at the peak of a call, beside what was there before."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# -- what a label means ------------------------------------------------------------------------------------------------------


@st.composite
def patterns(draw) -> tuple[Pattern, tuple[np.ndarray, ...]]:
    """Any pattern of up to four labels: summed, tied, repeated on a side or a factor, on one side only, nowhere; any axis."""
    sizes = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    labels = st.integers(0, len(sizes) - 1)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    factors = draw(st.lists(st.lists(labels, max_size=3).map(tuple), max_size=3))
    arrays = [rng.normal(size=[sizes[label] for label in factor]) for factor in factors]

    def axis() -> AxisPattern:
        if draw(st.booleans()):
            return run_pattern(draw(st.lists(labels, max_size=2)), sizes)
        parts, low, high = [], 0, 0
        for _ in range(draw(st.integers(0, 2))):
            stride = draw(st.integers(-2, 3))
            if draw(st.booleans()):
                label = draw(labels)
                parts.append(PartPattern(label, stride))
                reach = stride * (sizes[label] - 1)
            else:
                table = draw(st.lists(labels, max_size=2).map(tuple))
                parts.append(PartPattern(None, stride, len(factors)))
                factors.append(table)
                arrays.append(rng.integers(0, 3, [sizes[label] for label in table]))
                reach = stride * 2
            low, high = low + min(reach, 0), high + max(reach, 0)
        offset = draw(st.integers(0, 2)) - low
        return AxisPattern(offset + high + draw(st.integers(1, 2)), offset, tuple(parts))

    sides = [tuple(axis() for _ in range(draw(st.integers(0, 2)))) for _ in range(2)]
    return Pattern(tuple(factors), *sides, sizes), tuple(arrays)


def meaning(pattern: Pattern, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The dense value of a term, entry by entry."""
    axes = (*pattern.out_axes, *pattern.in_axes)
    total = np.zeros([axis.length for axis in axes])
    pairs = list(zip(arrays, pattern.factors, strict=True))
    for values in itertools.product(*map(range, pattern.sizes)):
        at = [array[tuple(values[label] for label in labels)] for array, labels in pairs]
        place = [
            axis.offset
            + sum(part.stride * (values[part.label] if part.label is not None else int(at[part.table])) for part in axis.parts)
            for axis in axes
        ]
        total[tuple(place)] += math.prod(entry for index, entry in enumerate(at) if index not in pattern.tables)
    return total


@examples(300)
@given(patterns())
def test_a_pattern_is_a_sum_over_all_its_labels(case):
    pattern, arrays = case
    shapes = [tuple(axis.length for axis in axes) for axes in (pattern.out_axes, pattern.in_axes)]
    found = JacobianSpec(*shapes, Dtype.FLOAT64, (pattern,)).fill(arrays)
    np.testing.assert_allclose(found.todense(), meaning(pattern, arrays), rtol=1e-12, atol=1e-12)


def test_an_array_that_stands_twice_is_counted_once():
    array, pattern = np.ones(3), Pattern.of_runs(((0,),), ((0,),), ((0,),), (3,))
    assert StructuredJacobian((3,), (3,), Dtype.FLOAT64, (pattern, pattern), ((array,), (array,))).nbytes == 24


def test_no_terms_are_zero():
    found = JacobianSpec((2,), (3,), Dtype.FLOAT32, ()).fill(())
    assert found.pattern == "dY/dX = 0"
    assert found.nbytes == 0
    np.testing.assert_array_equal(found.todense(), np.zeros((2, 3), np.float32))
    assert found.todense().dtype == np.float32


# -- the promises --------------------------------------------------------------------------------------------------------------

MILLION = 1_000_000


def test_an_elementwise_function_of_a_million_numbers_holds_8_megabytes():
    program = traced(np.sin, (MILLION,))
    x = np.linspace(0, 1, MILLION)
    derived, found = structured(program, arrays=[x])
    assert largest(derived) <= MILLION
    assert found.pattern == "dY[i]/dX[i] = A[i]"
    assert found.nbytes == 8 * MILLION
    np.testing.assert_array_equal(found.factors[0][0], np.cos(x))
    executable = compile(program, [Output((Transform("jacobian"),), "structured")])
    assert largest(executable.program) <= MILLION
    assert peak_bytes(lambda: executable.run([x], [[]])) <= 3 * 8 * MILLION


def test_a_chain_of_elementwise_functions_holds_one_factor():
    program = traced(lambda x: np.tanh(np.exp(np.sin(x)) * x) / (1 + x * x), (MILLION,))
    x = np.linspace(0, 1, MILLION)
    derived, found = structured(program, arrays=[x])
    assert largest(derived) <= MILLION
    assert found.nbytes == 8 * MILLION


def test_a_product_with_a_matrix_holds_the_matrix_once():
    rng = np.random.default_rng(0)
    X, W = rng.normal(size=(400, 100)), rng.normal(size=(300, 100))
    program = traced(lambda x, w: x @ w.T, X.shape, W.shape)
    for argnum, kept in enumerate((W, X)):
        derived, found = structured(program, argnum, arrays=[X, W])
        assert largest(derived) <= kept.size
        assert found.nbytes == kept.nbytes
        assert np.shares_memory(found.factors[0][0], kept)
        executable = compile(program, [Output((Transform("jacobian", (argnum,)),), "structured")])
        assert peak_bytes(lambda executable=executable: executable.run([X, W], [[]])) <= 2 * kept.nbytes
    small = [X[:3, :4], W[:2, :4]]
    for argnum in range(2):
        program = traced(lambda x, w: x @ w.T, (3, 4), (2, 4))
        (dense,) = interpret(jacobian(program, (argnum,)), small)
        needed = np.einsum("st,nm->sntm", np.eye(3), small[1]) if argnum == 0 else np.einsum("nk,sm->snkm", np.eye(2), small[0])
        np.testing.assert_allclose(dense, needed)


def test_the_hessian_of_a_matrix_factorization_holds_k_times_k():
    n, m, k = 700, 500, 4
    rng = np.random.default_rng(0)
    T, U, V = rng.normal(size=(n, m)), rng.normal(size=(n, k)), rng.normal(size=(m, k))
    program = traced(factorization, U.shape, V.shape, T.shape)
    for argnum, other in enumerate((V, U)):
        derived, found = structured(program, argnum, arrays=[U, V, T], order=2)
        assert largest(derived) <= max(U.size, V.size)
        assert found.nbytes <= 8 * (k * k + 2)
        core = math.prod(found.factors[0][1:], start=found.factors[0][0])
        np.testing.assert_allclose(core, 2 * other.T @ other)


def factorization(u, v, t):
    return np.sum((t - u @ v.T) ** 2)


def test_its_terms_are_the_dense_hessian():
    shapes = [(3, 2), (4, 2), (3, 4)]
    arrays = [np.random.default_rng(0).normal(size=shape) for shape in shapes]
    program = traced(factorization, *shapes)
    for argnum in range(2):
        _, found = structured(program, argnum, arrays=arrays, order=2)
        (dense,) = interpret(hessian(program, (argnum,)), arrays)
        np.testing.assert_allclose(found.todense(), dense, rtol=1e-12, atol=1e-12)


def test_the_hessian_of_a_logistic_regression_holds_the_data():
    rows, columns = 3000, 60
    rng = np.random.default_rng(0)
    X, y, w = rng.normal(size=(rows, columns)), rng.normal(size=rows), rng.normal(size=columns)
    program = traced(lambda w, x, y: np.sum(np.log1p(np.exp(-y * (x @ w)))), w.shape, X.shape, y.shape)
    derived, found = structured(program, arrays=[w, X, y], order=2)
    assert largest(derived) <= X.size
    assert found.nbytes <= 2 * X.nbytes + 3 * y.nbytes
    s = 1 / (1 + np.exp(y * (X @ w)))
    np.testing.assert_allclose(found.todense(), (X.T * (y * y * s * (1 - s))) @ X, rtol=1e-9)


def test_softmax_is_a_diagonal_and_a_product_of_two_vectors():
    n = 100_000
    program = traced(lambda x: np.exp(x) / np.sum(np.exp(x)), (n,))
    x = np.linspace(0, 1, n)
    derived, found = structured(program, arrays=[x])
    assert largest(derived) <= n
    assert found.nbytes <= 8 * (5 * n)
    assert len(found.terms) == 2


def test_a_gradient_that_scales_with_a_sum_is_low_rank():
    n = 100_000
    program = traced(lambda x: x * np.sum(x * x), (n,))
    derived, found = structured(program, arrays=[np.linspace(0, 1, n)])
    assert largest(derived) <= n
    assert found.nbytes <= 8 * (4 * n)


@pytest.mark.parametrize("count", [2, 5, 9])
def test_a_sum_of_products_of_vectors_stays_of_low_rank(count):
    """Each summand adds a column to two factors; none makes them n by n."""
    n = 3000
    rng = np.random.default_rng(0)

    def function(x, left, right):
        total = np.sin(x)
        for number in range(count):
            total = total + left[number] * np.sum(right[number] * x) * 2.0
        return total

    arrays = [rng.normal(size=n), rng.normal(size=(count, n)), rng.normal(size=(count, n))]
    program = traced(function, *map(np.shape, arrays))
    derived, found = structured(program, arrays=arrays)
    assert largest(derived) <= 2 * count * n
    assert found.nbytes <= 8 * (2 * count + 1) * n + 8 * count
    tangent = rng.normal(size=n)
    needed = np.cos(arrays[0]) * tangent + 2 * arrays[1].T @ (arrays[2] @ tangent)
    np.testing.assert_allclose(applied(found, tangent), needed, rtol=1e-9, atol=1e-9)


def test_a_sum_of_products_of_thin_matrices_stays_of_low_rank():
    n, k = 400, 3
    rng = np.random.default_rng(0)

    def function(x, u, v):
        total = x * 1.0
        for number in range(6):
            rank = k if number % 2 else 1
            total = total + u[number, :, :rank] @ np.tanh(v[number, :rank] @ x)
        return total

    arrays = [rng.normal(size=n), rng.normal(size=(6, n, k)), rng.normal(size=(6, k, n))]
    derived, found = structured(traced(function, *map(np.shape, arrays)), arrays=arrays)
    assert largest(derived) <= max(array.size for array in arrays)
    assert found.nbytes <= 8 * (2 * 6 * k * n + 100)
    tangent = rng.normal(size=n)
    (needed,) = interpret(jvp(traced(function, *map(np.shape, arrays))), [*arrays, tangent])
    np.testing.assert_allclose(applied(found, tangent), needed, rtol=1e-9, atol=1e-9)


STRUCTURES = {
    # name: function, shapes, elements that the factors may hold
    "identity": (lambda x: x, [(50, 40)], 0),
    "transpose": (lambda x: x.T, [(50, 40)], 0),
    "reshape that factors": (lambda x: np.reshape(x, (200, 10)), [(50, 40)], 0),
    "reshape that splits and joins": (lambda x: np.reshape(x, (25, 4, 20)), [(50, 40)], 0),
    "sum": (lambda x: np.sum(x, axis=0), [(50, 40)], 0),
    "sum of all": (np.sum, [(50, 40)], 0),
    "mean": (lambda x: np.mean(x, axis=1), [(50, 40)], 1),
    "broadcast": (lambda x: np.broadcast_to(x, (30, 50)), [(50,)], 0),
    "negative": (np.negative, [(50,)], 1),
    "bias": (lambda b, x: x + b, [(40,), (50, 40)], 0),
    "scale": (lambda s, x: x * s, [(40,), (50, 40)], 2000),
    "scale by a row": (lambda x, s: x * s, [(50, 40), (40,)], 40),
    "outer": (np.outer, [(50,), (40,)], 40),
    "diagonal": (lambda x: np.einsum("ii->i", x), [(50, 50)], 0),
    "trace": (lambda x: np.einsum("ii->", x), [(50, 50)], 0),
    "embed": (lambda x: shaping.embed(x, (0, 0)), [(50,)], 0),
    "batched product": (lambda x, w: np.einsum("bij,bj->bi", w, x), [(20, 30), (20, 10, 30)], 6000),
    "elementwise of a transpose": (lambda x: np.sin(x.T), [(50, 40)], 2000),
    "elementwise of a reshape": (lambda x: np.sin(np.reshape(x, (2, 25, 40))), [(50, 40)], 2000),
    "new axes": (lambda x: x[:, None, :] * 2, [(50, 40)], 1),
    "axes of length one": (lambda x: np.sin(np.reshape(x, (1, 50, 1))), [(50,)], 50),
    "product of rows": (lambda x: np.prod(x, axis=1), [(50, 40)], 2000),
    "maximum of rows": (lambda x: np.max(x, axis=1), [(50, 40)], 2100),
    "trilinear": (lambda x, y, z: np.einsum("i,j,k->ijk", x, y, z), [(20,), (30,), (10,)], 40),
    "chain of products": (lambda x, w: np.tanh(x @ w) @ w.T, [(20, 30), (30, 10)], 20 * 10 + 2 * 300),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_factors_hold_what_the_structure_needs(name):
    function, shapes, held = STRUCTURES[name]
    program = traced(function, *shapes)
    arrays = [np.random.default_rng(1).normal(size=shape) for shape in shapes]
    derived, found = structured(program, arrays=arrays)
    assert found.nbytes <= 8 * held
    assert largest(derived) <= max(largest(program), *map(math.prod, shapes), held)
    (dense,) = interpret(jacobian(program), arrays)
    np.testing.assert_allclose(found.todense(), dense, rtol=1e-12, atol=1e-12)
    tangent = np.random.default_rng(2).normal(size=shapes[0])
    (needed,) = interpret(jvp(program), [*arrays, tangent])
    np.testing.assert_allclose(np.tensordot(dense, tangent, tangent.ndim), needed, rtol=1e-9, atol=1e-9)


REGROUPINGS = [
    ((4, 6), (8, 3)), ((6, 4), (4, 6)), ((2, 3, 4), (6, 4)), ((5, 2), (2, 5)), ((12,), (3, 4)), ((3, 4), (2, 6)),
    ((9, 10), (6, 15)), ((1, 6, 1), (2, 1, 3)), ((2, 9, 2), (4, 9)), ((7,), (7, 1)), ((8, 9), (2, 6, 6)), ((), (1, 1)),
    ((0, 3), (3, 0)), ((0,), (5, 0, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), REGROUPINGS)
@pytest.mark.parametrize("middle", ["plain", "scaled", "mixed", "transposed"])
def test_axes_regroup_whether_or_not_their_lengths_factor(old, new, middle):
    def function(x):
        if middle == "scaled":
            x = np.sin(x)
        elif middle == "mixed" and x.ndim:
            x = np.tensordot(x, np.random.default_rng(0).normal(size=(x.shape[-1], x.shape[-1])), 1)
        elif middle == "transposed":
            x = np.reshape(np.sin(x).T, x.shape)
        return np.reshape(x, new)

    program = traced(function, old)
    x = np.random.default_rng(1).normal(size=old)
    _, found = structured(program, arrays=[x])
    (dense,) = interpret(jacobian(program), [x])
    assert dense.shape == (*new, *old)
    columns = vmap(jvp(program), (None, 0), x.size)
    (rows,) = interpret(columns, [x, np.eye(x.size).reshape((x.size, *old))])
    np.testing.assert_allclose(dense, np.moveaxis(rows, 0, -1).reshape((*new, *old)), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.todense(), dense, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("subscripts", ["iij->ij", "iji->ji", "iii->i", "ijij->ij", "ijji->", "iijj->ij"])
def test_diagonals_tie_runs_of_every_kind(subscripts):
    """The axes that a diagonal unifies come from one axis, split, or are made of two, joined."""
    labels = subscripts.partition("->")[0]
    sizes = {"i": 4, "j": 6}
    shape = tuple(sizes[label] for label in labels)
    size = math.prod(shape)
    sources = (
        [shape, (size,), (2, size // 2), (size // 3, 3), (2, 2, size // 4)] if size % 3 == 0 else [shape, (size,), (2, size // 2)]
    )
    for source in sources:
        for scale in (False, True):
            program = traced(lambda x, scale=scale: np.einsum(subscripts, np.reshape(np.sin(x) if scale else x, shape)), source)
            x = np.random.default_rng(0).normal(size=source)
            _, found = structured(program, arrays=[x])
            tangent = np.random.default_rng(1).normal(size=source)
            (needed,) = interpret(jvp(program), [x, tangent])
            np.testing.assert_allclose(np.tensordot(found.todense(), tangent, len(source)), needed, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("source", [(4, 9, 6, 6), (36, 6, 6), (4, 9, 36), (6, 6, 9, 4), (2, 18, 3, 12)])
def test_a_diagonal_over_axes_whose_parts_do_not_factor(source):
    program = traced(lambda x: np.einsum("ii->i", np.reshape(np.sin(x), (36, 36))), source)
    x = np.random.default_rng(0).normal(size=source)
    _, found = structured(program, arrays=[x])
    tangent = np.random.default_rng(1).normal(size=source)
    (needed,) = interpret(jvp(program), [x, tangent])
    np.testing.assert_allclose(np.tensordot(found.todense(), tangent, len(source)), needed, rtol=1e-9, atol=1e-9)


def test_a_sum_of_many_patterns_stays_bounded():
    """Sums over every subset of axes, each broadcast again: sixteen patterns in one value."""
    shape = (2, 3, 2, 3)

    def function(x):
        total = np.sin(x)
        for count in range(1, 5):
            for axes in itertools.combinations(range(4), count):
                total = total + np.sum(x * float(len(axes)), axis=axes, keepdims=True) * float(1 + axes[0])
        return total

    program = traced(function, shape)
    x = np.random.default_rng(0).normal(size=shape)
    _, found = structured(program, arrays=[x])
    tangent = np.random.default_rng(1).normal(size=shape)
    (needed,) = interpret(jvp(program), [x, tangent])
    np.testing.assert_allclose(np.tensordot(found.todense(), tangent, 4), needed, rtol=1e-9, atol=1e-9)


def test_a_zero_jacobian_has_no_terms():
    program = traced(lambda x, y: x * 2, (3,), (4,))
    derived, found = structured(program, 1, arrays=[np.ones(3), np.ones(4)])
    assert found.pattern == "dY/dX = 0"
    assert not derived.outputs
    np.testing.assert_array_equal(found.todense(), np.zeros((3, 4)))


def test_an_empty_jacobian_keeps_its_shape():
    for function, shape, shape_out in [
        (np.sin, (0,), (0,)),
        (lambda x: np.sum(x, axis=0), (0, 3), (3,)),
        (lambda x: x[:0], (3,), (0,)),
        (lambda x: np.broadcast_to(x, (0, 2)), (2,), (0, 2)),
    ]:
        _, found = structured(traced(function, shape), arrays=[np.ones(shape)])
        assert found.todense().shape == (*shape_out, *shape)


def test_dense_jacobians_of_diagonals_are_written_once():
    n = 1000
    program = jacobian(traced(lambda x: np.sin(x) * x, (n,)))
    assert sum(var.type.size >= n * n for equation in program.equations for var in equation.results) == 1


# -- random programs ---------------------------------------------------------------------------------------------------------

LENGTHS = {"i": 29, "j": 31, "k": 37}


@st.composite
def separable_programs(draw) -> tuple[Program, list[np.ndarray]]:
    """Elementwise functions, products, broadcasts, contractions with small factors, sums: axes of 29 to 37 elements."""
    builder = Builder()
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    axes = draw(st.sampled_from(["i", "ij", "ijk"]))
    x = builder.input(TensorType(Dtype.FLOAT64, tuple(LENGTHS[axis] for axis in axes)))
    shape, value = axes, x
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["function", "scale", "sum", "broadcast", "contract", "transpose"]))
        if kind == "function":
            value = draw(st.sampled_from([np.sin, np.tanh, np.square, np.negative, lambda x: x * x + x]))(value)
        elif kind == "scale":
            value = value * rng.normal(size=[LENGTHS[axis] if draw(st.booleans()) else 1 for axis in shape])
        elif kind == "sum" and shape:
            place = draw(st.integers(0, len(shape) - 1))
            value, shape = np.sum(value, axis=place), shape[:place] + shape[place + 1 :]
        elif kind == "broadcast" and len(shape) < 3:
            fresh = draw(st.sampled_from([axis for axis in LENGTHS if axis not in shape]))
            shape = fresh + shape
            value = np.broadcast_to(value, [LENGTHS[axis] for axis in shape])
        elif kind == "contract" and shape:
            old = draw(st.sampled_from(shape))
            weights = rng.normal(size=(LENGTHS[old], LENGTHS[old])) / LENGTHS[old]
            value = np.einsum(f"{shape},{old}z->{shape.replace(old, 'z')}", value, weights)
        elif kind == "transpose":
            order = draw(st.permutations(range(len(shape))))
            value, shape = np.transpose(value, order), "".join(shape[axis] for axis in order)
    assume(value is not x)
    return builder.build([value]), [rng.normal(size=x.shape)]


@examples(150)
@given(separable_programs())
def test_no_intermediate_array_is_larger_than_the_values_themselves(case):
    program, arrays = case
    derived, (spec,) = structured_jacobian(program)
    check_program(derived)
    values = max(largest(program), arrays[0].size, max(LENGTHS.values()) ** 2)
    assert largest(derived) <= 2 * values
    found = spec.fill(interpret(derived, arrays))
    assert found.nbytes <= 8 * 6 * values
    tangent = np.random.default_rng(5).normal(size=arrays[0].shape)
    (needed,) = interpret(jvp(program), [*arrays, tangent])
    np.testing.assert_allclose(applied(found, tangent), needed, rtol=1e-8, atol=1e-8 * max(1, np.max(np.abs(needed), initial=0)))


def applied(found: StructuredJacobian, tangent: np.ndarray) -> np.ndarray:
    return found @ tangent
