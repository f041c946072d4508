"""The functions that users call: `grad`, `jacobian`, `vmap` and their kin, the same for every backend.

`Functions` says what each gives and turns a call into a task; a backend only performs tasks. A backend that answers later
(`AsyncClient`) returns awaitables where these return results; everything else is the same.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradwire._nest import Branch, flatten_call, positional
from gradwire._program import Program, derive, derive_program
from gradwire._task import Argnums, Form, Task, prepare
from gradwire._tracing import NATIVE, TRACES, Trace, name_of, to_array
from gradwire_core.builder import Builder, Value, builder_of, check_operands
from gradwire_core.errors import ArgumentError, ShapeError
from gradwire_core.types import Array, Dtype, TensorType

Function = Callable[..., Any]


class Functions(abc.ABC):
    """The functions of gradwire, over a backend that performs tasks."""

    _is_reproducible: bool = False

    @abc.abstractmethod
    def _perform(self, task: Task) -> Any:
        """Run a task and return its rebuilt results, or an awaitable of them."""

    def evaluate(self, f: Function | Program, *, reproducible: bool = False) -> Any:
        """Return a function that computes `f` by its program.

        Args:
            f: a function of arrays, written with NumPy, or a `Program`.
            reproducible: whether answers repeat to the last bit, on every backend.

        Returns:
            A function of the arguments of `f` that returns what `f` returns.

        Raises:
            TracingError: when called, if `f` needs the value of a traced array.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> gw.evaluate(lambda x: np.exp(x) + 1)(np.zeros(2))
            array([2., 2.])
        """
        return Transformed(self, f, Form("evaluate"), reproducible)

    def grad(self, f: Function | Program, argnums: Argnums = 0, *, reproducible: bool = False) -> Any:
        """Return the gradient of a scalar function, `df/dx_i`, shaped as the argument.

        Args:
            f: a function with one scalar result, or a `Program`.
            argnums: the argument x, counted from 0; a tuple for several.
            reproducible: whether answers repeat to the last bit, on every backend.

        Returns:
            A function of the arguments of `f`: one gradient for an int, a tuple for a tuple. For a `Program`, a `Program`.

        Raises:
            ShapeError: when called, if the result of `f` is no scalar.
            NotDifferentiableError: when called, if the argument is an integer or bool array.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> gw.grad(lambda x: np.sum(x**2))(np.array([1.0, 2.0]))
            array([2., 4.])
        """
        return self._derivative(f, Form("grad", argnums), reproducible=reproducible)

    def value_and_grad(self, f: Function | Program, argnums: Argnums = 0, *, reproducible: bool = False) -> Any:
        """Return value and gradient of a scalar function, `(f, df/dx_i)`, from one forward pass.

        Args:
            f: a function with one scalar result, or a `Program`.
            argnums: the argument x, counted from 0; a tuple for several.
            reproducible: whether answers repeat to the last bit, on every backend.

        Returns:
            A function of the arguments of `f` that returns `(value, gradient)`. For a `Program`, a `Program`.

        Raises:
            ShapeError: when called, if the result of `f` is no scalar.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> gw.value_and_grad(lambda x: x**3)(2.0)
            (array(8.), array(12.))
        """
        return self._derivative(f, Form("value_and_grad", argnums), reproducible=reproducible)

    def jacobian(self, f: Function | Program, argnums: Argnums = 0, layout: str = "dense", *, reproducible: bool = False) -> Any:
        """Return the Jacobian `dy_i/dx_j`, of shape `shape_out + shape_in`; i and j run over all axes of y and x.

        Args:
            f: a function that returns an array y, or several; or a `Program`.
            argnums: the argument x, counted from 0; a tuple for several.
            layout: `dense` for an array; `structured` for a `StructuredJacobian`, which holds the Jacobian as a sum of
                labelled terms and costs what its structure costs.
            reproducible: whether answers repeat to the last bit, on every backend.

        Returns:
            A function of the arguments of `f`: for each array of the result, one Jacobian for an int, a tuple for a tuple.
            For a `Program`, a `Program`.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> gw.jacobian(np.square)(np.array([1.0, 2.0]))
            array([[2., 0.],
                   [0., 4.]])
            >>> gw.jacobian(np.square, layout="structured")(np.ones(1_000_000)).nbytes
            8000000
        """
        return self._derivative(f, Form("jacobian", argnums, layout), reproducible=reproducible)

    def hessian(self, f: Function | Program, argnums: Argnums = 0, layout: str = "dense", *, reproducible: bool = False) -> Any:
        """Return the Hessian of a scalar function, `d2f/dx_i dx_j`, of shape `shape_in + shape_in`.

        Args:
            f: a function with one scalar result, or a `Program`.
            argnums: the argument x, counted from 0; a tuple for several.
            layout: `dense` for an array, `structured` for a `StructuredJacobian`.
            reproducible: whether answers repeat to the last bit, on every backend.

        Returns:
            A function of the arguments of `f`: one Hessian for an int; for a tuple, a tuple of rows, each a tuple of blocks.
            For a `Program`, a `Program`.

        Raises:
            ShapeError: when called, if the result of `f` is no scalar.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> gw.hessian(lambda x: x[0] ** 2 * x[1])(np.array([1.0, 3.0]))
            array([[6., 2.],
                   [2., 0.]])
        """
        return self._derivative(f, Form("hessian", argnums, layout), reproducible=reproducible)

    def jvp(self, f: Function | Program, primals: Any, tangents: Any, *, reproducible: bool = False) -> Any:
        """Return `(y, ydot)`: the value and the directional derivative `ydot_i = sum_j dy_i/dx_j xdot_j`.

        Args:
            f: a function of arrays, or a `Program`.
            primals: the arguments x, as a tuple; an array alone stands for one argument.
            tangents: the direction xdot, nested and shaped as the primals; None for an argument that stays.
            reproducible: whether the answer repeats to the last bit, on every backend.

        Returns:
            The value and its tangent, nested alike.

        Raises:
            ShapeError, DtypeError: a tangent is not of its primal's type.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> gw.jvp(np.sin, (0.0,), (2.0,))
            (array(0.), array(2.))
        """
        call = _bind(f, *_primals(primals))
        return self._ask(call, "jvp", _directions("jvp", call, primals, tangents), reproducible=reproducible)

    def vjp(self, f: Function | Program, *primals: Any, reproducible: bool = False) -> Any:
        """Return `(y, pullback)`: the value, and the function from cotangents of y to cotangents of x.

        Args:
            f: a function of arrays, or a `Program`.
            primals: the arguments x.
            reproducible: whether answers repeat to the last bit, on every backend.

        Returns:
            The value, and a function: `pullback(ybar)` returns a tuple, one `xbar_j = sum_i ybar_i dy_i/dx_j` an argument,
            None for integers and bools. `ybar` is nested and shaped as the value.

        Raises:
            ShapeError, DtypeError: a cotangent is not of its result's type.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> value, pullback = gw.vjp(lambda x, w: x @ w, np.array([1.0, 2.0]), np.array([3.0, 4.0]))
            >>> pullback(1.0)
            (array([3., 4.]), array([1., 2.]))
        """
        call = _bind(f, *flatten_call(primals, {}))
        leaves = tuple(number for number, item in enumerate(call.trace.argument_types) if item.dtype.is_inexact)

        def pullback(cotangent: Any) -> Any:
            given: list[Any] = []
            call.trace.results.collect(cotangent, given, "pullback: cotangent")
            seeds = [_as_seed(item, f"pullback: cotangent {number}") for number, item in enumerate(given)]
            check_operands(call.trace.program.output_types, list(map(_type_of, seeds)), "pullback: cotangent")
            return self._ask(call, "vjp", _Seeds(leaves, seeds), reproducible=reproducible)

        return self._ask(call, "evaluate", _Seeds((), []), finish=lambda value: (value, pullback), reproducible=reproducible)

    def hvp(self, f: Function | Program, primals: Any, tangents: Any, *, reproducible: bool = False) -> Any:
        """Return the Hessian-vector product of a scalar function, `sum_j d2f/dx_i dx_j xdot_j`, without its Hessian.

        Args:
            f: a function with one scalar result, or a `Program`.
            primals: the arguments x, as a tuple; an array alone stands for one argument.
            tangents: the direction xdot, nested and shaped as the primals; None for an argument that is no part of x.
            reproducible: whether the answer repeats to the last bit, on every backend.

        Returns:
            The product, nested and shaped as the primals.

        Raises:
            ShapeError: the result of `f` is no scalar, or a tangent is not of its primal's shape.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> gw.hvp(lambda x: np.sum(x**3), np.array([1.0, 2.0]), np.array([1.0, 0.0]))
            array([6., 0.])
        """
        call = _bind(f, *_primals(primals))
        finish = None if isinstance(primals, tuple) else _only
        return self._ask(call, "hvp", _directions("hvp", call, primals, tangents), finish=finish, reproducible=reproducible)

    def jacobian_det(self, f: Function | Program, argnums: Argnums = 0, *, reproducible: bool = False) -> Any:
        """Return `det dy/dx`, where y and x are flattened row-major and of one size.

        Args:
            f: a function whose result has as many elements as the argument, or a `Program`.
            argnums: the argument x, counted from 0; a tuple for several, flattened in order.
            reproducible: whether answers repeat to the last bit, on every backend.

        Returns:
            A function of the arguments of `f` that returns a 0-d array. For a `Program`, a `Program`.

        Raises:
            ShapeError: when called, if the Jacobian is not square.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> polar = lambda p: np.stack([p[0] * np.cos(p[1]), p[0] * np.sin(p[1])])
            >>> gw.jacobian_det(polar)(np.array([2.0, 0.0]))
            array(2.)
        """
        return self._derivative(f, Form("jacobian_det", argnums), reproducible=reproducible)

    def jacobian_slogdet(self, f: Function | Program, argnums: Argnums = 0, *, reproducible: bool = False) -> Any:
        """Return the sign of `det dy/dx` and the logarithm of its absolute value, which neither overflow nor underflow.

        Args:
            f: a function whose result has as many elements as the argument, or a `Program`.
            argnums: the argument x, counted from 0; a tuple for several, flattened in order.
            reproducible: whether answers repeat to the last bit, on every backend.

        Returns:
            A function of the arguments of `f` that returns `(sign, logabsdet)`. For a `Program`, a `Program`.

        Raises:
            ShapeError: when called, if the Jacobian is not square.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> gw.jacobian_slogdet(lambda x: -np.exp(x))(np.array([1.0, 2.0, 3.0]))
            (array(-1.), array(6.))
        """
        return self._derivative(f, Form("jacobian_slogdet", argnums), reproducible=reproducible)

    def vmap(
        self,
        f: Function | Program,
        in_axes: int | tuple[int | None, ...] | None = 0,
        *,
        axis_size: int | None = None,
        reproducible: bool = False,
    ) -> Any:
        """Return f over a batch axis: what f gives for each item, stacked along a first axis.

        Args:
            f: a function of arrays, such as another of these functions returns; or a `Program`.
            in_axes: the batch axis of every argument, or one an argument; None for an argument that is not batched. Keyword
                arguments are not batched.
            axis_size: the number of items; by default what the arguments say.
            reproducible: whether answers repeat to the last bit, on every backend.

        Returns:
            A function of batched arguments; every array it returns has the batch axis first. For a `Program` and an
            `axis_size`, a `Program`.

        Raises:
            ShapeError: when called, if arguments have no such axis or differ in batch size.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> gw.vmap(gw.grad(lambda x: x**2))(np.array([1.0, 2.0, 3.0]))
            array([2., 4., 6.])
        """
        if isinstance(f, Program) and axis_size is not None:
            axes, _ = batch_axes("vmap(program)", in_axes, None, f.traced.arguments, axis_size)
            return derive_program(f, Form("vmap", in_axes=axes, axis_size=axis_size))
        return Vmapped(self, f, in_axes, axis_size, reproducible)

    def trace(self, f: Function | Program, *args: Any) -> Program:
        """Return the program of a function, for arguments of the given shapes and dtypes.

        Args:
            f: a function of arrays; for a `Program`, it is returned itself.
            args: examples of the arguments; their values do not matter.

        Raises:
            TracingError: `f` needs the value of a traced array.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> print(gw.trace(lambda x: np.tanh(x).sum(), np.ones(3)))
            program(a: float64[3]) {
              b: float64[3] = tanh(a)
              c: float64[] = sum[axes=(0)](b)
            } -> (c)
        """
        if isinstance(f, Program):
            return f
        trace = _bind(f, *flatten_call(args, {})).trace
        captured = [item for item in trace.captures if not isinstance(item, Value)]
        if len(captured) != len(trace.captures):
            raise ArgumentError(
                "trace: needed a function of its own arguments, got one that reaches arrays of another trace; pass them"
            )
        return Program.of(trace.program, captured)

    # -- how they are done ---------------------------------------------------------------------------------------------------

    def _derivative(self, f: Function | Program, form: Form, *, reproducible: bool) -> Any:
        return derive_program(f, form) if isinstance(f, Program) else Transformed(self, f, form, reproducible)

    def _ask(
        self, call: _Call, kind: str, given: _Seeds, *, finish: Callable[[Any], Any] | None = None, reproducible: bool = False
    ) -> Any:
        """Perform a form of a call whose seeds belong to its last output."""
        return self._answer(call, Form(kind, given.leaves), given.arrays, finish, reproducible=reproducible)

    def _answer(
        self,
        call: _Call,
        form: Form,
        seeds: Sequence[Any] = (),
        finish: Callable[[Any], Any] | None = None,
        *,
        reproducible: bool = False,
    ) -> Any:
        trace = call.trace
        prepared = prepare(trace, form)
        inputs = [*call.leaves, *trace.captures] if trace.captures else call.leaves
        rebuild = prepared.rebuild if finish is None else _then(prepared.rebuild, finish)
        builder = builder_of([*inputs, *seeds] if seeds else inputs)
        if builder is not None:
            return rebuild(_inline(builder, trace, form, [*inputs, *seeds]))
        given = [*[()] * (len(prepared.outputs) - 1), seeds]
        is_reproducible = reproducible or self._is_reproducible
        return self._perform(Task(trace.program, prepared.outputs, inputs, given, is_reproducible, rebuild))


class Transformed:
    """A function made of another, such as its gradient; called as the other is."""

    def __init__(self, functions: Functions, f: Function | Program, form: Form, reproducible: bool) -> None:
        if not callable(f) and not isinstance(f, Program):
            raise ArgumentError(
                f"{form.kind}: needed a function or a Program, got {type(f).__name__}; pass the function itself", given=f
            )
        self.__wrapped__ = f
        self.__name__ = f"{form.kind}({name_of(f)})"
        self.__doc__ = f"{form.kind} of {name_of(f)}."
        self._functions = functions
        self._form = form
        self._reproducible = reproducible

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute it: the arguments are those of the function it is made of."""
        call = _bind(self.__wrapped__, *flatten_call(args, kwargs))
        return self._functions._answer(call, self._form, reproducible=self._reproducible)  # noqa: SLF001  # one machine, two classes

    def __repr__(self) -> str:
        return f"<{self.__name__}>"

    def __gradwire_watch__(self) -> tuple[Any, ...]:
        """What decides what this function computes."""
        return (self.__wrapped__,)


class Vmapped(Transformed):
    """A function over a batch axis."""

    def __init__(
        self, functions: Functions, f: Function | Program, in_axes: Any, axis_size: int | None, reproducible: bool
    ) -> None:
        super().__init__(functions, f, Form("vmap"), reproducible)
        self._in_axes = in_axes
        self._axis_size = axis_size

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute it: the arguments are those of the function, with batch axes."""
        leaves, arguments = flatten_call(args, kwargs)
        shapes = [leaf.shape if isinstance(leaf, Value) else np.shape(leaf) for leaf in leaves]
        axes, size = batch_axes(self.__name__, self._in_axes, shapes, arguments, self._axis_size)
        call = _bind(self.__wrapped__, leaves, arguments, axes)
        form = Form("vmap", in_axes=axes, axis_size=size)
        return self._functions._answer(call, form, reproducible=self._reproducible)  # noqa: SLF001  # one machine, two classes


class _Call(NamedTuple):
    """A trace, and the leaves it is called with: arrays, or Values of an outer trace."""

    trace: Trace
    leaves: list[Any]


class _Seeds(NamedTuple):
    """The leaves that have a direction, and the directions."""

    leaves: tuple[int, ...]
    arrays: list[Any]


def _bind(f: Any, leaves: list[Any], arguments: Branch, axes: tuple[int | None, ...] | None = None) -> _Call:
    """Return the call of a function: its trace for these arguments, and their leaves as arrays."""
    for number, leaf in enumerate(leaves):
        if (type(leaf) is not np.ndarray or leaf.dtype not in NATIVE) and type(leaf) is not Value:
            leaves[number] = to_array(leaf, f"{name_of(f)}: argument {number}")
    if axes is None:
        types = tuple([(leaf.dtype, leaf.shape) for leaf in leaves])
    else:
        types = tuple([(leaf.dtype, without_axis(leaf.shape, axis)) for leaf, axis in zip(leaves, axes, strict=True)])
    if isinstance(f, Program):
        check_operands(f.traced.argument_types, _tensor_types(types), "program: argument")
        return _Call(f.traced, leaves)
    return _Call(TRACES.find(f, arguments, types, lambda: _tensor_types(types)), leaves)


def _tensor_types(types: Sequence[tuple[Any, tuple[int, ...]]]) -> list[TensorType]:
    return [TensorType(Dtype.of(dtype), shape) for dtype, shape in types]


def _inline(builder: Builder, trace: Trace, form: Form, operands: Sequence[Any]) -> list[list[Any]]:
    """Write the equations of a form into an outer trace; return a list of Values an output."""
    prepared = prepare(trace, form)
    if any(item.layout != "dense" for item in prepared.outputs):
        raise ArgumentError(
            f"{form.kind}({trace.name}): needed layout='dense' inside a traced function, got {form.layout!r}; leave it out"
        )
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


def _primals(primals: Any) -> tuple[list[Any], Branch]:
    return flatten_call(primals if isinstance(primals, tuple) else (primals,), {})


def _directions(where: str, call: _Call, primals: Any, tangents: Any) -> _Seeds:
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
    seeds = [_as_seed(given[number], f"{where}: tangent {number}") for number in leaves]
    check_operands([call.trace.argument_types[number] for number in leaves], list(map(_type_of, seeds)), f"{where}: tangent")
    return _Seeds(leaves, seeds)


def _as_seed(item: Any, where: str) -> Any:
    return item if isinstance(item, Value) else to_array(item, where)


def _type_of(item: Array | Value) -> TensorType:
    return item.type if isinstance(item, Value) else TensorType.of(item)


def _only(values: Sequence[Any]) -> Any:
    return values[0]


def _then(rebuild: Callable[[Any], Any], finish: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda results: finish(rebuild(results))
