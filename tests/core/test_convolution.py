"""Convolution and correlation of vectors: NumPy's values in every mode, and derivatives in both operands."""

from __future__ import annotations

import numpy as np
import pytest

from gradwire_core.errors import ArgumentError, ShapeError
from gradwire_core.testing import check_derivatives, interpret
from tests.core.traces import traced


@pytest.mark.parametrize("function", [np.convolve, np.correlate])
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize("lengths", [(5, 3), (5, 2), (3, 5), (2, 5), (4, 4), (1, 3), (6, 1)])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_every_mode(function, mode, lengths, kind):
    rng = np.random.default_rng(0)
    a, v = (rng.normal(size=n) + (1j * rng.normal(size=n) if kind == "complex" else 0) for n in lengths)
    program = traced(lambda a, v: function(a, v, mode), a, v)
    np.testing.assert_allclose(interpret(program, [a, v])[0], function(a, v, mode), rtol=1e-13, atol=1e-14)
    if kind == "real":
        check_derivatives(program, [a, v])


def test_one_operand_may_be_an_array_or_a_number():
    a = np.arange(4.0)
    np.testing.assert_allclose(interpret(traced(lambda a: np.convolve(a, 2.0), a), [a])[0], 2 * a)


def test_what_is_refused():
    with pytest.raises(ArgumentError, match="needed mode"):
        traced(lambda a: np.convolve(a, a, "wrap"), np.ones(3))
    with pytest.raises(ShapeError, match="two vectors"):
        traced(lambda a: np.convolve(a, a), np.ones((3, 3)))
    with pytest.raises(ShapeError, match="at least one element"):
        traced(lambda a: np.convolve(a, a[:0]), np.ones(3))
