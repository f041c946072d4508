"""Functions of the Array API standard: traced, they give what array_api_strict gives on generated inputs."""

import math

import array_api_strict as strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gradwire as gw
from gradwire import array_api

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)
BOUNDS = {"unit": (-1, 1), "above one": (1, 1e3), "positive": (0, 1e3), "any": (-1e3, 1e3)}
UNARY = {
    "abs": "any", "acos": "unit", "acosh": "above one", "asin": "unit", "asinh": "any", "atan": "any", "atanh": "unit",
    "ceil": "any", "cos": "any", "cosh": "unit", "exp": "unit", "expm1": "unit", "floor": "any", "isfinite": "any", "isinf": "any",
    "isnan": "any", "log": "positive", "log10": "positive", "log1p": "positive", "log2": "positive", "negative": "any",
    "positive": "any",
    "reciprocal": "above one", "round": "any", "sign": "any", "signbit": "any", "sin": "any", "sinh": "unit", "sqrt": "positive",
    "square": "any", "tan": "unit", "tanh": "any", "trunc": "any",
}  # fmt: skip
BINARY = {
    "add": "any", "atan2": "any", "copysign": "any", "divide": "above one", "equal": "any", "floor_divide": "above one",
    "greater": "any", "greater_equal": "any", "hypot": "any", "less": "any", "less_equal": "any", "logaddexp": "any",
    "maximum": "any", "minimum": "any", "multiply": "any", "not_equal": "any", "remainder": "above one", "subtract": "any",
}  # fmt: skip
SHAPING = {
    "sum": lambda xp, x: xp.sum(x, axis=-1, keepdims=True),
    "prod": lambda xp, x: xp.prod(x),
    "mean": lambda xp, x: xp.mean(x, axis=0),
    "var": lambda xp, x: xp.var(x, correction=0.5),
    "std": lambda xp, x: xp.std(x, axis=(0, 1)),
    "max": lambda xp, x: xp.max(x, axis=1),
    "min": lambda xp, x: xp.min(x, keepdims=True),
    "argmax": lambda xp, x: xp.argmax(x, axis=0),
    "argmin": lambda xp, x: xp.argmin(x),
    "all": lambda xp, x: xp.all(x > 0, axis=0),
    "any": lambda xp, x: xp.any(x > 0),
    "count_nonzero": lambda xp, x: xp.count_nonzero(x),
    "cumulative_sum": lambda xp, x: xp.cumulative_sum(x, axis=1, include_initial=True),
    "cumulative_prod": lambda xp, x: xp.cumulative_prod(x, axis=0),
    "diff": lambda xp, x: xp.diff(x, axis=0),
    "sort": lambda xp, x: xp.sort(x, axis=0, descending=True),
    "argsort": lambda xp, x: xp.argsort(x, axis=1),
    "argsort down": lambda xp, x: xp.argsort(x, axis=0, descending=True),
    "searchsorted": lambda xp, x: xp.searchsorted(xp.sort(x[0, :]), x[:, 0]),
    "where": lambda xp, x: xp.where(x > 0, x, -x),
    "clip": lambda xp, x: xp.clip(x, -1.0, 1.0),
    "reshape": lambda xp, x: xp.reshape(x, (-1,)),
    "permute_dims": lambda xp, x: xp.permute_dims(x, (1, 0)),
    "matrix_transpose": lambda xp, x: xp.matrix_transpose(x) + x.mT,
    "moveaxis": lambda xp, x: xp.moveaxis(x, 0, -1),
    "expand_dims": lambda xp, x: xp.expand_dims(x, axis=1),
    "squeeze": lambda xp, x: xp.squeeze(x[:1, ...], axis=0),
    "broadcast_to": lambda xp, x: xp.broadcast_to(x, (2, *x.shape)),
    "broadcast_arrays": lambda xp, x: xp.broadcast_arrays(x, x[:1, :])[1],
    "concat": lambda xp, x: xp.concat([x, x], axis=1),
    "stack": lambda xp, x: xp.stack([x, x], axis=-1),
    "unstack": lambda xp, x: xp.unstack(x, axis=1)[0],
    "flip": lambda xp, x: xp.flip(x, axis=0),
    "roll": lambda xp, x: xp.roll(x, 1, axis=1),
    "repeat": lambda xp, x: xp.repeat(x, 2, axis=0),
    "tile": lambda xp, x: xp.tile(x, (2, 1)),
    "tril": lambda xp, x: xp.tril(x, k=1),
    "triu": lambda xp, x: xp.triu(x),
    "take": lambda xp, x: xp.take(x, xp.asarray([0, 0]), axis=1),
    "take_along_axis": lambda xp, x: xp.take_along_axis(x, xp.argsort(x, axis=-1), axis=-1),
    "meshgrid": lambda xp, x: xp.meshgrid(x[:, 0], x[0, :], indexing="ij")[0],
    "zeros_like": lambda xp, x: xp.zeros_like(x) + xp.ones_like(x),
    "full_like": lambda xp, x: xp.full_like(x, 3),
    "astype": lambda xp, x: xp.astype(x, xp.float32),
    "astype int": lambda xp, x: xp.astype(x, xp.int64),
    "index": lambda xp, x: x[0, ...] + x[-1, None, :][0, :],
    "operators": lambda xp, x: (x + 1) * x - x / 2 + x**2 - abs(x) % 3 + x // 2,
    "logic": lambda xp, x: ((x > 0) & (x < 5)) | ~(x != 1) ^ (x >= 2),
    "constants": lambda xp, x: x * xp.pi + xp.e + xp.linspace(0, 1, x.shape[1]),
    "in place": lambda xp, x: _in_place(x),
    "matmul": lambda xp, x: x @ x.mT + xp.matmul(x, xp.matrix_transpose(x)),
    "tensordot": lambda xp, x: xp.tensordot(x, x, axes=((0,), (0,))),
    "vecdot": lambda xp, x: xp.vecdot(x, x, axis=-2),
    "linalg.outer": lambda xp, x: xp.linalg.outer(x[0, :], x[:, 0]),
    "linalg.trace": lambda xp, x: xp.linalg.trace(x, offset=-1),
    "linalg.diagonal": lambda xp, x: xp.linalg.diagonal(x),
    "linalg.matrix_norm": lambda xp, x: xp.linalg.matrix_norm(x, keepdims=True),
    "linalg.vector_norm": lambda xp, x: xp.linalg.vector_norm(x, axis=0, ord=1),
    "linalg.svdvals": lambda xp, x: xp.linalg.svdvals(x),
}
LINALG = {
    "cholesky": lambda xp, x: xp.linalg.cholesky(x @ x.mT, upper=True),
    "cross": lambda xp, x: xp.linalg.cross(x, x[::-1, :]),
    "det": lambda xp, x: xp.linalg.det(x),
    "eigh": lambda xp, x: xp.linalg.eigh(x + x.mT).eigenvalues,
    "eigvalsh": lambda xp, x: xp.linalg.eigvalsh(x + x.mT),
    "inv": lambda xp, x: xp.linalg.inv(x),
    "matrix_norm": lambda xp, x: xp.linalg.matrix_norm(x, ord=2) + xp.linalg.matrix_norm(x, ord="nuc"),
    "matrix_power": lambda xp, x: xp.linalg.matrix_power(x, -2),
    "matrix_rank": lambda xp, x: xp.linalg.matrix_rank(x),
    "pinv": lambda xp, x: xp.linalg.pinv(x[:, :2]),
    "qr": lambda xp, x: xp.abs(xp.linalg.qr(x).R),
    "slogdet": lambda xp, x: xp.linalg.slogdet(x).logabsdet,
    "solve": lambda xp, x: xp.linalg.solve(x, x @ x),
    "svd": lambda xp, x: xp.linalg.svd(x, full_matrices=False).S,
    "eigvals": lambda xp, x: xp.sum(xp.real(xp.linalg.eigvals(x))),
    "fft": lambda xp, x: xp.real(xp.fft.ifft(xp.fft.fft(xp.astype(x, xp.complex128)) * 2)),
    "rfft": lambda xp, x: xp.imag(xp.fft.fftshift(xp.fft.rfft(x, axis=0))),
}


def _in_place(x):
    x = x + 0
    x += 1
    x *= 2
    return x


def arrays(kind, dtype, shape=SHAPES):
    low, high = BOUNDS[kind]
    return hnp.arrays(dtype, shape, elements=st.floats(low, high, width=8 * np.dtype(dtype).itemsize, allow_subnormal=False))


def check(function, *given, rtol=None):
    """Traced and strict give the same values, dtype and shape."""

    def traced(*args):
        return function(args[0].__array_namespace__(), *args)

    found = gw.evaluate(traced)(*given)
    with np.errstate(all="ignore"):
        expected = np.asarray(function(strict, *map(strict.asarray, given)))
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    limit = rtol or (1e-5 if expected.dtype == np.float32 else 1e-13)
    np.testing.assert_allclose(found, expected, rtol=limit, atol=limit if rtol else 1e-300)


DTYPES = st.sampled_from([np.float64, np.float32])


@pytest.mark.parametrize("name", sorted(UNARY))
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_elementwise_of_one(name, data):
    x = data.draw(arrays(UNARY[name], data.draw(DTYPES)))
    check(lambda xp, x: getattr(xp, name)(x), x)


@pytest.mark.parametrize("name", sorted(BINARY))
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_elementwise_of_two(name, data):
    one, two = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3)).input_shapes
    dtypes = data.draw(DTYPES), data.draw(DTYPES)
    given = [data.draw(arrays(BINARY[name], dtype, shape)) for dtype, shape in zip(dtypes, (one, two), strict=True)]
    check(lambda xp, x, y: getattr(xp, name)(x, y), *given)


@pytest.mark.parametrize("name", sorted(SHAPING))
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_shapes_reductions_and_order(name, data):
    x = data.draw(arrays("any", data.draw(DTYPES), hnp.array_shapes(min_dims=2, max_dims=2, max_side=4)))
    check(SHAPING[name], x, rtol=1e-2 if x.dtype == np.float32 else 1e-9)


@pytest.mark.parametrize("name", sorted(LINALG))
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_linear_algebra_and_fourier(name, seed):
    x = np.random.default_rng(seed).normal(size=(3, 3)) + 4 * np.eye(3)
    check(LINALG[name], x, rtol=1e-10)


INTEGERS = {
    1: ["abs", "negative", "positive", "sign", "square", "ceil", "floor", "trunc", "round", "isfinite", "isnan", "isinf"],
    2: ["add", "subtract", "multiply", "floor_divide", "remainder", "maximum", "minimum", "equal", "less", "greater_equal", "pow"],
}  # fmt: skip
REDUCTIONS = ["sum", "prod", "max", "min", "argmax", "any", "all", "sort", "argsort", "diff", "count_nonzero"]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("name", [*INTEGERS[1], *INTEGERS[2], *REDUCTIONS])
def test_integers(name, dtype):
    given = [np.arange(1, 13, dtype=dtype).reshape(3, 4) % 7 + 1, np.arange(12, dtype=dtype).reshape(3, 4) % 3 + 1]
    check(lambda xp, *args: getattr(xp, name)(*args), *(given if name in INTEGERS[2] else given[:1]))


@pytest.mark.parametrize("name", ["any", "all", "count_nonzero"])
def test_masks(name):
    check(lambda xp, x: getattr(xp, name)(x, axis=0), np.array([[True, False], [True, True]]))


@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor"])
def test_logic(name):
    x, y = np.array([True, True, False, False]), np.array([True, False, True, False])
    check(lambda xp, x, y: getattr(xp, name)(x, y), x, y)
    check(lambda xp, x, y: xp.logical_not(x), x, y)


def test_complex_parts():
    x = np.array([1 + 2j, -3j, 0])
    for name in ("real", "imag", "conj", "abs", "square", "exp"):
        check(lambda xp, x, name=name: getattr(xp, name)(x), x)


def test_the_namespace_has_the_names_of_the_standard_and_numpys_dtypes():
    assert not {name for name in array_api.__all__ if not hasattr(array_api, name)}
    lacking = {name for name in dir(strict) if not name.startswith("_")} - set(array_api.__all__)
    unsupported = {"int8", "int16", "uint8", "uint16", "uint32", "uint64", "broadcast_shapes", "isin"}
    assert {name for name in lacking if "strict" not in name.lower()} == unsupported | {"Device", "ModuleType"}
    info = array_api.__array_namespace_info__()
    assert info.dtypes(kind="real floating") == {"float64": np.dtype("f8"), "float32": np.dtype("f4")}
    assert info.default_dtypes()["integral"] == np.int64
    assert info.devices() == [info.default_device()]
    assert not info.capabilities()["data-dependent shapes"]


def test_types_are_known_while_tracing():
    seen = []

    def f(x, y):
        xp = x.__array_namespace__(api_version="2023.12")
        seen.append(
            (xp.result_type(x, y), xp.result_type(y, 1.0), xp.isdtype(x.dtype, "real floating"), xp.finfo(y).bits, x.device)
        )
        seen.append((xp.can_cast(x, xp.float32), xp.can_cast(y, xp.float64)))
        return x + y

    gw.evaluate(f)(np.ones(2), np.ones(2, np.float32))
    assert seen == [(np.float64, np.float32, True, 32, "cpu"), (False, True)]


def test_what_needs_values_is_refused():
    def shaped_by_values(x):
        return x.__array_namespace__().nonzero(x)

    with pytest.raises(gw.TracingError, match="nonzero"):
        gw.evaluate(shaped_by_values)(np.ones(3))
    with pytest.raises(ValueError, match=r"needed a version up to 2024.12"):
        gw.evaluate(lambda x: x.__array_namespace__(api_version="1999.12").sin(x))(1.0)
    with pytest.raises(gw.ArgumentError, match="to_device: needed 'cpu', got 'gpu'"):
        gw.evaluate(lambda x: x.to_device("cpu") + x.to_device("gpu"))(1.0)
    with pytest.raises(gw.ArgumentError, match="needed 'cpu'"):
        array_api.asarray([1.0], device="gpu")


def test_derivatives_flow():
    def f(x):
        xp = x.__array_namespace__()
        return xp.sum(xp.sort(x, descending=True)[:2] ** 2)

    np.testing.assert_array_equal(gw.grad(f)(np.array([1.0, 3.0, 2.0])), [0, 6, 4])
    assert math.isclose(gw.grad(lambda x: x.__array_namespace__().linalg.det(x))(np.eye(2))[0, 0], 1)
