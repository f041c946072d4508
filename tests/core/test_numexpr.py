"""Expressions of numexpr: operations given to it have NumPy's values, and blocks run them as they run NumPy's calls."""

from __future__ import annotations

import re
import threading

import numexpr
import numpy as np
import pytest

from gradwire_core.builder import Builder, Value
from gradwire_core.interpreter import interpret
from gradwire_core.kernels import blocks, cluster
from gradwire_core.kernels.blocks import Blocks
from gradwire_core.kernels.expressions import EXPRESSION, FUNCTIONS, MOST_OPERATIONS, TEMPLATES, join_expressions
from gradwire_core.ops import PRIMITIVES
from gradwire_core.program import Program
from gradwire_core.types import Dtype, TensorType
from tests.core.test_clusters import clusters, mixed
from tests.core.test_executor import draw, floats, random_program, same_bits, trace

ROUNDED = {*FUNCTIONS, "logistic", "power", "sech_squared"} - {"ceil", "floor", "sqrt"}
EXACT = TEMPLATES.keys() - ROUNDED
SPECIAL = [0.0, 0.5, 1.0, 2.0, 30.0, 90.0, 800.0, 1e5, np.inf]
ULPS = {"logistic": 3, "sech_squared": 4}
"""Units in the last place that NumPy's own formula is away from the value, and ours."""


@pytest.fixture
def is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make clusters of small arrays, in short blocks."""
    monkeypatch.setattr(cluster, "LEAST_BYTES", 0)
    monkeypatch.setattr(cluster, "LEAST_SHARE", 1)
    monkeypatch.setattr(blocks, "LENGTH", 8)


def operation(name: str, dtype: Dtype, size: int) -> Program:
    """The program of one operation."""
    primitive = PRIMITIVES[name]
    builder = Builder()
    dtypes = [dtype] * primitive.arity
    if name.startswith("logical"):
        dtypes = [Dtype.BOOL] * primitive.arity
    elif name == "where":
        dtypes[0] = Dtype.BOOL
    return builder.build(builder.emit(primitive, [builder.input(TensorType(item, (size,))) for item in dtypes], {}))


def points(dtype: Dtype) -> np.ndarray:
    """Pairs of numbers, special ones among them."""
    info = np.finfo(dtype.numpy)
    special = [*SPECIAL, float(info.max), float(info.tiny), float(info.smallest_subnormal)]
    special = np.array([*special, *[-item for item in special], np.nan], dtype.numpy)
    rng = np.random.default_rng(0)
    drawn = [rng.normal(size=(2, 3000)), rng.uniform(size=(2, 3000)), np.exp(4 * rng.normal(size=(2, 3000)))]
    return np.concatenate([np.stack(np.meshgrid(special, special)).reshape(2, -1), *drawn], axis=1).astype(dtype.numpy)


def draw_for(program: Program, dtype: Dtype) -> list[np.ndarray]:
    x, y = points(dtype)
    given = {1: [x], 2: [x, y], 3: [x > y, x, y]}[len(program.inputs)]
    return [array.astype(type.dtype.numpy) for array, type in zip(given, program.input_types, strict=True)]


def ulps(found: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """How many units in the last place numbers are apart."""
    with np.errstate(all="ignore"):
        return np.abs((found.astype(np.longdouble) - needed) / np.spacing(np.abs(needed.astype(found.dtype))))


@pytest.mark.parametrize("dtype", [Dtype.FLOAT64, Dtype.FLOAT32])
@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_an_operation_has_the_values_of_numpy(name: str, dtype: Dtype) -> None:
    size = points(dtype).shape[1]
    program = operation(name, dtype, size)
    arrays = draw_for(program, dtype)
    with np.errstate(all="ignore"):
        (needed,) = interpret(program, arrays)
        found = Blocks(program, given={name})(*arrays)
        exact = PRIMITIVES[name].kernel(*[item.astype(np.longdouble) if item.dtype != bool else item for item in arrays])
    if name in EXACT:
        assert same_bits(found, needed)
        return
    for property in (np.isnan, np.isinf, np.signbit):
        is_number = np.True_ if property is np.isnan else ~np.isnan(needed)
        np.testing.assert_array_equal(property(found) & is_number, property(needed) & is_number)
    is_finite = np.isfinite(found)
    away, usual = ulps(found[is_finite], exact[is_finite]), ulps(needed[is_finite], exact[is_finite])
    assert away.max() <= max(ULPS.get(name, 1), usual.max())


@pytest.mark.usefixtures("is_small")
@pytest.mark.parametrize("given", [EXACT, {"add", "multiply"}, {"subtract", "where", "less"}])
@pytest.mark.parametrize("seed", range(12))
def test_random_programs_keep_every_bit(seed: int, given: set[str]) -> None:
    rng = np.random.default_rng(seed)
    for body in clusters(random_program(seed, 40)):
        run = Blocks(body, given=given)
        for _ in range(2):
            arrays = [draw(type, rng, special=bool(seed % 2)).astype(type.dtype.numpy) for type in body.input_types]
            with np.errstate(all="ignore"):
                found, needed = run(*arrays), interpret(body, arrays)
            found = found if len(needed) > 1 else [found]
            for one, other in zip(found, needed, strict=True):
                assert same_bits(one, other) if one.shape else np.allclose(one, other, rtol=1e-12, equal_nan=True)


@pytest.mark.usefixtures("is_small")
@pytest.mark.parametrize("dtype", [Dtype.FLOAT64, Dtype.FLOAT32])
@pytest.mark.parametrize("shape", [(41,), (3, 50), (2, 3, 5)])
def test_all_kinds_of_equations_in_any_order_of_axes(dtype: Dtype, shape: tuple[int, ...]) -> None:
    (body,) = clusters(trace(mixed, *[TensorType(dtype, shape)] * 2, TensorType(dtype, ())))
    run = Blocks(body, given=TEMPLATES)
    rng = np.random.default_rng(0)
    for order in "CF":
        arrays = [rng.normal(size=type.shape).astype(type.dtype.numpy, order=order) for type in body.input_types]
        for found, needed in zip(run(*arrays), interpret(body, arrays), strict=True):
            np.testing.assert_allclose(found, needed, rtol=1e-13 if dtype is Dtype.FLOAT64 else 2e-5)


def wave(x: Value, y: Value) -> Value:
    z = (x * y - 1.5) * np.sin(x + y)
    return np.exp(z / (1.0 + x * x)) * np.tanh(z) + np.maximum(x, y) / 3.0


def expressions_of(program: Program, given=TEMPLATES) -> list[str]:
    return [item.params["text"] for item in join_expressions(program, given).equations if item.primitive is EXPRESSION]


TREES = [
    "(((x0 * x1) - x2) * sin((x0 + x1)))",  # z, which is taken twice
    "((exp((x0 / (x1 + (x2 * x2)))) * x3) + (x4 / x5))",  # tanh and maximum are NumPy's
]


def test_trees_are_joined_and_end_where_something_else_needs_them() -> None:
    program = trace(wave, floats(10), floats(10))
    assert expressions_of(program) == TREES
    assert expressions_of(program, {"add"}) == []


def test_texts_are_made_of_templates_and_integers_alone() -> None:
    word = re.compile(r"[a-z_]\w*")
    known = {item for text in TEMPLATES.values() for item in word.findall(text)}
    for seed in range(10):
        for text in expressions_of(random_program(seed, 60)):
            assert re.fullmatch(r"[\w ()+\-*/<>=!&|^~,]*", text)
            assert all(item in known or re.fullmatch(r"x\d+", item) for item in word.findall(text))
            assert not re.search(r"\d\.|\.\d", text), "a number of the program is in the text"


@pytest.mark.parametrize("step", [lambda y, x: y * x + 1.0, lambda y, x: y * y - x, lambda y, x: logistic_of(y) + x])
def test_long_trees_are_cut(step) -> None:
    def function(x: Value) -> Value:
        y = x
        for _ in range(200):
            y = step(y, x)
        return y

    program = trace(function, floats(50))
    texts = expressions_of(program)
    assert len(texts) > 3
    assert max(map(len, texts)) < 40 * MOST_OPERATIONS
    x = np.linspace(0.1, 0.2, 50)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(Blocks(program, given=TEMPLATES)(x), interpret(program, [x])[0], rtol=1e-9)


def logistic_of(x: Value) -> Value:
    return 1.0 / (1.0 + np.exp(-x))


def test_expressions_with_many_operands_are_cut() -> None:
    def function(*arrays: Value) -> Value:
        total = arrays[0]
        for array in arrays[1:]:
            total = total * array + array
        return total

    program = trace(function, *[floats(50)] * 60)
    arrays = list(np.random.default_rng(0).uniform(0.5, 1.0, (60, 50)))
    assert same_bits(Blocks(program, given=TEMPLATES)(*arrays), interpret(program, arrays)[0])


def test_numexpr_may_have_threads_of_its_own() -> None:
    program = trace(lambda x, y: (x * y - 1.5) * np.sin(x + y) + x / y, floats(100_000), floats(100_000))
    arrays = list(np.random.default_rng(0).uniform(0.5, 1.0, (2, 100_000)))
    run = Blocks(program, given=TEMPLATES)
    alone = run(*arrays)
    before = numexpr.set_num_threads(2)
    try:
        shared = run(*arrays)
    finally:
        numexpr.set_num_threads(before)
    assert same_bits(alone, shared)


def test_threads_share_a_cluster() -> None:
    program = trace(lambda x: np.exp(np.sin(x) * x - 0.5) / (1.0 + x * x), floats(50_000))
    run = Blocks(program, given=TEMPLATES)
    wrong = []

    def work(seed: int) -> None:
        array = np.random.default_rng(seed).normal(size=50_000)
        needed = interpret(program, [array])[0]
        wrong.extend([seed for _ in range(20) if not np.allclose(run(array), needed, rtol=1e-13)])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_expressions_need_no_more_buffers_than_calls_of_numpy() -> None:
    for seed in range(10):
        for body in clusters(random_program(seed, 40)):
            plain = Blocks(body)._block((8,)).nbytes
            assert Blocks(body, given=TEMPLATES)._block((8,)).nbytes <= plain
