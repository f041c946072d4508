"""Python functions become programs here, once: run on Values, and kept as long as what they saw stays the same."""

from __future__ import annotations

import functools
import inspect
import threading
import traceback
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradwire import _standard  # noqa: F401  # registers what the Array API asks of a traced array
from gradwire import numpy as _compositions  # noqa: F401  # registers them under NumPy's functions
from gradwire._guards import watch
from gradwire._nest import Branch, Structure, flatten, static_values, unflatten_call
from gradwire._watch import Watch
from gradwire_core.builder import Builder, Value
from gradwire_core.collecting import collecting_later
from gradwire_core.errors import ArgumentError, DtypeError, GradwireError, TracingError
from gradwire_core.program import Program
from gradwire_core.types import Array, Dtype, TensorType

TRACE_LIMIT = 512  # functions and argument types whose traces are kept
VERSION_LIMIT = 4  # traces kept of one function and argument types, as what it sees changes to and fro
WEIGHT_LIMIT_BYTES = 512 * 2**20  # estimated memory of all kept traces
EQUATION_BYTES = 500
NAME_LENGTH = 64  # longer names of arguments are not told to a server

NATIVE = frozenset(item.numpy for item in Dtype)
_OWN_PACKAGES = frozenset({"gradwire", "gradwire_core"})


@dataclass(slots=True, eq=False)
class Trace:
    """A function as a program, for arguments of given structure and types.

    Attributes:
        name: the function's, for messages.
        program: its inputs are the leaves of the arguments, then what the function captured.
        captures: the captured arrays (or Values of an outer trace), in the order of their inputs.
        arguments: the structure of the call.
        results: the structure of what the function returned.
        names: what the leaves of the arguments are called; none where that is unclear.
        watch: what the function saw; None where that could not be verified.
        weight_bytes: the estimated memory of the trace.
        prepared: what is derived of this trace, by what was asked.
    """

    name: str
    program: Program
    captures: tuple[Array | Value, ...]
    arguments: Branch
    results: Structure
    names: tuple[str, ...] = ()
    watch: Watch | None = None
    weight_bytes: int = 0
    prepared: dict[Any, Any] = field(default_factory=dict)

    @property
    def argument_types(self) -> tuple[TensorType, ...]:
        """The types of the leaves of the arguments."""
        return self.program.input_types[: self.arguments.count]


def name_of(function: Any) -> str:
    """Return the name of a function, for messages."""
    return str(getattr(function, "__name__", type(function).__name__))


def trace(
    function: Callable[..., Any], arguments: Branch, input_types: Sequence[TensorType], *, declares_zeros: bool = True
) -> Trace:
    """Run a function on Values and return the program it wrote.

    Args:
        function: the function.
        arguments: the structure of the call.
        input_types: the types of its leaves.
        declares_zeros: whether arrays the function captures declare many exact zeros; those of a branch or the body of a loop do
            so where that stands.

    Raises:
        ArgumentError: it returned something that is no array.
        GradwireError: what the function did cannot be traced; the error stands at the user's line.
    """
    name = name_of(function)
    seen = _structures_of(function, tuple(input_types))
    keeps_structure = len(seen) <= VERSION_LIMIT
    opened = Builder(captures_arrays=True, keeps_structure=keeps_structure, declares_zeros=declares_zeros)
    with collecting_later(), opened.tracing() as builder:
        inputs = [builder.input(item) for item in input_types]
        args, kwargs = unflatten_call(arguments, inputs)
        try:
            returned = function(*args, **kwargs)
        except GradwireError as error:
            _add_place(error)
            raise
        except (TypeError, ValueError) as error:
            _refuse_assignment(error)
            raise
        leaves, results = flatten(returned)
        outputs = [_lift(builder, leaf, name) for leaf in leaves]
        if not outputs:
            raise ArgumentError(
                f"{name}: needed an array or a tuple of arrays as its result, got {returned!r}; return the arrays", given=returned
            )
        if builder.structures:
            seen.add(hash(tuple([item.value.tobytes() for item in builder.structures])))
        names = _input_names(function, arguments)
        return Trace(name, builder.build(outputs), tuple(builder.captures), arguments, results, names)


def _structures_of(function: Any, input_types: tuple[TensorType, ...]) -> set[int]:
    """Return the hashes of what was structure in the traces of a function's code for arguments of these types.

    Integers, masks and zeros that a function captures are built into its program, which must be compiled anew when they change.
    Where they keep changing, as minibatches do, they are data: later traces leave them to the inputs.
    """
    code = getattr(getattr(function, "func", function), "__code__", None)
    if code is None:
        return set()
    with _STRUCTURES_LOCK:
        return _STRUCTURES.setdefault(code, {}).setdefault(input_types, set())


_STRUCTURES: weakref.WeakKeyDictionary[types.CodeType, dict[tuple[TensorType, ...], set[int]]] = weakref.WeakKeyDictionary()
_STRUCTURES_LOCK = threading.Lock()


def _input_names(function: Callable[..., Any], arguments: Branch) -> tuple[str, ...]:
    """Return what the inputs of a function are called: by its parameters, and the keys below them; none where that is unclear."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a ufunc
        return ()
    given = [item.name for item in parameters if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]
    positional, keywords = arguments.children if arguments.kind is OrderedDict else (arguments, None)
    assert isinstance(positional, Branch)
    pairs = [*zip(given, positional.children, strict=False)]
    if isinstance(keywords, Branch):
        pairs += zip(map(str, keywords.keys), keywords.children, strict=True)
    names = [name for parameter, structure in pairs for name in _names_below(parameter, structure)]
    is_clear = len(positional.children) <= len(given) and len(set(names)) == len(names)
    return tuple(names) if is_clear and all(name.isidentifier() and len(name) <= NAME_LENGTH for name in names) else ()


def _names_below(name: str, structure: Structure) -> list[str]:
    if not isinstance(structure, Branch):
        return [name] * structure.count
    parts = [f"{name}_{key}" for key in structure.keys]
    return [found for part, child in zip(parts, structure.children, strict=True) for found in _names_below(part, child)]


def _refuse_assignment(error: Exception) -> None:
    """Say what went wrong where NumPy hid our refusal behind an error of its own, as in `zeros[0] = x[0]`."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, TracingError):
        _add_place(cause)
        text = f"{cause.message}; an array that is filled with traced values is built by np.stack or np.concatenate"
        raise TracingError(text, **cause.metadata) from error


def _lift(builder: Builder, leaf: Any, name: str) -> Value:
    return builder.lift(leaf if isinstance(leaf, Value) else to_array(leaf, f"{name}: result"))


def _add_place(error: GradwireError) -> None:
    """Note the user's line, once, unless the message names it."""
    places = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in _OWN_PACKAGES
    ]
    if places and places[-1] not in error.message and not getattr(error, "__notes__", None):
        error.add_note(f"while tracing {places[-1]}")


def to_array(leaf: Any, where: str) -> Array:
    """Return a leaf of the arguments as an array: Python numbers are 0-d float64 (bool and complex keep their kind).

    Raises:
        ArgumentError: it is no array.
        DtypeError: it has a dtype that gradwire does not have.
    """
    kind = type(leaf)
    if kind is np.ndarray and leaf.dtype in NATIVE:
        return leaf  # type: ignore[no-any-return]
    if kind is float or kind is int:
        return np.array(leaf, np.float64)
    if isinstance(leaf, np.ma.MaskedArray) or not (
        isinstance(leaf, (np.ndarray, np.generic, bool, complex)) or hasattr(leaf, "__array__")
    ):
        raise ArgumentError(
            f"{where}: needed an array or a number, got {kind.__name__}; convert it with np.asarray", given=kind.__name__
        )
    array = np.asarray(leaf)
    try:
        return array if array.dtype in NATIVE else array.astype(Dtype.of(array.dtype).numpy)
    except DtypeError as error:
        raise DtypeError(f"{where}: {error.message.removeprefix('dtype: ')}", **error.metadata) from None


class TraceCache:
    """The traces of functions, each found again while the function sees what it saw. Safe to use from threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._traces: OrderedDict[Any, list[Trace]] = OrderedDict()
        self._owners: dict[int, Any] = {}
        self._weight_bytes = 0

    def find(
        self,
        function: Callable[..., Any],
        arguments: Branch,
        types: tuple[Any, ...],
        input_types: Callable[[], Sequence[TensorType]],
    ) -> Trace:
        """Return the trace of a function, kept or new.

        Args:
            function: the function.
            arguments: the structure of the call.
            types: stands for the types of the leaves in the key.
            input_types: gives them.
        """
        key = (*_identity(function), arguments, types)
        kept = self._traces.get(key)
        if kept is not None:
            for found in kept:
                if found.watch is not None and found.watch.holds(function):
                    try:  # noqa: SIM105  # suppress takes as long as all else here
                        self._traces.move_to_end(key)
                    except KeyError:  # dropped by another thread meanwhile
                        pass
                    return found
        seen = watch(function, static_values(arguments))  # before the function runs, for it may change what it sees
        made = trace(function, arguments, input_types())
        if seen is not None and not any(isinstance(item, Value) for item in made.captures):
            made.watch = seen
            made.weight_bytes = seen.copied_bytes + EQUATION_BYTES * (10 + len(made.program.equations))
            self._keep(key, function, made)
        return made

    def clear(self) -> None:
        """Forget every trace."""
        with self._lock:
            self._traces.clear()
            self._owners.clear()
            self._weight_bytes = 0

    def __len__(self) -> int:
        return len(self._traces)

    def _keep(self, key: Any, function: Any, made: Trace) -> None:
        with self._lock:
            self._own(function)
            kept = self._traces.pop(key, [])
            self._traces[key] = [made, *kept[: VERSION_LIMIT - 1]]
            self._weight_bytes += made.weight_bytes - sum(old.weight_bytes for old in kept[VERSION_LIMIT - 1 :])
            while len(self._traces) > 1 and (len(self._traces) > TRACE_LIMIT or self._weight_bytes > WEIGHT_LIMIT_BYTES):
                self._drop(next(iter(self._traces)))

    def _own(self, function: Any) -> None:
        """Hold what the keys identify: weakly where that is possible, so that its traces go when it goes."""
        for owner in _parts(function):
            number = id(owner)
            if number in self._owners:
                continue
            try:
                self._owners[number] = weakref.ref(owner, functools.partial(self._forget, number))
            except TypeError:
                self._owners[number] = owner

    def _forget(self, number: int, _: object) -> None:
        # May run at any moment, even while this thread holds the lock: nothing is locked here.
        self._owners.pop(number, None)
        for key in [key for key in list(self._traces) if number in key[:2]]:
            self._drop(key)

    def _drop(self, key: Any) -> None:
        self._weight_bytes -= sum(old.weight_bytes for old in self._traces.pop(key, []))
        for number in key[:2]:
            if not any(number in other[:2] for other in list(self._traces)):
                self._owners.pop(number, None)


def _parts(function: Any) -> tuple[Any, ...]:
    return (function.__func__, function.__self__) if isinstance(function, types.MethodType) else (function,)


def _identity(function: Any) -> tuple[int, int]:
    if type(function) is types.MethodType:
        return id(function.__func__), id(function.__self__)
    return id(function), 0


TRACES = TraceCache()
