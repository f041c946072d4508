"""Evaluations in shards: joined, they are what the whole is, and no more of them than are needed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwire_core import engine
from gradwire_core.builder import Builder
from gradwire_core.cutting import Split
from gradwire_core.engine import Output
from gradwire_core.program import Program
from gradwire_core.sharding import find_split
from gradwire_core.transforms import Transform
from gradwire_core.types import Dtype, TensorType
from tests.core.strategies import examples, programs, scalar_programs

COUNTS = st.integers(2, 5)


def traced(function, *shapes: tuple[int, ...]) -> Program:
    builder = Builder()
    inputs = [builder.input(TensorType(Dtype.FLOAT64, shape)) for shape in shapes]
    found = function(*inputs)
    return builder.build(found if isinstance(found, list) else [found])


def split_into(program: Program, outputs, count: int) -> Split | None:
    """Split as if the whole took what so many shards may."""
    whole = engine.compile(program, outputs)
    large = {id(whole)}

    def compile(part, asked):
        made = engine.compile(part, asked)
        if part is program and all(output in outputs for output in asked):
            large.add(id(made))
        kept.append(made)
        return made

    kept: list[engine.Executable] = []
    return find_split(program, outputs, whole, compile, lambda made: count if id(made) in large else 1.0, 64)


def run(split: Split, arrays) -> list[list[np.ndarray]]:
    """Evaluate all shards and join their results."""

    def value(argument):
        array, part = arrays[argument.source], argument.part
        return array if part is None else array[(slice(None),) * (part.axis % array.ndim) + (slice(part.start, part.stop),)]

    answers = []
    for shard in split.shards:
        executable = engine.compile(shard.program, shard.outputs)
        answers.append(executable.run([*map(value, shard.inputs)], [[*map(value, group)] for group in shard.seeds]))
    return [[joined(joint, answers) for joint in output] for output in split.results]


def joined(joint, answers) -> np.ndarray:
    found = [answers[piece.shard][piece.output][piece.result] for piece in joint.pieces]
    if len(found) == 1:
        return found[0]
    whole = np.concatenate(found, joint.axis)
    starts = np.cumsum([0, *[array.shape[joint.axis] for array in found]])
    assert [piece.start for piece in joint.pieces] == starts[:-1].tolist()
    assert TensorType.of(whole) == joint.type
    return whole


def assert_same(program: Program, outputs, arrays, count: int, seeds=()) -> Split | None:
    split = split_into(program, outputs, count)
    if split is None:
        return None
    expected = engine.compile(program, outputs).run(arrays, seeds)
    found = run(split, [*arrays, *(seed for group in seeds for seed in group)])
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.shape == other.shape
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    return split


@examples(40)
@given(programs(), COUNTS)
def test_jacobians_of_any_program(case, count):
    outputs = (Output((Transform("jacobian", case.argnums),)),)
    split = assert_same(case.program, outputs, case.arrays, count)
    types = (*case.program.output_types, *case.program.input_types)
    lengths = [length for type in types if type.size for length in type.shape]
    assert split is not None or count > max(lengths, default=1)


@examples(25)
@given(scalar_programs(), COUNTS)
def test_hessians_of_any_program(case, count):
    assert_same(case.program, (Output((Transform("hessian", case.argnums),)),), case.arrays, count)


@examples(25)
@given(programs(), COUNTS, st.integers(5, 8), st.randoms(use_true_random=False))
def test_batches_of_any_program(case, count, size, random):
    axes = [random.choice([None, *range(-array.ndim - 1, array.ndim + 1)]) for array in case.arrays]
    axes[0] = 0
    arrays = [
        array if axis is None else np.stack([array * (1 + 0.1 * item) for item in range(size)], axis)
        for array, axis in zip(case.arrays, axes, strict=True)
    ]
    vmap = Transform("vmap", in_axes=tuple(axes), axis_size=size)
    outputs = (Output((vmap,)), Output((Transform("jacobian"), vmap)))
    split = assert_same(case.program, outputs, arrays, count)
    assert split is not None
    assert len(split.shards) == count


def test_seeds_are_cut_with_their_batch_and_given_whole_to_jacobians():
    program = traced(lambda x: np.sin(x) * x, (4,))
    rng = np.random.default_rng(1)
    vmap = Transform("vmap", in_axes=(0, 1), axis_size=6)
    batched = (Output((Transform("jvp"), vmap)),)
    split = assert_same(program, batched, [rng.normal(size=(6, 4))], 3, [[rng.normal(size=(4, 6))]])
    assert [shard.seeds[0][0].part for shard in split.shards] == [(1, 0, 2), (1, 2, 4), (1, 4, 6)]
    second = (Output((Transform("jvp"), Transform("jacobian"))),)
    assert len(assert_same(program, second, [rng.normal(size=4)], 2, [[rng.normal(size=4)]]).shards) == 2


def test_only_what_is_too_large_is_cut_and_the_rest_is_one_shard():
    program = traced(np.tanh, (40,))
    outputs = (Output(), Output((Transform("jacobian"),)), Output((Transform("jacobian"),), "structured"))
    whole = engine.compile(program, outputs)

    def load(made):
        return sum(type.nbytes for type in made.program.output_types) / 4000

    split = find_split(program, outputs, whole, engine.compile, load, 64)
    assert [len(shard.outputs) for shard in split.shards] == [1, 1, 1, 1, 2]
    assert [[len(joint.pieces) for joint in output] for output in split.results] == [[1], [4], [1]]


def test_shards_are_few_equal_and_always_the_same():
    program = traced(lambda x: np.cumsum(np.sin(x)), (101,))
    outputs = (Output((Transform("jacobian"),)),)
    whole = engine.compile(program, outputs)
    allowed = whole.plan.peak_bytes / 3

    def find():
        return find_split(program, outputs, whole, engine.compile, lambda made: made.plan.peak_bytes / allowed, 16)

    first, second = find(), find()
    peaks = [engine.compile(shard.program, shard.outputs).plan.peak_bytes for shard in first.shards]
    assert 3 <= len(peaks) <= 6
    assert max(peaks) <= allowed
    assert max(peaks) - min(peaks) <= 0.05 * max(peaks)
    assert [shard.program.digest for shard in first.shards] == [shard.program.digest for shard in second.shards]


@pytest.mark.parametrize(
    ("function", "shape", "by_rows"),
    [(lambda x: np.cumsum(np.sin(x * np.arange(9.0))), (), True), (lambda x: np.sum(x * x), (9,), False)],
)
def test_where_one_side_has_nothing_to_cut_the_other_is(function, shape, by_rows):
    program = traced(function, shape)
    split = split_into(program, (Output((Transform("jacobian"),)),), 3)
    assert len(split.shards) == 3
    assert (len(split.shards[0].inputs) == 1) is by_rows


@pytest.mark.parametrize("transforms", [(), (Transform("grad"),), (Transform("jacobian_slogdet"),)])
def test_what_cannot_be_cut_is_not(transforms):
    program = traced(lambda x: np.sum(np.sin(x)), (1,))
    if transforms and transforms[0].name == "jacobian_slogdet":
        program = traced(np.sin, (5,))
    assert split_into(program, (Output(transforms),), 2) is None


def test_no_more_shards_are_made_than_allowed():
    program = traced(np.sin, (40,))
    outputs = (Output((Transform("jacobian"),)),)
    whole = engine.compile(program, outputs)
    assert find_split(program, outputs, whole, engine.compile, lambda made: 2.0, 7) is None
