"""zeros_outside: a declaration that is checked, masks tangents, and is known to the analysis of zeros."""

import numpy as np
import pytest

import gradwire as gw
from gradwire_core.builder import Builder
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.ops.zeros import zeros_outside
from gradwire_core.structure.zeros import support
from gradwire_core.types import Dtype, TensorType

LOWER = np.tri(4, dtype=bool)
W = np.arange(1.0, 17.0).reshape(4, 4) * LOWER
X = np.array([0.5, -1.0, 2.0, 0.25])


def masked(w, x):
    return np.tanh(zeros_outside(w, LOWER) @ x)


def test_it_is_the_array_itself():
    np.testing.assert_array_equal(zeros_outside(W, LOWER), W)
    np.testing.assert_array_equal(gw.evaluate(masked)(W, X), np.tanh(W @ X))
    assert zeros_outside(0.0, False) == 0


@pytest.mark.parametrize("bad", [1e-300, np.nan, -np.inf])
def test_an_element_that_breaks_it_is_named(bad):
    broken = W.copy()
    broken[1, 2] = bad
    text = rf"zeros_outside: needed 0 at \[1, 2\], where the mask is false, got {bad}; correct the array or the mask"
    with pytest.raises(ArgumentError, match=text):
        zeros_outside(broken, LOWER)
    with pytest.raises(ArgumentError, match=text):
        gw.evaluate(masked)(broken, X)
    with pytest.raises(ArgumentError, match=text):
        gw.grad(lambda w: np.sum(masked(w, X)))(broken)


def test_negative_zero_is_zero():
    np.testing.assert_array_equal(zeros_outside(np.array([-0.0, 1.0]), np.array([False, True])), [0, 1])


def test_its_tangent_is_masked():
    gradient = gw.grad(lambda w: np.sum(masked(w, X)))(W)
    full = np.outer(1 / np.cosh(W @ X) ** 2, X)
    np.testing.assert_allclose(gradient, full * LOWER, rtol=1e-13)
    np.testing.assert_allclose(gw.jvp(masked, (W, X), (np.ones((4, 4)), None))[1], (full * LOWER).sum(1), rtol=1e-13)
    assert np.isfinite(gw.hessian(lambda w: np.sum(masked(w, X)))(W)).all()
    narrow = gw.grad(lambda w: np.sum(masked(w, X.astype(np.float32))))(W.astype(np.float32))
    assert narrow.dtype == np.float32


def test_batches_share_or_have_masks():
    stacked = np.stack([W, 2 * W])
    np.testing.assert_allclose(gw.vmap(masked, (0, None))(stacked, X), np.tanh(stacked @ X))
    np.testing.assert_allclose(gw.vmap(gw.vmap(masked, (0, None)), (None, 0))(stacked, np.stack([X, -X])).shape, (2, 2, 4))
    with pytest.raises(ArgumentError, match=r"needed 0 at \[1, 0, 3\]"):
        gw.vmap(masked, (0, None))(np.stack([W, W + np.eye(4, k=3)]), X)


def test_the_analysis_of_zeros_knows_it():
    builder = Builder()
    x = builder.input(TensorType(Dtype.FLOAT64, (4, 4)))
    np.testing.assert_array_equal(support(zeros_outside(x, LOWER) * 2), LOWER)
    np.testing.assert_array_equal(support(zeros_outside(x, LOWER[1])), np.broadcast_to(LOWER[1], (4, 4)))
    assert support(zeros_outside(x, True)) is None


def test_wrong_masks_are_refused():
    with pytest.raises(DtypeError, match="needed a bool mask"):
        zeros_outside(W, LOWER.astype(float))
    with pytest.raises(ShapeError, match=r"needed a mask that broadcasts to the array, got shape \[3\] for \[4, 4\]"):
        zeros_outside(W, LOWER[0, :3])
    with pytest.raises(ArgumentError, match="needed a mask known while tracing, got a traced bool"):
        gw.evaluate(lambda w: zeros_outside(w, w > 0))(W)


def test_source_refuses_as_the_program_does():
    source = gw.trace(masked, W, X).numpy_source()
    space = {}
    exec(source, space)  # noqa: S102  # our own text
    np.testing.assert_allclose(space["program"](W, X)[0], np.tanh(W @ X))
    with pytest.raises(ValueError, match="needed 0 at"):
        space["program"](np.ones((4, 4)), X)
