"""The native functions against mpmath, to 2 units in the last place, and against NumPy where that is exact: NaN, inf, zeros."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import scipy.special

numba = pytest.importorskip("numba", reason='the native tier needs Numba: pip install "gradwire[jit]"')

from gradwire_core.native import functions  # noqa: E402
from gradwire_core.ops import PRIMITIVES  # noqa: E402

ULPS = 2.0
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, -5e-324, 1e-308, -1e-308])


def spread(rng, low, high, count=300):
    """Numbers of all sizes up to bounds: evenly, and evenly by exponent."""
    top = max(abs(low), abs(high))
    sizes = 10.0 ** rng.uniform(-16, np.log10(top), count) * rng.choice([-1.0, 1.0], count)
    near_one = rng.uniform(-1.5, 1.5, count)
    found = np.concatenate([rng.uniform(low, high, count), sizes, near_one])
    return found[(found >= low) & (found <= high)]


def angles(rng):
    """Angles, among them those next to multiples of pi / 2, which lose most digits when they are reduced."""
    near = np.arange(-300, 300) * (np.pi / 2)
    return np.concatenate([spread(rng, -functions.LARGEST_ANGLE, functions.LARGEST_ANGLE), near, np.nextafter(near, 9.0)])


RNG = np.random.default_rng(0)
CASES = {
    "exp": (mpmath.exp, np.exp, np.concatenate([spread(RNG, -745.0, 709.0), [709.78, -744.4, -745.2, 710.5, -800.0]])),
    "expm1": (mpmath.expm1, np.expm1, np.concatenate([spread(RNG, -40.0, 709.0), spread(RNG, -2.0, 2.0), [-50.0, -800.0, 710.5]])),
    "log": (mpmath.log, np.log, np.concatenate([spread(RNG, 0.0, 1e300), 10.0 ** RNG.uniform(-323, 308, 300), [5e-324]])),
    "log1p": (mpmath.log1p, np.log1p, np.concatenate([spread(RNG, -0.9999, 1e300), [2.0**53, 2.0**52 - 1]])),
    "tanh": (mpmath.tanh, np.tanh, np.concatenate([spread(RNG, -30.0, 30.0), RNG.uniform(0.1, 0.6, 1000)])),
    "logistic": (lambda x: 1 / (1 + mpmath.exp(-x)), scipy.special.expit, spread(RNG, -700.0, 100.0)),
    "sech_squared": (lambda x: mpmath.sech(x) ** 2, PRIMITIVES["sech_squared"].kernel, spread(RNG, -350.0, 350.0)),
    "sin": (mpmath.sin, np.sin, angles(RNG)),
    "cos": (mpmath.cos, np.cos, angles(RNG)),
    "erf": (mpmath.erf, scipy.special.erf, np.concatenate([spread(RNG, -7.0, 7.0), RNG.uniform(0.9, 1.1, 300)])),
}


def compiled(name):
    function = getattr(functions, name)

    @numba.njit(**functions.OPTIONS)
    def run(x, out):
        for place in range(x.size):
            out[place] = function(x[place])

    return run


@pytest.fixture(scope="module")
def runs():
    return {name: compiled(name) for name in CASES}


def evaluate(run, x):
    out = np.empty_like(x)
    run(x, out)
    return out


@pytest.mark.parametrize("name", CASES)
def test_values_differ_from_the_exact_ones_by_less_than_two_units_in_the_last_place(runs, name):
    exact, _, x = CASES[name]
    with mpmath.workprec(200):
        for argument, given in zip(x, evaluate(runs[name], x), strict=True):
            needed = exact(mpmath.mpf(float(argument)))
            rounded = float(needed)
            if np.isinf(rounded) or rounded == 0.0:
                assert given == rounded, argument
            else:
                assert abs(mpmath.mpf(float(given)) - needed) < ULPS * float(np.spacing(abs(rounded))), argument


@pytest.mark.parametrize("name", CASES)
def test_nan_inf_and_zeros_are_those_of_numpy(runs, name):
    with np.errstate(all="ignore"):
        needed = CASES[name][1](SPECIAL)
    given = evaluate(runs[name], SPECIAL)
    np.testing.assert_array_equal(np.isnan(given), np.isnan(needed))
    np.testing.assert_allclose(given, needed, rtol=4e-16, atol=0.0)
    np.testing.assert_array_equal(np.signbit(given[~np.isnan(given)]), np.signbit(needed[~np.isnan(given)]))


@pytest.mark.parametrize("name", CASES)
def test_llvm_makes_vector_loops_of_them(runs, name):
    run = runs[name]
    evaluate(run, np.ones(4))
    (assembly,) = run.inspect_llvm().values()
    assert "x double>" in assembly, "no operation on a vector of numbers"
    assert not [line for line in assembly.splitlines() if " call " in line and "double @" in line and "@llvm" not in line]
