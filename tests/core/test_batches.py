"""Batches of small programs, over columns of numbers: the bits of their equations, and the results of a loop over samples."""

from __future__ import annotations

import gc
import random
import threading
import tracemalloc

import numpy as np
import pytest

import gradwire as gw
from gradwire_core.builder import Value
from gradwire_core.engine import Output, compile
from gradwire_core.executor import Executor
from gradwire_core.interpreter import interpret
from gradwire_core.kernels import batches, samples, schedule
from gradwire_core.kernels.batches import BATCH, find_batches, make_layout, make_schedule
from gradwire_core.kernels.cluster import plan_clustered
from gradwire_core.ops import PRIMITIVES
from gradwire_core.ops import small as small_matrices
from gradwire_core.ops.elementwise import logistic, sech_squared
from gradwire_core.ops.small import small_adjugate, small_det, small_inv, small_slogdet, small_solve
from gradwire_core.passes import run_passes
from gradwire_core.planner import plan
from gradwire_core.program import Program
from gradwire_core.transforms import vmap
from gradwire_core.types import Dtype, TensorType
from tests.core.test_executor import draw, floats, same_bits, trace
from tests.core.test_small import families
from tests.core.work import calls_of

RNG = np.random.default_rng(5)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a batch of whatever may be one, in short blocks."""
    monkeypatch.setattr(batches, "MOST_SHARE", np.inf)
    monkeypatch.setattr(batches, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(batches, "FEWEST_SAMPLES", 20)
    monkeypatch.setattr(samples, "FEWEST_EQUATIONS", 1)
    monkeypatch.setattr(small_matrices, "FEWEST_MATRICES", 1)
    monkeypatch.setattr(schedule, "SHORTEST", 8)
    monkeypatch.setattr(schedule, "LONGEST", 8)


def names(program: Program) -> list[str]:
    return [equation.primitive.name for equation in find_batches(program).equations]


def samples_of(program: Program) -> list[Program]:
    """Return the programs of one sample of the batches of a program."""
    return [equation.params["sample"] for equation in find_batches(program).equations if equation.primitive is BATCH]


def operation_count(program: Program) -> int:
    """Return how many operations on columns the batches of a program take."""
    total = 0
    for equation in find_batches(program).equations:
        if equation.primitive is BATCH:
            layout = make_layout(equation.params["lanes"], equation.operands, equation.results, equation.params["places"])
            total += len(make_schedule(equation.params["sample"], layout.are_shared).calls)
    return total


def agree(function, *arrays, rtol=1e-12):
    """Assert that batches of a traced function give what its equations give, and return its program."""
    program = run_passes(gw.trace(function, *arrays))
    found = Executor(plan(find_batches(program)))(*map(np.asarray, arrays))
    for one, other in zip(found, interpret(program, arrays), strict=True):
        assert (one.shape, one.dtype, one.flags.c_contiguous) == (other.shape, other.dtype, True)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-13)
    return program


# -- random programs -------------------------------------------------------------------------------------------------------------

UNARY = (
    np.sin, np.exp, np.negative, np.square, np.absolute, np.tanh, np.log, np.sqrt, np.reciprocal, logistic, sech_squared, np.sign,
)  # fmt: skip
BINARY = (np.add, np.subtract, np.multiply, np.divide, np.maximum, np.minimum, np.power, np.arctan2)


def combine(source: random.Random, x: Value, values: list[Value]) -> Value:
    y = source.choice([item for item in values if item.shape == x.shape or not item.shape])
    return source.choice(BINARY)(*source.sample([x, y], 2))


def select(source: random.Random, x: Value, values: list[Value]) -> Value:
    y = source.choice([item for item in values if item.shape == x.shape or not item.shape])
    condition = source.choice([x > y, np.isnan(x), ~(x <= 0.0), np.logical_xor(x < y, np.isfinite(x))])
    return np.where(condition, *source.sample([x, source.choice([y, 0.0, np.nan, 2.0])], 2))


def reduced(source: random.Random, x: Value, _: list[Value]) -> Value:
    """Only integers are summed: their order does not count."""
    axis = source.randrange(x.ndim)
    function = source.choice([np.sum, np.prod, np.max, np.min])
    found = function(np.sign(x), axis=axis, keepdims=True)
    return found * x if source.random() < 0.5 else np.squeeze(found, axis)


def moved(source: random.Random, x: Value, _: list[Value]) -> Value:
    return source.choice([
        lambda: x.T, lambda: np.reshape(x, (x.size,)), lambda: np.reshape(x, (1, x.size, 1)), lambda: x[::-1], lambda: x[..., 1:],
        lambda: np.concatenate([x, x * 2.0]), lambda: np.broadcast_to(x[0] + 1.0, x.shape), lambda: np.pad(x, 1),
        lambda: x[..., None], lambda: np.take(x, [0, -1, 0], 0), lambda: x.at[[0, -1]].add(1.0),
        lambda: np.stack([x, -x], -1), lambda: np.einsum("...a,...b->...ab", np.sign(x), np.sign(x)),
    ])()  # fmt: skip


def matrix(source: random.Random, x: Value, _: list[Value]) -> Value:
    n = x.shape[-1]
    return source.choice([
        lambda: np.linalg.det(x), lambda: np.linalg.slogdet(x)[1], lambda: np.linalg.slogdet(x)[0] * x[..., 0, 0],
        lambda: np.linalg.inv(x), lambda: np.linalg.solve(x, x[..., :1] + 1.0), lambda: np.diagonal(x, 0, -2, -1),
        lambda: x * np.eye(n), lambda: np.sign(x) @ np.sign(x) + 0.0, lambda: np.trace(np.sign(x), 0, -2, -1),
    ])()  # fmt: skip


MOVES = (
    *[(lambda x: True, lambda source, x, _: source.choice(UNARY)(x))] * 2,
    *[(lambda x: True, combine)] * 2,
    (lambda x: True, select),
    (lambda x: x.ndim > 0, reduced),
    *[(lambda x: x.ndim > 0 and len(x) > 0, moved)] * 2,
    (lambda x: x.ndim == 2 and x.shape[-1] == x.shape[-2] and 1 <= x.shape[-1] <= 4, matrix),
)


def random_sample(seed: int, length: int) -> Program:
    """Return a random program of a few numbers."""
    source = random.Random(seed)

    def function(*inputs: Value) -> tuple[Value, ...]:
        values = list(inputs)
        while len(values) < length:
            x = source.choice(values[-6:] if source.random() < 0.8 else values)
            value = source.choice([move for is_possible, move in MOVES if is_possible(x)])(source, x, values)
            if 0 < value.size <= 24:
                values.append(value)
        return (*source.choices(values, k=4), values[-1], values[-1])

    return trace(function, floats(), floats(4), floats(3, 3), floats(2, 2), floats(3))


def batched(program: Program, seed: int, sizes: tuple[int, ...]) -> Program:
    """Return a program batched over axes at random places; some inputs are shared."""
    source = random.Random(seed)
    for size in sizes:
        axes = [source.choice([0, 0, -1, None]) for _ in program.inputs]
        axes[source.randrange(len(axes))] = 0
        program = run_passes(vmap(program, axes, size))
    return program


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("sizes", [(300,), (70, 9), (25, 3, 7)])
@pytest.mark.parametrize("seed", range(60))
def test_random_programs_keep_every_bit(seed: int, sizes: tuple[int, ...]) -> None:
    program = batched(random_sample(seed, 30), seed, sizes)
    found_program = find_batches(program)
    rng = np.random.default_rng(seed)
    run = Executor(plan(found_program))
    for _ in range(2):
        arrays = [draw(type, rng, special=bool(seed % 2)) for type in program.input_types]
        kept = [array.copy() for array in arrays]
        found, expected = run(*arrays), interpret(program, arrays)
        assert all(map(same_bits, found, expected))
        assert all(map(same_bits, interpret(found_program, arrays), expected))
        assert all(map(same_bits, arrays, kept))
        assert all(one.flags.c_contiguous and one.flags.writeable for one in found)


@pytest.mark.usefixtures("always")
def test_random_programs_have_batches() -> None:
    found = [find_batches(batched(random_sample(seed, 30), seed, (300,))) for seed in range(20)]
    members = [len(item.params["body"].equations) for program in found for item in program.equations if item.primitive is BATCH]
    assert sum(members) > sum(len(program.equations) for program in found)


# -- what is vmapped equals a loop over samples ----------------------------------------------------------------------------------


def small(x, w):
    return np.tanh(w @ x) * x + np.sin(x)


DERIVED = {
    "value": small,
    "jacobian": gw.jacobian(small),
    "det": gw.jacobian_det(small),
    "slogdet": gw.jacobian_slogdet(small),
    "jacobian and det": lambda x, w: (gw.jacobian(small)(x, w), gw.jacobian_det(small)(x, w)),
    "gradient of det": gw.grad(gw.jacobian_det(small)),
    "gradient of slogdet": gw.grad(lambda x, w: gw.jacobian_slogdet(small)(x, w)[1]),
    "hessian": gw.hessian(lambda x, w: np.sum(small(x, w) ** 2)),
    "gradient in the shared": gw.grad(lambda x, w: np.sum(small(x, w)), 1),
}


def flat(found):
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", DERIVED)
def test_derivatives_of_samples(name: str) -> None:
    function, count = DERIVED[name], 301
    x, w = RNG.normal(size=(count, 3)), RNG.normal(size=(3, 3))
    for axes, given in (((0, None), (x, w)), ((1, None), (x.T.copy(), w)), ((0, 0), (x, np.stack([w] * count)))):
        executable = compile(gw.trace(gw.vmap(function, axes), *given), [Output()])
        assert [equation.primitive for equation in executable.program.equations].count(BATCH) == 1
        (found,) = executable.run(given)
        for place in (0, 7, count - 1):
            for one, other in zip(found, flat(function(x[place], w)), strict=True):
                np.testing.assert_allclose(one[place], other, rtol=1e-11, atol=1e-12)


@pytest.mark.usefixtures("always")
def test_known_indices_are_moves() -> None:
    x, y = RNG.normal(size=(400, 3)), RNG.normal(size=(400, 3))
    program = agree(gw.vmap(gw.grad(lambda x, y: np.sum(np.cross(x[[2, 0, 1]], y) ** 2), (0, 1))), x, y)
    assert names(program) == ["batch"]
    agree(lambda x: np.sum(x, axis=1)[np.array([3, 5, 5])] * 2.0, x)


@pytest.mark.usefixtures("always")
def test_two_vmaps() -> None:
    x, y = RNG.normal(size=(40, 3)), RNG.normal(size=(30, 3))
    function = gw.jacobian(lambda x, y: np.cross(x, y) / (1.0 + np.sum(x * y) ** 2))
    given = gw.vmap(gw.vmap(function, (None, 0)), (0, None))
    program = agree(given, x, y)
    assert "batch" in names(program)
    (found,) = compile(program, [Output()]).run([x, y])
    np.testing.assert_allclose(found[0][3, 5], function(x[3], y[5]), rtol=1e-12, atol=1e-13)


# -- matrices --------------------------------------------------------------------------------------------------------------------


def bits_of(primitive, needed, *operands):
    types = [TensorType.of(operand) for operand in operands]
    program = trace(lambda *values: values[0].builder.emit(PRIMITIVES[primitive], values, {}), *types)
    assert names(program) == ["batch"]
    found = Executor(plan(find_batches(program)))(*operands)
    assert all(map(same_bits, found, needed if isinstance(needed, tuple) else (needed,)))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("n", [2, 3, 4])
def test_matrices_are_eliminated_with_the_same_pivots(n: int) -> None:
    rng = np.random.default_rng(n)
    special = rng.choice([0.0, 1.0, -2.0, np.nan, np.inf, -0.0], (300, n, n), p=[0.4, 0.2, 0.2, 0.05, 0.05, 0.1])
    for x in (*[x for _, x in families(n, 301)], special):
        bits_of("det", small_det(x), x)
        bits_of("slogdet", small_slogdet(x), x)
        bits_of("inv", small_inv(x), x)
        right = rng.normal(size=(len(x), n, 1))
        bits_of("solve", small_solve(x, right), x, right)
    if n == 3:
        bits_of("adjugate", small_adjugate(x), x)


@pytest.mark.usefixtures("always")
def test_matrices_under_further_axes() -> None:
    x = RNG.normal(size=(200, 2, 3, 3))
    agree(lambda x: (np.linalg.det(x), np.linalg.inv(x), *np.linalg.slogdet(x)), x, rtol=1e-9)


# -- what is no batch ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.sum(np.sin(x) * x, axis=0) * 2.0,
        lambda x: np.sum(np.sin(x[::-1] * x), axis=1),
        lambda x: np.cumsum(x * x, axis=0) + x,
        lambda x: (x * x)[1:] - np.sin(x)[:-1],
        lambda x: np.sort(x * x, axis=0) * x,
        lambda x: (np.sin(x) - np.mean(np.sin(x), axis=0)) / np.std(x, axis=0),
        lambda x: np.einsum("ia,ib->ab", np.sin(x), np.cos(x)),
        lambda x: np.roll(np.sin(x), 1, axis=0) * np.sum(x * x, axis=1, keepdims=True),
        lambda x: np.concatenate([x, x * 2.0]) ** 2,
        lambda x: np.reshape(x * 2.0, (3, -1)) + 1.0,
    ],
)
def test_samples_that_meet_stay_apart(function) -> None:
    agree(function, RNG.normal(size=(400, 3)))


@pytest.mark.usefixtures("always")
def test_paths_that_leave_a_batch_do_not_come_back() -> None:
    def function(x):
        y = np.sin(x) * x
        return y * 2.0 + np.cumsum(y, axis=0) * x

    program = agree(function, RNG.normal(size=(400, 3)))
    assert names(program).count("batch") == 2


@pytest.mark.usefixtures("always")
def test_lanes_of_several_lengths() -> None:
    def function(x, y):
        one, other = np.sin(x) * x[:, :1], np.cos(y) * y[:, :1]
        return np.sum(one, axis=0) * other, np.sum(other, axis=0) + one

    program = agree(function, RNG.normal(size=(400, 3)), RNG.normal(size=(500, 3)))
    assert names(program).count("batch") >= 2


@pytest.mark.usefixtures("always")
def test_other_dtypes_are_left_alone() -> None:
    x = RNG.normal(size=(400, 3))
    single = x.astype(np.float32)
    program = agree(lambda x, single: (np.sum(x * x, axis=1) * 2.0, np.sum(single * single, axis=1)), x, single, rtol=1e-6)
    assert "batch" in names(program)
    assert all(operand.type.dtype is Dtype.FLOAT64 for item in samples_of(program) for operand in item.inputs)
    agree(lambda x: x[np.argsort(x[:, 0])] * 2.0 + np.sum(x, axis=1, keepdims=True), x)


@pytest.mark.usefixtures("always")
def test_long_programs_become_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_OPERATIONS", 50)

    def function(x):
        for _ in range(20):
            x = np.sin(x) + np.sum(x * x, axis=1, keepdims=True)
        return x

    program = agree(function, RNG.normal(size=(400, 3)))
    assert names(program).count("batch") > 1


# -- tapes -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("always")
def test_known_ones_fold_and_equal_operations_are_shared() -> None:
    x = RNG.normal(size=(400, 3))
    function = lambda x: np.stack([x[0] * x[1], x[1] * x[2], x[0] * x[2], x[0]])
    derived = gw.vmap(gw.jacobian(lambda x: function(x) * np.exp(function(x))))
    program = run_passes(gw.trace(derived, x))
    everything = sum(item.results[0].type.size for item in samples_of(program)[0].equations)
    assert operation_count(program) <= everything / 3
    agree(derived, x)


@pytest.mark.usefixtures("always")
def test_zero_times_nan_is_nan() -> None:
    x = np.where(RNG.random((400, 3)) < 0.3, np.nan, 1.0)
    x[5, 0] = np.inf
    program = run_passes(trace(lambda x: x * np.array([0.0, 1.0, -0.0]) + np.array([0.0, -0.0, 1.0]), floats(400, 3)))
    (found,), (needed,) = Executor(plan(find_batches(program)))(x), interpret(program, [x])
    assert "batch" in names(program)
    assert same_bits(found, needed)


# -- plans -----------------------------------------------------------------------------------------------------------------------


def kinematics(x, w):
    turned = np.stack([np.cos(x[0]) * w[0] - np.sin(x[0]) * w[1], np.sin(x[0]) * w[0] + np.cos(x[0]) * w[1], w[2] + x[2]])
    return turned / np.sqrt(np.sum(turned * turned) + x[1] * x[1])


def test_a_batch_is_chosen_where_it_is_predicted_to_be_faster() -> None:
    x, w = RNG.normal(size=(5000, 3)), RNG.normal(size=3)
    jacobians = gw.vmap(gw.jacobian(kinematics), (0, None))
    report = str(plan_clustered(run_passes(gw.trace(jacobians, x, w))))
    assert " batch " in report
    for function in (lambda x, w: x * 2.0 + w * x, lambda x, w: np.tanh(x) * x, lambda x, w: x @ np.outer(w, w)):
        assert "batch" not in names(run_passes(gw.trace(function, x, w)))
    assert "batch" not in names(run_passes(gw.trace(jacobians, x[:20], w)))


def test_the_peak_is_kept() -> None:
    x, w = RNG.normal(size=(40_000, 3)), RNG.normal(size=3)
    program = run_passes(gw.trace(gw.vmap(gw.jacobian(kinematics), (0, None)), x, w))
    found = plan_clustered(program)
    assert [step.equation.primitive for step in found.steps] == [BATCH]
    assert found.peak_bytes < plan(program).peak_bytes
    run = Executor(found)
    gc.collect()
    tracemalloc.start()
    try:
        result = run(x, w)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak + x.nbytes + w.nbytes <= found.peak_bytes + 100_000
    assert len(result) == 1


@pytest.mark.usefixtures("always")
def test_threads_share_a_batch() -> None:
    x, w = RNG.normal(size=(3, 2000, 3)), RNG.normal(size=3)
    run = Executor(plan(find_batches(run_passes(gw.trace(gw.vmap(gw.jacobian(kinematics), (0, None)), x[0], w)))))
    needed = [run(item, w)[0] for item in x]
    wrong: list[int] = []

    def work(number: int) -> None:
        wrong.extend([number for _ in range(20) if not same_bits(run(x[number], w)[0], needed[number])])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.usefixtures("always")
def test_the_batches_of_a_thread_share_its_memory() -> None:
    x, w = RNG.normal(size=(2000, 3)), RNG.normal(size=3)
    functions = [gw.vmap(gw.jacobian(kinematics), (0, None)), gw.vmap(kinematics, (0, None))]
    runs = [Executor(plan(find_batches(run_passes(gw.trace(function, x, w))))) for function in functions]
    needed = [run(x, w)[0] for run in runs]
    for run, result in [*zip(runs, needed, strict=True)] * 2:
        assert same_bits(run(x, w)[0], result)
    gc.collect()
    tracemalloc.start()
    try:
        for run in runs:
            run(x, w)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("always")
def test_batches_in_loops_and_of_loops() -> None:
    x, w = RNG.normal(size=(400, 3)), RNG.normal(size=3)
    step = lambda w: lambda _, c: kinematics(c, w) / (1.0 + np.sum(c * c))
    inside = lambda x, w: gw.fori_loop(0, 4, lambda _, c: gw.vmap(lambda x: step(w)(0, x))(c), x)
    outside = gw.vmap(lambda x, w: gw.fori_loop(0, 4, step(w), x), (0, None))
    needed = x
    for _ in range(4):
        needed = np.stack([step(w)(0, row) for row in needed])
    for function in (inside, outside):
        found = compile(gw.trace(function, x, w), [Output()]).run([x, w])[0][0]
        np.testing.assert_allclose(found, needed, rtol=1e-11, atol=1e-12)


@pytest.mark.usefixtures("always")
def test_arrays_in_any_order_of_memory() -> None:
    x, w = RNG.normal(size=(400, 3, 2)), RNG.normal(size=(2, 3))
    program = run_passes(gw.trace(lambda x, w: np.sum(np.sin(x) @ w, axis=2) / np.sum(x * x, axis=(1, 2))[:, None], x, w))
    run = Executor(plan(find_batches(program)))
    (needed,) = run(x, w)
    for given in (np.asfortranarray(x), np.flip(np.flip(x, 0).copy(), 0), np.repeat(x, 2, axis=1)[:, ::2]):
        assert same_bits(run(given, np.asfortranarray(w))[0], needed)


@pytest.mark.usefixtures("always")
def test_the_search_is_linear_in_the_equations() -> None:
    def long(length):
        def function(x):
            for _ in range(length):
                x = np.sin(x) * 0.5 + np.sum(x, axis=1, keepdims=True)
            return x

        return run_passes(trace(function, floats(300, 2)))

    short, tall = [calls_of(lambda program=program: find_batches(program)) for program in (long(150), long(1500))]
    assert tall < 13 * short
