"""Building programs: the `Builder` grows one equation by equation, a `Value` stands for a result in it.

A Value answers NumPy's protocols, so ordinary NumPy code run on Values writes a program. Equal equations are built once
(so common subexpressions never exist), and small equations over literals are computed at once. This module knows no
primitive by name: operations register themselves here under the NumPy function they stand for.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from gradwire_core.errors import (
    ArgumentError,
    GradwireError,
    LimitError,
    ProgramError,
    ShapeError,
    TracingError,
    UnknownPrimitiveError,
)
from gradwire_core.program import Equation, Literal, Operand, Param, Params, Primitive, Program, Var
from gradwire_core.types import Array, Shape, TensorType

FUNCTIONS: dict[Any, Callable[..., Any]] = {}
FOREIGN: dict[str, Callable[..., Any]] = {}
"""What computes the ufuncs of packages that are not imported here, by where they are found: `scipy.special.erf`."""
FOLD_ELEMENTS = 1024
MOST_STRUCTURE_BYTES = 2**22
MOST_AXES = 52  # as many as contractions have labels for
MOST_ELEMENTS = 2**58
Function = TypeVar("Function", bound=Callable[..., Any])
_serials = itertools.count()


def implements(*functions: Any) -> Callable[[Function], Function]:
    """Register what computes a NumPy function or ufunc on Values."""

    def register(implementation: Function) -> Function:
        for function in functions:
            FUNCTIONS[function] = implementation
        return implementation

    return register


class Builder:
    """Grows a program.

    Args:
        captures_arrays: whether arrays that meet Values become further inputs (when a user's function is traced) or
            literals (when a derivative rule is).
        keeps_structure: whether integers and masks that are captured become literals, and zeros of other captured arrays are
            declared; both up to MOST_STRUCTURE_BYTES.
        declares_zeros: whether the latter; not in the body of a loop, which would check them at every step.
        folds: whether every equation over literals is computed at once, whatever its size.

    Attributes:
        captures: what was captured as further inputs, in their order.
        structures: the literals that were made of captured arrays.
    """

    def __init__(
        self,
        *,
        captures_arrays: bool = False,
        keeps_structure: bool = True,
        declares_zeros: bool = True,
        folds: bool = False,
    ) -> None:
        self.serial = next(_serials)
        self.inputs: list[Var] = []
        self.equations: list[Equation] = []
        self.captures: list[Array | Value] = []
        self.structures: list[Literal] = []
        self._captured: dict[Any, Value] = {}
        self._captured_inputs: list[Var] = []
        self._literals: dict[Any, Literal] = {}
        self._numbers: dict[Any, Value] = {}
        self._shared: dict[Any, tuple[Value, ...]] = {}
        self._producers: dict[Operand, Equation] = {}
        self._captures_arrays = captures_arrays
        self._keeps_structure = keeps_structure
        self._declares_zeros = declares_zeros
        self._held: list[Array] = []
        self._folds = folds
        self.is_open = True

    def input(self, type: TensorType) -> Value:
        """Add an input of the given type.

        Raises:
            LimitError: it has more axes or elements than any array.
        """
        check_bounds("input", type)
        var = Var(type)
        self.inputs.append(var)
        return Value(self, var)

    def number(self, number: Any, dtype: np.dtype[Any]) -> Value:
        """Return a Python number as a constant; one that was met before is found by its value."""
        key = (number, type(number), dtype)
        found = self._numbers.get(key)
        if found is None:
            found = self.literal(np.asarray(number, dtype))
            if number and type(number) is not complex:  # a zero, or one in a part, may have another sign
                self._numbers[key] = found
        return found

    def literal(self, array: Any) -> Value:
        """Return a constant; equal constants are one."""
        literal = Literal(np.asarray(array))
        return Value(self, literal if literal.type.size > FOLD_ELEMENTS else self._shared_literal(literal))

    def _shared_literal(self, literal: Literal) -> Literal:
        return self._literals.setdefault((literal.type, literal.value.tobytes()), literal)

    def lift(self, item: Any) -> Value:
        """Return a Value of this builder for a Value, an array or a scalar.

        A Value of a builder that was opened earlier, and an array where this builder captures them, become further inputs,
        which stand behind the declared ones.

        Raises:
            TracingError: a Value outlived the trace that made it.
        """
        if isinstance(item, Value):
            if item.builder is self:
                return item
            if isinstance(item.operand, Literal):
                return self.literal(item.operand.value)
            if not item.builder.is_open or item.builder.serial > self.serial:
                raise TracingError(
                    f"{user_line()}: needed a value of this trace, got one kept from another; return it instead of storing it"
                )
            return self._capture(item.operand, item, item.type)
        array = item if isinstance(item, np.ndarray) else np.asarray(item)
        if self._captures_arrays and array.ndim > 0:
            found = self._captured.get(id(array))
            return self._capture_array(array) if found is None else found
        return self.literal(array)

    def structure(self, array: Array) -> Value:
        """Return a captured array, or what is known of one, as a constant on which the program is built; equal ones are one."""
        literal = self._shared_literal(Literal(array))
        self.structures.append(literal)
        return Value(self, literal)

    def _capture_array(self, array: Array) -> Value:
        self._held.append(array)  # so its id stays its own
        is_whole = array.dtype.kind in "bi"  # of other arrays, a mask of zeros is kept
        is_structure = self._keeps_structure and (array.nbytes if is_whole else array.size) <= MOST_STRUCTURE_BYTES
        if is_structure and is_whole:
            value = self.structure(array)
        else:
            value = self._capture(id(array), array, TensorType.of(array))
            if is_structure and self._declares_zeros:
                value = FUNCTIONS[Builder.lift](value, array)
        self._captured[id(array)] = value
        return value

    def _capture(self, key: Any, item: Array | Value, type: TensorType) -> Value:
        found = self._captured.get(key)
        if found is None:
            var = Var(type)
            self._captured_inputs.append(var)
            self.captures.append(item)
            found = self._captured[key] = Value(self, var)
        return found

    def emit(self, primitive: Primitive, operands: Sequence[Value], params: Params) -> tuple[Value, ...]:
        """Add an equation and return its results; an equal equation is returned instead of repeated."""
        inner = tuple([value.operand for value in operands])
        key = _key(primitive, inner, params)
        found = self._shared.get(key)
        if found is None:
            found = self._shared[key] = self._emit_new(primitive, inner, params)
        return found

    def repeat(self, equation: Equation, operands: Sequence[Value]) -> tuple[Value, ...]:
        """Add an equation of another program, and return its results; an equal equation is returned instead of repeated.

        Args:
            equation: the equation. Its results are those here too, unless they are taken.
            operands: its operands here, which are of the same types and have the same values as there.
        """
        primitive, params, results = equation.primitive, equation.params, equation.results
        inner = tuple([value.operand for value in operands])
        key = _key(primitive, inner, params)
        found = self._shared.get(key)
        if found is None:
            if _are_literals(inner) or results[0] in self._producers:
                found = self._emit_new(primitive, inner, params)
            else:
                found = self._add(equation if inner == equation.operands else Equation(primitive, inner, params, results))
            self._shared[key] = found
        return found

    def repeat_inputs(self, program: Program) -> list[Value]:
        """Make the inputs of a program those of this builder, which has none yet, and return them."""
        self.inputs = list(program.inputs)
        return [Value(self, var) for var in self.inputs]

    def _emit_new(self, primitive: Primitive, operands: tuple[Operand, ...], params: Params) -> tuple[Value, ...]:
        types = primitive.infer(*[operand.type for operand in operands], **params)
        if not primitive.is_elementwise:  # of which the results have the shape of the operands
            for type in types:
                check_bounds(primitive.name, type)
        if _are_literals(operands) and self._is_foldable(operands, types):
            return self._fold(primitive, operands, params)
        results = (Var(types[0]),) if len(types) == 1 else tuple([Var(type) for type in types])
        return self._add(Equation(primitive, operands, params, results))

    def _add(self, equation: Equation) -> tuple[Value, ...]:
        self.equations.append(equation)
        results = equation.results
        if len(results) == 1:
            self._producers[results[0]] = equation
            return (Value(self, results[0]),)
        self._producers.update(dict.fromkeys(results, equation))
        return tuple([Value(self, var) for var in results])

    def _is_foldable(self, operands: tuple[Operand, ...], types: tuple[TensorType, ...]) -> bool:
        """Whether an equation over literals is computed at once: a small one; what repeats its operands takes no memory unbuilt."""
        limit = min(FOLD_ELEMENTS, max(operand.type.size for operand in operands))
        return self._folds or all(type.size <= limit for type in types)

    def _fold(self, primitive: Primitive, operands: tuple[Operand, ...], params: Params) -> tuple[Value, ...]:
        with np.errstate(all="ignore"):
            try:
                arrays = primitive.kernel(*[operand.value for operand in operands if isinstance(operand, Literal)], **params)
            except IndexError as error:
                text = f"{primitive}: needed indices within their axis, got one outside ({error}); correct the index"
                raise ArgumentError(text, given=error) from error
        if not isinstance(arrays, tuple):
            arrays = (arrays,)
        return tuple(self.literal(array) for array in arrays)

    def inline(self, program: Program, operands: Sequence[Value]) -> list[Value]:
        """Add the equations of a program, applied to Values, and return its outputs.

        Raises:
            ShapeError, DtypeError: an operand is not of the type of its input.
        """
        check_operands(program.input_types, [value.type for value in operands])
        known: dict[Operand, Value] = dict(zip(program.inputs, map(self.lift, operands), strict=True))
        self.inline_equations(program.equations, known)
        return [self.resolve(operand, known) for operand in program.outputs]

    def inline_equations(self, equations: Sequence[Equation], known: dict[Operand, Value]) -> None:
        """Add equations, whose operands are looked up in `known`, where the results are recorded."""
        for equation in equations:
            operands = [self.resolve(operand, known) for operand in equation.operands]
            known.update(zip(equation.results, self.emit(equation.primitive, operands, equation.params), strict=True))

    def resolve(self, operand: Operand, known: dict[Operand, Value]) -> Value:
        """Return the Value of an operand of another program."""
        found = known.get(operand)
        if found is None:
            if isinstance(operand, Var):
                raise KeyError(operand)
            shared = operand if operand.type.size > FOLD_ELEMENTS else self._shared_literal(operand)
            found = known[operand] = Value(self, shared)
        return found

    def producer(self, operand: Operand) -> Equation | None:
        """Return the equation that assigns an operand; None for inputs and literals."""
        return self._producers.get(operand)

    def free(self, type: TensorType) -> Value:
        """Return a Value that is no input and has no equation: a placeholder for what is linear in it."""
        return Value(self, Var(type))

    def build(self, outputs: Sequence[Value]) -> Program:
        """Return the program from the inputs (declared, then captured) to the outputs; unused equations are left out."""
        operands = tuple(self.lift(value).operand for value in outputs)
        needed = set(operands)
        kept = []
        for equation in reversed(self.equations):
            results = equation.results
            if results[0] in needed or (len(results) > 1 and not needed.isdisjoint(results)):
                needed.update(equation.operands)
                kept.append(equation)
        kept.reverse()
        return Program((*self.inputs, *self._captured_inputs), tuple(kept), operands)

    @contextlib.contextmanager
    def tracing(self) -> Iterator[Builder]:
        """Keep the builder open for a block; Values used after it raise TracingError."""
        try:
            yield self
        finally:
            self.is_open = False


def _key(primitive: Primitive, operands: tuple[Operand, ...], params: Params) -> Any:
    """Return what equal equations have in common: of a commutative one the order does not matter, unless numbers are complex."""
    if primitive.is_commutative:
        one, other = operands
        if id(one) > id(other) and one.type.dtype.numpy.kind != "c":
            operands = (other, one)
    if params:
        return primitive, operands, tuple([(name, _identity(value)) for name, value in params.items()])
    return primitive, operands


def _are_literals(operands: tuple[Operand, ...]) -> bool:
    """Whether there are operands, and all of them are literals."""
    for operand in operands:
        if type(operand) is Var:
            return False
    return bool(operands)


def _identity(param: Param) -> Param:
    """Return what tells params apart: equal sub-programs are one."""
    return param.digest if isinstance(param, Program) else param


def check_bounds(where: str, type: TensorType) -> None:
    """Check that a type is one that arrays can have.

    Raises:
        LimitError: it has more axes or elements.
    """
    if type.ndim > MOST_AXES or type.size > MOST_ELEMENTS:
        shape = ",".join(map(str, type.shape[:8])) + (",..." if type.ndim > 8 else "")
        most = f"{MOST_AXES} axes and {MOST_ELEMENTS} elements"
        text = f"{where}: needed at most {most}, got {type.ndim} axes, [{shape}]; make it smaller"
        raise LimitError(text, axes=type.ndim, limit=MOST_AXES)


def check_operands(needed: Sequence[TensorType], given: Sequence[TensorType], what: str = "input") -> None:
    """Check that types agree, position by position.

    Raises:
        ProgramError: their numbers differ.
        ShapeError, DtypeError: a type differs.
    """
    from gradwire_core.errors import DtypeError

    if len(needed) != len(given):
        raise ProgramError(
            f"{what}s: needed {len(needed)}, got {len(given)}; pass exactly those", needed=len(needed), given=len(given)
        )
    for index, (one, other) in enumerate(zip(needed, given, strict=True)):
        if one != other:
            kind = ShapeError if one.shape != other.shape else DtypeError
            raise kind(f"{what} {index}: needed {one}, got {other}; pass an array of that type", needed=one, given=other)


def builder_of(items: Sequence[Any]) -> Builder | None:
    """Return the innermost builder among Values; None where there is no Value."""
    found: Builder | None = None
    for item in items:
        if isinstance(item, Value) and (found is None or item.builder.serial > found.serial):
            found = item.builder
    return found


def user_line() -> str:
    """Return `file:line` of the innermost frame outside gradwire and NumPy: the user's own code."""
    frame: Any = inspect.currentframe()
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "").partition(".")[0]
        if module not in {"gradwire", "gradwire_core", "numpy", "scipy", "contextlib"}:
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "traced function"


def find_function(function: Any) -> Callable[..., Any]:
    """Return what computes a NumPy function on Values.

    Raises:
        UnknownPrimitiveError: nothing does; the text names the nearest known function.
    """
    found = FUNCTIONS.get(function) or _find_foreign(function)
    if found is None:
        name = getattr(function, "__name__", str(function))
        names = {getattr(known, "__name__", ""): known for known in FUNCTIONS}
        nearest = difflib.get_close_matches(name, [*names], n=1, cutoff=0.5)
        hint = f"the nearest known one is {nearest[0]}" if nearest else "write it with known functions"
        raise UnknownPrimitiveError(f"{user_line()}: needed a function gradwire can trace, got {name}; {hint}", given=name)
    return found


def _find_foreign(function: Any) -> Callable[..., Any] | None:
    """Return what computes a ufunc of another package, which must be imported for the ufunc to exist; None if nothing does."""
    if isinstance(function, np.ufunc):
        for place, implementation in FOREIGN.items():
            module, _, name = place.rpartition(".")
            if name == function.__name__ and getattr(sys.modules.get(module), name, None) is function:
                return FUNCTIONS.setdefault(function, implementation)
    return None


_KEEP = "leave the conversion out, or compute it outside the function"


class Value:
    """An array in a program that is being built: it has a type, and no numbers yet.

    NumPy functions, operators, methods and indexing work on it as on an array.
    """

    __slots__ = ("builder", "operand")
    __array_priority__ = 1000
    __hash__ = None  # type: ignore[assignment]  # as for an array, == is element by element

    def __init__(self, builder: Builder, operand: Operand) -> None:
        self.builder = builder
        self.operand = operand

    @property
    def type(self) -> TensorType:
        """The dtype and shape."""
        return self.operand.type

    @property
    def shape(self) -> Shape:
        """The lengths of the axes."""
        return self.operand.type.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype."""
        return self.operand.type.dtype.numpy

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.operand.type.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.operand.type.size

    @property
    def T(self) -> Any:  # noqa: N802  # NumPy's name
        """The array with its axes reversed."""
        return find_function(np.transpose)(self)

    @property
    def mT(self) -> Any:  # noqa: N802  # NumPy's name
        """The matrices of the last two axes, transposed."""
        return find_function(np.swapaxes)(self, -1, -2)

    @property
    def device(self) -> str:
        """Where arrays are, by the Array API standard."""
        return "cpu"

    def to_device(self, device: str, /, *, stream: Any = None) -> Value:
        """Return the array itself: there is one device."""
        if device != self.device or stream is not None:
            raise ArgumentError(f"to_device: needed {self.device!r}, got {device!r}; leave it out", given=device)
        return self

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return find_function(Value.__array_namespace__)(self, api_version)

    @property
    def real(self) -> Any:
        """The real part."""
        return find_function(np.real)(self)

    @property
    def imag(self) -> Any:
        """The imaginary part; zeros of a real array."""
        return find_function(np.imag)(self)

    def __repr__(self) -> str:
        return f"<traced {self.type}>"

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a traced 0-d array")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        if not self.shape:
            raise TypeError("iteration over a traced 0-d array")
        return (self[index] for index in range(self.shape[0]))

    @property
    def at(self) -> Any:
        """Updates of some elements: `x.at[index].set(value)` is a new array, as are add, multiply, min and others."""
        return find_function(Value.at)(self)

    def __getitem__(self, index: Any) -> Any:
        return find_function(Value.__getitem__)(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._refuse("an array that is not assigned to in place", "an assignment", "write x = x.at[index].set(value)")

    def sort(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002  # an array's signature
        """Refuse to sort in place, as the method of an array does."""
        self._refuse("an array that is not changed in place", "x.sort()", "write x = np.sort(x)")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method == "reduce":
            return find_function(_reduction(ufunc))(*inputs, **{"axis": 0, **kwargs})
        if method == "accumulate":
            return find_function(ufunc.accumulate)(*inputs, **kwargs)
        if method == "outer":
            return find_function(ufunc)(_outer_left(*inputs), inputs[1])
        if method != "__call__" or kwargs:
            if method == "at":
                self._refuse(
                    "an array that is not changed in place", f"{ufunc.__name__}.at", "write x = x.at[index].add(value), or its like"
                )
            what = f"{ufunc.__name__}.{method}" if method != "__call__" else f"{ufunc.__name__}({', '.join(kwargs)}=...)"
            self._refuse("a plain call", what, "call it without that")
        return find_function(ufunc)(*inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        implementation, name = find_function(function), function.__name__
        try:
            return implementation(*args, **kwargs)
        except GradwireError as error:
            if name not in error.message and not getattr(error, "__notes__", None):
                error.add_note(f"while tracing {name} at {user_line()}")
            raise
        except (AttributeError, IndexError, RecursionError, TypeError, ValueError) as error:
            text = (
                f"{user_line()}: needed arguments that {name} takes when traced, got others ({error}); see {name} of gradwire.numpy"
            )
            raise ArgumentError(text, given=name) from error

    def __array__(self, *args: Any, **kwargs: Any) -> Array:
        self._refuse(
            "code that works on traced arrays",
            "a conversion to a NumPy array",
            _conversion_advice(),
        )
        raise AssertionError

    def __bool__(self) -> bool:
        self._refuse("code that does not branch on traced values", "a traced truth value", "use np.where(condition, a, b)")
        raise AssertionError

    def __float__(self) -> float:
        self._refuse("code that keeps values traced", "float()", f"{_KEEP}; in place of a function of math use NumPy's")
        raise AssertionError

    def __int__(self) -> int:
        self._refuse("code that keeps values traced", "int()", f"{_KEEP}; x.astype(int) truncates")
        raise AssertionError

    def __complex__(self) -> complex:
        self._refuse("code that keeps values traced", "complex()", _KEEP)
        raise AssertionError

    def __format__(self, spec: str) -> str:
        if spec:
            self._refuse(
                "code that keeps values traced", "a number to print", "print outside the function, or leave the format out"
            )
        return repr(self)

    def __round__(self, digits: int | None = None) -> Any:
        return find_function(np.round)(self, digits or 0)

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def copy(self, order: str = "K") -> Value:
        """Return the array: what is traced is never changed in place."""
        del order
        return self

    def __index__(self) -> int:
        self._refuse("an index known while tracing", "a traced index", "use gradwire.numpy.take(array, index)")
        raise AssertionError

    def _refuse(self, needed: str, given: str, advice: str) -> None:
        raise TracingError(f"{user_line()}: needed {needed}, got {given} ({self.type}); {advice}", given=given, type=self.type)


def _conversion_advice() -> str:
    """Return what to do about a conversion; where a function of SciPy did it, by the name of that function."""
    frame: Any = inspect.currentframe()
    found = None
    while frame is not None:
        package, _, module = frame.f_globals.get("__name__", "").partition(".")
        home, name = module.partition(".")[0], frame.f_code.co_name
        if package == "scipy" and home in {"linalg", "special"} and hasattr(sys.modules.get(f"scipy.{home}"), name):
            found = f"scipy.{home}.{name} converts: call gradwire.{home}.{name} if there is one, or compute it outside the function"
        frame = frame.f_back
    return found or "keep it traced (np.stack builds arrays of traced values), or compute it outside the function"


def _reduction(ufunc: Any) -> Any:
    names = {
        np.add: np.sum,
        np.multiply: np.prod,
        np.maximum: np.max,
        np.minimum: np.min,
        np.logical_and: np.all,
        np.logical_or: np.any,
    }
    return names.get(ufunc, ufunc)


def _outer_left(left: Any, right: Any) -> Any:
    shape = (*np.shape(left), *([1] * np.ndim(right)))
    return find_function(np.reshape)(left, shape) if isinstance(left, Value) else np.reshape(left, shape)


def _operator(ufunc: Any) -> tuple[Callable[[Value, Any], Any], Callable[[Value, Any], Any]]:
    def forward(self: Value, other: Any) -> Any:
        return find_function(ufunc)(self, other)

    def reflected(self: Value, other: Any) -> Any:
        return find_function(ufunc)(other, self)

    return forward, reflected


# What shares memory with its first operand.
VIEWS = frozenset({"broadcast_to", "diagonal", "flip", "reshape", "slice", "transpose", "zeros_outside"})


SYMBOLS = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@",
    "and": "&", "or": "|", "xor": "^",
}  # fmt: skip


def _augmented(ufunc: Any, symbol: str) -> Callable[[Value, Any], Any]:
    def apply(self: Value, other: Any) -> Any:
        maker = self.builder.producer(self.operand)
        if self.shape and maker is not None and maker.primitive.name in VIEWS:
            # In NumPy this would change the array that is viewed.
            advice = f"write x = x.at[index].set(value), or y = y {symbol} z where only the new array is meant"
            self._refuse("an array that is not changed in place", f"{symbol}= on a view of one", advice)
        return find_function(ufunc)(self, other)

    return apply


def _unary(ufunc: Any) -> Callable[[Value], Any]:
    def apply(self: Value) -> Any:
        return find_function(ufunc)(self)

    return apply


def _method(function: Any) -> Callable[..., Any]:
    def call(self: Value, *args: Any, **kwargs: Any) -> Any:
        return find_function(function)(self, *args, **kwargs)

    call.__name__ = function.__name__
    call.__doc__ = f"Call `numpy.{function.__name__}` on this array."
    return call


def _variadic(function: Any, what: str) -> Callable[..., Any]:
    def call(self: Value, *items: Any, **kwargs: Any) -> Any:
        if len(items) == 1 and (items[0] is None or np.iterable(items[0])):
            return find_function(function)(self, items[0], **kwargs)
        if not items and function is np.reshape:
            raise ArgumentError(f"{what}: needed a shape, got none; pass its axes")
        return find_function(function)(self, items or None, **kwargs)

    return call


def _astype(self: Value, dtype: Any) -> Any:
    """Convert the elements to another dtype."""
    return find_function(np.ndarray.astype)(self, dtype)


def _install() -> None:
    binary = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "floordiv": np.floor_divide,
        "mod": np.remainder, "pow": np.power, "matmul": np.matmul,
        "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    }  # fmt: skip
    for name, ufunc in binary.items():
        forward, reflected = _operator(ufunc)
        setattr(Value, f"__{name}__", forward)
        setattr(Value, f"__r{name}__", reflected)
        setattr(Value, f"__i{name}__", _augmented(ufunc, SYMBOLS[name]))
    compare = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal}
    for name, ufunc in compare.items():
        setattr(Value, f"__{name}__", _operator(ufunc)[0])
    unary = {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}
    for name, ufunc in unary.items():
        setattr(Value, f"__{name}__", _unary(ufunc))
    methods = (
        np.all, np.any, np.argmax, np.argmin, np.argsort, np.clip, np.conjugate, np.cumprod, np.cumsum, np.diagonal, np.dot,
        np.max, np.mean, np.min, np.prod, np.ravel, np.repeat, np.round, np.searchsorted, np.squeeze, np.std, np.sum, np.swapaxes,
        np.take, np.trace, np.var,
    )  # fmt: skip
    for function in methods:
        setattr(Value, function.__name__, _method(function))
    Value.conj = _method(np.conjugate)  # type: ignore[attr-defined]
    Value.flatten = _method(np.ravel)  # type: ignore[attr-defined]
    Value.reshape = _variadic(np.reshape, "reshape")  # type: ignore[attr-defined]
    Value.transpose = _variadic(np.transpose, "transpose")  # type: ignore[attr-defined]
    Value.astype = _astype  # type: ignore[attr-defined]


_install()
