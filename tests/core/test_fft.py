"""Fourier transforms: NumPy's values for every length, axis and norm, and transposes that never conjugate."""

from __future__ import annotations

import numpy as np
import pytest

from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.testing import interpret
from gradwire_core.transforms import jvp, vjp, vmap
from tests.core.traces import assert_agrees, traced

NORMS = [None, "backward", "ortho", "forward"]


def draw(*shape, kind="complex", seed=0):
    rng = np.random.default_rng(seed)
    real = rng.normal(size=shape)
    return real + 1j * rng.normal(size=shape) if kind == "complex" else real


ONE_AXIS = [
    (np.fft.fft, "complex"), (np.fft.fft, "real"), (np.fft.ifft, "complex"), (np.fft.ifft, "real"), (np.fft.rfft, "real"),
    (np.fft.irfft, "complex"), (np.fft.irfft, "real"), (np.fft.hfft, "complex"), (np.fft.hfft, "real"), (np.fft.ihfft, "real"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "kind"), ONE_AXIS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", [None, 1, 3, 4, 6, 9])
def test_transforms_along_an_axis(function, kind, norm, n):
    for axis in (0, -1):
        assert_agrees(lambda x, axis=axis: function(x, n, axis, norm), draw(4, 5, kind=kind), rtol=1e-13)


SEVERAL_AXES = [
    (np.fft.fftn, "complex"), (np.fft.ifftn, "real"), (np.fft.rfftn, "real"), (np.fft.irfftn, "complex"),
    (np.fft.fft2, "complex"), (np.fft.ifft2, "complex"), (np.fft.rfft2, "real"), (np.fft.irfft2, "complex"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "kind"), SEVERAL_AXES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("s", "axes"), [(None, None), ((4, 6), (0, 2)), ((3, 3), (-1, -2)), (None, (2, 0))])
def test_transforms_along_several_axes(function, kind, norm, s, axes):
    x = draw(3, 4, 5, kind=kind)
    if axes is None:
        assert_agrees(lambda x: function(x, norm=norm), x, rtol=1e-13)
    else:
        assert_agrees(lambda x: function(x, s, axes, norm), x, rtol=1e-13)


def test_shifts():
    for axes in (None, 0, (0, 1)):
        assert_agrees(lambda x, axes=axes: np.fft.fftshift(x, axes), draw(3, 4))
        assert_agrees(lambda x, axes=axes: np.fft.ifftshift(x, axes), draw(3, 4))


def test_narrow_arrays_stay_narrow():
    assert_agrees(np.fft.fft, draw(8).astype(np.complex64).real)
    assert traced(np.fft.rfft, np.zeros(4, np.float32)).output_types[0].dtype.value == "complex64"
    assert traced(np.fft.irfft, np.zeros(3, np.complex64)).output_types[0].dtype.value == "float32"


def product(one, other):
    """The pairing of cotangents and tangents: the real part of the bilinear sum."""
    return float(np.sum(one * other).real)


@pytest.mark.parametrize(("function", "kind"), ONE_AXIS)
@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_transposes_by_the_pairing(function, kind, length):
    if function in (np.fft.irfft, np.fft.hfft) and length == 1:
        length = 3
    x, tangent = draw(2, length, kind=kind), draw(2, length, kind=kind, seed=1)
    for n in (None, 4, 7):
        program = traced(lambda x, n=n: function(x, n), x)
        (forward,) = interpret(jvp(program), [x, tangent])
        np.testing.assert_allclose(forward, function(tangent, n), rtol=1e-12, atol=1e-12)
        cotangent = draw(*forward.shape, kind="complex" if forward.dtype.kind == "c" else "real", seed=2)
        (backward,) = interpret(vjp(program), [x, cotangent])
        assert backward.dtype == x.dtype
        scale = np.linalg.norm(cotangent) * np.linalg.norm(forward)
        assert abs(product(cotangent, forward) - product(backward, tangent)) <= 1e-13 * scale


@pytest.mark.parametrize("function", [np.fft.fft, np.fft.ifft])
def test_the_transpose_over_the_complex_numbers_is_bilinear(function):
    x, tangent, cotangent = (draw(5, seed=seed) for seed in range(3))
    program = traced(function, x)
    (forward,) = interpret(jvp(program), [x, tangent])
    (backward,) = interpret(vjp(program), [x, cotangent])
    np.testing.assert_allclose(np.sum(cotangent * forward), np.sum(backward * tangent), rtol=1e-13)


def test_the_transpose_of_rfft_as_jax_has_it():
    # jax.vjp(jnp.fft.rfft, x)[1](ct) is the real part of the transform of the padded cotangent.
    for length in (4, 5):
        cotangent = draw(length // 2 + 1)
        (found,) = interpret(vjp(traced(np.fft.rfft, draw(length, kind="real"))), [draw(length, kind="real"), cotangent])
        np.testing.assert_allclose(found, np.fft.fft(cotangent, length).real, rtol=1e-13, atol=1e-14)


def test_a_power_spectrum_has_its_gradient_and_curvature():
    def energy(x):
        spectrum = np.fft.rfft(x)
        return np.sum(np.real(spectrum * np.conj(spectrum)))

    x = draw(6, kind="real")
    program = traced(energy, x)
    (gradient,) = interpret(vjp(program), [x, np.ones(())])
    matrix = np.fft.rfft(np.eye(6), axis=0)
    needed = 2 * (matrix.conj().T @ matrix).real
    np.testing.assert_allclose(gradient, needed @ x, rtol=1e-12)
    (curved,) = interpret(jvp(vjp(program), (0,)), [x, np.ones(()), x])
    np.testing.assert_allclose(curved, needed @ x, rtol=1e-12)


def test_batches():
    x = draw(3, 4, 2)
    program = vmap(traced(np.fft.fft2, x[0]), (0,), 3)
    np.testing.assert_allclose(interpret(program, [x])[0], np.fft.fft2(x), rtol=1e-13)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda x: np.fft.fft(x, 0), ArgumentError),
        (lambda x: np.fft.fft(x, norm="twice"), ArgumentError),
        (lambda x: np.fft.hfft(x, norm="twice"), ArgumentError),
        (lambda x: np.fft.fft(x, axis=2), ShapeError),
        (lambda x: np.fft.fftn(x, (2,), (0, 1)), ShapeError),
        (np.fft.rfft, DtypeError),
        (lambda x: np.fft.fft(x, out=np.zeros((2, 3), complex)), ArgumentError),
    ],
)
def test_what_is_refused(function, error):
    with pytest.raises(error, match=r": needed .*, got .*; "):
        traced(function, draw(2, 3))
