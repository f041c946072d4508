"""Rematerialization: plans keep a bound on their memory by computing cheap values again, with the same bits."""

from __future__ import annotations

import numpy as np
import pytest

import gradwire as gw
from gradwire_core.engine import Executable, ExecutableCache, Output, compile
from gradwire_core.kernels import cluster
from gradwire_core.kernels.cluster import plan_clustered
from gradwire_core.planner import plan
from gradwire_core.program import Program
from gradwire_core.rematerialization import BARRIER, MOST_PLANS, fit
from gradwire_core.transforms import Transform
from tests.core.test_executor import draw, random_program
from tests.core.test_peak_bytes import GRADIENTS, peak_of, spread
from tests.core.work import calls_of


def rows(x):
    """Steps with a sum of all in between, which end clusters."""
    for _ in range(6):
        x = np.sin(x) * np.exp(-0.1 * x * x)
        x = x / np.sqrt(np.sum(x * x) + 1.0)
    return np.sum(x * x * x)


def network(first, second, third, inputs):
    hidden = np.tanh(inputs @ first)
    hidden = np.exp(-hidden * hidden) * hidden
    hidden = np.tanh(hidden @ second)
    hidden = hidden * np.exp(-hidden * hidden)
    return np.mean((np.sin(hidden @ third) * hidden) ** 2)


def attention(x, w):
    scores = x @ w
    raised = np.exp(scores - np.max(scores, axis=1, keepdims=True))
    shares = raised / np.sum(raised, axis=1, keepdims=True)
    return np.sum((np.sqrt(np.log(shares + 1.0) + shares) @ w.T) ** 2)


CASES = {
    "large rows": (rows, (spread(300_000),), 0.5),
    "small rows": (rows, (spread(20_000),), 0.5),
    "network": (network, (*[spread(100, 100) for _ in range(3)], spread(5000, 100)), 0.75),
    "attention": (attention, (spread(3000, 50), spread(50, 100)), 0.85),
    "LSTM step": (*GRADIENTS["LSTM step"], 0.9),
}


def gradient(function, arrays, **options) -> Executable:
    outputs = [Output((Transform("grad", tuple(range(len(arrays)))),))]
    return compile(gw.trace(function, *arrays), outputs, **options)


@pytest.mark.parametrize("name", CASES)
def test_a_bound_is_kept_with_the_same_bits(name: str) -> None:
    function, arrays, share = CASES[name]
    usual = gradient(function, arrays)
    bound = int(share * usual.plan.peak_bytes)
    found = gradient(function, arrays, max_peak_bytes=bound)
    assert found.plan.peak_bytes <= bound
    assert peak_of(found, arrays) <= 1.05 * found.plan.peak_bytes + 2**18
    for one, other in zip(found.run(arrays)[0], usual.run(arrays)[0], strict=True):
        if name == "large rows":  # which clusters there are decides how sums are added
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-20)
        else:
            np.testing.assert_array_equal(one, other)
    assert usual.plan.flops < found.plan.flops < 2 * usual.plan.flops


@pytest.mark.parametrize("name", CASES)
def test_a_bound_that_holds_anyway_changes_nothing(name: str) -> None:
    function, arrays, _ = CASES[name]
    usual = gradient(function, arrays)
    found = gradient(function, arrays, max_peak_bytes=usual.plan.peak_bytes)
    assert found.program.digest == usual.program.digest


@pytest.mark.parametrize("name", [*CASES, "Cholesky"])
def test_a_bound_that_cannot_be_kept_changes_nothing(name: str) -> None:
    function, arrays, *_ = CASES.get(name, GRADIENTS.get(name))
    usual = gradient(function, arrays)
    found = gradient(function, arrays, max_peak_bytes=1000)
    assert found.program.digest == usual.program.digest


def test_answers_that_must_repeat_are_computed_as_everywhere() -> None:
    function, arrays, share = CASES["large rows"]
    usual = gradient(function, arrays, reproducible=True)
    found = gradient(function, arrays, reproducible=True, max_peak_bytes=int(share * usual.plan.peak_bytes))
    assert found.program.digest == usual.program.digest


def test_memory_of_a_long_chain_falls_step_by_step() -> None:
    usual = gradient(rows, (spread(20_000),)).plan.peak_bytes
    peaks = [gradient(rows, (spread(20_000),), max_peak_bytes=int(share * usual)).plan.peak_bytes for share in (0.8, 0.6, 0.4)]
    assert usual > peaks[0] > peaks[1] > peaks[2]


@pytest.mark.parametrize("is_clustered", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_random_programs_keep_every_bit(seed: int, is_clustered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_clustered:
        monkeypatch.setattr(cluster, "LEAST_BYTES", 0)
        monkeypatch.setattr(cluster, "LEAST_SHARE", 1)
    program = random_program(seed, 40)
    planned = plan_clustered if is_clustered else plan
    usual = planned(program)
    rng = np.random.default_rng(seed)
    arrays = [draw(type, rng, special=bool(seed % 2)) for type in program.input_types]
    for share in (0.9, 0.7):
        found = fit(program, int(share * usual.peak_bytes), planned)
        assert found.peak_bytes <= usual.peak_bytes
        if found.program is not usual.program and not is_clustered:
            for one, other in zip(values(found.program, arrays), values(program, arrays), strict=True):
                np.testing.assert_array_equal(one, other)


def values(program: Program, arrays) -> list[np.ndarray]:
    """What a program computes, equation by equation."""
    from gradwire_core.interpreter import interpret

    with np.errstate(all="ignore"):
        return list(interpret(program, arrays))


def test_copies_stand_behind_barriers() -> None:
    function, arrays, share = CASES["network"]
    usual = gradient(function, arrays)
    found = gradient(function, arrays, max_peak_bytes=int(share * usual.plan.peak_bytes))
    assert any(step.equation.primitive is BARRIER for step in found.plan.steps)
    assert "barrier" in str(found.plan)


def test_a_program_is_planned_a_bounded_number_of_times() -> None:
    counts = []

    def planned(program: Program):
        counts.append(1)
        return plan(program)

    x = spread(50)

    def long(x):
        for _ in range(300):
            x = np.sin(x) * x / np.sqrt(np.sum(x * x))
        return np.sum(x)

    program = gradient(long, (x,)).program
    fit(program, 1, planned)
    assert len(counts) <= MOST_PLANS + 1


def test_a_look_at_what_lives_is_linear() -> None:
    from gradwire_core.rematerialization import _Across

    def work(length: int) -> int:
        def long(x):
            for _ in range(length):
                x = np.sin(x) * x / np.sqrt(np.sum(x * x))
            return np.sum(x)

        program = gradient(long, (spread(1000),)).program
        found = plan(program)
        return calls_of(lambda: _Across(program, found).choose(10**9, set()))

    assert work(400) < 11 * work(40)


def test_a_cache_has_a_bound() -> None:
    function, arrays, share = CASES["large rows"]
    program = gw.trace(function, *arrays)
    outputs = [Output((Transform("grad", (0,)),))]
    usual = compile(program, outputs).plan.peak_bytes
    cache = ExecutableCache(max_peak_bytes=int(share * usual))
    assert cache.get(program, outputs).plan.peak_bytes <= share * usual
