"""Compiled batches beside their equations: any lanes, eliminations, selections, bools, what samples share, angles too large."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason='the native tier needs Numba: pip install "gradwire[jit]"')

import gradwire as gw
from gradwire_core.executor import Executor
from gradwire_core.interpreter import interpret
from gradwire_core.kernels import batches, samples
from gradwire_core.kernels.batches import BATCH, bind_batch, find_batches
from gradwire_core.native import columns, tier
from gradwire_core.native.columns import BLOCK, ColumnLoops, is_written
from gradwire_core.native.compiler import compile_source
from gradwire_core.native.tier import Tier
from gradwire_core.passes import run_passes
from gradwire_core.planner import plan
from tests.core.test_native_tier import wait_for

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Make a batch of whatever may be one."""
    monkeypatch.setattr(batches, "MOST_SHARE", np.inf)
    monkeypatch.setattr(batches, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(samples, "FEWEST_EQUATIONS", 1)


def compiled(function, *arrays):
    """Return a function's only batch as a loop, and its operands."""
    program = find_batches(run_passes(gw.trace(function, *arrays)))
    (batch,) = program.equations
    assert batch.primitive is BATCH
    found = bind_batch(batch).samples
    assert is_written(found)
    return ColumnLoops(found, compile_source), [arrays[program.inputs.index(operand)] for operand in batch.operands], program


def agree(function, *arrays, rtol=1e-12):
    loops, operands, program = compiled(function, *arrays)
    given, needed = loops(*operands), interpret(program, arrays)
    assert given is not None
    for one, other in zip(given, needed, strict=True):
        assert (one.shape, one.dtype, one.flags.c_contiguous) == (other.shape, other.dtype, True)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-13)


def small(x, w):
    return np.tanh(w @ x) * x + np.sin(x)


def test_derivatives_of_samples():
    x, w = RNG.normal(size=(2 * BLOCK + 17, 3)), RNG.normal(size=(3, 3))
    derived = lambda x, w: (gw.jacobian(small)(x, w), *gw.jacobian_slogdet(small)(x, w))
    agree(gw.vmap(derived, (0, None)), x, w, rtol=1e-10)
    agree(gw.vmap(derived, (1, None)), x.T.copy(), w, rtol=1e-10)


def test_two_lanes_and_bools():
    x, flags = RNG.normal(size=(30, 20, 3)), RNG.random((30, 20)) < 0.5
    given = lambda x, flags: (np.where(flags & (np.max(x) > 0.5), np.sum(x), np.min(x)), np.logical_xor(flags, x > 0.0), x[::-1])
    agree(gw.vmap(gw.vmap(given)), x, flags)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_singular_matrices_and_special_numbers(n):
    x = np.triu(RNG.choice([0.0, 1.0, -2.0, np.nan, np.inf, 3.5], (400, n, n), p=[0.1, 0.3, 0.3, 0.03, 0.03, 0.24]))
    x = np.take_along_axis(x, RNG.permuted(np.tile(np.arange(n), (400, 1)), axis=1)[:, :, None], 1)
    agree(lambda x: (np.linalg.det(x), *np.linalg.slogdet(x), np.linalg.inv(x)), x, rtol=1e-9)


def test_a_loop_gives_nothing_for_angles_that_are_too_large():
    x = RNG.normal(size=(400, 3))
    loops, operands, _ = compiled(lambda x: np.sin(x) * np.sum(x, axis=1, keepdims=True), x)
    assert loops(*operands) is not None
    x[7, 1] = 1e300
    assert loops(x) is None


def test_operands_in_any_order_of_memory():
    x = RNG.normal(size=(400, 3))
    loops, _, _ = compiled(lambda x: x * np.sum(x, axis=1, keepdims=True), x)
    np.testing.assert_array_equal(loops(np.asfortranarray(x))[0], loops(x)[0])


def test_operands_that_are_scalars_or_not_aligned():
    x, factor = RNG.normal(size=(400, 3)), np.float64(1.5)
    loops, operands, _ = compiled(gw.vmap(lambda x, factor: (x * np.sum(x) * factor, np.max(x) > factor), (0, None)), x, factor)
    needed = loops(*operands)
    raw = np.empty(x.nbytes + 1, np.uint8)
    moved = raw[1:].view(np.float64).reshape(x.shape)
    moved[...] = x
    assert not moved.flags.aligned
    for one, other in zip(loops(*[moved if operand is x else operand for operand in operands]), needed, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(needed[0], x * np.sum(x, axis=1, keepdims=True) * factor, rtol=1e-13)
    assert [type(operand) for operand in operands if operand.ndim == 0] == [np.float64]


def test_much_in_another_order_of_memory_is_left_to_numpy(monkeypatch):
    x = RNG.normal(size=(400, 3))
    loops, _, _ = compiled(lambda x: x * np.sum(x, axis=1, keepdims=True), x)
    monkeypatch.setattr(columns, "MOST_COPIED_BYTES", x.nbytes - 1)
    assert loops(x) is not None
    assert loops(np.asfortranarray(x)) is None


def test_what_has_no_template_stays_with_numpy():
    x = RNG.normal(size=(400, 3))
    program = find_batches(run_passes(gw.trace(lambda x: np.arctan2(x, 2.0) * np.sum(x, axis=1, keepdims=True), x)))
    kernel = bind_batch(program.equations[-1])
    assert Tier(None).take_over_samples(kernel.samples, kernel) is kernel


def test_long_tapes_stay_with_numpy(monkeypatch):
    monkeypatch.setattr(columns, "MOST_ROWS", 3)
    x = RNG.normal(size=(400, 3))
    program = find_batches(run_passes(gw.trace(lambda x: x * np.sum(x, axis=1, keepdims=True), x)))
    assert not is_written(bind_batch(program.equations[-1]).samples)


def test_a_loop_takes_over_from_numpy(monkeypatch):
    monkeypatch.setattr(tier, "HOT_SECONDS", 0.0)
    x, w = RNG.normal(size=(400, 3)), RNG.normal(size=(3, 3))
    found = plan(find_batches(run_passes(gw.trace(gw.vmap(gw.jacobian(small), (0, None)), x, w))))
    native = Tier(None)
    run = Executor(found, native)
    first = run(x, w)[0]
    wait_for(lambda: native.compiled_count)
    assert (native.asked_count, native.failed_count) == (1, 0)
    np.testing.assert_allclose(run(x, w)[0], first, rtol=1e-13, atol=1e-15)
    x[0, 0] = 1e300  # back to NumPy
    np.testing.assert_allclose(run(x, w)[0][1:], first[1:], rtol=1e-13, atol=1e-15)
