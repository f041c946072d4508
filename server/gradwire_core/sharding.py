"""One evaluation as several, each of which takes no more than is allowed: shards.

A shard is an evaluation like any other: a program, outputs of it, and inputs, some of which are slices of those of the whole;
`cutting` says how they are made. An output is cut only if it takes too much by itself. How a request is split depends on the
request and on what is allowed, never on who evaluates it. Nothing here runs a shard.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gradwire_core.cutting import Joint, Piece, Request, Shard, Split, Way, cut_batch, ways_to_cut
from gradwire_core.engine import Executable, Output
from gradwire_core.program import Program
from gradwire_core.structure.cost import predict

_GROWTH = 1.25

Compile = Callable[[Program, Sequence[Output]], Executable]
"""Gives the executable of outputs of a program."""
Share = Callable[[Executable], float]
"""Tells which share of what is allowed an executable takes: more than 1 is too much."""


def find_split(
    program: Program, outputs: Sequence[Output], whole: Executable, compile: Compile, share: Share, most: int
) -> Split | None:
    """Return the split of an evaluation into the fewest shards of which each takes what is allowed; None if there is none.

    Args:
        program: the program.
        outputs: what is asked of it, with what takes too much among it.
        whole: the executable of all that.
        compile: compiles parts of it, to be judged.
        share: judges.
        most: the largest number of shards.
    """
    outputs = tuple(outputs)
    counts = [len(types) for types in whole.seed_types]
    starts = list(itertools.accumulate(counts, initial=len(whole.input_types)))
    sizes = [len(types if specs is None else specs) for types, specs in zip(whole.array_types, whole.specs, strict=True)]
    request = Request(program, outputs, whole.input_types, starts, counts, sizes, whole.array_types)
    judge = _Judge(compile, share)
    together = cut_batch(request, range(len(outputs)))
    found = None if together is None else judge.count(together, share(whole), most)
    if together is not None and found is not None:
        return _assemble(request, [(together, found.number)], ())
    return _split_apart(request, judge, most)


class _Count(NamedTuple):
    """Into how many shards something is cut, and the predicted seconds of all of them."""

    number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Judge:
    """Finds how finely something must be cut; see `find_split`."""

    compile: Compile
    share: Share

    def count(self, way: Way, share: float, most: int) -> _Count | None:
        """Return the least number of shards that is known to do, tried from what the share of the whole suggests."""
        if share > most:
            return None
        most = min(most, way.most)
        count = max(2, math.ceil(min(share, most)))
        while count <= most:
            first = self.compiled(way.shard(count, 0))
            found = max(self.share(first), self.share(self.compiled(way.shard(count, count - 1))))
            if found <= 1:
                return _Count(count, count * predict(first.program).seconds)
            if count == most:
                break
            count = min(most, max(count + 1, math.ceil(count * min(found, _GROWTH))))
        return None

    def best(self, ways: Sequence[Way], share: float, most: int) -> tuple[Way, int] | None:
        """Return the way of least predicted seconds, and into how many shards."""
        found = [(way, count) for way in ways if (count := self.count(way, share, most)) is not None]
        if not found:
            return None
        way, count = min(found, key=lambda item: item[1].seconds)
        return way, count.number

    def compiled(self, shard: Shard) -> Executable:
        return self.compile(shard.program, shard.outputs)


def _split_apart(request: Request, judge: _Judge, most: int) -> Split | None:
    """Return a split that cuts each output by itself, if it takes too much; the others are evaluated together, or one by one."""
    kept: list[int] = []
    cuts: list[tuple[Way, int]] = []
    for number, output in enumerate(request.outputs):
        share = judge.share(judge.compile(request.program, (output,)))
        if share <= 1:
            kept.append(number)
            continue
        found = judge.best(ways_to_cut(request, number), share, most)
        if found is None:
            return None
        cuts.append(found)
    groups: list[tuple[int, ...]] = [tuple(kept)] if kept else []
    if groups and judge.share(judge.compile(request.program, [request.outputs[number] for number in kept])) > 1:
        groups = [(number,) for number in kept]
    split = _assemble(request, cuts, groups)
    return split if len(split.shards) <= most else None


def _assemble(request: Request, cuts: Sequence[tuple[Way, int]], groups: Sequence[tuple[int, ...]]) -> Split:
    """Return the split of outputs that are cut, in ways and counts, and of groups that are evaluated as they are."""
    shards: list[Shard] = []
    results: dict[int, tuple[Joint, ...]] = {}
    for way, count in cuts:
        for number, joints in zip(way.numbers, way.results(count, len(shards)), strict=True):
            pairs = zip(joints, request.array_types[number], strict=True)
            results[number] = tuple(joint if len(joint.pieces) == 1 else joint._replace(type=type) for joint, type in pairs)
        shards += [way.shard(count, index) for index in range(count)]
    for group in groups:
        outputs = tuple(request.outputs[number] for number in group)
        inputs, _ = request.arguments(group[0])
        for place, number in enumerate(group):
            pieces = (Piece(len(shards), place, result) for result in range(request.result_counts[number]))
            results[number] = tuple(Joint(0, (piece,)) for piece in pieces)
        shards.append(Shard(request.program, outputs, inputs, tuple(request.arguments(number)[1] for number in group)))
    return Split(tuple(shards), tuple(results[number] for number in range(len(request.outputs))))
