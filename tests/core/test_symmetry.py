"""Symmetric products: they are recognized however they are written, and half of them is computed."""

from __future__ import annotations

import numpy as np
import pytest

from gradwire_core.builder import Builder, Value
from gradwire_core.einsum import PANEL, exchanged, lower
from gradwire_core.executor import Executor
from gradwire_core.ops.contraction import einsum
from gradwire_core.passes import run_passes
from gradwire_core.planner import Plan, plan
from gradwire_core.types import Dtype, TensorType

N = PANEL + 41
X = np.random.default_rng(0).normal(size=(7, N))
D = np.random.default_rng(1).normal(size=7)
M = np.random.default_rng(2).normal(size=(7, 7))
T = np.random.default_rng(3).normal(size=(2, 7, N))
S = np.random.default_rng(4).normal(size=(2, 7, 3, PANEL // 2))


def planned(function, *arrays: np.ndarray) -> Plan:
    builder = Builder()
    inputs = [builder.input(TensorType(Dtype.of(array.dtype), array.shape)) for array in arrays]
    return plan(run_passes(builder.build([function(*inputs)])))


def column(x: Value) -> Value:
    return np.reshape(x, (x.size, 1))


SYMMETRIC = {
    "a matrix by itself": (lambda x: x.T @ x, (X,)),
    "scaled": (lambda x, d: x.T @ (column(d) * x), (X, D)),
    "scaled, on the left": (lambda x, d: (column(d) * x).T @ x, (X, D)),
    "scaled on both sides": (lambda x, d: (column(d) * x).T @ (x * column(d)), (X, D)),
    "scaled and negated": (lambda x, d: x.T @ (x * -column(d)), (X, D)),
    "one contraction": (lambda x, d: einsum("si,s,sj->ij", x, d, x), (X, D)),
    "one contraction, other order": (lambda x, d: einsum("s,sj,si->ij", d, x, x), (X, D)),
    "a product in the middle": (lambda x, m: x.T @ (m @ m.T) @ x, (X, M)),
    "a scaled product in the middle": (lambda x, m, d: einsum("si,st,t,ut,uj->ij", x, m, d, m, x), (X, M, D)),
    "a batch": (lambda x, d: einsum("bsi,s,bsj->bij", x, d, x), (T, D)),
    "merged axes": (lambda x, d: einsum("bsik,s,bsjl->bikjl", x, d, x), (S, D)),
    "summed axes crossed": (lambda x: einsum("bsik,bsjl->ikjl", x, np.transpose(x, (1, 0, 2, 3))), (S[:, :2],)),
    "merged and summed over two axes": (lambda x: einsum("bsik,bsjl->ikjl", x, x), (S,)),
}
OTHERS = {
    "two matrices": (lambda x, y: x.T @ y, (X, X[::-1].copy())),
    "scaled by the columns": (lambda x: x.T @ (x * x[0]), (X,)),
    "any matrix in the middle": (lambda x, m: x.T @ m @ x, (X, M)),
    "a function in between": (lambda x: x.T @ np.tanh(x), (X,)),
    "reversed": (lambda x: x.T @ x[::-1], (X,)),
    "too small": (lambda x: x[:, :9].T @ x[:, :9], (X,)),
    "an outer product": (lambda x: einsum("i,j->ij", x, x), (X[0],)),
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_a_symmetric_product_is_computed_once(name: str) -> None:
    function, arrays = SYMMETRIC[name]
    found = planned(function, *arrays)
    assert [step.is_symmetric for step in found.steps if step.equation.primitive.name == "einsum"][-1]
    (result,) = Executor(found)(*arrays)
    half = result.ndim // 2
    axes = (0, 2, 1) if result.ndim == 3 else (0, 3, 4, 1, 2) if result.ndim == 5 else (*range(half, 2 * half), *range(half))
    np.testing.assert_array_equal(result, np.transpose(result, axes))
    np.testing.assert_allclose(result, function(*arrays), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", OTHERS)
def test_other_products_are_computed_whole(name: str) -> None:
    function, arrays = OTHERS[name]
    found = planned(function, *arrays)
    assert not any(step.is_symmetric for step in found.steps)
    np.testing.assert_allclose(Executor(found)(*arrays)[0], function(*arrays), rtol=1e-10, atol=1e-10)


def test_half_the_operations_are_predicted() -> None:
    whole, half = [lower("si,sj->ij", ((50, 1000), (50, 1000)), symmetric=flag).flops for flag in (False, True)]
    assert whole / 2 < half < 0.6 * whole
    x = np.ones((50, 1000))
    assert planned(lambda x: x.T @ x, x).flops == half


def test_nan_and_inf_stay_where_they_belong() -> None:
    x, d = X.copy(), D.copy()
    x[3, 5], d[2] = np.nan, np.inf
    found = planned(SYMMETRIC["scaled"][0], x, d)
    with np.errstate(all="ignore"):
        expected = x.T @ (d[:, None] * x)
    np.testing.assert_allclose(Executor(found)(x, d)[0], expected, rtol=1e-10, atol=1e-10)


def test_integers_and_complex_numbers() -> None:
    for dtype in (np.int64, np.complex128):
        x = (X * 10).astype(dtype)
        result = lower("si,sj->ij", (x.shape, x.shape), symmetric=True).kernel(x, x.copy())
        np.testing.assert_allclose(result, x.T @ x)


def test_what_can_be_exchanged() -> None:
    assert exchanged("si,sj->ij", ((7, N), (7, N))) == ("i", "j")
    assert exchanged("bsik,bsjl->bikjl", (S.shape, S.shape)) == ("ik", "jl")
    assert exchanged("si,sj->ij", ((7, N), (7, N + 1))) is None
    assert exchanged("si,s->i", ((7, N), (7,))) is None
    assert exchanged("i,j->ij", ((N,), (N,))) is None
    assert exchanged("ij->ji", ((N, N),)) is None


def test_a_product_of_very_many_arrays_is_not_compared() -> None:
    def function(x: Value, d: Value) -> Value:
        scaled = x
        for _ in range(12):
            scaled = scaled * column(d)
        return x.T @ scaled

    assert not any(step.is_symmetric for step in planned(function, X, D).steps)
