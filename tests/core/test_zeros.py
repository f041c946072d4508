"""Zero patterns of Values: every element that is not in the support is 0, and nothing that can be known is missed."""

import functools
import gc
import time
import weakref

import numpy as np
import pytest

import gradwire.numpy  # noqa: F401  # registers what NumPy's functions are written over
from gradwire_core.builder import Builder
from gradwire_core.ops import PRIMITIVES
from gradwire_core.ops.shaping import eye
from gradwire_core.structure import zeros
from gradwire_core.structure.zeros import known, support
from gradwire_core.testing import interpret
from gradwire_core.types import Dtype, TensorType
from tests.core.work import calls_of

LOWER = np.tri(4, dtype=bool)
RNG = np.random.default_rng(0)
WIDE = np.tri(40, dtype=bool)  # too large for the builder to compute with


def supported(function, *shapes):
    """The support of a function of floating inputs; it must hold what the function gives at random points."""
    builder = Builder()
    inputs = [builder.input(TensorType(Dtype.FLOAT64, shape)) for shape in shapes]
    result = function(builder, *inputs)
    mask = support(result)
    program = builder.build([result])
    for seed in range(3):
        rng = np.random.default_rng(seed)
        (found,) = interpret(program, [rng.uniform(0.1, 0.9, shape) for shape in shapes])
        assert mask is None or not found[~mask].any()
    return mask


# Each is exact: at random points, the elements that are 0 are those that the support excludes.
EXACT = {
    "product with a mask": lambda b, x: x * b.literal(LOWER.astype(float)),
    "quotient of a mask": lambda b, x: b.literal(LOWER.astype(float)) / x,
    "condition": lambda b, x: np.where(b.literal(LOWER), x, 0.0),
    "other branch": lambda b, x: np.where(b.literal(LOWER), 0.0, x),
    "tril": lambda b, x: np.tril(x),
    "triu": lambda b, x: np.triu(x, 1),
    "tril of a product": lambda b, x: np.tril(x) * np.triu(x),
    "pad": lambda b, x: np.pad(x, ((1, 0), (2, 1))),
    "concatenate": lambda b, x: np.concatenate([np.tril(x), np.triu(x)], 1),
    "stack": lambda b, x: np.stack([np.tril(x), np.triu(x)]),
    "slice": lambda b, x: np.tril(x)[1:, ::2],
    "flip": lambda b, x: np.tril(x)[::-1],
    "transpose": lambda b, x: np.tril(x).T,
    "reshape": lambda b, x: np.tril(x).reshape(2, 8),
    "broadcast": lambda b, x: np.broadcast_to(np.tril(x), (3, 4, 4)),
    "gather": lambda b, x: np.tril(x)[np.array([3, 0, 0])],
    "scatter": lambda b, x: (np.tril(x) * 0).at[np.array([1, 2])].set(np.triu(x)[:2]),
    "add": lambda b, x: np.tril(x, -1) + np.triu(x, 1),
    "subtract": lambda b, x: np.tril(x, -2) - np.triu(x, 1) * 2,
    "negative": lambda b, x: -np.tril(x),
    "absolute": lambda b, x: np.abs(np.tril(x)),
    "tanh": lambda b, x: np.tanh(np.sin(np.tril(x))),
    "sqrt": lambda b, x: np.sqrt(np.tril(x)),
    "power": lambda b, x: np.tril(x) ** 3,
    "fractional power": lambda b, x: np.tril(x) ** 0.5,
    "maximum": lambda b, x: np.maximum(np.tril(x, -1), np.triu(x, 1)),
    "float32": lambda b, x: np.tril(x).astype(np.float32),
    "diagonal product": lambda b, x: np.diag(x[0]) @ np.tril(x),
    "triangular product": lambda b, x: np.tril(x) @ np.tril(x, -1),
    "diagonal": lambda b, x: np.diagonal(np.tril(x, -1), 1),
    "diagonal matrix": lambda b, x: np.diag(x[0]),
    "sum": lambda b, x: np.sum(np.tril(x, -1), 1),
    "max": lambda b, x: np.max(np.tril(x, -1), 1),
    "prod": lambda b, x: np.prod(np.tril(x), 1),
    "cumsum": lambda b, x: np.cumsum(np.tril(x, -1), 0),
    "cumprod": lambda b, x: np.cumprod(np.tril(x), 0),
    "running maximum": lambda b, x: np.maximum.accumulate(np.tril(x), 0),
    "identity": lambda b, x: x * eye(b, 4, 4, Dtype.FLOAT64),
    "zero": lambda b, x: x * 0.0,
    "kron": lambda b, x: np.kron(np.tril(x), np.eye(2)),
    "convolution": lambda b, x: np.convolve(np.tril(x)[0], np.tril(x)[1]),
    "mask of a comparison": lambda b, x: np.tril(x) * (np.arange(4.0) > 1.5),
    "roll": lambda b, x: np.roll(np.tril(x), 1, 0),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_support_is_exact(name):
    function = EXACT[name]
    mask = supported(function, (4, 4))
    builder = Builder()
    program = builder.build([function(builder, builder.input(TensorType(Dtype.FLOAT64, (4, 4))))])
    (found,) = interpret(program, [np.random.default_rng(3).uniform(0.1, 0.9, (4, 4))])
    np.testing.assert_array_equal(np.broadcast_to(True, found.shape) if mask is None else mask, found != 0)
    assert mask is not None


FULL = {
    "input": lambda b, x: x,
    "cosine": lambda b, x: np.cos(np.tril(x)),
    "exponential": lambda b, x: np.exp(np.tril(x)),
    "sum with a number": lambda b, x: np.tril(x) + 1.0,
    "reciprocal": lambda b, x: 1.0 / np.tril(x),
    "power 0": lambda b, x: np.tril(x) ** 0.0,
    "traced power": lambda b, x: np.tril(x) ** x,
    "traced condition": lambda b, x: np.where(x > 0.5, x, 1.0),
    "cumsum of a triangle": lambda b, x: np.cumsum(np.tril(x), 1),
    "inverse": lambda b, x: np.linalg.inv(np.tril(x)),
}


@pytest.mark.parametrize("name", FULL)
def test_nothing_is_known_where_all_may_differ_from_zero(name):
    assert supported(FULL[name], (4, 4)) is None


def test_an_unknown_condition_joins_both_branches():
    mask = supported(lambda b, x: np.where(x > 0.5, np.tril(x, -1), np.triu(x, 1)), (4, 4))
    np.testing.assert_array_equal(mask, ~np.eye(4, dtype=bool))


def test_an_unknown_mask_counts_by_what_is_known_of_it():
    mask = supported(lambda b, x: np.where(np.tril(x) > 0.5, x, 0.0), (4, 4))
    np.testing.assert_array_equal(mask, LOWER)


def test_the_numbers_of_an_input_never_decide():
    assert supported(lambda b, x, mask: x * mask, (4, 4), (4, 4)) is None


def test_masks_too_large_to_fold_are_known():
    def function(b, x):
        return x * np.where(np.arange(40.0)[:, None] >= b.literal(np.arange(40.0)), 1.0, 0.0)

    np.testing.assert_array_equal(supported(function, (40, 40)), WIDE)


def test_a_weight_in_a_product_is_masked():
    mask = supported(lambda b, w, x: (w * b.literal(np.eye(5, 6))) @ x, (5, 6), (6, 2))
    assert mask is None
    narrow = np.eye(5, 6)
    narrow[2] = 0
    mask = supported(lambda b, w, x: (w * b.literal(narrow)) @ x, (5, 6), (6, 2))
    np.testing.assert_array_equal(mask, np.arange(5)[:, None] != [2, 2])


def test_long_contractions_are_bounded_by_each_operand():
    size = 400
    keep = np.arange(size) % 3 == 0

    def function(b, x, y):
        return (x * keep[:, None]) @ (y * keep)

    builder = Builder()
    x, y = [builder.input(TensorType(Dtype.FLOAT64, (size, size))) for _ in range(2)]
    start = time.perf_counter()
    mask = support(function(builder, x, y))
    assert time.perf_counter() - start < 1
    np.testing.assert_array_equal(mask, keep[:, None] & keep)


def test_known_arrays_are_those_of_literals_alone():
    builder = Builder()
    x = builder.input(TensorType(Dtype.FLOAT64, (40,)))
    table = builder.literal(np.arange(1600.0).reshape(40, 40))
    np.testing.assert_array_equal(known(np.sin(table) * 2), np.sin(np.arange(1600.0).reshape(40, 40)) * 2)
    assert known(table * x) is None
    assert known(x) is None


def test_large_arrays_count_as_full():
    builder = Builder()
    x = builder.input(TensorType(Dtype.FLOAT64, (5000, 5000)))
    assert support(x * 0.0) is None


def test_indices_out_of_range_are_refused_when_the_program_runs_not_here():
    builder = Builder()
    table = builder.literal(np.zeros(2000))
    x = builder.emit(PRIMITIVES["take"], [table, builder.literal(np.arange(1990, 3100))], {"axis": 0, "batch": 0})[0]
    assert support(x * 1.0) is None


def test_long_chains_take_linear_time():
    counts = []
    for length in (1000, 4000):
        builder = Builder()
        value = np.tril(builder.input(TensorType(Dtype.FLOAT64, (3, 3))))
        for _ in range(length):
            value = np.sin(value) + np.tril(value)
        counts.append(calls_of(functools.partial(support, value)))
        np.testing.assert_array_equal(support(value), np.tri(3, dtype=bool))
    assert counts[1] < 4.2 * counts[0]


def test_masks_are_shared_and_their_bytes_bounded(monkeypatch):
    builder = Builder()
    x = np.tril(builder.input(TensorType(Dtype.FLOAT64, (100, 100))))
    first = support(x)
    assert support(np.sin(x) * x + np.tanh(x) - x) is first
    monkeypatch.setattr(zeros, "MOST_BYTES", 100_000)
    values = [np.tril(x, -number) for number in range(1, 30)]
    kept = [support(value) for value in values]
    assert sum(mask is not None for mask in kept) < 9
    np.testing.assert_array_equal(kept[0], np.tri(100, k=-1, dtype=bool))


def test_what_was_found_goes_with_the_builder():
    builder = Builder()
    value = np.tril(builder.input(TensorType(Dtype.FLOAT64, (3, 3)))) * 2
    assert support(value) is support(value)
    gone = weakref.ref(builder)
    del builder, value
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("name", sorted(PRIMITIVES))
def test_zeros_in_any_operand_of_any_primitive(name):
    """Whatever a primitive is: where the support of a result excludes an element, that is 0."""
    primitive = PRIMITIVES[name]
    for sample in primitive.samples(np.random.default_rng(0)):
        for place, operand in enumerate(sample.operands):
            if operand.dtype.kind != "f" or not operand.size:
                continue
            mask = RNG.random(operand.shape) < 0.5
            builder = Builder()
            x = builder.input(TensorType.of(operand))
            operands = [builder.input(TensorType.of(item)) for item in sample.operands]
            masked = np.where(builder.literal(mask), x, builder.literal(np.zeros((), operand.dtype)))
            inputs = [masked if index == place else item for index, item in enumerate(operands)]
            results = builder.emit(primitive, inputs, sample.params)
            arrays = interpret(builder.build(results), [operand, *sample.operands])
            for result, array in zip(results, arrays, strict=True):
                found = support(result)
                assert found is None or (found.shape == array.shape and not array[~found].any())
