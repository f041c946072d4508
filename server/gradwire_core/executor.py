"""Execution: a plan becomes straight-line Python over NumPy calls, once; running it is those calls and little else.

The source is made of our own templates and integer names alone: no text of a program enters it. A long plan is cut into chunks over
a list of slots; at first a loop runs them, and each further call compiles some, so a program that runs a few times never waits
for the compiler. Threads may share an executor: nothing that a call computes is kept.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from gradwire_core.einsum import compiled
from gradwire_core.errors import ArgumentError
from gradwire_core.kernels.batches import BATCH, bind_batch
from gradwire_core.kernels.blocks import Blocks
from gradwire_core.kernels.choice import Chooser
from gradwire_core.kernels.chunks import Chunk, Chunks
from gradwire_core.kernels.cluster import CLUSTER, plan_clustered
from gradwire_core.kernels.contest import Contest, Make, Settle
from gradwire_core.kernels.floats import Floats
from gradwire_core.kernels.fusion import is_promising
from gradwire_core.kernels.numbers import MACHINE, Numbers
from gradwire_core.kernels.rooms import NO_ROOM, Places, Room, find_rooms
from gradwire_core.kernels.source import make_function
from gradwire_core.kernels.tape import Tape, expand, is_worthwhile
from gradwire_core.kernels.warming import Fused, Native, layout_of
from gradwire_core.native.nest import Layout
from gradwire_core.native.tier import Tier
from gradwire_core.ops.control import lower
from gradwire_core.passes import run_passes
from gradwire_core.planner import Handover, Plan, Step
from gradwire_core.program import Equation, Operand, Params, Program
from gradwire_core.types import Array, Dtype, TensorType

Kernel = Callable[..., Any]
Runner = Callable[..., tuple[Array, ...]]

# Up to this many steps a plan is compiled to one function at once; a longer one is cut into chunks.
STRAIGHT = 1000
CHUNK = 500


class Executor:
    """Runs a plan.

    Args:
        plan: what to run.
        tier: compiles what runs long; not for plans that must give the same bits every time.
        chooser: chooses what runs clusters before that, for the same plans; without one, NumPy does, on the thread that calls.

    Attributes:
        plan: the plan, whose report tells what runs its clusters.
        rooms: the numbers of the outputs that may be computed in memory that the caller gives.
    """

    def __init__(self, plan: Plan, tier: Tier | None = None, chooser: Chooser | None = None) -> None:
        kernels = _Kernels() if plan.reproducible else _Kernels(tier, chooser)
        self._room = Room()
        places = itertools.chain(*_find_rooms(plan).values())
        self.rooms = frozenset(number for number in places if number is not None)
        self._run: Runner = _compile(plan, kernels, self._settle, self._room)
        self._kernels: list[object] = [*kernels.clusters]
        self.plan = dataclasses.replace(plan, kernels=self._kernels)

    def run_into(self, room: Mapping[int, Array], *arrays: Array) -> tuple[Array, ...]:
        """Return the outputs for the inputs, some of them computed in memory that is given.

        Args:
            room: row-major arrays by the numbers of outputs, of their types. An output that is one of them was computed there; of
                what stands in the others nothing is known.
            arrays: the inputs.

        Raises:
            ArgumentError: an index is out of range.
        """
        self._room.arrays = room
        try:
            return self(*arrays)
        finally:
            self._room.arrays = NO_ROOM

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """Return the outputs for the inputs, which must have the types of the program.

        Outputs are row-major, and share no memory with each other, with an input or with the plan. NaN and inf are results, and no
        warning is given.

        Raises:
            ArgumentError: an index is out of range.
        """
        try:
            return self._run(*arrays)
        except IndexError as error:
            text = f"take: needed indices within their axis, got one outside ({error}); correct the index"
            raise ArgumentError(text, given=error) from error

    def _settle(self, run: Runner, kernels: Sequence[object] | None) -> None:
        """Have what was found to be the fastest run from now on, and the report tell its kernels, where these are others."""
        self._run = run
        if kernels is not None:
            self._kernels[:] = kernels


# -- kernels with their params bound -------------------------------------------------------------------------------------------


def _bind_transpose(params: Params) -> Kernel:
    axes = params["axes"]
    return lambda x: x.transpose(axes)


def _bind_reshape(params: Params) -> Kernel:
    shape = params["shape"]
    return lambda x: x.reshape(shape)


def _bind_sum(params: Params) -> Kernel:
    axes: Any = params["axes"]
    add = np.add.reduce
    return lambda x: add(x, axes, x.dtype)


def _bind_slice(params: Params) -> Kernel:
    starts, stops, steps = params["starts"], params["stops"], params["steps"]
    index = tuple(map(slice, starts, stops, steps))  # type: ignore[arg-type]  # tuples of integers
    return lambda x: x[index]


def _bind_programs(equation: Equation, tier: Tier | None) -> Kernel:
    """Return what runs an equation whose sub-programs are planned and compiled."""
    function, given = lower(equation.primitive.name, equation.params, lambda program: _compile_whole(run_passes(program), tier))
    run = functools.partial(function, **given)
    return run if len(equation.results) != 1 else lambda *operands: run(*operands)[0]


BINDINGS: Mapping[str, Callable[[Params], Kernel]] = {
    "reshape": _bind_reshape,
    "slice": _bind_slice,
    "sum": _bind_sum,
    "transpose": _bind_transpose,
}

# Real numbers are computed by Python's operators on NumPy scalars, with the same bits at a tenth of the price.
SCALAR_OPERATORS: Mapping[str, tuple[Kernel, str]] = {
    "add": (operator.add, "{} + {}"),
    "divide": (operator.truediv, "{} / {}"),
    "greater": (operator.gt, "{} > {}"),
    "greater_equal": (operator.ge, "{} >= {}"),
    "less": (operator.lt, "{} < {}"),
    "less_equal": (operator.le, "{} <= {}"),
    "multiply": (operator.mul, "{} * {}"),
    "negative": (operator.neg, "-{}"),
    "subtract": (operator.sub, "{} - {}"),
}


# These two ufuncs take the memory of their result by keyword only.
KEYWORD_OUT: Mapping[Kernel, Kernel] = {
    np.maximum: lambda x, y, out: np.maximum(x, y, out=out),
    np.minimum: lambda x, y, out: np.minimum(x, y, out=out),
}


def bind(equation: Equation, *, symmetric: bool = False, tier: Tier | None = None) -> Kernel:
    """Return the kernel of an equation as a function of its operands alone.

    Args:
        equation: what is computed.
        symmetric: as a step of a plan says.
        tier: compiles clusters here and now; None: NumPy computes them.
    """
    primitive, params = equation.primitive, equation.params
    if _is_scalar(equation):
        return SCALAR_OPERATORS[primitive.name][0]
    if primitive.name == "einsum":
        subscripts = params["subscripts"]
        assert isinstance(subscripts, str)
        return compiled(subscripts, tuple(operand.type.shape for operand in equation.operands), symmetric=symmetric)
    if primitive is BATCH:
        return _bind_batch(equation, tier)
    binding = BINDINGS.get(primitive.name)
    if binding is not None:
        return binding(params)
    if any(isinstance(value, Program) for value in params.values()):
        return _bind_programs(equation, tier)
    return functools.partial(primitive.kernel, **params) if params else primitive.kernel


def _bind_batch(equation: Equation, tier: Tier | None) -> Kernel:
    """Return the kernel of a batch, until the tier has compiled it."""
    columns = bind_batch(equation)
    return columns if tier is None else tier.take_over_samples(columns.samples, columns)


def _is_scalar(equation: Equation) -> bool:
    """Whether an operator of Python computes an equation."""
    return equation.primitive.name in SCALAR_OPERATORS and _is_number(equation.operands[0].type)


def _is_number(type: TensorType) -> bool:
    return not type.shape and type.dtype in (Dtype.FLOAT64, Dtype.FLOAT32)


def bind_cluster(equation: Equation, chooser: Chooser | None = None) -> Kernel:
    """Return the kernel of a cluster: what the chooser says."""
    body = equation.params["body"]
    assert isinstance(body, Program)
    return Blocks(body) if chooser is None else chooser.kernel(body)


class _Kernels:
    """The bound kernels of a plan: equal ones are bound once.

    Args:
        tier: compiles what runs long.
        chooser: chooses what runs clusters.
        is_native: whether the tier compiles them, here and now.

    Attributes:
        tier: compiles what runs long.
        bound: the kernels.
        clusters: those of clusters; printed, they tell what runs.
    """

    def __init__(self, tier: Tier | None = None, chooser: Chooser | None = None, *, is_native: bool = False) -> None:
        self.tier = tier
        self._chooser = chooser
        self._is_native = is_native
        self.bound: list[Kernel] = []
        self.clusters: list[Kernel] = []
        self._numbers: dict[Any, int] = {}

    def number(self, step: Step) -> int:
        """Return the number of the kernel of a step."""
        equation = step.equation
        primitive, params = equation.primitive, equation.params
        key: Any = primitive
        if params:
            shapes = tuple([operand.type.shape for operand in equation.operands]) if primitive.name == "einsum" else ()
            key = (primitive, tuple(params.items()), shapes, len(equation.results), step.is_symmetric)
        elif _is_scalar(equation):
            key = primitive.name
        elif step.target >= 0 and primitive.kernel in KEYWORD_OUT:
            key = KEYWORD_OUT[primitive.kernel]
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.bound)
            self.bound.append(key if callable(key) else self._bind(step))
        return found

    def _bind(self, step: Step) -> Kernel:
        if step.equation.primitive is not CLUSTER:
            return bind(step.equation, symmetric=step.is_symmetric, tier=self.tier)
        if self.tier is not None and self._is_native:
            return Native(step.equation, self.tier)
        self.clusters.append(bind_cluster(step.equation, self._chooser))
        return self.clusters[-1]


NO_ROOMS: Mapping[int, Places] = MappingProxyType({})


def _find_rooms(plan: Plan) -> Mapping[int, Places]:
    """Return the steps that take the memory of outputs, where one function runs all of them."""
    return find_rooms(plan) if len(plan.steps) <= STRAIGHT else NO_ROOMS


# -- source --------------------------------------------------------------------------------------------------------------------


def _lines(
    steps: Iterable[Step], name: Callable[[int], str], kernels: _Kernels, rooms: Mapping[int, Places] = NO_ROOMS
) -> list[str]:
    """Return the statements that run steps and empty slots; `name` says how a slot is written, `rooms` is of `_find_rooms`."""
    lines = []
    for number, step in enumerate(steps):
        operands = [name(slot) for slot in step.operands]
        if _is_scalar(step.equation):
            right = SCALAR_OPERATORS[step.equation.primitive.name][1].format(*operands)
        else:
            if step.target >= 0:
                operands.append(operands[step.target])
            if number in rooms:
                operands.append(f"out=room({rooms[number]})")
            right = f"k{kernels.number(step)}({', '.join(operands)})"
        left = ", ".join([name(slot) for slot in step.results])
        lines.append(f"{left} = {right}")
        if step.frees:
            lines.append(" = ".join([*map(name, step.frees), "None"]))
    return lines


def _compile(plan: Plan, kernels: _Kernels, settle: Settle | None = None, room: Room | None = None) -> Runner:
    """Return a plan as a function of its inputs.

    Args:
        plan: what to run.
        kernels: binds its kernels, and knows what compiles them where they run long.
        settle: is given what to call from then on, and its kernels; None for a program that another one calls, which gives no
            warnings.
        room: the memory that a caller gives for outputs.
    """
    program, tier = plan.program, kernels.tier
    tape = expand(program)
    if tape is not None:
        return run_tape(tape, lambda: plan, tier, settle)
    run = _compile_steps(plan, kernels, room)
    if settle is not None:
        run = np.errstate(all="ignore")(run)
    if tier is None:
        return run
    if settle is not None and is_promising(program):
        return Contest(tier, run, functools.partial(_watch_for_loops, plan, run, kernels, room), settle)
    if is_worthwhile(program, MACHINE):
        return Contest(tier, run, _watching(run, lambda: _make_numbers(tier, expand(program, MACHINE))), settle)
    return run


def run_tape(tape: Tape, make_plan: Callable[[], Plan], tier: Tier | None, settle: Settle | None = None) -> Runner:
    """Return a tape as a function of its inputs; its plan is asked for where NumPy has to compute what floats refuse."""
    floats = Floats(tape, lambda: _compile_steps(make_plan()))
    return floats if tier is None else Contest(tier, floats, _watching(floats, lambda: _make_numbers(tier, tape)), settle)


def _watching(run: Runner, make: Make) -> Callable[..., tuple[tuple[Array, ...], Make]]:
    return lambda *arrays: (run(*arrays), make)


def _make_numbers(tier: Tier, tape: Tape | None) -> Numbers | None:
    return None if tape is None else Numbers.of(tape, tier.compile_text)


def _compile_native(tier: Tier, room: Room | None, plan: Plan) -> Runner:
    """Return a plan as a function of its inputs, with clusters that a tier compiles here and now."""
    return np.errstate(all="ignore")(_compile_steps(plan, _Kernels(tier, is_native=True), room))


def _compile_whole(program: Program, tier: Tier | None) -> Runner:
    """Return a program that another one calls as a function of its inputs."""
    return _compile(plan_clustered(program), _Kernels(tier))


def _compile_steps(plan: Plan, kernels: _Kernels | None = None, room: Room | None = None) -> Runner:
    """Return the steps of a plan as a function of its inputs."""
    kernels = kernels or _Kernels()
    return _compile_straight(plan, kernels, room) if len(plan.steps) <= STRAIGHT else _Chunks(plan, kernels).run


def _local(slot: int) -> str:
    return f"v{slot}" if slot >= 0 else f"c{~slot}"


def _compile_straight(plan: Plan, kernels: _Kernels, room: Room | None) -> Callable[..., tuple[Array, ...]]:
    """Return the plan as one function."""
    rooms = NO_ROOMS if room is None else _find_rooms(plan)
    lines = [f"{_local(slot)} = {_local(slot)}[()]" for slot, type in enumerate(plan.program.input_types) if _is_number(type)]
    lines += _lines(plan.steps, _local, kernels, rooms)
    results = [_handed_over(_local(slot), finish) for slot, finish in _finishes(plan)]
    lines.append(f"return ({', '.join(results)}{',' if results else ''})")
    bound: dict[str, Any] = {f"k{index}": kernel for index, kernel in enumerate(kernels.bound)}
    bound |= {f"c{index}": literal for index, literal in enumerate(_scalars(plan.literals))}
    if room is not None:
        bound["room"] = room.give
    arguments = ", ".join(map(_local, range(len(plan.program.inputs))))
    return make_function(arguments, lines, {**bound, **FINISHES})


# -- long plans ----------------------------------------------------------------------------------------------------------------


class _Chunks(Chunks[Step]):
    """A long plan, over a list that holds inputs, other slots and literals."""

    def __init__(self, plan: Plan, kernels: _Kernels) -> None:
        self._kernels = kernels
        self._numbers = [place for place, type in enumerate(plan.program.input_types) if _is_number(type)]
        self._literals = _scalars(plan.literals)
        self._slot_count = plan.slot_count
        self._spare = [None] * (plan.slot_count - len(plan.program.inputs))
        self._finishes = [(self._place(slot), FINISHES[finish]) for slot, finish in _finishes(plan)]
        steps = plan.steps
        super().__init__([steps[start : start + CHUNK] for start in range(0, len(steps), CHUNK)])

    def run(self, *arrays: Array) -> tuple[Array, ...]:
        """Return the outputs for the inputs."""
        slots: list[Any] = [*arrays, *self._spare, *self._literals]
        for place in self._numbers:
            slots[place] = slots[place][()]
        self._run_all(slots)
        return tuple([finish(slots[place]) for place, finish in self._finishes])

    def _place(self, slot: int) -> int:
        return slot if slot >= 0 else self._slot_count + ~slot

    def _interpret(self, part: Sequence[Step]) -> Chunk:
        bound, number, place = self._kernels.bound, self._kernels.number, self._place
        rows: list[_Row] = []
        for step in part:
            index = number(step)
            operands = [place(slot) for slot in step.operands]
            if step.target >= 0:
                operands.append(operands[step.target])
            rows.append((bound[index], operands, step.results, step.frees))
        return functools.partial(_play, rows)

    def _write(self, part: Sequence[Step]) -> Chunk:
        bound = {f"k{index}": kernel for index, kernel in enumerate(self._kernels.bound)}
        lines = _lines(part, lambda slot: f"s[{self._place(slot)}]", self._kernels)
        return make_function("s", lines, bound)


_Row = tuple[Kernel, list[int], tuple[int, ...], tuple[int, ...]]


def _play(rows: list[_Row], slots: list[Any]) -> None:
    """Run steps one by one."""
    for kernel, operands, results, frees in rows:
        found = kernel(*[slots[place] for place in operands])
        if len(results) == 1:
            slots[results[0]] = found
        else:
            for place, result in zip(results, found, strict=True):
                slots[place] = result
        for place in frees:
            slots[place] = None


def _scalars(literals: Sequence[Array]) -> list[Any]:
    """Return constants, numbers as NumPy scalars, on which Python's operators are fast."""
    return [array[()] if _is_number(TensorType.of(array)) else array for array in literals]


# -- step by step ---------------------------------------------------------------------------------------------------------------


@np.errstate(all="ignore")
def _watch(plan: Plan, kernels: _Kernels, room: Room | None, *arrays: Array) -> tuple[tuple[Array, ...], dict[Operand, Layout]]:
    """Return the outputs of a plan for the inputs, and how its values lie in memory, of those that are not row-major."""
    rooms = NO_ROOMS if room is None else _find_rooms(plan)
    layouts: dict[Operand, Layout] = {
        var: layout_of(array) for var, array in zip(plan.program.inputs, arrays, strict=True) if not array.flags.c_contiguous
    }
    slots: dict[int, Any] = dict(enumerate(_scalars(arrays)))
    slots.update((~index, literal) for index, literal in enumerate(_scalars(plan.literals)))
    del arrays
    for number, step in enumerate(plan.steps):
        operands = [slots[slot] for slot in (*step.operands, *([step.operands[step.target]] if step.target >= 0 else []))]
        given = {"out": room.give(rooms[number])} if room is not None and number in rooms else {}
        made = kernels.bound[kernels.number(step)](*operands, **given)
        results = made if len(step.results) > 1 else [made]
        slots.update(zip(step.results, results, strict=True))
        found = zip(step.equation.results, results, strict=True)
        layouts.update((var, layout_of(array)) for var, array in found if var.type.ndim > 1 and not array.flags.c_contiguous)
        slots.update(dict.fromkeys(step.frees))
        del operands, given, made, results, found
    return tuple([FINISHES[finish](slots[slot]) for slot, finish in _finishes(plan)]), layouts


def _watch_for_loops(
    plan: Plan, run: Runner, kernels: _Kernels, room: Room | None, *arrays: Array
) -> tuple[tuple[Array, ...], Make]:
    """Return the outputs of a plan for the inputs, and what makes it with compiled loops, for arrays that lie as these do."""
    tier = kernels.tier
    assert tier is not None
    outputs, layouts = _watch(plan, kernels, room, *arrays)
    build = functools.partial(_compile_native, tier, room)
    return outputs, lambda: Fused.of(plan, run, layouts, tier, build)


# -- outputs -------------------------------------------------------------------------------------------------------------------


def _ordered(array: Array) -> Array:
    return array if array.flags.c_contiguous else array.copy()


def _copied(array: Array) -> Array:
    return np.array(array, order="C")


def _kept(array: Array) -> Array:
    return array


FINISHES: Mapping[str, Callable[[Any], Array]] = {"copy": _copied, "keep": _kept, "order": _ordered}


HANDOVERS: Mapping[Handover, str] = {
    Handover.KEEP: "keep",
    Handover.ORDER: "order",
    Handover.COPY: "copy",
}


def _finishes(plan: Plan) -> list[tuple[int, str]]:
    """Return, for each output, where it stands and the name of what hands it over."""
    return [(slot, HANDOVERS[how]) for slot, how in plan.outputs]


def _handed_over(name: str, finish: str) -> str:
    return name if finish == "keep" else f"{finish}({name})"
