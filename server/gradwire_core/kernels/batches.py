"""Batches of small programs: connected equations that act on each sample by itself become one equation, over columns of numbers.

    x[10000,3], w[3,3] --the equations for one sample--> a tape of numbers --each number a column of 10000--> J[10000,3,3]

NumPy's calls on such arrays have inner loops of three elements. `lanes` says what an equation is for one sample, the tape of all of
them shares what is equal and folds what is constant, and `columns` runs it block by block with the batch axis last. A batch is
an equation of the primitive `batch`, which is no part of the language: its param `body` is the program that it stands for, `sample`
that program for one sample. Batches are chosen by predicted time; the bits are those of the body, but for the order of the sums.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from gradwire_core.kernels.columns import Columns
from gradwire_core.kernels.lanes import Places, find_places
from gradwire_core.kernels.matrices import OF_SAMPLES
from gradwire_core.kernels.prices import operations_seconds, plain_seconds
from gradwire_core.kernels.samples import Search
from gradwire_core.kernels.schedule import Layout, Schedule, is_even
from gradwire_core.kernels.tape import take_apart
from gradwire_core.kernels.whole import as_one
from gradwire_core.passes import prune
from gradwire_core.passes.loops import ordered
from gradwire_core.program import Equation, Operand, Params, Program, Var
from gradwire_core.types import Shape, TensorType

FEWEST_SAMPLES = 96
MOST_LANES = 3
# So many kinds of lanes are tried, those of most elements first.
MOST_TRIALS = 3
# A batch is predicted to take at most so much of the time of its equations, which take so many seconds at least.
MOST_SHARE = 0.75
LEAST_SECONDS = 3e-5
# At least so much of the operations of a batch is left once equal ones are shared: what would take too long even so is not tried.
LEAST_LEFT = 0.3


BATCH = as_one(
    "batch", ("sample", "lanes", "places", "scratch_bytes"), "Equations that act on each sample of a batch by itself, as one."
)


def make_layout(lanes: Shape, inputs: Sequence[Operand], results: Sequence[Var], places: Sequence[Places]) -> Layout:
    """Return how samples lie in inputs and results, given the places of their lanes: none of what all samples share."""
    split = len(inputs)
    types = [operand.type for operand in inputs], [result.type for result in results]
    return Layout(lanes, tuple(zip(types[0], places[:split], strict=True)), tuple(zip(types[1], places[split:], strict=True)))


def bind_batch(equation: Equation) -> Columns:
    """Return what runs a batch."""
    params: Any = equation.params
    layout = make_layout(params["lanes"], equation.operands, equation.results, params["places"])
    return Columns(make_schedule(params["sample"], layout.are_shared), layout)


def find_batches(program: Program) -> Program:
    """Return the program with its batches as equations; itself where there are none."""
    for lanes in _find_lanes(program):
        if not _has_wide_samples(program, lanes):
            continue
        merged: dict[Equation, Equation] = {}
        search = Search(program, lanes)
        uses = _count_uses(program)
        repeated = {item.results[0] for item in program.equations if item.primitive.name == "broadcast_to"}
        for group in search.find_groups():
            whole = _merge(search, group, uses, repeated)
            if whole is not None:
                merged.update(dict.fromkeys(group, whole))
        if merged:
            program = prune(Program(program.inputs, ordered(program, merged), program.outputs))
    return program


def _find_lanes(program: Program) -> list[Shape]:
    """Return the lanes that the arrays of a program may have, those of most elements first."""
    counts: Counter[Shape] = Counter()
    for equation in program.equations:
        for result in equation.results:
            for lanes in _lanes_of(result.type):
                counts[lanes] += result.type.size
    return [lanes for lanes, _ in counts.most_common(MOST_TRIALS)]


def _has_wide_samples(program: Program, lanes: Shape) -> bool:
    """Whether a sample may be more than one number: else all is elementwise, and columns are arrays as they are."""
    shapes = {item.type.shape for equation in program.equations for item in (*equation.operands, *equation.results)}
    return any(shape and shape != lanes for shape in shapes)


@functools.lru_cache(maxsize=4096)
def _lanes_of(type: TensorType) -> tuple[Shape, ...]:
    return tuple(_generate_lanes(type))


def _generate_lanes(type: TensorType) -> Iterator[Shape]:
    shape = type.shape
    for length in dict.fromkeys(shape):
        if length >= FEWEST_SAMPLES and find_places(type, (length,)) is not None:
            yield (length,)
    for count in range(2, min(MOST_LANES, type.ndim) + 1):
        lanes = shape[:count]
        if math.prod(lanes) >= FEWEST_SAMPLES and min(lanes) > 1 and find_places(type, lanes) is not None:
            yield lanes


def _count_uses(program: Program) -> Counter[Operand]:
    uses = Counter(operand for equation in program.equations for operand in equation.operands)
    uses.update(program.outputs)
    return uses


def _merge(search: Search, group: Sequence[Equation], uses: Counter[Operand], repeated: Collection[Operand]) -> Equation | None:
    """Return one equation with all results of a group that anything else takes; None where it is not predicted to be faster."""
    made = dict.fromkeys(result for equation in group for result in equation.results)
    within = Counter(operand for equation in group for operand in equation.operands)
    results = tuple([result for result in made if uses[result] > within[result]])
    free = search.find_free(group)
    known = {*made, *[result for equation in free for result in equation.results]}
    taken = dict.fromkeys(operand for equation in (*free, *group) for operand in equation.operands if isinstance(operand, Var))
    inputs = tuple([operand for operand in taken if operand not in known])
    if not inputs or not results:
        return None
    plain = plain_seconds(group, search.operations, search.lanes)
    operations = sum(search.operations[equation] for equation in group)
    if plain < LEAST_SECONDS or LEAST_LEFT * operations_seconds(operations, search.lanes) > MOST_SHARE * plain:
        return None
    sample = search.sample_of(group, free, inputs, results)
    places = tuple([search.places[item] or () for item in (*inputs, *results)])
    layout = make_layout(search.lanes, inputs, results, places)
    schedule = make_schedule(sample, layout.are_shared)
    uneven = [place for place, item in enumerate(inputs) if places[place] and (item in repeated or not is_even(places[place]))]
    if schedule.seconds(layout, uneven) > MOST_SHARE * plain:
        return None
    params: Params = {
        "body": Program(inputs, (*free, *group), results),
        "sample": sample,
        "lanes": search.lanes,
        "places": places,
        "scratch_bytes": schedule.scratch_bytes(layout),
    }
    return Equation(BATCH, inputs, params, results)


@functools.lru_cache(maxsize=32)
def make_schedule(sample: Program, are_shared: tuple[bool, ...]) -> Schedule:
    """Return how a program of one sample runs over columns, given which of its inputs all samples share."""
    return Schedule(take_apart(sample, OF_SAMPLES), sample.input_types, are_shared)
