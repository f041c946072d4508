"""A program as runnable NumPy text: the readable form of what the executor computes."""

from __future__ import annotations

import ast
import base64
import inspect
import keyword
import math
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from gradwire_core.errors import ArgumentError, GradwireError
from gradwire_core.ops.control import lower
from gradwire_core.program import Equation, Literal, Operand, Param, Program, letters
from gradwire_core.types import Array, Dtype

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
        self.functions: dict[str, _Name] = {}

    def lines(self) -> list[str]:
        """Return the lines of the module."""
        arguments, plain, outputs = self.parts()
        body = [f"        {line}" for line in plain]
        types = ", ".join(map(str, self.program.input_types)), ", ".join(map(str, self.program.output_types))
        parts = [f'"""({types[0]}) -> ({types[1]}), with NumPy alone."""', ""]
        text = "\n".join([*body, *self.kernels.texts, *self.constant_lines])
        parts += [line for line in ("import base64", "from types import SimpleNamespace") if line.split()[-1] in text]
        parts += [f"import {name}" for name in sorted(self.kernels.modules)]
        parts += ["import numpy as np", ""]
        for text in self.kernels.texts:
            parts += ["", text, ""]
        parts += [*self.constant_lines, "", "", f"def program({', '.join(arguments)}):", '    with np.errstate(all="ignore"):']
        return [*parts, *body, f"        return ({', '.join(outputs)}{',' if outputs else ''})", ""]

    def parts(self) -> tuple[list[str], list[str], list[str]]:
        """Return the names of the inputs, the equations as assignments, and the outputs as text."""
        arguments = [self.bind(var) for var in self.program.inputs]
        body = [self.equation_line(equation) for equation in self.program.equations]
        return arguments, body, [f"np.asarray({self.show(output)})" for output in self.program.outputs]

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
            kernel, params = equation.primitive.kernel, dict(equation.params)
            if any(isinstance(value, Program) for value in params.values()):
                kernel, params = lower(equation.primitive.name, params, self.function)
            given = [f"{key}={_show_param(value)}" for key, value in params.items()]
            right = f"{self.kernels.name(kernel)}({', '.join([*operands, *given])})"
        left = ", ".join([self.bind(result) for result in equation.results])
        is_tuple = len(equation.results) == 1 and any(isinstance(value, Program) for value in equation.params.values())
        return f"{left}{',' * is_tuple} = {right}"

    def function(self, program: Program) -> _Name:
        """Add a sub-program as a function of the module, and return its name."""
        found = self.functions.get(program.digest)
        if found is None:
            inner = _Module(program)
            inner.kernels, inner.constants, inner.constant_lines, inner.functions = (
                self.kernels,
                self.constants,
                self.constant_lines,
                self.functions,
            )
            arguments, body, outputs = inner.parts()
            found = self.functions[program.digest] = _Name(f"part_{len(self.functions)}")
            lines = [f"def {found}({', '.join(arguments)}):", *[f"    {line}" for line in body]]
            self.kernels.texts.append("\n".join([*lines, f"    return ({', '.join(outputs)}{',' if outputs else ''})"]))
        return found


class _Name(str):
    """The name of a function of the module, as a param of what calls it."""

    __slots__ = ()
    __repr__ = str.__str__


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
        self.modules: set[str] = set()
        self._names: dict[Any, str] = {}

    def name(self, function: Any) -> str:
        """Return how a kernel is called in the module, with its source added where it is not NumPy's."""
        found = self._names.get(function) or _numpy_name(function)
        if found is not None:
            return found
        if not isinstance(function, FunctionType):
            text = f"numpy_source: needed kernels with a source, got {function!r}; leave out what uses it"
            raise ArgumentError(text, given=function)
        base = "kernel" if function.__name__ == "<lambda>" else function.__name__
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
        if isinstance(value, ModuleType):
            self.modules.add(value.__name__)
            return value.__name__
        if isinstance(value, type) and issubclass(value, GradwireError):
            return "ValueError"
        return self.name(value)


class _Unannotated(ast.NodeTransformer):
    """Removes the types of parameters, results and variables."""

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Remove the type of a parameter."""
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Remove the type of a result."""
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Remove the type of a variable that is assigned."""
        assert node.value is not None
        return ast.Assign([node.target], node.value)


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
            code = function.__code__
            # Compiled by itself, a variable of an outer function is a global one.
            if made.co_varnames == code.co_varnames and {*made.co_names} == {*code.co_names, *code.co_freevars}:
                return node
    text = f"numpy_source: needed the source of {function.__name__}, found none; leave out what uses it"
    raise ArgumentError(text, given=function.__name__)


def _first_line(node: ast.FunctionDef) -> int:
    return min([node.lineno, *[item.lineno for item in node.decorator_list]])
