"""Operations on single numbers, each as statements of LLVM's language.

Every operation is rounded by itself: nothing is contracted or approximated. Functions are those of libm, which NumPy calls as well.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

Number: TypeAlias = float | bool

# In libm, which NumPy calls as well.
LIBM: Mapping[str, str] = {
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "cos": "cos",
    "cosh": "cosh",
    "exp": "exp",
    "exp2": "exp2",
    "expm1": "expm1",
    "hypot": "hypot",
    "log": "log",
    "log10": "log10",
    "log1p": "log1p",
    "log2": "log2",
    "power": "pow",
    "sin": "sin",
    "sinh": "sinh",
    "tan": "tan",
    "tanh": "tanh",
}
_PREFIX = "%f_"  # before the name of what holds the address of a function: LLVM knows nothing of it, so it computes nothing itself
_PURE = " nounwind willreturn memory(none)"

_BINARY = frozenset({"arctan2", "hypot", "power"})
_INF, _ONE, _TWO = "0x7FF0000000000000", "0x3FF0000000000000", "0x4000000000000000"


def _call(name: str) -> tuple[str, ...]:
    operands = "double {0}, double {1}" if name in _BINARY else "double {0}"
    return (f"{{r}} = call double {_PREFIX}{name}({operands}){_PURE}",)


# {r} is the result, {r}a and so on what is computed on the way to it, {0} and so on the operands.
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "add": ("{r} = fadd double {0}, {1}",),
    "subtract": ("{r} = fsub double {0}, {1}",),
    "multiply": ("{r} = fmul double {0}, {1}",),
    "divide": ("{r} = fdiv double {0}, {1}",),
    "negative": ("{r} = fneg double {0}",),
    "reciprocal": (f"{{r}} = fdiv double {_ONE}, {{0}}",),
    "square": ("{r} = fmul double {0}, {0}",),
    "absolute": ("{r} = call double @llvm.fabs.f64(double {0})",),
    "sqrt": ("{r} = call double @llvm.sqrt.f64(double {0})",),
    "less": ("{r} = fcmp olt double {0}, {1}",),
    "less_equal": ("{r} = fcmp ole double {0}, {1}",),
    "greater": ("{r} = fcmp ogt double {0}, {1}",),
    "greater_equal": ("{r} = fcmp oge double {0}, {1}",),
    "equal": ("{r} = fcmp oeq double {0}, {1}",),
    "not_equal": ("{r} = fcmp une double {0}, {1}",),
    "isnan": ("{r} = fcmp uno double {0}, {0}",),
    "isfinite": ("{r}a = call double @llvm.fabs.f64(double {0})", f"{{r}} = fcmp olt double {{r}}a, {_INF}"),
    "logical_and": ("{r} = and i1 {0}, {1}",),
    "logical_or": ("{r} = or i1 {0}, {1}",),
    "logical_xor": ("{r} = xor i1 {0}, {1}",),
    "logical_not": ("{r} = xor i1 {0}, true",),
    "where": ("{r} = select i1 {0}, double {1}, double {2}",),
    "maximum": (
        "{r}a = fcmp ogt double {0}, {1}",
        "{r}b = fcmp uno double {0}, {0}",
        "{r}c = or i1 {r}a, {r}b",
        "{r} = select i1 {r}c, double {0}, double {1}",
    ),
    "minimum": (
        "{r}a = fcmp olt double {0}, {1}",
        "{r}b = fcmp uno double {0}, {0}",
        "{r}c = or i1 {r}a, {r}b",
        "{r} = select i1 {r}c, double {0}, double {1}",
    ),
    "sign": (
        "{r}a = fcmp oeq double {0}, 0.0",
        "{r}b = select i1 {r}a, double 0.0, double {0}",
        "{r}c = fcmp olt double {0}, 0.0",
        "{r}d = select i1 {r}c, double -1.0, double {r}b",
        "{r}e = fcmp ogt double {0}, 0.0",
        f"{{r}} = select i1 {{r}}e, double {_ONE}, double {{r}}d",
    ),
    "logistic": (
        "{r}a = call double @llvm.fabs.f64(double {0})",
        "{r}b = fneg double {r}a",
        f"{{r}}c = call double {_PREFIX}exp(double {{r}}b){_PURE}",
        "{r}d = fcmp oge double {0}, 0.0",
        f"{{r}}e = select i1 {{r}}d, double {_ONE}, double {{r}}c",
        f"{{r}}f = fadd double {_ONE}, {{r}}c",
        "{r} = fdiv double {r}e, {r}f",
    ),
    "sech_squared": (
        "{r}a = call double @llvm.fabs.f64(double {0})",
        "{r}b = fneg double {r}a",
        f"{{r}}c = fmul double {_TWO}, {{r}}b",
        f"{{r}}d = call double {_PREFIX}exp(double {{r}}c){_PURE}",
        f"{{r}}e = fadd double {_ONE}, {{r}}d",
        "{r}f = fmul double {r}e, {r}e",
        "{r}g = fmul double 4.0, {r}d",
        "{r} = fdiv double {r}g, {r}f",
    ),
    **{name: _call(name) for name in LIBM},
}
TRUTHS = frozenset(name for name, lines in TEMPLATES.items() if lines[-1].split()[2] in ("and", "fcmp", "or", "xor"))
"""The operations whose results are truth values."""
COPY = "copy"
"""The operation that an output is: it changes nothing."""


def called(operations: Iterable[str]) -> set[str]:
    """Return the functions of libm that operations call, by the names of operations."""
    names = set(operations)
    return {*(names & LIBM.keys()), *({"exp"} if names & {"logistic", "sech_squared"} else ())}


DECLARATIONS = ("declare double @llvm.fabs.f64(double)", "declare double @llvm.sqrt.f64(double)")
"""What a module declares. Code refers to nothing outside: the addresses of functions are in memory."""


def addresses(names: Sequence[str]) -> list[int]:
    """Return the addresses of functions of libm, by the names of operations, in the library that NumPy is linked to."""
    library = _library()
    return [ctypes.cast(library[LIBM[name]], ctypes.c_void_p).value or 0 for name in names]


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(importlib.import_module("numpy._core._multiarray_umath").__file__)


def literal(number: Number) -> str:
    """Return a constant to the bit."""
    if isinstance(number, bool):
        return "true" if number else "false"
    return f"0x{struct.pack('>d', number).hex().upper()}"


class Statements:
    """Statements of a function whose operand `%m` is the address of memory.

    Args:
        prefix: begins the names of values that have no place.
    """

    def __init__(self, prefix: str = "t") -> None:
        self.lines: list[str] = []
        self._prefix = prefix
        self._count = 0

    def new(self, text: str) -> str:
        """Return the name of a value, of which the text is given."""
        self._count += 1
        name = f"%{self._prefix}{self._count}"
        self.lines.append(f"  {name} = {text}")
        return name

    def read(self, place: int | str, *, is_truth: bool) -> str:
        """Return what is at a place: a number, or the name of one."""
        found = self.new(f"load double, ptr {self._address(place)}")
        return self.new(f"fcmp une double {found}, 0.0") if is_truth else found

    def write(self, place: int | str, value: str, *, is_truth: bool) -> None:
        """Write to a place."""
        if is_truth:
            value = self.new(f"uitofp i1 {value} to double")
        self.lines.append(f"  store double {value}, ptr {self._address(place)}")

    def _address(self, place: int | str) -> str:
        return self.new(f"getelementptr inbounds double, ptr %m, i64 {place}")

    def find(self, functions: Mapping[str, int], operations: Iterable[str]) -> None:
        """Read the addresses of the functions that operations call, which are at places."""
        for name in sorted(called(operations)):
            self.lines.append(f"  {_PREFIX}{name} = load ptr, ptr {self._address(functions[name])}")

    def run(self, operation: str, result: str, operands: Sequence[str]) -> None:
        """Add an operation, whose functions were found."""
        self.lines += [f"  {line.format(*operands, r=result)}" for line in TEMPLATES[operation]]
