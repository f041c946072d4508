"""Planning: in which order, in which memory and at what cost a program runs. Nothing here touches the numbers of an input.

A plan is pure and prints as a report. Shapes are static, so floating point operations and peak memory are known before anything
runs. Values live in slots, which are used again once a value is dead. An elementwise step reads the source of a broadcast where
NumPy's own broadcasting gives the same, and writes into an operand that dies there where the memory is the plan's own.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gradwire_core.builder import VIEWS
from gradwire_core.einsum import Contraction, lower
from gradwire_core.program import (
    Equation,
    Literal,
    Operand,
    Primitive,
    Program,
    Var,
)
from gradwire_core.structure.strategy import Choice
from gradwire_core.symmetry import is_symmetric
from gradwire_core.types import Array, Shape, TensorType

# Results in memory of their own, of kernels that are not ufuncs; what a primitive absent from both does is not relied on.
OWNERS = frozenset({
    "adjugate", "all", "any", "concatenate", "convert", "det", "embed", "eye", "inv", "logistic", "max", "min", "pad", "prod",
    "scatter_add", "sech_squared", "slogdet", "solve", "sum", "take", "where",
})  # fmt: skip
# Results that share the memory of the first operand.
SHARING = VIEWS | {"barrier"}
# Elementwise kernels that broadcast as ufuncs do.
BROADCASTING = frozenset({"where"})
# Arrays of the size of the result that a kernel holds beside it at most.
SCRATCH = {
    "logistic": 2.0, "sech_squared": 2.0, "inv": 2.0, "solve": 1.0, "adjugate": 5.0, "cholesky": 1.0, "cholesky_tangent": 4.0,
}  # fmt: skip


class Handover(enum.Enum):
    """How an output leaves the plan, so that it is row-major and shares memory with nothing the caller or the plan holds."""

    KEEP = "as it is"
    ORDER = "as it is, or a row-major copy"
    COPY = "a copy"


class Step(NamedTuple):
    """One equation, in slots; a literal is `~index` into the literals of the plan.

    Attributes:
        equation: what is computed.
        operands: where its operands stand.
        results: where its results go.
        target: the position of the operand whose memory the result takes over; -1 where it takes new memory.
        frees: the slots that are empty after it.
        nbytes: the bytes of new memory.
        flops: the floating point operations.
        is_symmetric: whether it is a product of matrices of which one half need be computed (`symmetry.is_symmetric`).
    """

    equation: Equation
    operands: tuple[int, ...]
    results: tuple[int, ...]
    target: int
    frees: tuple[int, ...]
    nbytes: int
    flops: float
    is_symmetric: bool = False


@dataclass(frozen=True, eq=False)
class Plan:
    """How a program runs. Inputs stand in the first slots; printing it gives a report.

    Attributes:
        program: the program.
        steps: what runs, in order.
        literals: the constants that steps and outputs refer to.
        outputs: where each output stands, and how it is handed over.
        slot_count: the number of slots.
        flops: the predicted floating point operations.
        peak_bytes: the most bytes of arrays at one time: inputs, intermediate values and outputs; literals apart.
        reproducible: whether every evaluation must give the same bits.
        choices: how its derivatives are computed, and why, as the report says.
        peak_step: the number of the step that reaches the peak, or the number of steps where handing over outputs does.
        kernels: what runs its clusters now, one after the other; printed, each tells how, as the report says.
    """

    program: Program
    steps: tuple[Step, ...]
    literals: tuple[Array, ...]
    outputs: tuple[tuple[int, Handover], ...]
    slot_count: int
    flops: float
    peak_bytes: int
    reproducible: bool = False
    choices: tuple[Choice, ...] = ()
    peak_step: int = 0
    kernels: Sequence[object] = ()

    @property
    def literal_bytes(self) -> int:
        """The bytes of the constants, which the plan keeps."""
        return sum(array.nbytes for array in self.literals)

    @property
    def report(self) -> str:
        """The plan as text: totals, what runs clusters now, then a row for each step, or the largest arrays of a long plan."""
        return "\n".join(_report(self))

    def __str__(self) -> str:
        return self.report


def plan(program: Program, *, reproducible: bool = False, choices: Sequence[Choice] = ()) -> Plan:
    """Return the plan of a program, in time linear in its equations.

    Args:
        program: what is to run.
        reproducible: whether every evaluation must give the same bits.
        choices: the choices made for its derivatives, for the report.
    """
    return _Planning(program).run(reproducible, tuple(choices))


# -- broadcasts that NumPy does by itself ------------------------------------------------------------------------------------


def narrow_operands(program: Program) -> list[tuple[Operand, ...]]:
    """Return the operands of each equation, with the sources of broadcasts where an elementwise kernel repeats them itself."""
    sources: dict[Operand, Operand] = {}
    narrowed = []
    for equation in program.equations:
        operands, primitive = equation.operands, equation.primitive
        if primitive.name == "broadcast_to":
            sources[equation.results[0]] = sources.get(operands[0], operands[0])
        elif sources and _is_broadcasting(primitive) and len(operands) > 1 and not sources.keys().isdisjoint(operands):
            operands = _narrow(operands, equation.results[0].type.shape, sources)
        narrowed.append(operands)
    return narrowed


def _is_broadcasting(primitive: Primitive) -> bool:
    return primitive.is_elementwise and (isinstance(primitive.kernel, np.ufunc) or primitive.name in BROADCASTING)


def _narrow(operands: tuple[Operand, ...], shape: Shape, sources: dict[Operand, Operand]) -> tuple[Operand, ...]:
    narrow = tuple([sources.get(operand, operand) for operand in operands])
    if np.broadcast_shapes(*[operand.type.shape for operand in narrow]) == shape:
        return narrow
    # One operand must have the full shape; the first broadcast one stays.
    kept = next(place for place, operand in enumerate(operands) if operand in sources)
    return (*narrow[:kept], operands[kept], *narrow[kept + 1 :])


# -- lifetimes, slots and memory -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Buffer:
    """Memory that one or several values share.

    Attributes:
        nbytes: its size.
        is_private: whether it is certainly not the caller's, nor a literal's.
        is_exclusive: whether certainly no value outside it shares its memory.
        source: the buffer it may be a part of, as a reshape that may copy or not.
        users: the number of live values in it.
    """

    nbytes: int
    is_private: bool
    is_exclusive: bool
    source: _Buffer | None = None
    users: int = 0

    @property
    def root(self) -> _Buffer:
        """The buffer that holds the memory, at the end of all reshapes."""
        found = self
        while found.source is not None:
            found = found.source
        return found


class _Home(NamedTuple):
    """Where a value lives."""

    slot: int
    buffer: _Buffer
    is_writable: bool
    is_row_major: bool


@dataclass(slots=True)
class _Planning:
    """The state of planning, which goes over the program once backward and once forward."""

    program: Program
    homes: dict[Operand, _Home] = field(default_factory=dict)
    last_use: dict[Operand, int] = field(default_factory=dict)
    literals: dict[Operand, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    slot_count: int = 0
    live_bytes: int = 0
    peak_bytes: int = 0
    flops: float = 0.0
    costs: dict[object, float] = field(default_factory=dict)
    makers: dict[Operand, Equation] = field(default_factory=dict)
    numbers: _Buffer = field(default_factory=lambda: _Buffer(0, is_private=True, is_exclusive=False))

    def run(self, reproducible: bool, choices: tuple[Choice, ...]) -> Plan:
        operands = narrow_operands(self.program)
        needed = self._find_last_uses(operands)
        for var in self.program.inputs:
            self._settle(var, _Buffer(var.type.nbytes, is_private=False, is_exclusive=False), is_writable=False, is_row_major=True)
        steps, peak_step, peak_bytes = [], 0, self.peak_bytes
        for number in reversed(needed):
            steps.append(self._step(number, operands[number]))
            if self.peak_bytes > peak_bytes:
                peak_step, peak_bytes = len(steps) - 1, self.peak_bytes
        outputs = self._hand_over()
        if self.peak_bytes > peak_bytes:
            peak_step = len(steps)
        literals = tuple(literal.value for literal in self.literals if isinstance(literal, Literal))
        totals = (self.slot_count, self.flops, self.peak_bytes)
        return Plan(self.program, tuple(steps), literals, outputs, *totals, reproducible, choices, peak_step)

    def _find_last_uses(self, operands: Sequence[tuple[Operand, ...]]) -> list[int]:
        """Record where each value is used last, and return the numbers of the equations that are needed, last first."""
        last_use, end = self.last_use, len(operands)
        for output in self.program.outputs:
            last_use[output] = end
        for var in self.program.inputs:
            last_use[var] = end
        needed = []
        for number in range(end - 1, -1, -1):
            results = self.program.equations[number].results
            if (results[0] in last_use) if len(results) == 1 else any(result in last_use for result in results):
                needed.append(number)
                for operand in operands[number]:
                    last_use.setdefault(operand, number)
        return needed

    def _step(self, number: int, operands: tuple[Operand, ...]) -> Step:
        equation, last_use, homes = self.program.equations[number], self.last_use, self.homes
        dying: list[Operand] = [operand for operand in operands if last_use[operand] == number and type(operand) is Var]
        if len(dying) > 1:
            dying = list(dict.fromkeys(dying))
        slots = tuple([homes[operand].slot if type(operand) is Var else self._locate(operand) for operand in operands])
        if equation.primitive.name == "einsum" and is_symmetric(equation, self._find_makers()):
            return self._symmetric_step(equation, operands, slots, dying)
        flops = self._count_flops(equation)
        heir = self._find_heir(equation, dying) if dying else None
        if heir is None:
            return self._allocating_step(equation, operands, slots, dying, flops)
        place = operands.index(heir)
        homes[equation.results[0]] = homes.pop(heir)
        frees = tuple([self._leave(operand) for operand in dying if operand is not heir])
        self.free += frees
        return Step(equation, slots, (slots[place],), place if heir.type.shape else -1, frees, 0, flops)

    def _find_makers(self) -> dict[Operand, Equation]:
        """Return the equations that make values."""
        if not self.makers:
            self.makers.update({result: equation for equation in self.program.equations for result in equation.results})
        return self.makers

    def _symmetric_step(
        self, equation: Equation, operands: tuple[Operand, ...], slots: tuple[int, ...], dying: list[Operand]
    ) -> Step:
        flops = _lower(equation, symmetric=True).flops
        self.flops += flops
        return self._allocating_step(equation, operands, slots, dying, flops)._replace(is_symmetric=True)

    def _allocating_step(
        self, equation: Equation, operands: tuple[Operand, ...], slots: tuple[int, ...], dying: list[Operand], flops: float
    ) -> Step:
        """Return the step of an equation whose results take new memory, or are views."""
        homes, before = self.homes, self.live_bytes
        self.free += [homes[operand].slot for operand in reversed(dying)]
        self._settle_results(equation, operands)
        nbytes = self.live_bytes - before
        self.peak_bytes = max(self.peak_bytes, self.live_bytes + _scratch_bytes(equation, nbytes))
        results = tuple([homes[result].slot for result in equation.results])
        unused = [result for result in equation.results if result not in self.last_use]
        self.free += [homes[result].slot for result in unused]
        kept = results if not unused else [homes[result].slot for result in equation.results if result not in unused]
        freed = dict.fromkeys([self._leave(operand) for operand in (*dying, *unused)])
        return Step(equation, slots, results, -1, tuple([slot for slot in freed if slot not in kept]), nbytes, flops)

    def _count_flops(self, equation: Equation) -> float:
        """Return the flops of an equation; those of an elementwise one are counted once for its primitive and type."""
        primitive = equation.primitive
        key = (primitive, id(equation.operands[0].type)) if primitive.is_elementwise else None
        found = self.costs.get(key)
        if found is None:
            found = float(primitive.flops(*[operand.type for operand in equation.operands], **equation.params))
            if key is not None:
                self.costs[key] = found
        self.flops += found
        return found

    def _locate(self, operand: Operand) -> int:
        if isinstance(operand, Literal):
            return ~self.literals.setdefault(operand, len(self.literals))
        return self.homes[operand].slot

    def _find_heir(self, equation: Equation, dying: list[Operand]) -> Operand | None:
        """Return a dying operand whose home the result can take over; of numbers that is the slot alone."""
        type = equation.results[0].type
        if not isinstance(equation.primitive.kernel, np.ufunc) or len(equation.results) > 1:
            return None
        for operand in dying:
            if operand.type is type or operand.type == type:
                home = self.homes[operand]
                if home.buffer is self.numbers or (home.is_writable and home.buffer.is_exclusive and home.buffer.users == 1):
                    return operand
        return None

    def _settle(self, var: Var, buffer: _Buffer, *, is_writable: bool, is_row_major: bool) -> None:
        """Give a value a slot and its share of a buffer."""
        if self.free:
            slot = self.free.pop()
        else:
            slot = self.slot_count
            self.slot_count += 1
        if not buffer.users:
            self.live_bytes += buffer.nbytes
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        buffer.users += 1
        self.homes[var] = _Home(slot, buffer, is_writable, is_row_major)

    def _settle_results(self, equation: Equation, operands: tuple[Operand, ...]) -> None:
        name, kernel = equation.primitive.name, equation.primitive.kernel
        first = self.homes.get(operands[0]) if operands else None
        if _is_view(equation):
            self._settle_view(equation, first)
            return
        is_owned = isinstance(kernel, np.ufunc) or name in OWNERS or name in ("batch", "cluster", "einsum")
        if not is_owned:
            self._distrust(operands)
        in_order = [self.homes[item].is_row_major for item in operands if item in self.homes and item.type.ndim > 1]
        is_row_major = any(in_order) or not in_order or not equation.primitive.is_elementwise
        is_row_major = is_row_major and not equation.params.get("layouts")
        for result in equation.results:
            if is_owned and not result.type.shape:  # numbers share nothing, and their memory is not worth counting
                self._settle(result, self.numbers, is_writable=False, is_row_major=True)
                continue
            buffer = _Buffer(result.type.nbytes, is_private=is_owned, is_exclusive=is_owned)
            self._settle(result, buffer, is_writable=is_owned, is_row_major=is_row_major)

    def _settle_view(self, equation: Equation, first: _Home | None) -> None:
        """Settle a result that shares the memory of the first operand (None: a literal)."""
        name, (result,) = equation.primitive.name, equation.results
        if first is None:
            self._settle(result, _Buffer(0, is_private=False, is_exclusive=False), is_writable=False, is_row_major=False)
        elif first.buffer is self.numbers or (name == "reshape" and not first.is_row_major):
            # NumPy may have to copy: both are counted, and neither is written to.
            first.buffer.is_exclusive = False
            buffer = _Buffer(result.type.nbytes, first.buffer.is_private, is_exclusive=False, source=first.buffer)
            self._settle(result, buffer, is_writable=False, is_row_major=True)
        else:
            is_row_major = first.is_row_major and (name == "reshape" or _is_leading_window(equation))
            self._settle(result, first.buffer, is_writable=first.is_writable and name != "broadcast_to", is_row_major=is_row_major)

    def _distrust(self, operands: tuple[Operand, ...]) -> None:
        """Note that a result may share memory with the operands."""
        for operand in operands:
            if operand in self.homes:
                self.homes[operand].buffer.is_exclusive = False

    def _leave(self, operand: Operand) -> int:
        """Forget a value, and return the slot it had."""
        home = self.homes.pop(operand)
        buffer = home.buffer
        buffer.users -= 1
        if not buffer.users:
            self.live_bytes -= buffer.nbytes
        return home.slot

    def _hand_over(self) -> tuple[tuple[int, Handover], ...]:
        outputs: list[tuple[int, Handover]] = []
        taken: set[int] = set()
        extra = 0
        for operand in self.program.outputs:
            home = self.homes.get(operand)
            how = _handover(operand.type, home, taken)
            if home is not None:
                taken.add(id(home.buffer.root))
            is_copied = how is Handover.COPY or (how is Handover.ORDER and home is not None and not home.is_row_major)
            extra += operand.type.nbytes if is_copied else 0
            outputs.append((self._locate(operand), how))
        self.peak_bytes = max(self.peak_bytes, self.live_bytes + extra)
        return tuple(outputs)


def _is_leading_window(equation: Equation) -> bool:
    """Whether an equation takes neighbouring elements along the first axis alone, so that they stay row-major."""
    if equation.primitive.name != "slice":
        return False
    starts, stops, steps = (equation.params[key] for key in ("starts", "stops", "steps"))
    assert isinstance(starts, tuple)
    assert isinstance(stops, tuple)
    assert isinstance(steps, tuple)
    return not any(starts[1:]) and stops[1:] == equation.operands[0].type.shape[1:] and set(steps) <= {1}


def _is_view(equation: Equation) -> bool:
    name = equation.primitive.name
    if name == "einsum":
        return len(equation.operands) == 1 and equation.results[0].type.size == equation.operands[0].type.size
    return name in SHARING


def _lower(equation: Equation, *, symmetric: bool) -> Contraction:
    subscripts = equation.params["subscripts"]
    assert isinstance(subscripts, str)
    return lower(subscripts, tuple(operand.type.shape for operand in equation.operands), symmetric=symmetric)


def _scratch_bytes(equation: Equation, nbytes: int) -> int:
    if equation.primitive.name == "einsum":
        return _lower(equation, symmetric=False).scratch * equation.results[0].type.dtype.numpy.itemsize
    declared = equation.params.get("scratch_bytes")
    if isinstance(declared, int):
        return declared
    return int(SCRATCH.get(equation.primitive.name, 0.0) * nbytes)


def _handover(type: TensorType, home: _Home | None, taken: Collection[int]) -> Handover:
    if home is None or not home.buffer.is_private:
        return Handover.COPY
    if id(home.buffer.root) in taken or not type.shape:
        return Handover.COPY
    if home.buffer.source is not None:
        return Handover.ORDER
    # A broadcast has elements that share memory; a window would keep all of its source alive.
    if not home.is_writable or home.buffer.nbytes != type.nbytes:
        return Handover.COPY
    return Handover.KEEP if type.ndim < 2 and home.is_row_major else Handover.ORDER


# -- the report ----------------------------------------------------------------------------------------------------------------

ROWS = 40
LARGEST = 10


def _report(found: Plan) -> list[str]:
    program = found.program
    inputs = sum(type.nbytes for type in program.input_types)
    outputs = sum(type.nbytes for type in program.output_types)
    lines = [
        f"plan of {len(found.steps)} steps for {program!r}",
        f"  flops        {found.flops:.3g}",
        f"  peak memory  {show_bytes(found.peak_bytes)}, of which inputs {show_bytes(inputs)}, outputs {show_bytes(outputs)}",
        f"  constants    {show_bytes(found.literal_bytes)}",
        f"  slots        {found.slot_count}",
        *[f"  strategy     {choice}" for choice in found.choices],
        *[f"  kernel       {kernel}" for kernel in found.kernels],
    ]
    steps = list(enumerate(found.steps))
    if len(steps) > ROWS:
        steps = sorted(steps, key=lambda item: (-item[1].nbytes, item[0]))[:LARGEST]
        lines.append(f"  the {LARGEST} steps that take most memory:")
    lines.append(f"  {'step':>6}  {'primitive':<16} {'result':<28} {'flops':>10} {'new memory':>12}  where")
    lines += [_row(number, step) for number, step in steps]
    return lines


def _row(number: int, step: Step) -> str:
    types = ", ".join(str(result.type) for result in step.equation.results)
    where = " ".join(f"s{slot}" for slot in step.results)
    where += f" (over operand {step.target})" if step.target >= 0 else ""
    memory = show_bytes(step.nbytes) if step.nbytes else "-"
    return f"  {number:>6}  {step.equation.primitive.name:<16} {types:<28} {step.flops:>10.3g} {memory:>12}  {where}"


def show_bytes(count: float) -> str:
    """Return a number of bytes as text, in binary units."""
    if count < 1024:
        return f"{count:.0f} B"
    power = min(int(math.log(count, 1024)), 4)
    return f"{count / 1024**power:.3g} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"
