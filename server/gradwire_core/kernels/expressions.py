"""Elementwise equations of a block as expressions of numexpr, which runs a tree of them in one pass over parts of 1024 elements.

An expression is an equation of the primitive `expression`, which is no part of the language: `text` says what it computes, over
names that are its operands' positions. The text is made of our own templates and integers alone; constants are operands too.
An operation has a template where numexpr's results are NumPy's, on NaN, inf and -0.0 as well, but for units in the last place of
functions: `maximum` may differ in the sign of zero, `tanh` is less accurate, and some float32 functions give float64.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gradwire_core.planner import narrow_operands
from gradwire_core.program import Equation, Operand, Primitive, Program
from gradwire_core.types import Dtype

MOST_OPERATIONS = 48
MOST_OPERANDS = 16
"""An expression has no more, as written: numexpr has 255 registers, and takes 31 operands at most."""
LENGTH = 2**11 - 1
"""With so many elements at most, numexpr runs in the thread that calls it, however many threads of its own it has."""

REAL = (Dtype.FLOAT64, Dtype.FLOAT32)
FUNCTIONS = ("arccos", "arcsin", "arctan", "ceil", "cos", "exp", "expm1", "floor", "log", "log1p", "log2", "sin", "sqrt", "tan")

_LOGISTIC = "exp(-abs({0}))"
_SECH = "exp(-2 * abs({0}))"
TEMPLATES: Mapping[str, str] = {
    "absolute": "abs({0})",
    "add": "({0} + {1})",
    "divide": "({0} / {1})",
    "equal": "({0} == {1})",
    "greater": "({0} > {1})",
    "greater_equal": "({0} >= {1})",
    "isfinite": "isfinite({0})",
    "isnan": "isnan({0})",
    "less": "({0} < {1})",
    "less_equal": "({0} <= {1})",
    "logical_and": "({0} & {1})",
    "logical_not": "(~{0})",
    "logical_or": "({0} | {1})",
    "logical_xor": "({0} ^ {1})",
    "logistic": f"(where({{0}} >= 0, 1, {_LOGISTIC}) / (1 + {_LOGISTIC}))",
    "multiply": "({0} * {1})",
    "negative": "(-{0})",
    "not_equal": "({0} != {1})",
    "power": "({0} ** {1})",
    "reciprocal": "(1 / {0})",
    "sech_squared": f"(4 * {_SECH} / ((1 + {_SECH}) * (1 + {_SECH})))",
    "square": "({0} * {0})",
    "subtract": "({0} - {1})",
    "where": "where({0}, {1}, {2})",
    **{name: f"{name}({{0}})" for name in FUNCTIONS},
}
"""How an operation is written; what `{0}` stands for may be written several times."""
_MASKS = frozenset({"logical_and", "logical_not", "logical_or", "logical_xor"})
ALONE = frozenset({*FUNCTIONS, "logistic", "power", "sech_squared"})
"""Operations that are worth an expression of their own: a call of numexpr takes three times as long as one of a ufunc."""


def is_written(equation: Equation) -> bool:
    """Whether there is a template of an equation, for the types of its operands."""
    name = equation.primitive.name
    if name not in TEMPLATES or not equation.results[0].type.shape:
        return False
    dtypes = [operand.type.dtype for operand in equation.operands]
    if name in _MASKS:
        return set(dtypes) == {Dtype.BOOL}
    return all(dtype in REAL for dtype in (dtypes[1:] if name == "where" else dtypes))


# -- which equations become one --------------------------------------------------------------------------------------------------


def _refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("an expression is made after every transform, and runs where blocks do")


EXPRESSION = Primitive(
    name="expression",
    kernel=_refuse,
    infer=_refuse,
    derivative=_refuse,
    batch=_refuse,
    arity=None,
    params=("text",),
    doc="A tree of elementwise operations, as numexpr reads it.",
    samples=lambda _: (),
    flops=lambda *_, **__: 0.0,
)


@dataclass(frozen=True, eq=False)
class _Tree:
    """An equation whose operands may be trees themselves.

    Attributes:
        equation: what is computed last.
        branches: its operands, or the trees that compute them.
        size: the operations of the text, those that it repeats included.
    """

    equation: Equation
    branches: tuple[Operand | _Tree, ...]
    size: int

    @classmethod
    def of(cls, equation: Equation, branches: Sequence[Operand | _Tree]) -> _Tree:
        """Return the tree of an equation and its branches."""
        template = TEMPLATES[equation.primitive.name]
        counts = [template.count(f"{{{place}}}") for place in range(len(branches))]
        below = sum(count * item.size for count, item in zip(counts, branches, strict=True) if isinstance(item, _Tree))
        return cls(equation, tuple(branches), 1 + below)

    @cached_property
    def leaves(self) -> tuple[Operand, ...]:
        """The operands of the whole tree."""
        found: dict[Operand, None] = {}
        for item in self.branches:
            found.update(dict.fromkeys(item.leaves if isinstance(item, _Tree) else (item,)))
        return tuple(found)

    @property
    def is_too_large(self) -> bool:
        return self.size > MOST_OPERATIONS or len(self.leaves) > MOST_OPERANDS

    def text(self, names: Mapping[Operand, str]) -> str:
        """Return the tree as text; it is not deeper than an expression has operations."""
        written = [item.text(names) if isinstance(item, _Tree) else names[item] for item in self.branches]
        return TEMPLATES[self.equation.primitive.name].format(*written)

    def emit(self) -> Equation:
        """Return the equation of the tree: an expression, or what it is made of where that is one cheap operation."""
        equation = self.equation
        if self.size == 1 and equation.primitive.name not in ALONE:
            return Equation(equation.primitive, self.leaves_in_order, equation.params, equation.results)
        names = {operand: f"x{place}" for place, operand in enumerate(self.leaves)}
        return Equation(EXPRESSION, self.leaves, {"text": self.text(names)}, equation.results)

    @property
    def leaves_in_order(self) -> tuple[Operand, ...]:
        """The operands of a tree of one operation, as often as it takes them."""
        return tuple([item for item in self.branches if not isinstance(item, _Tree)])


def join_expressions(program: Program, given: Collection[str]) -> Program:
    """Return a program with trees of the given operations as expressions; a value that is used twice ends a tree.

    Args:
        program: elementwise equations, and sums.
        given: the names of operations that numexpr is to compute.
    """
    joining = _Joining(program, given)
    return Program(program.inputs, tuple(joining.run()), program.outputs)


class _Joining:
    """Trees that grow from equation to equation, and end where they are too large or something else takes them."""

    def __init__(self, program: Program, given: Collection[str]) -> None:
        self._equations = program.equations
        self._operands = narrow_operands(program)
        self._is_given = [item.primitive.name in given and is_written(item) for item in program.equations]
        self._uses = collections.Counter([operand for operands in self._operands for operand in operands])
        self._uses.update(program.outputs)
        takers = zip(self._operands, self._is_given, strict=True)
        self._kept = {*program.outputs, *[operand for operands, is_given in takers if not is_given for operand in operands]}
        self._growing: dict[Operand, _Tree] = {}

    def run(self) -> Iterator[Equation]:
        """Yield the equations."""
        for equation, operands, is_given in zip(self._equations, self._operands, self._is_given, strict=True):
            if not is_given:
                yield equation
                continue
            tree = _Tree.of(equation, [self._growing.pop(operand, operand) for operand in operands])
            while tree.is_too_large:
                largest = max([item for item in tree.branches if isinstance(item, _Tree)], key=lambda item: item.size)
                yield largest.emit()
                result = largest.equation.results[0]
                tree = _Tree.of(equation, [result if item is largest else item for item in tree.branches])
            result = equation.results[0]
            if self._uses[result] == 1 and result not in self._kept:
                self._growing[result] = tree
            else:
                yield tree.emit()


# -- numexpr -------------------------------------------------------------------------------------------------------------------


def compile_expression(equation: Equation) -> Callable[..., Any]:
    """Return what computes an expression: `run(*operands, out=array, ex_uses_vml=False)`.

    No two threads may call it at a time.
    """
    from numexpr import NumExpr

    kinds = {Dtype.FLOAT64: np.double, Dtype.FLOAT32: float, Dtype.BOOL: bool}
    signature = [(f"x{place}", kinds[operand.type.dtype]) for place, operand in enumerate(equation.operands)]
    made: Callable[..., Any] = NumExpr(equation.params["text"], signature, optimization="none")
    return made


def has_one_thread() -> bool:
    """Whether numexpr computes long arrays in the thread that calls it."""
    from numexpr import get_num_threads

    return bool(get_num_threads() == 1)
