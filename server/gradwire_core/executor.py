"""Execution: a plan becomes straight-line Python over NumPy calls, once; running it is those calls and little else.

The source is made of our own templates and integer names alone: no text of a program enters it. A long plan is cut into chunks over
a list of slots; at first a loop runs them, and each further call compiles one, so that a program that runs a few times never waits
for the compiler. Threads may share an executor: nothing that a call computes is kept.
"""

from __future__ import annotations

import ast
import base64
import functools
import inspect
import keyword
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from gradwire_core.einsum import compiled
from gradwire_core.errors import ArgumentError
from gradwire_core.planner import Handover, Plan, Step
from gradwire_core.program import Equation, Literal, Operand, Param, Params, Program, letters
from gradwire_core.types import Array, Dtype, TensorType

Kernel = Callable[..., Any]

# Up to this many steps a plan is compiled to one function at once; a longer one is cut into chunks.
STRAIGHT = 1000
CHUNK = 500


class Executor:
    """Runs a plan.

    Args:
        plan: what to run.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        run = _compile_straight(plan) if len(plan.steps) <= STRAIGHT else _Chunks(plan).run
        self._run = np.errstate(all="ignore")(run)

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """Return the outputs for the inputs, which must have the types of the program.

        Outputs are row-major, and share no memory with each other, with an input or with the plan, but for those planned as
        shareable. NaN and inf are results, and no warning is given.

        Raises:
            ArgumentError: an index is out of range.
        """
        try:
            return self._run(*arrays)  # type: ignore[no-any-return]
        except IndexError as error:
            text = f"take: needed indices within their axis, got one outside ({error}); correct the index"
            raise ArgumentError(text, given=error) from error


# -- kernels with their params bound -------------------------------------------------------------------------------------------


def _bind_transpose(params: Params) -> Kernel:
    axes = params["axes"]
    return lambda x: x.transpose(axes)


def _bind_reshape(params: Params) -> Kernel:
    shape = params["shape"]
    return lambda x: x.reshape(shape)


def _bind_sum(params: Params) -> Kernel:
    axes, add = params["axes"], np.add.reduce
    return lambda x: add(x, axes, x.dtype)


def _bind_slice(params: Params) -> Kernel:
    starts, stops, steps = params["starts"], params["stops"], params["steps"]
    index = tuple(map(slice, starts, stops, steps))  # type: ignore[arg-type]  # tuples of integers
    return lambda x: x[index]


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


def bind(equation: Equation) -> Kernel:
    """Return the kernel of an equation as a function of its operands alone."""
    primitive, params = equation.primitive, equation.params
    if _is_scalar(equation):
        return SCALAR_OPERATORS[primitive.name][0]
    if primitive.name == "einsum":
        subscripts = params["subscripts"]
        assert isinstance(subscripts, str)
        return compiled(subscripts, tuple(operand.type.shape for operand in equation.operands))
    binding = BINDINGS.get(primitive.name)
    if binding is not None:
        return binding(params)
    return functools.partial(primitive.kernel, **params) if params else primitive.kernel


def _is_scalar(equation: Equation) -> bool:
    """Whether an operator of Python computes an equation."""
    return equation.primitive.name in SCALAR_OPERATORS and _is_number(equation.operands[0].type)


def _is_number(type: TensorType) -> bool:
    return not type.shape and type.dtype in (Dtype.FLOAT64, Dtype.FLOAT32)


class _Kernels:
    """The bound kernels of a plan: equal ones are bound once."""

    def __init__(self) -> None:
        self.bound: list[Kernel] = []
        self._numbers: dict[Any, int] = {}

    def number(self, step: Step) -> int:
        """Return the number of the kernel of a step."""
        equation = step.equation
        primitive, params = equation.primitive, equation.params
        key: Any = primitive
        if params:
            shapes = tuple([operand.type.shape for operand in equation.operands]) if primitive.name == "einsum" else ()
            key = (primitive, tuple(params.items()), shapes)
        elif _is_scalar(equation):
            key = primitive.name
        elif step.target >= 0 and primitive.kernel in KEYWORD_OUT:
            key = KEYWORD_OUT[primitive.kernel]
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.bound)
            self.bound.append(key if callable(key) else bind(equation))
        return found


# -- source --------------------------------------------------------------------------------------------------------------------


def _lines(steps: Iterable[Step], name: Callable[[int], str], kernels: _Kernels) -> list[str]:
    """Return the statements that run steps and empty slots; `name` says how a slot is written."""
    lines = []
    for step in steps:
        operands = [name(slot) for slot in step.operands]
        if _is_scalar(step.equation):
            right = SCALAR_OPERATORS[step.equation.primitive.name][1].format(*operands)
        else:
            if step.target >= 0:
                operands.append(operands[step.target])
            right = f"k{kernels.number(step)}({', '.join(operands)})"
        left = ", ".join([name(slot) for slot in step.results])
        lines.append(f"{left} = {right}")
        if step.frees:
            lines.append(" = ".join([*map(name, step.frees), "None"]))
    return lines


def _make(arguments: str, lines: Sequence[str], bound: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the function of the given arguments and statements, in which the names of `bound` are bound."""
    body = "\n        ".join([f"    def run({arguments}):", *lines])
    source = f"def make({', '.join(bound)}):\n{body}\n    return run"
    scope: dict[str, Any] = {}
    exec(compile(source, "<plan>", "exec"), scope)  # noqa: S102  # our own templates and integer names
    made: Callable[..., Any] = scope["make"](*bound.values())
    return made


def _local(slot: int) -> str:
    return f"v{slot}" if slot >= 0 else f"c{~slot}"


def _compile_straight(plan: Plan) -> Callable[..., tuple[Array, ...]]:
    """Return the plan as one function."""
    kernels = _Kernels()
    lines = [f"{_local(slot)} = {_local(slot)}[()]" for slot, type in enumerate(plan.program.input_types) if _is_number(type)]
    lines += _lines(plan.steps, _local, kernels)
    results = [_handed_over(_local(slot), finish) for slot, finish in _finishes(plan)]
    lines.append(f"return ({', '.join(results)}{',' if results else ''})")
    bound: dict[str, Any] = {f"k{index}": kernel for index, kernel in enumerate(kernels.bound)}
    bound |= {f"c{index}": literal for index, literal in enumerate(_scalars(plan.literals))}
    arguments = ", ".join(map(_local, range(len(plan.program.inputs))))
    return _make(arguments, lines, bound | FINISHES)


# -- long plans ----------------------------------------------------------------------------------------------------------------


class _Chunks:
    """A long plan, over a list that holds inputs, other slots and literals."""

    def __init__(self, plan: Plan) -> None:
        self._kernels = _Kernels()
        self._numbers = [place for place, type in enumerate(plan.program.input_types) if _is_number(type)]
        self._literals = _scalars(plan.literals)
        self._slot_count = plan.slot_count
        self._spare = [None] * (plan.slot_count - len(plan.program.inputs))
        self._finishes = [(self._place(slot), FINISHES[finish]) for slot, finish in _finishes(plan)]
        steps = plan.steps
        tapes = [steps[start : start + CHUNK] for start in range(0, len(steps), CHUNK)]
        self._chunks = [functools.partial(_play, self._tape(tape)) for tape in tapes]
        self._waiting = tapes
        self._calls = 0

    def run(self, *arrays: Array) -> tuple[Array, ...]:
        """Return the outputs for the inputs."""
        slots: list[Any] = [*arrays, *self._spare, *self._literals]
        for place in self._numbers:
            slots[place] = slots[place][()]
        for chunk in self._chunks:
            chunk(slots)
        if self._calls <= len(self._chunks):
            self._compile_next()
        return tuple([finish(slots[place]) for place, finish in self._finishes])

    def _compile_next(self) -> None:
        """Compile one chunk more, from the second call on; two threads may compile the same one, with the same result."""
        number = self._calls - 1
        self._calls += 1
        if 0 <= number < len(self._chunks):
            bound = {f"k{index}": kernel for index, kernel in enumerate(self._kernels.bound)}
            lines = _lines(self._waiting[number], lambda slot: f"s[{self._place(slot)}]", self._kernels)
            self._chunks[number] = _make("s", lines, bound)
            self._waiting[number] = ()

    def _place(self, slot: int) -> int:
        return slot if slot >= 0 else self._slot_count + ~slot

    def _tape(self, steps: Sequence[Step]) -> list[_Row]:
        bound, number, place = self._kernels.bound, self._kernels.number, self._place
        rows = []
        for step in steps:
            index = number(step)
            operands = [place(slot) for slot in step.operands]
            if step.target >= 0:
                operands.append(operands[step.target])
            rows.append((bound[index], operands, step.results, step.frees))
        return rows


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


# -- outputs -------------------------------------------------------------------------------------------------------------------


def _ordered(array: Array) -> Array:
    return array if array.flags.c_contiguous else array.copy()


def _copied(array: Array) -> Array:
    return np.array(array, order="C")


def _kept(array: Array) -> Array:
    return array


FINISHES: Mapping[str, Callable[[Any], Array]] = {"array": np.asarray, "copy": _copied, "keep": _kept, "order": _ordered}


HANDOVERS: Mapping[Handover, str] = {
    Handover.KEEP: "keep",
    Handover.ORDER: "order",
    Handover.COPY: "copy",
    Handover.SHARE: "array",
}


def _finishes(plan: Plan) -> list[tuple[int, str]]:
    """Return, for each output, where it stands and the name of what hands it over."""
    return [(slot, HANDOVERS[how]) for slot, how in plan.outputs]


def _handed_over(name: str, finish: str) -> str:
    return name if finish == "keep" else f"{finish}({name})"


# -- readable source -----------------------------------------------------------------------------------------------------------

READABLE: Mapping[str, Callable[..., str]] = {
    "add": lambda x, y: f"{x} + {y}",
    "all": lambda x, *, axes: f"np.all({x}, axis={axes})",
    "any": lambda x, *, axes: f"np.any({x}, axis={axes})",
    "concatenate": lambda *operands, axis: f"np.concatenate([{', '.join(operands)}], axis={axis})",
    "convert": lambda x, *, dtype: f"{x}.astype(np.{dtype})",
    "divide": lambda x, y: f"{x} / {y}",
    "einsum": lambda *operands, subscripts: f"np.einsum({subscripts!r}, {', '.join(operands)}, optimize=True)",
    "eye": lambda *, rows, columns, dtype: f"np.eye({rows}, {columns}, dtype=np.{dtype})",
    "flip": lambda x, *, axes: f"np.flip({x}, {axes})",
    "max": lambda x, *, axes: f"np.max({x}, axis={axes})",
    "min": lambda x, *, axes: f"np.min({x}, axis={axes})",
    "multiply": lambda x, y: f"{x} * {y}",
    "negative": lambda x: f"-{x}",
    "prod": lambda x, *, axes: f"np.multiply.reduce({x}, axis={axes}, dtype={x}.dtype)",
    "slice": lambda x, *, starts, stops, steps: f"{x}[{_slices(starts, stops, steps)}]",
    "subtract": lambda x, y: f"{x} - {y}",
    "sum": lambda x, *, axes: f"np.add.reduce({x}, axis={axes}, dtype={x}.dtype)",
    "transpose": lambda x, *, axes: f"np.transpose({x}, {axes})",
}
SHORT = 16


def numpy_source(program: Program) -> str:
    """Return the text of a Python module that computes a program with NumPy alone, by its function `program`.

    The function takes the inputs and returns a tuple of the outputs. It computes as the executor does, but for the order of sums
    in contractions.

    Raises:
        ArgumentError: a primitive has no source.
    """
    return "\n".join(_Module(program).lines())


class _Module:
    """The text of a program: the kernels that are not NumPy's, the constants, the function."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.kernels = _KernelSources()
        self.constants: dict[Operand, str] = {}
        self.constant_lines: list[str] = []
        self.names: dict[Operand, str] = {}

    def lines(self) -> list[str]:
        """Return the lines of the module."""
        arguments = [self.bind(var) for var in self.program.inputs]
        body = [f"        {self.equation_line(equation)}" for equation in self.program.equations]
        outputs = [f"np.asarray({self.show(output)})" for output in self.program.outputs]
        types = ", ".join(map(str, self.program.input_types)), ", ".join(map(str, self.program.output_types))
        parts = [f'"""({types[0]}) -> ({types[1]}), with NumPy alone."""', ""]
        text = "\n".join([*body, *self.constant_lines])
        parts += [line for line in ("import base64", "from types import SimpleNamespace") if line.split()[-1] in text]
        parts += ["import numpy as np", ""]
        for text in self.kernels.texts:
            parts += ["", text, ""]
        parts += [*self.constant_lines, "", "", f"def program({', '.join(arguments)}):", '    with np.errstate(all="ignore"):']
        return [*parts, *body, f"        return ({', '.join(outputs)}{',' if outputs else ''})", ""]

    def bind(self, var: Operand) -> str:
        """Name a value."""
        name = letters(len(self.names))
        self.names[var] = f"{name}_" if keyword.iskeyword(name) or name == "np" else name
        return self.names[var]

    def show(self, operand: Operand) -> str:
        """Return a value or a constant as text."""
        if not isinstance(operand, Literal):
            return self.names[operand]
        if operand.type.ndim == 0:
            return _show_number(operand)
        found = self.constants.get(operand)
        if found is None:
            found = self.constants[operand] = f"c{len(self.constants)}"
            self.constant_lines.append(f"{found} = {_show_array(operand.value)}")
        return found

    def equation_line(self, equation: Equation) -> str:
        """Return an equation as an assignment."""
        operands = [self.show(operand) for operand in equation.operands]
        readable = READABLE.get(equation.primitive.name)
        if readable is not None:
            right = readable(*operands, **equation.params)
        else:
            given = [f"{key}={_show_param(value)}" for key, value in equation.params.items()]
            right = f"{self.kernels.name(equation.primitive.kernel)}({', '.join([*operands, *given])})"
        left = ", ".join([self.bind(result) for result in equation.results])
        return f"{left} = {right}"


def _slices(starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]) -> str:
    return ", ".join(f"{start}:{stop}:{step}" for start, stop, step in zip(starts, stops, steps, strict=True)) or "()"


def _show_number(literal: Literal) -> str:
    item = literal.value.item()
    text = f'"{item}"' if isinstance(item, float) and not math.isfinite(item) else repr(item)
    return _show_array(literal.value) if isinstance(item, complex) else f"np.{literal.value.dtype.name}({text})"


def _show_array(array: Array) -> str:
    is_finite = array.dtype.kind in "ib" or (array.dtype.kind == "f" and bool(np.isfinite(array).all()))
    if is_finite and array.size <= SHORT and array.ndim < 2:
        return f"np.array({array.tolist()}, dtype=np.{array.dtype.name})"
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    coded = base64.b64encode(little.tobytes()).decode("ascii")
    return f'np.frombuffer(base64.b64decode("{coded}"), dtype="{little.dtype.str}").reshape({array.shape})'


def _show_param(value: Param) -> str:
    if isinstance(value, Dtype):
        return f'SimpleNamespace(numpy=np.dtype("{value}"))'
    if isinstance(value, tuple):
        return f"({', '.join(map(_show_param, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


class _KernelSources:
    """The sources of kernels that are Python functions, each with the functions it calls."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._names: dict[Any, str] = {}

    def name(self, function: Any) -> str:
        """Return how a kernel is called in the module, with its source added where it is not NumPy's."""
        found = self._names.get(function) or _numpy_name(function)
        if found is not None:
            return found
        if not isinstance(function, FunctionType):
            text = f"numpy_source: needed kernels with a source, got {function!r}; leave out what uses it"
            raise ArgumentError(text, given=function)
        base = function.__name__.strip("<>")
        taken = set(self._names.values())
        found = next(name for name in (base, *(f"{base}_{count}" for count in range(1, 1000))) if name not in taken)
        self._names[function] = found
        self.texts.append(self._source(function, found))
        return found

    def _source(self, function: FunctionType, name: str) -> str:
        node = _Unannotated().visit(_definition(function))
        named = {item.id for item in ast.walk(node) if isinstance(item, ast.Name)} - {*function.__code__.co_varnames}
        used = {item: function.__globals__[item] for item in sorted(named & function.__globals__.keys())}
        cells = function.__closure__ or ()
        used |= {item: cell.cell_contents for item, cell in zip(function.__code__.co_freevars, cells, strict=True)}
        texts = {item: self._constant(value) for item, value in used.items() if value is not np}
        changed = _Renaming(texts).visit(node)
        if isinstance(changed, ast.Lambda):
            changed = ast.Assign([ast.Name(name, ast.Store())], changed)
        else:
            changed.name = name
        return ast.unparse(ast.fix_missing_locations(changed))

    def _constant(self, value: Any) -> str:
        if isinstance(value, (bool, int, float, str)):
            return repr(value)
        return self.name(value)


class _Unannotated(ast.NodeTransformer):
    """Removes the types of parameters and results."""

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Remove the type of a parameter."""
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Remove the type of a result."""
        node.returns = None
        return self.generic_visit(node)


class _Renaming(ast.NodeTransformer):
    """Replaces names by expressions."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Replace one name."""
        text = self.texts.get(node.id)
        return node if text is None or not isinstance(node.ctx, ast.Load) else ast.parse(text, mode="eval").body


def _numpy_name(function: Any) -> str | None:
    """Return the public name of a function of NumPy; None for others."""
    name = getattr(function, "__name__", "")
    for prefix, module in (("np", np), ("np.linalg", np.linalg)):
        if getattr(module, name, None) is function:
            return f"{prefix}.{name}"
    return None


def _definition(function: FunctionType) -> ast.Lambda | ast.FunctionDef:
    """Return the syntax tree of a function, found in its module by its line and its code."""
    lines = inspect.getsource(inspect.getmodule(function) or function)
    start = function.__code__.co_firstlineno
    for node in ast.walk(ast.parse(lines)):
        if isinstance(node, ast.FunctionDef) and node.name == function.__name__ and _first_line(node) == start:
            node.decorator_list = []
            return node
        if isinstance(node, ast.Lambda) and node.lineno == start and function.__name__ == "<lambda>":
            made = compile(ast.Expression(node), "", "eval").co_consts[0]
            if made.co_varnames == function.__code__.co_varnames and made.co_names == function.__code__.co_names:
                return node
    text = f"numpy_source: needed the source of {function.__name__}, found none; leave out what uses it"
    raise ArgumentError(text, given=function.__name__)


def _first_line(node: ast.FunctionDef) -> int:
    return min([node.lineno, *[item.lineno for item in node.decorator_list]])
