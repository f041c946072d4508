"""How a call of one of the SDK's functions is answered: traced, or found traced; then written into an outer trace, or performed.

A `Performer` is a backend seen from here: it performs tasks, and nothing else is known of it.
"""

from __future__ import annotations

import abc
import copy
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from gradwire._nest import Branch, flatten_call, flatten_with_static, positional
from gradwire._program import Program, derive
from gradwire._task import Form, Task, prepare
from gradwire._tracing import NATIVE, TRACES, Trace, name_of, to_array
from gradwire_core import program as core
from gradwire_core.builder import Builder, Value, builder_of, check_operands
from gradwire_core.errors import ArgumentError, ShapeError
from gradwire_core.types import Array, Dtype, TensorType

if TYPE_CHECKING:
    from gradwire_core.engine import Output


class Call(NamedTuple):
    """A trace, and the leaves it is called with: arrays, or Values of an outer trace."""

    trace: Trace
    leaves: list[Any]


class Seeds(NamedTuple):
    """The leaves that have a direction, and the directions."""

    leaves: tuple[int, ...]
    arrays: list[Any]


class Statics(NamedTuple):
    """The arguments of a function that are no arrays, but part of what is traced: hashable values, each with a trace of its own."""

    numbers: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, where: str, f: Any, numbers: int | Sequence[int], names: str | Sequence[str]) -> Statics | None:
        """Return the static arguments that are named by either; None where there are none.

        Raises:
            ArgumentError: the function has no such arguments.
        """
        numbers = (numbers,) if isinstance(numbers, int) else tuple(numbers)
        names = (names,) if isinstance(names, str) else tuple(names)
        if not numbers and not names:
            return None
        if isinstance(f, Program):
            raise ArgumentError(
                f"{where}: needed a function for static arguments, got a Program; trace it with them fixed", given=f
            )
        for item in (*numbers, *names):
            if not isinstance(item, int if item in numbers else str) or (isinstance(item, int) and item < 0):
                text = f"{where}: needed static_argnums counted from 0 and static_argnames as text, got {item!r}; correct it"
                raise ArgumentError(text, given=item)
        return cls(*_both(f, frozenset(numbers), frozenset(names)))

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], Branch]:
        """Return the leaves of a call and its structure, which holds the static arguments."""
        return flatten_with_static(args, kwargs, lambda place: place in self.numbers or place in self.names)


def _both(f: Any, numbers: frozenset[int], names: frozenset[str]) -> tuple[frozenset[int], frozenset[str]]:
    """Return numbers and names such that an argument named one way is found when it is passed the other way."""
    try:
        parameters = [
            name
            for name, item in inspect.signature(f).parameters.items()
            if item.kind in {item.POSITIONAL_OR_KEYWORD, item.POSITIONAL_ONLY}
        ]
    except (TypeError, ValueError):  # a function of C tells nothing of its arguments
        return numbers, names
    return (
        numbers | {number for number, name in enumerate(parameters) if name in names},
        names | {parameters[number] for number in numbers if number < len(parameters)},
    )


class Performer(abc.ABC):
    """What performs tasks."""

    _is_reproducible: bool = False

    @abc.abstractmethod
    def _perform(self, task: Task) -> Any:
        """Run a task and return its rebuilt results, or an awaitable of them."""

    @abc.abstractmethod
    def _explain(self, program: core.Program, outputs: Sequence[Output], names: Sequence[str], format: str) -> Any:
        """Return the derivation of outputs of a program in a format, or an awaitable of it."""

    def _ask(
        self, call: Call, kind: str, given: Seeds, *, finish: Callable[[Any], Any] | None = None, reproducible: bool = False
    ) -> Any:
        """Perform a form of a call whose seeds belong to its last output."""
        return self._answer(call, Form(kind, given.leaves), given.arrays, finish, reproducible=reproducible)

    def _answer(
        self,
        call: Call,
        form: Form,
        seeds: Sequence[Any] = (),
        finish: Callable[[Any], Any] | None = None,
        *,
        reproducible: bool = False,
    ) -> Any:
        """Answer a form of a call: by Values where an argument is one, else by performing a task.

        Args:
            call: the call.
            form: what is asked of it.
            seeds: the tangents or cotangents of the last output.
            finish: what is made of the rebuilt results.
            reproducible: whether the answer must repeat to the last bit.
        """
        trace = call.trace
        prepared = prepare(trace, form)
        inputs = [*call.leaves, *trace.captures] if trace.captures else call.leaves
        rebuild = prepared.rebuild if finish is None else _then(prepared.rebuild, finish)
        builder = builder_of([*inputs, *seeds] if seeds else inputs)
        if builder is not None:
            return rebuild(_inline(builder, trace, form, [*inputs, *seeds]))
        given = [*[()] * (len(prepared.outputs) - 1), seeds] if seeds else ()
        is_reproducible = reproducible or self._is_reproducible
        return self._perform(Task(trace.program, prepared.outputs, inputs, given, is_reproducible, rebuild))


class Transformed:
    """A function made of another, such as its gradient; called as the other is."""

    def __init__(
        self,
        answer: Callable[..., Any],
        f: Callable[..., Any] | Program,
        form: Form,
        reproducible: bool,
        statics: Statics | None = None,
    ) -> None:
        if not callable(f) and not isinstance(f, Program):
            raise ArgumentError(
                f"{form.kind}: needed a function or a Program, got {type(f).__name__}; pass the function itself", given=f
            )
        self.__wrapped__ = f
        self.__name__ = f"{form.kind}({name_of(f)})"
        self.__doc__ = f"{form.kind} of {name_of(f)}."
        self._answer = answer
        self._form = form
        self._reproducible = reproducible
        self._flatten = flatten_call if statics is None else statics.flatten

    def performed_by(self, performer: Performer) -> Self:
        """Return the same function, performed by another."""
        other = copy.copy(self)
        other._answer = performer._answer  # noqa: SLF001  # its own class
        return other

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute it: the arguments are those of the function it is made of."""
        call = bind(self.__wrapped__, *self._flatten(args, kwargs))
        return self._answer(call, self._form, reproducible=self._reproducible)

    def __repr__(self) -> str:
        return f"<{self.__name__}>"

    def __gradwire_watch__(self) -> tuple[Any, ...]:
        """What decides what this function computes."""
        return (self.__wrapped__,)


class Vmapped(Transformed):
    """A function over a batch axis."""

    def __init__(
        self,
        answer: Callable[..., Any],
        f: Callable[..., Any] | Program,
        in_axes: Any,
        axis_size: int | None,
        reproducible: bool,
        statics: Statics | None = None,
    ) -> None:
        super().__init__(answer, f, Form("vmap"), reproducible, statics)
        self._in_axes = in_axes
        self._axis_size = axis_size

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute it: the arguments are those of the function, with batch axes."""
        leaves, arguments = self._flatten(args, kwargs)
        shapes = [leaf.shape if isinstance(leaf, Value) else np.shape(leaf) for leaf in leaves]
        axes, size = batch_axes(self.__name__, self._in_axes, shapes, arguments, self._axis_size)
        call = bind(self.__wrapped__, leaves, arguments, axes)
        form = Form("vmap", in_axes=axes, axis_size=size)
        return self._answer(call, form, reproducible=self._reproducible)


def bind(f: Any, leaves: list[Any], arguments: Branch, axes: tuple[int | None, ...] | None = None) -> Call:
    """Return the call of a function: its trace for these arguments, and their leaves as arrays."""
    types = []
    for number, given in enumerate(leaves):
        leaf = given
        if (type(leaf) is not np.ndarray or leaf.dtype not in NATIVE) and type(leaf) is not Value:
            leaf = leaves[number] = to_array(leaf, f"{name_of(f)}: argument {number}")
        types.append((leaf.dtype, leaf.shape))
    if axes is not None:
        types = [(dtype, without_axis(shape, axis)) for (dtype, shape), axis in zip(types, axes, strict=True)]
    if isinstance(f, Program):
        check_operands(f.traced.argument_types, _tensor_types(types), "program: argument")
        return Call(f.traced, leaves)
    return Call(TRACES.find(f, arguments, tuple(types), lambda: _tensor_types(types)), leaves)


def _tensor_types(types: Sequence[tuple[Any, tuple[int, ...]]]) -> list[TensorType]:
    return [TensorType(Dtype.of(dtype), shape) for dtype, shape in types]


def _inline(builder: Builder, trace: Trace, form: Form, operands: Sequence[Any]) -> list[list[Any]]:
    """Write the equations of a form into an outer trace; return a list of Values an output."""
    prepared = prepare(trace, form)
    if any(item.layout != "dense" for item in prepared.outputs):
        text = (
            f"{form.kind}({trace.name}): needed layout='dense' inside a traced function, got {form.layout!r}; leave it out, "
            f"or make {form.kind} the outermost, as in {form.kind}(vmap(f), layout={form.layout!r})"
        )
        raise ArgumentError(text, given=form.layout)
    program, counts = derive(trace, form)
    values = iter(builder.inline(program, [builder.lift(item) for item in operands]))
    return [list(itertools.islice(values, count)) for count in counts]


def batch_axes(
    where: str, in_axes: Any, shapes: Sequence[tuple[int, ...]] | None, arguments: Branch, axis_size: int | None
) -> tuple[tuple[int | None, ...], int]:
    """Return the batch axis of each leaf, counted from the front where shapes are given, and the batch size.

    Raises:
        ArgumentError: in_axes does not fit the arguments, or batches none.
        ShapeError: an argument has no such axis, or batch sizes differ.
    """
    structures = positional(arguments)
    if in_axes is not None and not isinstance(in_axes, (int, tuple)):
        raise ArgumentError(
            f"{where}: needed in_axes as an int, None or a tuple of them, got {in_axes!r}; correct it", given=in_axes
        )
    given = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(structures)
    if len(given) != len(structures):
        text = f"{where}: needed in_axes for {len(structures)} positional arguments, got {len(given)}; give one an argument"
        raise ArgumentError(text, needed=len(structures), given=len(given))
    axes: list[int | None] = [axis for axis, structure in zip(given, structures, strict=True) for _ in range(structure.count)]
    axes += [None] * (arguments.count - len(axes))
    if all(axis is None for axis in axes):
        raise ArgumentError(f"{where}: needed at least one batched argument, got in_axes={in_axes!r}; give an axis", given=in_axes)
    sizes = set() if axis_size is None else {axis_size}
    for number, (axis, shape) in enumerate(zip(axes, shapes or (), strict=shapes is not None)):
        if axis is not None:
            axes[number] = place = _front(where, axis, shape, number)
            sizes.add(shape[place])
    if len(sizes) != 1:
        raise ShapeError(
            f"{where}: needed one batch size, got {sorted(sizes)}; make the batched axes equally long", given=sorted(sizes)
        )
    return tuple(axes), sizes.pop()


def _front(where: str, axis: int, shape: tuple[int, ...], number: int) -> int:
    place = axis + len(shape) if axis < 0 else axis
    if not 0 <= place < len(shape):
        text = f"{where}: needed an axis {axis} in argument {number}, got shape {shape}; correct in_axes or pass a batch"
        raise ShapeError(text, axis=axis, shape=shape)
    return place


def without_axis(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    """Return a shape without one axis."""
    return shape if axis is None else shape[:axis] + shape[axis + 1 :]


def flatten_primals(primals: Any) -> tuple[list[Any], Branch]:
    return flatten_call(primals if isinstance(primals, tuple) else (primals,), {})


def directions(where: str, call: Call, primals: Any, tangents: Any) -> Seeds:
    """Return the tangents of a call; leaves without one are held fixed."""
    whole = tangents if isinstance(primals, tuple) else (tangents,)
    given: list[Any] = []
    structures = positional(call.trace.arguments)
    if not isinstance(whole, (tuple, list)) or len(whole) != len(structures):
        count = len(whole) if isinstance(whole, (tuple, list)) else 1
        raise ArgumentError(
            f"{where}: needed a tangent for each of {len(structures)} primals, got {count}; nest them alike", given=count
        )
    for number, (tangent, structure) in enumerate(zip(whole, structures, strict=True)):
        if tangent is None:
            given += [None] * structure.count
        else:
            structure.collect(tangent, given, f"{where}: tangent {number}")
    leaves = tuple(number for number, tangent in enumerate(given) if tangent is not None)
    if not leaves:
        raise ArgumentError(f"{where}: needed at least one tangent, got None only; give a direction")
    seeds = [as_seed(given[number], f"{where}: tangent {number}") for number in leaves]
    check_operands([call.trace.argument_types[number] for number in leaves], list(map(type_of, seeds)), f"{where}: tangent")
    return Seeds(leaves, seeds)


def as_seed(item: Any, where: str) -> Any:
    return item if isinstance(item, Value) else to_array(item, where)


def type_of(item: Array | Value) -> TensorType:
    return item.type if isinstance(item, Value) else TensorType.of(item)


def _then(rebuild: Callable[[Any], Any], finish: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda results: finish(rebuild(results))
