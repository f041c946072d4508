"""Clusters for a tier that compiles loops: smaller, and with more in them, than those that NumPy runs block by block.

Elementwise equations over one space become one equation of the primitive `cluster`, with the sums of their results, and with the
slices, pads, concatenations and broadcasts that they read through. A product of a vector and a matrix that is made only for it is
such a sum. What is cheap to compute again is, wherever it is read: so a gradient of slices needs no memory in between. A cluster
is made only where its loops are predicted to take less time than NumPy's calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gradwire_core.builder import Builder, Value
from gradwire_core.kernels.cluster import CLUSTER, MOST_GROWTH
from gradwire_core.native.loops import scratch_bytes
from gradwire_core.native.nest import Layout, Layouts, Nest, NotWrittenError, Sum, exponent_of, is_move, sum_of
from gradwire_core.native.templates import element_ns, find_template
from gradwire_core.passes import prune
from gradwire_core.passes.loops import ordered
from gradwire_core.planner import Plan, plan
from gradwire_core.program import Equation, Literal, Operand, Params, Program, Var
from gradwire_core.types import Dtype, Shape

LEAST_ELEMENTS = 128
"""Smaller arrays take part in no cluster."""
MOST_AGAIN = 24
"""So many equations are computed again at most where a window of their result is read."""
MOST_MOVES = 8
"""So many moves are read through at most."""
MOST_OPERANDS = 64
MOST_MORE_BYTES = 2**19
"""So much more memory than was promised a program may take, and a little in proportion."""
MOST_RAISED = 32
"""So many equations are computed later than they could be, for one that takes their results alone."""

# Predicted nanoseconds: ratios are what counts. NumPy's loops call libm for each element; arrays go through memory.
_CALL_NS, _LOOPS_NS, _OPERAND_NS = 450.0, 900.0, 300.0
_NUMPY_NS: Mapping[str, float] = {
    "exp": 5.0, "expm1": 12.0, "log": 5.5, "log1p": 9.0, "sin": 10.0, "cos": 10.0, "tanh": 3.0, "sech_squared": 10.0,
    "logistic": 9.0, "erf": 10.0, "power": 15.0, "divide": 0.8, "reciprocal": 0.8, "sqrt": 0.9, "where": 1.0, "pad": 1.0,
    "concatenate": 0.5, "broadcast_to": 0.0, "slice": 0.0, "einsum": 0.2, "reshape": 0.0,
    "zeros_outside": 0.4,
}  # fmt: skip
_OTHER_NS, _MOVED_NS, _GAIN = 0.4, 0.1, 0.85


def is_promising(program: Program) -> bool:
    """Whether a program may have clusters."""
    return any(item.primitive is CLUSTER or (item.primitive.is_elementwise and _is_large(item)) for item in program.equations)


def _is_large(equation: Equation) -> bool:
    type = equation.results[0].type
    return type.size >= LEAST_ELEMENTS and type.dtype in (Dtype.FLOAT64, Dtype.BOOL)


def plan_fused(given: Plan, layouts: Mapping[Operand, Layout]) -> Plan | None:
    """Return the plan of the same program with its clusters; None where it gains nothing or would take more memory.

    Args:
        given: the plan.
        layouts: the axes of values, from the outermost in memory to the innermost, of those that are not row-major.
    """
    program, known = _opened(given.program)
    layouts = {known[operand].operand: layout for operand, layout in layouts.items() if operand in known}
    fused = fuse(program, layouts)
    if fused is program:
        return None
    found = plan(fused, choices=given.choices)
    return found if found.peak_bytes <= given.peak_bytes * MOST_GROWTH + MOST_MORE_BYTES else None


def _opened(program: Program) -> tuple[Program, dict[Operand, Value]]:
    """Return the program with the equations of its clusters in their place, and its values by those of the program."""
    builder = Builder()
    known: dict[Operand, Value] = {var: builder.input(var.type) for var in program.inputs}
    for equation in program.equations:
        if equation.primitive is CLUSTER:
            body = equation.params["body"]
            assert isinstance(body, Program)
            found = builder.inline(body, [builder.resolve(operand, known) for operand in equation.operands])
            known.update(zip(equation.results, found, strict=True))
        else:
            builder.inline_equations([equation], known)
    return builder.build([builder.resolve(output, known) for output in program.outputs]), known


def _count_uses(program: Program) -> dict[Operand, int]:
    found: dict[Operand, int] = {}
    for operand in (operand for equation in program.equations for operand in equation.operands):
        found[operand] = found.get(operand, 0) + 1
    for output in program.outputs:
        found[output] = found.get(output, 0) + 1
    return found


# -- which equations become one --------------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Group:
    """Equations over one space that may become one.

    Attributes:
        shape: the space.
        outputs: what others take of it.
        computed: what it computes for them.
    """

    shape: Shape
    outputs: dict[Var, None] = field(default_factory=dict)
    computed: dict[Var, None] = field(default_factory=dict)


def fuse(program: Program, layouts: Mapping[Operand, Layout]) -> Program:
    """Return the program with its clusters as equations; itself where there are none."""
    found = _Fusion(program, layouts)
    merged: dict[Equation, Equation] = {}
    for group in found.needed():
        whole = found.merge(group)
        if whole is not None:
            merged.update(dict.fromkeys([found.makers[var] for var in group.computed], whole))
    return prune(Program(program.inputs, ordered(program, merged), program.outputs)) if merged else program


class _Fusion:
    """The groups of a program.

    The level of a value is that of its highest operand, and one more where a member's result leaves its group. So a path that
    leaves a group never comes back to it. What is made for one member alone is as late as that.
    """

    def __init__(self, program: Program, layouts: Mapping[Operand, Layout]) -> None:
        self._program = program
        self._layouts = layouts
        self.makers: dict[Operand, Equation] = {result: item for item in program.equations for result in item.results}
        self._uses = _count_uses(program)
        self._levels: dict[Operand, int] = {}
        self._members: dict[Operand, Shape] = {}  # results of members, and sums of them, and the space of each
        self._ends: dict[Operand, Sum] = {}  # those that are sums
        self._again: dict[Operand, int] = {}  # how many equations compute a value from what no member makes
        for equation in program.equations:
            self._place(equation)
        self._groups = self._join()

    def _place(self, equation: Equation) -> None:
        """Find the level of an equation, and whether it is a member."""
        operands, (result, *others) = equation.operands, equation.results
        is_member = not others and self._is_member(equation)
        end = None if others or is_member else self._find_end(equation)
        shape = result.type.shape if is_member else end.operand.type.shape if end is not None else None
        level = 0
        for operand in operands:
            stays = shape is not None and self._members.get(operand) == shape and operand not in self._ends
            level = max(level, self._levels.get(operand, 0) + (operand in self._members and not stays))
        if shape is not None:
            self._members[result] = shape
            if end is not None:
                self._ends[result] = end
            self._again[result] = self._count_again(equation) if is_member else MOST_AGAIN + 1
            self._raise(equation, shape, level)
        elif is_move(equation):
            again = sum(self._again.get(operand, 0) for operand in operands)
            self._again[result] = min(again, MOST_AGAIN + 1)
        if level:
            self._levels.update(dict.fromkeys(equation.results, level))

    def _is_member(self, equation: Equation) -> bool:
        is_written = find_template(equation, exponent_of(equation, self.makers)) is not None
        return is_written and _is_large(equation) and all(operand.type.size for operand in equation.operands)

    def _find_end(self, equation: Equation) -> Sum | None:
        """Return what an equation adds up, if that is what a member makes, and for a product makes for it alone."""
        found = sum_of(equation)
        if found is None or found.operand not in self._members or found.operand in self._ends:
            return None
        return found if found.factor is None or self._uses[found.operand] == 1 else None

    def _raise(self, equation: Equation, shape: Shape, level: int) -> None:
        """Give what is made for one equation alone its level."""
        pending, count = [equation], 0
        while pending and count < MOST_RAISED:
            count += 1
            for operand in pending.pop().operands:
                is_own = self._members.get(operand) == shape and self._uses[operand] == 1 and operand not in self._ends
                if is_own and self._levels.get(operand, 0) < level:
                    self._levels[operand] = level
                    pending.append(self.makers[operand])

    def _count_again(self, equation: Equation) -> int:
        """Return how many equations compute a result again from what no member makes; more than `MOST_AGAIN` where one is dear."""
        if element_ns(equation.primitive.name) > element_ns("add"):
            return MOST_AGAIN + 1
        return min(1 + sum(self._again.get(operand, 0) for operand in equation.operands), MOST_AGAIN + 1)

    def _source(self, operand: Operand) -> Operand:
        """Return what is moved to give an operand; itself where nothing is, or several values are."""
        maker = self.makers.get(operand)
        count = 0
        while maker is not None and is_move(maker) and len(maker.operands) == 1 and count < MOST_MOVES:
            operand, count = maker.operands[0], count + 1
            maker = self.makers.get(operand)
        return operand

    def _join(self) -> dict[Operand, _Group]:
        """Return the group of each member's result: one for members that take what another makes or takes."""
        roots: dict[object, object] = {}

        def find(item: object) -> object:
            while roots.setdefault(item, item) != item:
                roots[item] = item = roots[roots[item]]
            return item

        for result, shape in self._members.items():
            equation, level = self.makers[result], self._levels.get(result, 0)
            if result in self._ends:
                level = self._levels.get(self._ends[result].operand, 0)
            own = find((result, shape, level))
            for operand in equation.operands:
                source = self._source(operand)
                if (
                    source.type.size > 1
                    and not isinstance(source, Literal)
                    and (source not in self._members or self._levels.get(source, 0) <= level)
                ):
                    key = (source, shape, level)
                    roots[find(key)] = own
            roots[own] = own
        groups: dict[object, _Group] = {}
        found: dict[Operand, _Group] = {}
        for result, shape in self._members.items():
            level = self._levels.get(self._ends[result].operand if result in self._ends else result, 0)
            found[result] = groups.setdefault(find((result, shape, level)), _Group(shape))
        return found

    # -- what is needed --

    def needed(self) -> list[_Group]:
        """Return the groups of which something is needed, with what."""
        pending: list[tuple[Operand, _Group | None]] = [(output, None) for output in self._program.outputs]
        seen = set(pending)
        while pending:
            operand, reader = pending.pop()
            for item in self._needs(operand, reader):
                if item not in seen:
                    seen.add(item)
                    pending.append(item)
        return list(dict.fromkeys(group for group in self._groups.values() if group.outputs))

    def _needs(self, operand: Operand, reader: _Group | None) -> Iterator[tuple[Operand, _Group | None]]:
        """Yield what a value needs that is read by a group, or by others."""
        maker, group = self.makers.get(operand), self._groups.get(operand)
        if maker is None:
            return
        if reader is None and group is not None:
            group.outputs[operand] = None  # type: ignore[index]  # what is made is no literal
            yield operand, group
            return
        if reader is not None and reader is group:
            reader.computed[operand] = None  # type: ignore[index]
        for item in maker.operands:
            yield item, self._reader_of(item, reader)

    def _reader_of(self, operand: Operand, reader: _Group | None) -> _Group | None:
        """Return the group that an operand of what a group computes is computed in: that group, or None where it is an input."""
        if reader is None:
            return None
        maker = self.makers.get(operand)
        if maker is None or (self._groups.get(operand) is reader and operand not in self._ends):
            return reader
        is_read_through = is_move(maker) if operand not in self._members else self._again[operand] <= MOST_AGAIN
        return reader if is_read_through else None

    # -- the equation of a group --

    def merge(self, group: _Group) -> Equation | None:
        """Return one equation with all outputs of a group; None where it would gain nothing."""
        builder, known = Builder(), dict[Operand, Value]()
        inputs: dict[Operand, Value] = {}
        for output in group.outputs:
            self._build(builder, group, output, known, inputs)
        if not 0 < len(inputs) <= MOST_OPERANDS:
            return None
        whole = builder.build([known[output] for output in group.outputs])
        used = {operand for equation in whole.equations for operand in equation.operands}
        operands = [operand for operand, value in inputs.items() if value.operand in used]
        body = Program(tuple(filter(used.__contains__, whole.inputs)), whole.equations, whole.outputs)
        layouts = self._layouts_of(group, operands)
        try:
            nest = Nest(body, layouts)
        except NotWrittenError:
            return None
        if _loops_ns(nest) > _GAIN * self._numpy_ns(group):
            return None
        params: Params = {"body": body, "scratch_bytes": scratch_bytes(nest), "layouts": layouts}
        return Equation(CLUSTER, tuple(operands), params, tuple(group.outputs))

    def _layouts_of(self, group: _Group, operands: Sequence[Operand]) -> Layouts:
        """Return the layouts of a cluster: NumPy's kernels, too, keep the order that their operands have in memory."""
        found = (self._order(group), *[self._layout(operand) for operand in operands])
        return found if any(layout != tuple(range(len(layout))) for layout in found) else ()

    def _order(self, group: _Group) -> Layout:
        wholes: list[Operand] = [output for output in group.outputs if output not in self._ends]
        wholes += [operand for output in group.outputs for operand in self.makers[output].operands]
        found = [self._layouts[item] for item in wholes if item in self._layouts and item.type.shape == group.shape]
        return found[0] if found else tuple(range(len(group.shape)))

    def _layout(self, operand: Operand) -> Layout:
        group = self._groups.get(operand)
        if group is None or operand not in group.outputs or operand in self._ends:
            return self._layouts.get(operand, tuple(range(operand.type.ndim)))
        return self._order(group)

    def _build(
        self, builder: Builder, group: _Group, output: Operand, known: dict[Operand, Value], inputs: dict[Operand, Value]
    ) -> None:
        """Write what computes an output."""
        pending: list[Operand] = [output]
        while pending:
            operand = pending[-1]
            maker = self.makers.get(operand)
            if operand in known:
                pending.pop()
            elif isinstance(operand, Literal) and operand.type.size == 1:
                known[operand] = builder.literal(operand.value)
            elif maker is None or (operand != output and self._reader_of(operand, group) is None):
                known[operand] = inputs[operand] = builder.input(operand.type)
            else:
                missing = [item for item in maker.operands if item not in known]
                pending += missing
                if not missing:
                    found = builder.emit(maker.primitive, [known[item] for item in maker.operands], maker.params)
                    known.update(zip(maker.results, found, strict=True))

    def _numpy_ns(self, group: _Group) -> float:
        """Return the predicted nanoseconds of NumPy's calls, for all that a group reads through and computes again as well."""
        total = 0.0
        pending: list[Operand] = list(group.computed)
        seen = set(pending)
        for var in pending:
            maker = self.makers[var]
            total += _equation_ns(maker, group.shape if var in group.computed else var.type.shape)
            for operand in maker.operands:
                if operand not in seen and operand in self.makers and self._reader_of(operand, group) is not None:
                    seen.add(operand)
                    pending.append(operand)
        return total


def _equation_ns(equation: Equation, shape: Shape) -> float:
    return _CALL_NS + _NUMPY_NS.get(equation.primitive.name, _OTHER_NS) * math.prod(shape)


def _loops_ns(nest: Nest) -> float:
    """Return the predicted nanoseconds of a call of compiled loops."""
    total = _LOOPS_NS + _OPERAND_NS * (len(nest.arrays) + len(nest.numbers) / 2 + len(nest.cluster.outputs))
    for region in nest.regions:
        each = 0.0
        for node in region.nodes:
            each += element_ns(node.primitive) if node.template is not None else _MOVED_NS if node.kind == "load" else 0.0
        total += region.size * (each + _MOVED_NS * len(region.stores))
    return total
