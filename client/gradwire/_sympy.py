"""Functions from SymPy: `from_sympy(expr, symbols)` walks the tree of an expression, and prints nothing."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradwire import numpy as own_numpy
from gradwire._expression import Expression, Step, same
from gradwire._names import find_known, known_functions, nearest
from gradwire_core.errors import ArgumentError, UnknownPrimitiveError

# SymPy's names of functions that have another name here; the others are found by their own, in lower case.
_RENAMED = {
    "Abs": "absolute", "acos": "arccos", "acosh": "arccosh", "arg": "angle", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan",
    "atan2": "arctan2", "atanh": "arctanh", "besseli": "iv", "besselj": "jv", "besselk": "kv", "bessely": "yv", "betainc": "",
    "ceiling": "ceil", "conjugate": "conj", "fresnelc": "", "fresnels": "", "im": "imag", "loggamma": "gammaln", "lowergamma": "",
    "re": "real", "uppergamma": "", "Determinant": "linalg.det", "Trace": "trace", "Transpose": "matrix_transpose",
}  # fmt: skip
_INVERTED: dict[str, Callable[..., Any]] = {
    "cot": np.tan, "coth": np.tanh, "csc": np.sin, "csch": np.sinh, "sec": np.cos, "sech": np.cosh,
}  # fmt: skip
_OF_INVERSE: dict[str, Callable[..., Any]] = {
    "acot": np.arctan, "acoth": np.arctanh, "acsc": np.arcsin, "acsch": np.arcsinh, "asec": np.arccos, "asech": np.arccosh,
}  # fmt: skip
_UNDONE = frozenset({"Derivative", "Integral", "Limit", "Product", "Subs", "Sum"})
_RELATIONS: dict[str, Callable[..., Any]] = {
    "Equality": np.equal, "Unequality": np.not_equal, "StrictLessThan": np.less, "LessThan": np.less_equal,
    "StrictGreaterThan": np.greater, "GreaterThan": np.greater_equal,
}  # fmt: skip
_FOLDED: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add, "Mul": operator.mul, "Max": np.maximum, "Min": np.minimum, "And": np.logical_and, "Or": np.logical_or,
    "Xor": np.logical_xor, "MatAdd": operator.add, "MatMul": lambda x, y: x * y if min(np.ndim(x), np.ndim(y)) == 0 else x @ y,
    "HadamardProduct": operator.mul,
}  # fmt: skip

_Plan = tuple[Callable[..., Any], Sequence[Any]]  # what computes a part, and of which parts


def from_sympy(expr: Any, symbols: Any) -> Expression:
    """Return the function of a SymPy expression, for every transform; subexpressions that repeat are computed once.

    Args:
        expr: an expression, a Matrix or another array of expressions, or a tuple or list of those, which gives a tuple.
        symbols: the arguments, in order: a Symbol or a MatrixSymbol each; a tuple, list or Matrix of Symbols for an argument
            that is an array of that shape. A single Symbol stands for one argument.

    Returns:
        A function of the arguments. A Matrix gives an array of its shape, `Piecewise` gives `where`, nan where no condition
        holds.

    Raises:
        ArgumentError: a symbol of the expression is no argument, or the arguments are no symbols.
        UnknownPrimitiveError: gradwire has no such function; the message names the nearest.
        ModuleNotFoundError: SymPy is not installed; `pip install "gradwire[sympy]"`.

    Example:
        >>> import gradwire as gw, sympy
        >>> x, y = sympy.symbols("x y")
        >>> gw.grad(gw.from_sympy(sympy.sin(x) * y, (x, y)))(0.0, 3.0)
        array(3.)
    """
    try:
        import sympy
    except ModuleNotFoundError as error:
        message = 'from_sympy: needed the module sympy, which is not installed; pip install "gradwire[sympy]"'
        raise ModuleNotFoundError(message, name="sympy") from error
    walk = _Walk(sympy, symbols if isinstance(symbols, (tuple, list)) else (symbols,))
    return walk.run(expr)


class _Walk:
    """One walk over an expression: every distinct part of it becomes one step; a stack instead of recursion."""

    def __init__(self, sympy: Any, symbols: Sequence[Any]) -> None:
        self._sympy = sympy
        self._steps: list[Step] = []
        self._numbers: dict[Any, int] = {}
        self._names: list[str] = []
        self._count = len(symbols)
        for number, item in enumerate(symbols):
            self._argument(item, number)

    def run(self, expr: Any) -> Expression:
        """Return the function of an expression."""
        self._finish(expr)
        is_small = isinstance(expr, self._sympy.Basic) and len([*itertools.islice(self._sympy.preorder_traversal(expr), 40)]) < 40
        name = str(expr) if is_small else type(expr).__name__
        return Expression(" ".join(name.split()), self._names, self._steps)

    # -- arguments ---------------------------------------------------------------------------------------------------------

    def _argument(self, item: Any, number: int) -> None:
        if getattr(item, "is_Symbol", False) or isinstance(item, self._sympy.MatrixSymbol):
            self._names.append(_identifier(str(item.name), number, self._names))
            self._numbers[item] = number
            return
        self._names.append(f"x{number}")
        array = np.array(item.tolist() if hasattr(item, "tolist") else item, dtype=object)
        for place in np.ndindex(array.shape):
            symbol = array[place]
            if not array.ndim or not getattr(symbol, "is_Symbol", False):
                given = f"{symbol} ({type(symbol).__name__})"
                raise ArgumentError(
                    f"from_sympy: needed Symbols as arguments, got {given}; pass a Symbol, a MatrixSymbol or a tuple of them",
                    given=symbol,
                )
            self._numbers[symbol] = self._emit(functools.partial(_element, place), number)

    # -- the walk ----------------------------------------------------------------------------------------------------------

    def _emit(self, function: Callable[..., Any], *operands: int) -> int:
        self._steps.append(Step(function, operands))
        return self._count + len(self._steps) - 1

    def _finish(self, expr: Any) -> None:
        """Write the steps of an expression; its own comes last."""
        root = self._number(expr)
        if root != self._count + len(self._steps) - 1 or not self._steps:
            self._emit(same, root)

    def _number(self, root: Any) -> int:
        stack = [(root, False)]
        while stack:
            item, is_ready = stack.pop()
            key = _key(item)
            if key in self._numbers:
                continue
            function, parts = self._plan(item)
            if is_ready or not parts:
                self._numbers[key] = self._emit(function, *[self._numbers[_key(part)] for part in parts])
            else:
                stack.append((item, True))
                stack.extend((part, False) for part in reversed(parts))
        return self._numbers[_key(root)]

    def _plan(self, item: Any) -> _Plan:
        """Return what computes an item, and of which parts."""
        if isinstance(item, (tuple, list, self._sympy.Tuple)):
            return (lambda *parts: parts), list(item)
        if hasattr(item, "shape") and hasattr(item, "tolist"):
            parts = [item[place] for place in np.ndindex(*item.shape)]
            return functools.partial(_matrix, tuple(map(int, item.shape))), parts
        item = self._sympy.sympify(item)
        if item in (self._sympy.true, self._sympy.false) or item.is_number:
            return _constant(self._value(item)), ()
        name = type(item).__name__
        plan = getattr(self, f"_{name}", None) or self._named
        found: _Plan = plan(item)
        return found

    def _named(self, item: Any) -> _Plan:
        """Return the function of an item's name."""
        name = type(item).__name__
        if name in _UNDONE:
            done = item.doit()
            if type(done) is not type(item):
                return same, (done,)
        for table, make in ((_RELATIONS, _plainly), (_FOLDED, _folded), (_INVERTED, _inverted), (_OF_INVERSE, _of_inverse)):
            if name in table:
                return make(table[name]), item.args
        return self._find(name, item), item.args

    def _find(self, name: str, item: Any) -> Callable[..., Any]:
        if item.is_Symbol or name == "MatrixSymbol":
            known = ", ".join(self._names)
            raise ArgumentError(f"from_sympy: needed symbols among {known}, got {item}; add it to the arguments", given=item)
        sought = _RENAMED.get(name, name)
        found = find_known(sought) or find_known(sought.lower())
        if found is None:
            near = nearest(name.lower(), known_functions())
            advice = f"the nearest is {near}" if near else "rewrite it with known functions"
            raise UnknownPrimitiveError(
                f"from_sympy: needed a function gradwire can trace, got {name} ({item}); {advice}", given=name, nearest=near
            )
        return found

    def _value(self, item: Any) -> complex:
        """Return a number to the nearest float64, or a truth value."""
        if item in (self._sympy.true, self._sympy.false):
            return bool(item)
        if item.is_Rational:
            try:
                return int(item.p) / int(item.q)
            except OverflowError:
                return float("inf") if item.p > 0 else float("-inf")
        value = complex(item.evalf(30)) if item.is_finite or item.is_extended_real else complex("nan")
        return value.real if item.is_extended_real or not value.imag else value

    # -- the kinds that need more than a name --------------------------------------------------------------------------------

    def _Mul(self, item: Any) -> _Plan:  # noqa: N802  # SymPy's name
        """Write a product as a quotient where exponents are negative: one rounding less."""
        below = [part for part in item.args if part.is_Pow and part.exp.is_number and part.exp.could_extract_minus_sign()]
        above = [part for part in item.args if part not in below]
        multiply = functools.partial(_fold, operator.mul)
        if not below:
            return (np.negative, (-item,)) if item.args[0] == -1 else (multiply, item.args)
        inverse = [part.base**-part.exp for part in below]
        count = len(above)
        return lambda *parts: multiply(*(parts[:count] or (1.0,))) / multiply(*parts[count:]), [*above, *inverse]

    def _Pow(self, item: Any) -> _Plan:  # noqa: N802  # SymPy's name
        base, exponent = item.args
        if base == self._sympy.E:
            return np.exp, (exponent,)
        if exponent == self._sympy.Rational(1, 2):
            return np.sqrt, (base,)
        if exponent.is_number and exponent.could_extract_minus_sign():
            return np.reciprocal, (base**-exponent,)
        if exponent.is_Integer and abs(exponent) < 2**31:
            power = int(exponent)
            return (lambda x: x**power), (base,)
        return operator.pow, (base, exponent)

    def _Piecewise(self, item: Any) -> _Plan:  # noqa: N802  # SymPy's name
        return _piecewise, [part for pair in item.args for part in pair.args]

    def _ITE(self, item: Any) -> _Plan:  # noqa: N802  # SymPy's name
        return np.where, item.args

    def _Not(self, item: Any) -> _Plan:  # noqa: N802  # SymPy's name
        return np.logical_not, item.args

    def _log(self, item: Any) -> _Plan:
        rest = item.args[0] - 1
        return (np.log1p, (rest,)) if item.args[0].is_Add and item.args[0].args[0] == 1 else (np.log, item.args)

    def _Heaviside(self, item: Any) -> _Plan:  # noqa: N802  # SymPy's name
        return np.heaviside, item.args

    def _Mod(self, item: Any) -> _Plan:  # noqa: N802  # SymPy's name
        return np.remainder, item.args

    def _MatrixElement(self, item: Any) -> _Plan:  # noqa: N802  # SymPy's name
        return functools.partial(_element, (int(item.i), int(item.j))), (item.parent,)

    def _Identity(self, item: Any) -> _Plan:  # noqa: N802  # SymPy's name
        return _constant(np.eye(int(item.shape[0]))), ()

    def _ZeroMatrix(self, item: Any) -> _Plan:  # noqa: N802  # SymPy's name
        return _constant(np.zeros(tuple(map(int, item.shape)))), ()

    def _MatPow(self, item: Any) -> _Plan:  # noqa: N802  # SymPy's name
        power = int(item.exp)
        return (lambda x: np.linalg.matrix_power(x, power)), (item.base,)

    def _sinc(self, item: Any) -> _Plan:
        sinc = self._find("sinc", item)
        return (lambda x: sinc(x / np.pi)), item.args  # NumPy's is that of pi x

    def _zeta(self, item: Any) -> _Plan:
        zeta = self._find("zeta", item)
        return (lambda x, q=1.0: zeta(x, q)), item.args

    def _Inverse(self, item: Any) -> _Plan:  # noqa: N802  # SymPy's name
        return np.linalg.inv, (item.arg,)


def _key(item: Any) -> Any:
    """Return what tells parts apart; containers, which do not hash or compare oddly, by identity."""
    try:
        hash(item)
    except TypeError:
        return id(item)
    return item


def _identifier(name: str, number: int, taken: Sequence[str]) -> str:
    return name if name.isidentifier() and name not in taken else f"x{number}"


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _element(place: tuple[int, ...], x: Any) -> Any:
    return (x if hasattr(x, "shape") else np.asarray(x))[place]


def _plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _folded(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.partial(_fold, function)


def _inverted(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: np.reciprocal(function(x))


def _of_inverse(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: function(np.reciprocal(x))


def _fold(function: Callable[[Any, Any], Any], *parts: Any) -> Any:
    return functools.reduce(function, parts)


def _matrix(shape: tuple[int, ...], *parts: Any) -> Any:
    return np.reshape(own_numpy.array(list(np.broadcast_arrays(*parts))), shape)


def _piecewise(*parts: Any) -> Any:
    """Return the value of the first condition that holds, nan where none does."""
    found: Any = np.nan
    for value, condition in reversed([*zip(parts[::2], parts[1::2], strict=True)]):
        found = value if condition is True else np.where(condition, value, found)
    return found
