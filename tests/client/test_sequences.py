"""Shapes, order, differences and windows over traced arrays: NumPy's values and dtypes, and derivatives."""

import numpy as np
import pytest

import gradwire as gw
import gradwire.numpy as gnp
from gradwire.testing import check_derivatives

RNG = np.random.default_rng(7)
V = RNG.permutation(6) / 4 - 0.6 + RNG.uniform(-0.05, 0.05, 6)
M = RNG.permutation(12).reshape(3, 4) / 4 - 1.3 + RNG.uniform(-0.05, 0.05, (3, 4))
T = RNG.permutation(24).reshape(2, 3, 4) / 4 - 2.9 + RNG.uniform(-0.05, 0.05, (2, 3, 4))
COORDINATES = np.array([0.0, 0.5, 2.0, 2.5])
XP = np.array([-1.0, 0.25, 1.0, 2.0])
FP = np.array([3.0, -1.0, 0.5, 2.0])

SHAPES = [
    (np.flipud, M),
    (np.fliplr, M),
    *[(lambda x, k=k: np.rot90(x, k), M) for k in range(-1, 4)],
    (lambda x: np.rot90(x, 1, (2, 0)), T),
    (lambda x: np.rollaxis(x, 2), T),
    (lambda x: np.rollaxis(x, 0, 3), T),
    (lambda x: np.rollaxis(x, 1, -1), T),
    (np.copy, M),
    (lambda x: np.hsplit(x, 2)[1], M),
    (lambda x: np.hsplit(x, [2])[1], V),
    (lambda x: np.vsplit(x, [1, 2])[1], M),
    (lambda x: np.dsplit(x, 4)[2], T),
    (lambda x: np.unstack(x, axis=1)[2], M),
    (lambda x: np.delete(x, 1, 0), M),
    (lambda x: np.delete(x, [0, -1], 1), M),
    (lambda x: np.delete(x, slice(1, 3)), M),
    (lambda x: np.delete(x, np.array([True, False, True]), 0), M),
    (lambda x: np.insert(x, 1, 5.0), V),
    (lambda x: np.insert(x, [1, 3], [5.0, 6.0]), V),
    (lambda x: np.insert(x, 2, x[0], 0), M),
    (lambda x: np.insert(x, 1, x[:, 0], 1), M),
    (lambda x: np.insert(x, [1], x[:, :1], 1), M),
    (lambda x: np.insert(x, [0, 4], 7.0, 1), M),
    (lambda x: np.insert(x, [1], [5.0, 6.0, 7.0]), V),
    (lambda x: np.insert(x, slice(0, 4, 2), 1.5, -1), M),
    (lambda x: np.insert(x, np.array([True, False, True]), 1.5, 0), M),
    (lambda x: np.resize(x[:0], (2, 2)), V),
    (lambda x: x * (2 - np.shares_memory(x[:2], x[3:])), V),
    (lambda x: np.append(x, [1.0, 2.0]), M),
    (lambda x: np.append(x, x[:1], 0), M),
    (lambda x: np.block([[x, np.ones((3, 2))], [np.zeros((1, 5)), 3.0 * x[:1, :1]]]), M),
    (lambda x: np.block([x, 1.0]), V),
    (np.block, V),
    (lambda x: np.block([[[x[0]], [x[1]]]]), T),
    (lambda x: np.meshgrid(x, V[:2])[0], V),
    (lambda x: np.meshgrid(V[:2], x, indexing="ij")[1], V),
    (lambda x: np.meshgrid(x, V[:2], sparse=True)[0], V),
    (lambda x: np.meshgrid(x)[0], V),
    (lambda x: np.meshgrid(x, x[:2], x[:3])[2], V),
    (np.diagflat, M),
    (lambda x: np.diagflat(x, -2), V),
    (lambda x: np.resize(x, (3, 5)), V),
    (lambda x: np.resize(x, 4), V),
    (np.vander, V),
    (lambda x: np.vander(x, 3, increasing=True), V),
    (lambda x: np.vander(x, 1), V),
    (lambda x: np.pad(x, 1), M),
    (lambda x: np.pad(x, ((1, 2), (0, 3)), constant_values=2.0), M),
    (lambda x: np.pad(x, (1, 2), constant_values=((1.0, 2.0), (3.0, 4.0))), M),
    (lambda x: np.pad(x, {0: (1, 0)}), M),
    *[(lambda x, mode=mode: np.pad(x, ((2, 1), (0, 3)), mode), M) for mode in ("edge", "reflect", "symmetric", "wrap")],
    (lambda x: np.pad(x, 5, "reflect"), V),
    (lambda x: np.pad(x, (3, 2), "linear_ramp", end_values=(5.0, -1.0)), V),
    (lambda x: np.pad(x, 2, "linear_ramp"), M),
    (lambda x: np.linspace(x[0], x[1], 5), V),
    (lambda x: np.linspace(x, 3.0, 4, endpoint=False), V),
    (lambda x: np.linspace(0.0, x, 3, axis=-1), M),
    (lambda x: np.linspace(x, 1.0, 1), V),
    (lambda x: np.linspace(x, 1.0, 4, retstep=True)[1], V),
    (lambda x: np.logspace(x, 1.0, 4), V),
    (lambda x: np.geomspace(np.exp(x), 2.0, 4), V),
]

ORDER = [
    (np.median, V),
    (np.median, V[:5]),
    (lambda x: np.median(x, (0, 2)), T),
    (lambda x: np.median(x, 1, keepdims=True), T),
    (lambda x: np.quantile(x, 0.3), V),
    (lambda x: np.quantile(x, [0.0, 0.31, 0.77, 1.0], axis=1), M),
    (lambda x: np.quantile(x, [[0.1], [0.9]], axis=(0, 1), keepdims=True), T),
    *[
        (lambda x, method=method: np.quantile(x, [0.04, 0.4, 0.5, 0.97], axis=-1, method=method), M)
        for method in (
            "hazen",
            "weibull",
            "median_unbiased",
            "normal_unbiased",
            "interpolated_inverted_cdf",
            "lower",
            "higher",
            "nearest",
            "midpoint",
        )
    ],
    (lambda x: np.percentile(x, 35), M),
    (lambda x: np.percentile(x, [10, 90], axis=0), M),
    (lambda x: np.ptp(x, 1), M),
    (lambda x: np.ptp(x, keepdims=True), M),
    (lambda x: np.select([x > 0.5, x > -0.5], [x * x, 2 * x], -1.0), M),
    (lambda x: np.select([x > 0.5], [x * x]), M),
    (lambda x: np.choose(np.array([1, 0, 1, 2]), [x, 2 * x, x[0]]), M),
    (lambda x: np.choose(np.array([5, -1, 1, 2]), [x, 2 * x, x[0]], mode="clip"), M),
    (lambda x: np.choose(np.array([5, -1, 1, 2]), [x, 2 * x, x[0]], mode="wrap"), M),
    (lambda x: x * np.count_nonzero(x > 0), M),
    (lambda x: x * np.count_nonzero(x > 0, axis=0), M),
    (lambda x: np.interp(x, XP, FP), V),
    (lambda x: np.interp(x, XP[1:3], FP[1:3], left=-5.0, right=7.0), V),
    (lambda x: np.interp(V, XP, x[:4]), V),
    (lambda x: np.interp(V, XP[::-1] * 3, x[:4], period=2.0), V),
    (lambda x: np.interp(x, XP[:1], FP[:1]), V),
    (lambda x: np.interp(V + 0.06, np.sort(x), x * x), V),
    (lambda x: np.take_along_axis(x, np.argsort(x, 1), 1), M),
    (lambda x: x[np.tril_indices_from(x[:, :3], -1)], M),
    (lambda x: x[np.triu_indices_from(x)], M),
    (lambda x: x[:, :3][np.diag_indices_from(x[:, :3])], M),
    (lambda x: x.astype(np.result_type(x, np.float32)), M),
    (lambda x: x * np.lexsort((x, np.round(x))), V),
    (lambda x: x * np.lexsort((np.round(x), x), 0), M),
    (lambda x: x * np.nanargmax(np.where(x > 0.5, np.nan, x)), V),
    (lambda x: x * np.nanargmin(np.where(x < -0.5, np.nan, x), axis=0, keepdims=True), M),
]

SEQUENCES = [
    (np.diff, M),
    (lambda x: np.diff(x, 2, 0), M),
    (lambda x: np.diff(x, 0), M),
    (lambda x: np.diff(x, 9), M),
    (lambda x: np.diff(x, prepend=0.0, append=x[:, :2]), M),
    (np.ediff1d, M),
    (lambda x: np.ediff1d(x, to_end=[1.0, 2.0], to_begin=x[0]), V),
    (np.gradient, V),
    (lambda x: np.gradient(x)[1], M),
    (lambda x: np.gradient(x, 0.5, axis=0), M),
    (lambda x: np.gradient(x, 2.0, COORDINATES)[1], M),
    (lambda x: np.gradient(x, COORDINATES, axis=-1, edge_order=2), M),
    (lambda x: np.gradient(x, 0.3, edge_order=2), V),
    (lambda x: np.gradient(x, np.arange(6.0) * 0.5, edge_order=2), V),
    (lambda x: np.gradient(x[:2]), V),
    (lambda x: np.gradient(V, np.cumsum(x * x + 1)), V),
    (np.trapezoid, V),
    (lambda x: np.trapezoid(x, dx=0.1, axis=0), M),
    (lambda x: np.trapezoid(x, COORDINATES), M),
    (lambda x: np.trapezoid(M, np.cumsum(x, 1), axis=1), M),
    (lambda x: np.polyval(x, 0.7), V),
    (lambda x: np.polyval([1.0, -2.0, 3.0], x), M),
    (lambda x: np.polyval(x[:3], x), V),
    (np.polyder, V),
    (np.polyint, V),
    (lambda x: np.polyint(x, 2, [3.0, 4.0]), V),
    (lambda x: np.unwrap(x * 9), V),
    (lambda x: np.unwrap(x * 9, axis=0, period=3.0), M),
    (lambda x: np.unwrap(x * 9, 5.0), V),
    (lambda x: np.polyder(x, 2), V),
    (lambda x: np.polymul(x, [1.0, 2.0]), V),
    (lambda x: np.polyadd(x, [1.0, 2.0]), V),
    (lambda x: np.polysub([1.0, 2.0], x), V),
    (lambda x: np.convolve(x, [1.0, -2.0, 0.5], "same"), V),
    (lambda x: np.lib.stride_tricks.sliding_window_view(x, 3), V),
    (lambda x: np.lib.stride_tricks.sliding_window_view(x, (2, 2)), M),
    (lambda x: np.lib.stride_tricks.sliding_window_view(x, (2, 3), (0, 2)), T),
]

CASES = [*SHAPES, *ORDER, *SEQUENCES]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_functions_compute_what_numpy_does(number):
    function, at = CASES[number]
    expected = function(at)
    traced = gw.trace(function, at)
    got = gw.evaluate(function)(at)
    assert got.shape == np.shape(expected)
    assert got.dtype == np.asarray(expected).dtype
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-14)
    if got.size:
        check_derivatives(traced, [at, *traced.captured])


INTEGERS = np.arange(12).reshape(3, 4) % 5


@pytest.mark.parametrize(
    "function",
    [
        np.median, lambda x: np.quantile(x, 0.3, axis=0), np.diff, np.gradient, lambda x: np.pad(x, 1),
        lambda x: np.pad(x, 1, "edge"),
        lambda x: np.sort(x, None), lambda x: np.insert(x, 1, 9, 0), lambda x: np.append(x, x), np.trapezoid,
        lambda x: np.diff(x > 2), lambda x: np.linspace(x, 2, 3), np.rot90, lambda x: np.polyval([1, 2], x), np.ptp,
    ],
)  # fmt: skip
def test_integers_give_numpys_dtypes(function):
    expected = function(INTEGERS)
    found = gw.evaluate(function)(INTEGERS)
    for one, other in zip(found, expected, strict=True) if isinstance(expected, (tuple, list)) else [(found, expected)]:
        assert one.dtype == np.asarray(other).dtype
        np.testing.assert_allclose(one, other, rtol=1e-14)


def test_float32_stays():
    narrow = M.astype(np.float32)
    for function in (
        np.median,
        lambda x: np.quantile(x, 0.3),
        lambda x: np.pad(x, 1),
        np.gradient,
        np.diff,
        lambda x: np.interp(x, XP, FP),
    ):
        expected = function(narrow)
        found = gw.evaluate(function)(narrow)
        for one, other in zip(found, expected, strict=True) if isinstance(expected, (tuple, list)) else [(found, expected)]:
            assert one.dtype == other.dtype


def test_a_nan_makes_medians_and_quantiles_nan():
    x = M.copy()
    x[1, 2] = np.nan
    for function in (lambda x: np.median(x, 1), lambda x: np.quantile(x, [0.2, 0.6], 1), np.median):
        np.testing.assert_allclose(gw.evaluate(function)(x), function(x))


def test_a_traced_level_of_a_quantile():
    for level in (0.0, 0.31, 1.0):
        got = gw.evaluate(lambda x, q: np.quantile(x, q, axis=1))(M, level)
        np.testing.assert_allclose(got, np.quantile(M, level, axis=1), rtol=1e-14)
    slope = gw.grad(lambda q: np.quantile(V, q))(0.31)
    ordered = np.sort(V)
    assert slope == pytest.approx(5 * (ordered[2] - ordered[1]))
    got = gw.evaluate(lambda q: np.percentile(V, q))(np.array([20.0, 50.0]))
    np.testing.assert_allclose(got, np.percentile(V, [20, 50]), rtol=1e-14)


def test_interpolation_at_its_points():
    at = np.array([-2.0, -1.0, 0.25, 2.0, 3.0, np.nan])
    np.testing.assert_array_equal(gw.evaluate(lambda x: np.interp(x, XP, FP))(at), np.interp(at, XP, FP))
    slopes = np.diff(FP) / np.diff(XP)
    found = [gw.grad(lambda x: np.interp(x, XP, FP))(item) for item in at[:5]]
    np.testing.assert_allclose(found, [0, slopes[0], slopes[1], slopes[2], 0])


def test_top_k():
    x = np.array([[1.0, 3.0, 3.0, 2.0], [np.nan, 0.0, -1.0, 5.0]])
    values, indices = gw.evaluate(lambda x: gnp.top_k(x, 2))(x)
    np.testing.assert_array_equal(values, [[3, 3], [np.nan, 5]])
    np.testing.assert_array_equal(indices, [[1, 2], [0, 3]])
    assert gnp.top_k(np.array([5, 7, 7, 1]), 3)[1].tolist() == [1, 2, 0]
    assert gw.evaluate(lambda x: gnp.top_k(x, 0, 0)[0])(x).shape == (0, 4)
    check_derivatives(lambda x: gnp.top_k(x, 2, 0)[0] ** 2, [M])
    with pytest.raises(gw.ArgumentError, match="top_k: needed k from 0 to 4, got 5"):
        gnp.top_k(x, 5)


def test_put_along_axis_and_fill_diagonal():
    indices = np.array([[2], [0], [3]])
    needed = M.copy()
    np.put_along_axis(needed, indices, 9.0, 1)
    np.testing.assert_array_equal(gw.evaluate(lambda x: gnp.put_along_axis(x, indices, 9.0, 1))(M), needed)
    needed = M.copy()
    np.put_along_axis(needed, np.array([3, 5]), [1.0, 2.0], None)
    np.testing.assert_array_equal(gnp.put_along_axis(M, np.array([3, 5]), [1.0, 2.0], None), needed)
    for value, wrap in ((5.0, False), ([1.0, 2.0], False), (5.0, True)):
        needed = np.vstack([M, M])
        np.fill_diagonal(needed, value, wrap)
        np.testing.assert_array_equal(gw.evaluate(lambda x, v=value, w=wrap: gnp.fill_diagonal(np.vstack([x, x]), v, w))(M), needed)
    check_derivatives(lambda x: gnp.fill_diagonal(x, x[0, :3] ** 2) * x, [M])


def test_convolutions_as_networks_have_them():
    x, kernel = RNG.normal(size=(2, 3, 8)), RNG.normal(size=(4, 3, 3))
    needed = sum(np.einsum("ncl,oc->nol", x[..., k : k + 6], kernel[..., k]) for k in range(3))
    np.testing.assert_allclose(gnp.conv1d(x, kernel), needed, rtol=1e-12)
    assert gnp.conv1d(x, kernel, padding="same").shape == (2, 4, 8)
    np.testing.assert_allclose(gnp.conv1d(x, kernel, padding="same")[..., 1:-1], needed, rtol=1e-12)
    np.testing.assert_allclose(gnp.conv1d(x, kernel, stride=2), needed[..., ::2], rtol=1e-12)
    assert gnp.conv1d(x, kernel, dilation=2, padding=[(1, 2)]).shape == (2, 4, 7)
    check_derivatives(lambda x, k: gnp.conv1d(x, k, stride=2, padding=1), [x, kernel])
    image, window = RNG.normal(size=(2, 5, 6)), RNG.normal(size=(3, 2, 2, 3))
    needed = sum(np.einsum("chw,oc->ohw", image[:, i : i + 4, j : j + 4], window[..., i, j]) for i in range(2) for j in range(3))
    np.testing.assert_allclose(gw.evaluate(gnp.conv2d)(image, window), needed, rtol=1e-12)
    assert gnp.conv2d(image, window, stride=(2, 1), padding=(1, 0)).shape == (3, 3, 4)
    check_derivatives(lambda x, k: gnp.conv2d(x, k, padding="same"), [image, window])


def test_pools():
    np.testing.assert_array_equal(gw.evaluate(lambda x: gnp.max_pool(x, (3, 2)))(M), M.reshape(1, 3, 2, 2).max((1, 3)))
    np.testing.assert_allclose(gw.evaluate(lambda x: gnp.avg_pool(x, 2, stride=1))(V), (V[1:] + V[:-1]) / 2)
    check_derivatives(lambda x: gnp.max_pool(x, (2, 2), stride=1), [M])


def test_running_extremes_have_names():
    np.testing.assert_array_equal(gnp.cummax(V), np.maximum.accumulate(V))
    np.testing.assert_array_equal(gnp.cummin(M, 1), np.minimum.accumulate(M, 1))
    np.testing.assert_array_equal(gnp.cumlogsumexp(V), np.logaddexp.accumulate(V))
    assert gnp.take([5, 6, 7], 1) == 6
    assert gw.evaluate(lambda i: gnp.take(V, i.astype(np.int64)))(2.0) == V[2]
    np.testing.assert_array_equal(gnp.at(V)[0].set(3.0), np.concatenate([[3.0], V[1:]]))


REFUSED = [
    (np.nonzero, r"static shape, got nonzero"),
    (np.flatnonzero, r"np\.where"),
    (np.unique, r"outside the function"),
    (np.histogram, r"np\.digitize"),
    (lambda x: np.extract(x > 0, x), r"np\.where"),
    (lambda x: np.put_along_axis(x, np.zeros((3, 1), int), 1.0, 1), r"gradwire\.numpy\.put_along_axis"),
    (lambda x: np.fill_diagonal(x, 0.0), r"gradwire\.numpy\.fill_diagonal"),
    (lambda x: np.copyto(x, 0.0), r"np\.where"),
    (lambda x: np.apply_along_axis(np.sum, 0, x), r"gradwire\.vmap"),
    (lambda x: np.delete(x, x.astype(np.int64)[0]), r"known while tracing"),
    (lambda x: np.insert(x, x.astype(np.int64)[0], 1.0), r"known while tracing"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_cannot_be_traced_says_what_to_write(number):
    function, text = REFUSED[number]
    with pytest.raises(gw.TracingError, match=text):
        gw.evaluate(function)(M)


WRONG = [
    (lambda x: np.rot90(x, 1, (0, 0)), gw.ShapeError),
    (lambda x: np.rollaxis(x, 0, 5), gw.ShapeError),
    (lambda x: np.block([[x], x]), gw.ShapeError),
    (lambda x: np.block([[x], []]), gw.ShapeError),
    (lambda x: np.meshgrid(x, indexing="xyz"), gw.ArgumentError),
    (np.diag_indices_from, gw.ShapeError),
    (lambda x: np.lexsort(x[:0]), gw.ArgumentError),
    (lambda x: np.pad(x, 1, "mean"), gw.ArgumentError),
    (lambda x: np.pad(x, 1, "reflect", reflect_type="odd"), gw.ArgumentError),
    (lambda x: np.pad(x, -1), gw.ArgumentError),
    (lambda x: np.pad(x, (1, 2, 3)), gw.ShapeError),
    (lambda x: np.quantile(x, 1.5), gw.ArgumentError),
    (lambda x: np.quantile(x, 0.5, method="inverted_cdf"), gw.ArgumentError),
    (lambda x: np.quantile(x, x[0, 0], method="hazen"), gw.ArgumentError),
    (lambda x: np.quantile(x, 0.5, weights=M, method="linear"), gw.ArgumentError),
    (lambda x: np.median(x[:0]), gw.ShapeError),
    (lambda x: np.median(x, out=np.zeros(())), gw.ArgumentError),
    (lambda x: np.select([x > 0], []), gw.ArgumentError),
    (lambda x: np.choose(np.array([0, 9, 0, 0]), [x, x]), gw.ArgumentError),
    (lambda x: np.choose(np.array([0, -1, 0, 0]), [x, x]), gw.ArgumentError),
    (lambda x: np.choose(np.array([0, 1, 0, 0]), [x, x], mode="other"), gw.ArgumentError),
    (lambda x: np.interp(x, XP, FP[:2]), gw.ShapeError),
    (lambda x: np.diff(x, -1), gw.ArgumentError),
    (lambda x: np.linspace(x, 1.0, device="gpu"), gw.ArgumentError),
    (lambda x: np.lib.stride_tricks.sliding_window_view(x, 2, 0, writeable=True), gw.ArgumentError),
    (lambda x: np.gradient(x, edge_order=3), gw.ArgumentError),
    (lambda x: np.gradient(x, 1.0, 2.0, 3.0), gw.ArgumentError),
    (lambda x: np.gradient(x[:1]), gw.ShapeError),
    (lambda x: np.gradient(x, COORDINATES, axis=0), gw.ShapeError),
    (lambda x: np.lib.stride_tricks.sliding_window_view(x, 9, 0), gw.ShapeError),
    (lambda x: np.lib.stride_tricks.sliding_window_view(x, 2), gw.ShapeError),
    (lambda x: gnp.conv1d(x, np.zeros((1, 2, 2))), gw.ShapeError),
    (lambda x: gnp.conv1d(x, np.zeros((1, 3, 2)), padding="most"), gw.ArgumentError),
    (lambda x: gnp.conv1d(x, np.zeros((1, 3, 2)), stride=(1, 2)), gw.ArgumentError),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_arguments_say_what_was_needed(number):
    function, error = WRONG[number]
    with pytest.raises(error, match=r": needed .*, got "):
        gw.evaluate(function)(M)
