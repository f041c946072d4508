"""Functions from text: `from_expression("log(sin(x)) * y")`. The text is parsed, never run.

An `Expression` is a list of steps, each a function of what arguments and earlier steps gave. It is a function like any other, and
is traced like any other. The text is Python's grammar cut down to what this file lists; `gradwire._names` lists what can be called.
"""

from __future__ import annotations

import ast
import functools
import inspect
import keyword
import math
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradwire import numpy as own_numpy
from gradwire._names import find_known, known_functions, nearest, plain_name
from gradwire_core.builder import Value
from gradwire_core.errors import ArgumentError, GradwireError, UnknownPrimitiveError

TEXT_LIMIT = 100_000
WIDTH = 100  # of the text that an error shows
NAME_WIDTH = 40
EXACT_LIMIT = 2**53
CONSTANTS = {"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan}
NUMBERS = frozenset({int, float, complex, bool})


class Step(NamedTuple):
    """A function, and the numbers of its operands: the arguments of the expression count first, then the steps before.

    Attributes:
        function: what is called.
        operands: the numbers of its operands.
        keywords: the names of the last operands.
        place: where it stands in the text, from and to.
    """

    function: Callable[..., Any]
    operands: tuple[int, ...] = ()
    keywords: tuple[str, ...] = ()
    place: tuple[int, int] = (0, 0)


class Expression:
    """A function of named arguments, made of steps; the last step gives its result.

    Attributes:
        text: what it was written as.
        names: its arguments, in order.
        steps: the steps.
    """

    def __init__(self, text: str, names: Sequence[str], steps: Sequence[Step]) -> None:
        self.text = text
        self.names = tuple(names)
        self.steps = tuple(steps)
        self.__name__ = text if len(text) <= NAME_WIDTH else f"{text[: NAME_WIDTH - 3]}..."
        self.__doc__ = f"{text}, a function of {', '.join(names) or 'nothing'}."
        self.__signature__ = inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute it, of arrays or traced arrays, given in order or by name.

        Raises:
            ArgumentError: arguments are missing or too many, or a function does not take what it is given.
        """
        try:
            bound = self.__signature__.bind(*args, **kwargs)
        except TypeError as error:
            needed = ", ".join(self.names) or "no arguments"
            raise ArgumentError(f"{self.__name__}: needed {needed}, got others ({error}); pass exactly those") from None
        found = [bound.arguments[name] for name in self.names]
        with np.errstate(all="ignore"):
            for step in self.steps:
                found.append(self._take(step, [found[number] for number in step.operands]))
        return found[-1]

    def _take(self, step: Step, operands: list[Any]) -> Any:
        count = len(operands) - len(step.keywords)
        try:
            return step.function(*operands[:count], **dict(zip(step.keywords, operands[count:], strict=True)))
        except GradwireError as error:
            if step.place[1] and not getattr(error, "__notes__", None):
                error.add_note(show(self.text, step.place))
            raise
        except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
            where = f"\n{show(self.text, step.place)}" if step.place[1] else ""
            text = f"{self.__name__}: needed operands that each function takes, got others ({error}); correct them{where}"
            raise ArgumentError(text, given=error) from error

    def __repr__(self) -> str:
        return f"<{self.__name__} of {', '.join(self.names) or 'nothing'}>"


def from_expression(text: str, /, *names: str) -> Expression:
    """Return the function that a text in Python's notation describes. The text is parsed, never run.

    There are numbers, `+ - * / // % @ **`, comparisons, `and or not`, `a if c else b` (the same as `where(c, a, b)`), vectors and
    matrices by `[a, b]`, indexing, the constants `pi`, `e`, `inf` and `nan`, and calls of the functions that gradwire traces:
    those of NumPy by their plain names, of scipy.special, of `linalg.` and of `fft.`. Every other name is an argument.

    Args:
        text: the expression.
        names: the arguments, in order; by default those of the text, as they first appear.

    Returns:
        A function of the arguments, for every transform.

    Raises:
        ArgumentError: the text is no such expression; the message shows where.
        UnknownPrimitiveError: it calls a function that gradwire does not know; the message names the nearest.

    Example:
        >>> import gradwire as gw
        >>> f = gw.from_expression("x**2 * sin(y)")
        >>> gw.grad(f, (0, 1))(3.0, 0.0)
        (array(0.), array(9.))
        >>> gw.grad(gw.from_expression("x**2 * y", "y", "x"))(5.0, 3.0)
        array(9.)
    """
    if type(text) is not str:
        raise ArgumentError(f"from_expression: needed text, got {type(text).__name__}; write the expression as text", given=text)
    for name in names:
        if type(name) is not str or not name.isidentifier() or keyword.iskeyword(name) or names.count(name) > 1:
            raise ArgumentError(f"from_expression: needed names of arguments, each once, got {name!r}; correct it", given=name)
    return _parse(" ".join(text.splitlines()).replace("\t", " ").strip(), names)


def same(x: Any) -> Any:
    """Return what is given."""
    return x


# -- errors --------------------------------------------------------------------------------------------------------------------


def show(text: str, place: tuple[int, int]) -> str:
    """Return a text with carets under a place of it; of a long text, what stands around the place."""
    start, stop = place
    first = max(0, min(start - WIDTH // 2, len(text) - WIDTH))
    shown = text[first : first + WIDTH]
    width = max(1, min(stop, first + len(shown)) - start)
    return f"  {shown}\n  {' ' * (start - first)}{'^' * width}"


def refusal(text: str, place: tuple[int, int], needed: str, given: str, advice: str) -> ArgumentError:
    """Return the error of a text that is refused at a place."""
    message = f"from_expression: needed {needed}, got {given}; {advice}\n{show(text, place)}"
    return ArgumentError(message, needed=needed, given=given, position=place[0])


# -- parsing -------------------------------------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """How a node is computed: from which nodes, in the order of the text, by what."""

    nodes: Sequence[ast.expr]
    function: Callable[..., Any]
    keywords: tuple[str, ...] = ()


@functools.lru_cache(maxsize=512)
def _parse(text: str, names: tuple[str, ...]) -> Expression:
    return _Parser(text, names).run()


class _Parser:
    """One text on its way to steps; a stack instead of recursion."""

    def __init__(self, text: str, names: tuple[str, ...]) -> None:
        self.text = text
        self.names = names
        self._bytes = text.encode("utf-8", "surrogatepass")
        self._seen: list[str] = []
        self._steps: list[tuple[_Plan, tuple[int, ...], tuple[int, int]]] = []
        self._loads: list[str | int] = []

    def run(self) -> Expression:
        """Return the expression; what stands first in the text is computed first."""
        root = self._tree()
        stack: list[tuple[ast.expr, _Plan | None]] = [(root, None)]
        results: list[str | int] = []  # the name of an argument, or the number of a step
        plans: list[tuple[_Plan, list[str | int], ast.expr]] = []
        while stack:
            node, plan = stack.pop()
            if plan is not None:
                first = len(results) - len(plan.nodes)
                plans.append((plan, results[first:], node))
                results[first:] = [len(plans) - 1]
            elif isinstance(node, ast.Name) and self._is_argument(node):
                results.append(node.id)
            else:
                plan = self._plan(node)
                stack.append((node, plan))
                stack.extend((item, None) for item in reversed(plan.nodes))
        names = self.names or tuple(self._seen)
        if not plans:  # the text is an argument alone
            plans.append((_Plan((), same), results, root))
        numbers = {name: number for number, name in enumerate(names)}
        steps = [
            Step(
                plan.function,
                tuple(numbers[item] if isinstance(item, str) else item + len(names) for item in operands),
                plan.keywords,
                self._place(node),
            )
            for plan, operands, node in plans
        ]
        return Expression(self.text, names, steps)

    def _tree(self) -> ast.expr:
        text = self.text
        if not text or len(text) > TEXT_LIMIT:
            given = f"{len(text)} characters"
            raise ArgumentError(
                f"from_expression: needed an expression of 1 to {TEXT_LIMIT} characters, got {given}; shorten it", given=given
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the parser's advice is on Python, which this is not
                return ast.parse(text, mode="eval").body
        except SyntaxError as error:
            start = min(max((error.offset or 1) - 1, 0), len(text))
            stop = (error.end_offset or 0) - 1 if error.end_lineno == error.lineno else start
            raise refusal(text, (start, stop), "an expression", error.msg, "correct it here") from None
        except (RecursionError, MemoryError, ValueError) as error:
            given = str(error) or type(error).__name__
            raise ArgumentError(f"from_expression: needed text that can be parsed, got {given}; part it", given=given) from None

    def _place(self, node: ast.expr) -> tuple[int, int]:
        ends = (node.col_offset, node.end_col_offset or node.col_offset + 1)
        start, stop = (len(self._bytes[:end].decode("utf-8", "replace")) for end in ends)
        return start, stop

    def _refuse(self, node: ast.expr, needed: str, given: str, advice: str) -> ArgumentError:
        return refusal(self.text, self._place(node), needed, given, advice)

    def _is_argument(self, node: ast.Name) -> bool:
        if node.id in self.names:
            return True
        if node.id in CONSTANTS:
            return False
        if self.names:
            near = nearest(node.id, [*self.names, *CONSTANTS])
            advice = f"the nearest is {near}" if near else "name it as an argument"
            raise self._refuse(node, f"one of the arguments {', '.join(self.names)}", repr(node.id), advice)
        if node.id not in self._seen:
            self._seen.append(node.id)
        return True

    def _plan(self, node: ast.expr) -> _Plan:
        for kind, plan in _PLANS:
            if isinstance(node, kind):
                return plan(self, node)
        what = type(node).__name__
        raise self._refuse(node, "arithmetic, comparisons, vectors, indexing and calls", what, "write it with those")

    # -- one kind of node each ---------------------------------------------------------------------------------------------

    def constant(self, node: ast.Constant) -> _Plan:
        value = node.value
        if isinstance(value, bytes):
            raise self._refuse(node, "numbers, or text as an argument of a function", "bytes", "leave out the b")
        if type(value) is int and abs(value) >= EXACT_LIMIT:
            value = float(value) if value.bit_length() <= 1024 and value < 2**1024 - 2**970 else math.inf
        return _Plan((), lambda: value)

    def name(self, node: ast.Name) -> _Plan:
        value = CONSTANTS[node.id]
        return _Plan((), lambda: value)

    def binary(self, node: ast.BinOp) -> _Plan:
        found = _BINARY.get(type(node.op))
        if found is None:
            advice = "write ** for a power" if isinstance(node.op, ast.BitXor) else "write and, or, where"
            raise self._refuse(node, "one of + - * / // % @ **", type(node.op).__name__, advice)
        return _Plan((node.left, node.right), found)

    def unary(self, node: ast.UnaryOp) -> _Plan:
        return _Plan((node.operand,), _UNARY[type(node.op)])

    def compare(self, node: ast.Compare) -> _Plan:
        for item in node.ops:
            if type(item) not in _COMPARE:
                raise self._refuse(node, "one of < <= > >= == !=", type(item).__name__, "compare by those")
        return _Plan((node.left, *node.comparators), functools.partial(_chain, [_COMPARE[type(item)] for item in node.ops]))

    def boolean(self, node: ast.BoolOp) -> _Plan:
        both = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return _Plan(node.values, lambda *items: functools.reduce(both, items))

    def choice(self, node: ast.IfExp) -> _Plan:
        return _Plan((node.body, node.test, node.orelse), lambda body, test, other: np.where(test, body, other))

    def vector(self, node: ast.List) -> _Plan:
        return _Plan(self._plain(node.elts), lambda *items: own_numpy.array(list(items)))

    def several(self, node: ast.Tuple) -> _Plan:
        return _Plan(self._plain(node.elts), lambda *items: items)

    def _plain(self, nodes: Sequence[ast.expr]) -> Sequence[ast.expr]:
        for node in nodes:
            if isinstance(node, ast.Starred):
                raise self._refuse(node, "items one by one", "*", "write them out")
        return nodes

    def subscript(self, node: ast.Subscript) -> _Plan:
        return _Plan((node.value, node.slice), _index)

    def part(self, node: ast.Slice) -> _Plan:
        given = [node.lower, node.upper, node.step]
        places = [place for place, item in enumerate(given) if item is not None]

        def make(*items: Any) -> slice:
            ends: list[Any] = [None, None, None]
            for place, item in zip(places, items, strict=True):
                ends[place] = item
            return slice(*ends)

        return _Plan([item for item in given if item is not None], make)

    def attribute(self, node: ast.Attribute) -> _Plan:
        name = plain_name(_dotted(node) or "")
        if name in CONSTANTS:
            value = CONSTANTS[name]
            return _Plan((), lambda: value)
        if node.attr == "T":
            return _Plan((node.value,), np.transpose)
        raise self._refuse(node, "the attribute .T, or a function that is called", f".{node.attr}", "call a function instead")

    def call(self, node: ast.Call) -> _Plan:
        name = _dotted(node.func)
        if name is None:
            raise self._refuse(node, "a function called by its name", "something else that is called", "write * to multiply")
        function = find_known(name)
        if function is None:
            raise self._unknown(node.func, name)
        keywords = []
        for item in node.keywords:
            if item.arg is None:
                raise self._refuse(node, "arguments one by one", "**", "write them out")
            keywords.append(item.arg)
        return _Plan((*self._plain(node.args), *[item.value for item in node.keywords]), function, tuple(keywords))

    def _unknown(self, node: ast.expr, name: str) -> GradwireError:
        if name in self.names or name in self._seen or len(name) == 1:
            return self._refuse(node, "a function", f"the argument {name}", "write * to multiply")
        near = nearest(plain_name(name), known_functions())
        advice = f"the nearest is {near}" if near else "docs/coverage.md lists those"
        message = f"from_expression: needed a function gradwire can trace, got {name!r}; {advice}"
        return UnknownPrimitiveError(f"{message}\n{show(self.text, self._place(node))}", given=name, nearest=near)


_PLANS: tuple[tuple[type[ast.expr], Callable[..., _Plan]], ...] = (
    (ast.Constant, _Parser.constant),
    (ast.Name, _Parser.name),
    (ast.BinOp, _Parser.binary),
    (ast.UnaryOp, _Parser.unary),
    (ast.Call, _Parser.call),
    (ast.Compare, _Parser.compare),
    (ast.BoolOp, _Parser.boolean),
    (ast.IfExp, _Parser.choice),
    (ast.List, _Parser.vector),
    (ast.Tuple, _Parser.several),
    (ast.Subscript, _Parser.subscript),
    (ast.Slice, _Parser.part),
    (ast.Attribute, _Parser.attribute),
)


def _dotted(node: ast.expr) -> str | None:
    """Return a name, or names joined by points."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


# -- what operators compute ----------------------------------------------------------------------------------------------------


def _binary(operate: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return an operator that computes numbers in float64, save integers small enough to be places and axes."""

    def apply(x: Any, y: Any) -> Any:
        if type(x) not in NUMBERS or type(y) not in NUMBERS:
            return operate(x, y)
        if type(x) is int and type(y) is int and operate in _INTEGER:
            exact = operate(x, y)
            return exact if abs(exact) < EXACT_LIMIT else float(exact)
        kind = np.complex128 if complex in {type(x), type(y)} else np.float64
        return operate(kind(x), kind(y)).item()

    return apply


def _power(x: Any, y: Any) -> Any:
    """Raise to a power; integers of the text are numbers as in mathematics, with inverses."""
    return operator.pow(x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind in "iub" else x, y)


def _chain(functions: Sequence[Callable[..., Any]], *items: Any) -> Any:
    """Return whether neighbours compare as told, all of them."""
    pairs = [function(left, right) for function, left, right in zip(functions, items, items[1:], strict=False)]
    return functools.reduce(np.logical_and, pairs)


def _index(x: Any, key: Any) -> Any:
    return (x if isinstance(x, Value) else np.asarray(x))[key]


def _negative(x: Any) -> Any:
    return -x if type(x) in NUMBERS else np.negative(x)


_INTEGER = frozenset({operator.add, operator.sub, operator.mul})
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: _binary(operator.add),
    ast.Sub: _binary(operator.sub),
    ast.Mult: _binary(operator.mul),
    ast.Div: _binary(operator.truediv),
    ast.FloorDiv: _binary(operator.floordiv),
    ast.Mod: _binary(operator.mod),
    ast.Pow: _binary(_power),
    ast.MatMult: np.matmul,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: same,
    ast.USub: _negative,
    ast.Not: np.logical_not,
    ast.Invert: np.logical_not,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
