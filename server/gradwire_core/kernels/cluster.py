"""Clusters: connected elementwise equations over one large shape, with the sums of all that end them, as one equation.

A cluster is an equation of the primitive `cluster`, which is no part of the language: its param `body` is the program that it
stands for, over the whole shape; `layouts` says how it and its operands lie in memory where they are not row-major. `blocks` runs
it block by block: what is computed in between stays in the cache, and is never allocated as a whole; any other kernel may take its
place. The bits are those of the body, but for the order of the sums.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

from gradwire_core.builder import Builder, Value
from gradwire_core.kernels.batches import find_batches
from gradwire_core.kernels.blocks import block_bytes
from gradwire_core.kernels.joining import Joined
from gradwire_core.kernels.whole import as_one
from gradwire_core.passes import prune
from gradwire_core.passes.loops import ordered
from gradwire_core.planner import Plan, plan
from gradwire_core.program import Equation, Literal, Operand, Program, Var
from gradwire_core.structure.strategy import Choice
from gradwire_core.types import Shape

# Smaller arrays stay in a cache anyway, the second or third level one.
LEAST_BYTES = 2**21
# A cluster has so many equations for each of its results, so that it spares memory indeed.
LEAST_SHARE = 2
# Clusters may take so much more memory.
MOST_GROWTH = 1.02
# And so much beside that: the buffers of a batch.
FREE_BYTES = 2**20


CLUSTER = as_one(
    "cluster", ("scratch_bytes", "layouts"), "Elementwise equations over one shape, and sums of their results, as one."
)


def plan_clustered(program: Program, *, reproducible: bool = False, choices: Sequence[Choice] = (), threads: int = 1) -> Plan:
    """Return the plan of a program: with its batches and its clusters, as far as it does not take more memory so.

    Args:
        program: what is to run.
        reproducible: whether every evaluation must give the same bits.
        choices: the choices made for its derivatives, for the report.
        threads: so many may share a cluster.
    """
    planned = functools.partial(plan, reproducible=reproducible, choices=choices)
    least_bytes = sum(type.nbytes for type in (*program.input_types, *program.output_types))
    plain: Plan | None = None
    for merged, free_bytes in _find_ways(program, threads):
        found = planned(merged)
        if found.peak_bytes <= least_bytes * MOST_GROWTH + free_bytes:  # and so less than the plan of the program itself allows
            return found
        plain = plain or planned(program)
        if found.peak_bytes <= plain.peak_bytes * MOST_GROWTH + free_bytes:
            return found
    return plain or planned(program)


def _find_ways(program: Program, threads: int) -> Iterator[tuple[Program, int]]:
    """Yield the program with its batches and clusters, then with its clusters alone, and how many bytes more each may take."""
    batched = find_batches(program)
    if batched is not program:
        yield find_clusters(batched, threads), FREE_BYTES
    merged = find_clusters(program, threads)
    if merged is not program:
        yield merged, 0


def find_clusters(program: Program, threads: int = 1) -> Program:
    """Return the program with its clusters as equations, which count buffers for so many threads; itself where there are none."""
    if not any(_is_member(equation) for equation in program.equations):
        return program
    broadcasts: dict[Operand, Equation] = {
        item.results[0]: item for item in program.equations if item.primitive.name == "broadcast_to"
    }
    uses = _find_uses(program)
    merged: dict[Equation, Equation] = {}
    for members in _find_groups(program, broadcasts):
        whole = _merge(members, uses, broadcasts, threads)
        if whole is not None:
            merged.update(dict.fromkeys(members, whole))
    return prune(Program(program.inputs, ordered(program, merged), program.outputs)) if merged else program


def _is_member(equation: Equation) -> bool:
    """Whether an equation may be part of a cluster by itself."""
    if not equation.primitive.is_elementwise or len(equation.results) != 1 or not equation.results[0].type.ndim:
        return False
    return max(equation.results[0].type.nbytes, equation.operands[0].type.nbytes) >= max(LEAST_BYTES, 1)


# -- which equations become one --------------------------------------------------------------------------------------------------


def _find_groups(program: Program, broadcasts: Mapping[Operand, Equation]) -> list[list[Equation]]:
    """Return connected members of one shape and one level.

    The level of a value is that of its highest operand, and one more where a member's result leaves its group. So a path that
    leaves a group never comes back to it.
    """
    levels: dict[Operand, int] = {}
    groups = _Groups()
    for equation in program.equations:
        operands, shape = equation.operands, equation.results[0].type.shape if equation.results else ()
        level = 0
        is_member = _is_member(equation) and not any(
            broadcasts[operand].operands[0].type.shape for operand in operands if operand in broadcasts
        )
        for operand in operands:
            made = groups.shapes.get(operand)
            level = max(level, levels.get(operand, 0) + (made is not None and not (is_member and made == shape)))
        if is_member:
            groups.add(equation, (shape, level))
        elif equation.primitive.name == "sum" and not shape and operands[0] in groups.shapes:
            groups.add_end(equation, operands[0])
        if level:
            levels.update(dict.fromkeys(equation.results, level))
    return [members for members in groups.find() if len(members) > 1]


class _Groups(Joined):
    """Members, joined where one takes what another makes or takes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[Operand, Shape] = {}
        self._makers: dict[Operand, int] = {}

    def add(self, equation: Equation, key: tuple[Shape, int]) -> None:
        """Add a member of a shape and a level."""
        number = self.append(equation)
        result = equation.results[0]
        self.shapes[result] = key[0]
        for operand in (*equation.operands, result):
            if operand.type.shape == key[0] or operand is result:
                self.share(number, (operand, key))
        self._makers[result] = number

    def add_end(self, equation: Equation, operand: Operand) -> None:
        """Add a sum of what a member makes."""
        self.join(self.append(equation), self._makers[operand])


# -- the equation of a group -----------------------------------------------------------------------------------------------------


def _find_uses(program: Program) -> dict[Operand, list[Equation | None]]:
    """Return the equations that take each value; None stands for the outputs."""
    found: dict[Operand, list[Equation | None]] = {}
    for equation in program.equations:
        for operand in equation.operands:
            found.setdefault(operand, []).append(equation)
    for output in program.outputs:
        found.setdefault(output, []).append(None)
    return found


def _merge(
    group: Sequence[Equation],
    uses: Mapping[Operand, list[Equation | None]],
    broadcasts: Mapping[Operand, Equation],
    threads: int,
) -> Equation | None:
    """Return one equation with all results of a group that anything else takes; None where it would gain nothing."""
    members = set(group)
    builder = Builder()
    inputs: dict[Operand, Value] = {}
    known: dict[Operand, Value] = {}

    def read(operand: Operand) -> Value:
        found = known.get(operand)
        if found is not None:
            return found
        if operand in broadcasts:
            source = broadcasts[operand]
            (found,) = builder.emit(source.primitive, [read(source.operands[0])], source.params)
        elif isinstance(operand, Literal) and not operand.type.shape:
            found = builder.literal(operand.value)
        else:
            found = inputs[operand] = builder.input(operand.type)
        known[operand] = found
        return found

    results: list[Var] = []
    for equation in group:
        found = builder.emit(equation.primitive, [read(operand) for operand in equation.operands], equation.params)
        known.update(zip(equation.results, found, strict=True))
        if any(user not in members for user in uses.get(equation.results[0], ())):
            results.append(equation.results[0])
    if not results or not inputs or len(group) < LEAST_SHARE * len(results):
        return None
    body = builder.build([known[var] for var in results])
    used = _inputs_used(body)
    operands = [operand for operand, value in inputs.items() if value.operand in used]
    if len(operands) < len(inputs):
        body = Program(tuple([var for var in body.inputs if var in used]), body.equations, body.outputs)
    scratch_bytes = block_bytes(body, threads)
    return Equation(CLUSTER, tuple(operands), {"body": body, "scratch_bytes": scratch_bytes, "layouts": ()}, tuple(results))


def _inputs_used(body: Program) -> set[Operand]:
    return {operand for equation in body.equations for operand in equation.operands} | {*body.outputs}
