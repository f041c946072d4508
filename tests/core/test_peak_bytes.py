"""The peak memory a plan promises is kept by what runs it: derivatives of many kinds, measured with tracemalloc."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
import types

import numpy as np
import pytest
import scipy.special

import gradwire as gw
from gradwire_core.engine import Executable, Output, compile
from gradwire_core.executor import _compile_native, _Kernels, _watch
from gradwire_core.kernels import contest
from gradwire_core.kernels.fusion import plan_fused
from gradwire_core.native import tier as tiers
from gradwire_core.native.tier import Tier
from gradwire_core.transforms import Transform

RNG = np.random.default_rng(0)


def waves(x):
    return np.sum(np.sin(x) * np.exp(-0.5 * (x * x)) + np.tanh(x) * np.log(1.0 + x * x))


def rosenbrock(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def logistic(w, features, labels):
    return np.mean(np.log1p(np.exp(-labels * (features @ w))))


def network(first, second, inputs, targets):
    return np.mean((np.tanh(inputs @ first) @ second - targets) ** 2)


def gates(weights, x, h, c):
    size = c.shape[1]
    z = np.concatenate([x, h], axis=1) @ weights
    inside, forget, out = [1.0 / (1.0 + np.exp(-z[:, part * size : (part + 1) * size])) for part in range(3)]
    carried = forget * c + inside * np.tanh(z[:, 3 * size :])
    return np.sum((out * np.tanh(carried)) ** 2)


def price(spot, time, volatility):
    spread = volatility * np.sqrt(time)
    above = (np.log(spot / 100.0) + 0.5 * volatility * volatility * time) / spread
    normal = lambda x: 0.5 + 0.5 * scipy.special.erf(x * np.sqrt(0.5))
    return np.sum(spot * normal(above) - 100.0 * normal(above - spread))


def density(covariance, x):
    factor = np.linalg.cholesky(covariance)
    white = np.linalg.solve(factor, x)
    return -0.5 * np.sum(white * white) - np.sum(np.log(np.diagonal(factor)))


def mixture(means, factors, x):
    apart = x[:, None, :] - means[None, :, :]
    inner = -0.5 * np.sum(np.einsum("kab,nkb->nka", factors, apart) ** 2, axis=2)
    return np.sum(np.log(np.sum(np.exp(inner), axis=1)))


def spread(*shape, low=0.5, high=1.5):
    return RNG.uniform(low, high, shape)


GRADIENTS = {
    "elementwise": (waves, (spread(600_000),)),
    "elementwise, in rows": (waves, (spread(600, 1000),)),
    "Rosenbrock": (rosenbrock, (spread(300_000),)),
    "logistic regression": (logistic, (spread(50), spread(20_000, 50), np.ones(20_000))),
    "two layers": (network, (spread(300, 200), spread(200, 10), spread(500, 300), spread(500, 10))),
    "LSTM step": (gates, (spread(256, 512), *[spread(200, 128) for _ in range(3)])),
    "Black-Scholes": (price, (spread(300_000, low=80.0, high=120.0), spread(300_000), spread(300_000))),
    "Cholesky": (density, (np.eye(300) * 300 + spread(300, 300), spread(300))),
    "mixture": (mixture, (spread(20, 10), spread(20, 10, 10), spread(600, 10))),
}


def peak_of(executable: Executable, arrays) -> int:
    """Return the most bytes of a second call, its inputs included."""
    executable.run(arrays)
    gc.collect()
    tracemalloc.start()
    try:
        executable.run(arrays)
        return tracemalloc.get_traced_memory()[1] + sum(array.nbytes for array in arrays)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_keep_the_promise(name: str) -> None:
    function, arrays = GRADIENTS[name]
    executable = compile(gw.trace(function, *arrays), [Output((Transform("grad", tuple(range(len(arrays)))),))])
    assert peak_of(executable, arrays) <= executable.plan.peak_bytes * 1.05 + 2**20


@pytest.mark.parametrize("name", ["Rosenbrock", "LSTM step", "mixture"])
def test_compiled_loops_keep_the_promise(name: str) -> None:
    pytest.importorskip("numba", reason='the native tier needs Numba: pip install "gradwire[jit]"')
    function, arrays = GRADIENTS[name]
    found = compile(gw.trace(function, *arrays), [Output((Transform("grad", (0,)),))])
    _, layouts = _watch(found.plan, _Kernels(), None, *arrays)
    fused = plan_fused(found.plan, layouts)
    assert fused is not None
    run = _compile_native(Tier(None), None, fused)
    run(*arrays)
    gc.collect()
    tracemalloc.start()
    try:
        run(*arrays)
        peak = tracemalloc.get_traced_memory()[1] + sum(array.nbytes for array in arrays)
    finally:
        tracemalloc.stop()
    assert peak <= fused.peak_bytes * 1.05 + 2**18
    assert peak <= found.plan.peak_bytes * 1.05 + 2**20


class Asked(Tier):
    """A tier that compiles when it is told to."""

    def __init__(self):
        super().__init__(None)
        self.asked = []

    def ask_for(self, make, take):
        self.asked.append((make, take))
        return True

    def work(self):
        """Compile what was asked for."""
        for make, take in self.asked:
            take(make())


@pytest.mark.parametrize("name", ["elementwise, in rows", "Rosenbrock", "LSTM step", "Black-Scholes", "mixture"])
def test_no_call_takes_more_while_loops_take_over(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason='the native tier needs Numba: pip install "gradwire[jit]"')
    monkeypatch.setattr(tiers, "HOT_SECONDS", 0.0)
    function, arrays = GRADIENTS[name]
    tier = Asked()
    outputs = [Output(), Output((Transform("grad", (0,)),))]
    found = compile(gw.trace(function, *arrays), outputs, tier=tier)
    kernels = str(found.plan)
    promised = found.plan.peak_bytes * 1.05 + 2**20
    assert peak_of(found, arrays) <= promised
    assert len(tier.asked) == 1
    tier.work()
    for _ in range(contest.TRIALS):
        assert peak_of(found, arrays) <= promised
    found.run(arrays)
    assert "compiled loops" not in kernels


def test_the_report_names_the_loops_that_took_over(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason='the native tier needs Numba: pip install "gradwire[jit]"')
    monkeypatch.setattr(tiers, "HOT_SECONDS", 0.0)
    ticks = itertools.accumulate(itertools.cycle([1.0, 2.0, 1.0, 1.0]))  # what runs takes 2 s, loops take 1 s
    monkeypatch.setattr(contest, "time", types.SimpleNamespace(perf_counter=lambda: next(ticks)))
    arrays, tier = (spread(300_000),), Asked()
    found = compile(gw.trace(lambda x: np.exp(x) * np.sin(x) + x, *arrays), [Output()], tier=tier)
    assert "blocks" in str(found.plan)
    for _ in range(2):
        found.run(arrays)
    next(ticks), next(ticks)
    tier.work()
    for _ in range(2 * contest.TRIALS):
        assert "compiled loops" not in str(found.plan)
        found.run(arrays)
    assert "compiled loops, 4 equations to float64[300000]" in str(found.plan)
    assert "blocks" not in str(found.plan)


@pytest.mark.parametrize("trans", ["N", "T"])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_triangular_solve_keeps_the_promise(trans: str, is_transposed: bool) -> None:
    arrays = (np.tri(600) + 600 * np.eye(600), spread(600, 600))
    solve = lambda a, b: gw.linalg.solve_triangular(a.T if is_transposed else a, b, trans, lower=not is_transposed)
    executable = compile(gw.trace(solve, *arrays), [Output()])
    assert peak_of(executable, arrays) <= executable.plan.peak_bytes * 1.05 + 2**18


def test_a_batch_of_jacobians_keeps_the_promise() -> None:
    def residual(x):
        return np.stack([x[0] * np.sin(x[1]), np.sqrt(x[0] * x[0] + x[2] * x[2]), x[1] / x[2]])

    arrays = (spread(8000, 3),)
    program = gw.trace(residual, arrays[0][0])
    executable = compile(program, [Output((Transform("jacobian", (0,)), Transform("vmap", (), (0,), 8000)))])
    assert peak_of(executable, arrays) <= executable.plan.peak_bytes * 1.05 + 2**20
