"""The functions that users call: `grad`, `jacobian`, `vmap` and their kin, the same for every backend.

A backend that answers later (`AsyncClient`) returns awaitables where the others return results; everything else is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gradwire._calls import (
    Performer,
    Seeds,
    Statics,
    Transformed,
    Vmapped,
    as_seed,
    batch_axes,
    bind,
    directions,
    flatten_primals,
    type_of,
)
from gradwire._nest import flatten_call
from gradwire._program import Program, derive_program
from gradwire._task import Argnums, Form, Format, Layout, check_explained, check_form, prepare
from gradwire._tracing import Trace
from gradwire_core.builder import Value, check_operands
from gradwire_core.errors import ArgumentError
from gradwire_core.types import Array

Function = Callable[..., Any]
Numbers = int | Sequence[int]
Names = str | Sequence[str]


class Functions(Performer):
    """The functions of gradwire, over what performs tasks."""

    def evaluate(
        self, f: Function | Program, *, static_argnums: Numbers = (), static_argnames: Names = (), reproducible: bool = False
    ) -> Any:
        """Return a function that computes `f` by its program.

        Args:
            f: a function of arrays, written with NumPy, or a `Program`.
            static_argnums: the arguments that are no arrays but hashable values, such as a number of steps, counted from 0: each
                value has a trace of its own. Text and None always are.
            static_argnames: the same, by name.
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
        statics = Statics.of("evaluate", f, static_argnums, static_argnames)
        return Transformed(self._answer, f, Form("evaluate"), reproducible, statics)

    def grad(
        self,
        f: Function | Program,
        argnums: Argnums = 0,
        *,
        static_argnums: Numbers = (),
        static_argnames: Names = (),
        reproducible: bool = False,
    ) -> Any:
        """Return the gradient of a scalar function, `df/dx_i`, shaped as the argument.

        The function must be real. In a complex argument `x + iy` its gradient is `df/dx - i df/dy`, as in JAX: the conjugate of
        the direction of steepest ascent.

        Args:
            f: a function with one scalar result, or a `Program`.
            argnums: the argument x, counted from 0; a tuple for several.
            static_argnums: the arguments that are no arrays but hashable values, such as a number of steps, counted from 0: each
                value has a trace of its own. Text and None always are.
            static_argnames: the same, by name.
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
        statics = Statics.of("grad", f, static_argnums, static_argnames)
        return self._derivative(f, Form("grad", argnums), statics, reproducible=reproducible)

    def value_and_grad(
        self,
        f: Function | Program,
        argnums: Argnums = 0,
        *,
        static_argnums: Numbers = (),
        static_argnames: Names = (),
        reproducible: bool = False,
    ) -> Any:
        """Return value and gradient of a scalar function, `(f, df/dx_i)`, from one forward pass.

        Args:
            f: a function with one scalar result, or a `Program`.
            argnums: the argument x, counted from 0; a tuple for several.
            static_argnums: the arguments that are no arrays but hashable values, such as a number of steps, counted from 0: each
                value has a trace of its own. Text and None always are.
            static_argnames: the same, by name.
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
        statics = Statics.of("value_and_grad", f, static_argnums, static_argnames)
        return self._derivative(f, Form("value_and_grad", argnums), statics, reproducible=reproducible)

    def jacobian(
        self,
        f: Function | Program,
        argnums: Argnums = 0,
        layout: Layout = "dense",
        *,
        static_argnums: Numbers = (),
        static_argnames: Names = (),
        reproducible: bool = False,
    ) -> Any:
        """Return the Jacobian `dy_i/dx_j`, of shape `shape_out + shape_in`; i and j run over all axes of y and x.

        Args:
            f: a function that returns an array y, or several; or a `Program`.
            argnums: the argument x, counted from 0; a tuple for several.
            layout: `dense` for an array; `structured` for a `StructuredJacobian`, which holds the Jacobian as a sum of
                labelled terms and costs what its structure costs; `sparse` for a `scipy.sparse.csr_array` of shape
                (size of y, size of x), both flattened row-major, whose stored places follow from f alone.
            static_argnums: the arguments that are no arrays but hashable values, such as a number of steps, counted from 0: each
                value has a trace of its own. Text and None always are.
            static_argnames: the same, by name.
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
            >>> gw.jacobian(lambda x: x[1:] * x[:-1], layout="sparse")(np.arange(4.0)).toarray()
            array([[1., 0., 0., 0.],
                   [0., 2., 1., 0.],
                   [0., 0., 3., 2.]])
        """
        statics = Statics.of("jacobian", f, static_argnums, static_argnames)
        return self._derivative(f, Form("jacobian", argnums, layout), statics, reproducible=reproducible)

    def hessian(
        self,
        f: Function | Program,
        argnums: Argnums = 0,
        layout: Layout = "dense",
        *,
        static_argnums: Numbers = (),
        static_argnames: Names = (),
        reproducible: bool = False,
    ) -> Any:
        """Return the Hessian of a scalar function, `d2f/dx_i dx_j`, of shape `shape_in + shape_in`.

        Args:
            f: a function with one scalar result, or a `Program`.
            argnums: the argument x, counted from 0; a tuple for several.
            layout: `dense` for an array, `structured` for a `StructuredJacobian`, `sparse` for a `scipy.sparse.csr_array`
                of shape (size of x, size of x); as for `jacobian`.
            static_argnums: the arguments that are no arrays but hashable values, such as a number of steps, counted from 0: each
                value has a trace of its own. Text and None always are.
            static_argnames: the same, by name.
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
        statics = Statics.of("hessian", f, static_argnums, static_argnames)
        return self._derivative(f, Form("hessian", argnums, layout), statics, reproducible=reproducible)

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
        call = bind(f, *flatten_primals(primals))
        return self._ask(call, "jvp", directions("jvp", call, primals, tangents), reproducible=reproducible)

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
        call = bind(f, *flatten_call(primals, {}))
        leaves = tuple(number for number, item in enumerate(call.trace.argument_types) if item.dtype.is_inexact)

        def pullback(cotangent: Any) -> Any:
            given: list[Any] = []
            call.trace.results.collect(cotangent, given, "pullback: cotangent")
            seeds = [as_seed(item, f"pullback: cotangent {number}") for number, item in enumerate(given)]
            check_operands(call.trace.program.output_types, list(map(type_of, seeds)), "pullback: cotangent")
            return self._ask(call, "vjp", Seeds(leaves, seeds), reproducible=reproducible)

        return self._ask(call, "evaluate", Seeds((), []), finish=lambda value: (value, pullback), reproducible=reproducible)

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
        call = bind(f, *flatten_primals(primals))
        finish = None if isinstance(primals, tuple) else _only
        return self._ask(call, "hvp", directions("hvp", call, primals, tangents), finish=finish, reproducible=reproducible)

    def jacobian_det(
        self,
        f: Function | Program,
        argnums: Argnums = 0,
        *,
        static_argnums: Numbers = (),
        static_argnames: Names = (),
        reproducible: bool = False,
    ) -> Any:
        """Return `det dy/dx`, where y and x are flattened row-major and of one size.

        Args:
            f: a function whose result has as many elements as the argument, or a `Program`.
            argnums: the argument x, counted from 0; a tuple for several, flattened in order.
            static_argnums: the arguments that are no arrays but hashable values, such as a number of steps, counted from 0: each
                value has a trace of its own. Text and None always are.
            static_argnames: the same, by name.
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
        statics = Statics.of("jacobian_det", f, static_argnums, static_argnames)
        return self._derivative(f, Form("jacobian_det", argnums), statics, reproducible=reproducible)

    def jacobian_slogdet(
        self,
        f: Function | Program,
        argnums: Argnums = 0,
        *,
        static_argnums: Numbers = (),
        static_argnames: Names = (),
        reproducible: bool = False,
    ) -> Any:
        """Return the sign of `det dy/dx` and the logarithm of its absolute value, which neither overflow nor underflow.

        Args:
            f: a function whose result has as many elements as the argument, or a `Program`.
            argnums: the argument x, counted from 0; a tuple for several, flattened in order.
            static_argnums: the arguments that are no arrays but hashable values, such as a number of steps, counted from 0: each
                value has a trace of its own. Text and None always are.
            static_argnames: the same, by name.
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
        statics = Statics.of("jacobian_slogdet", f, static_argnums, static_argnames)
        return self._derivative(f, Form("jacobian_slogdet", argnums), statics, reproducible=reproducible)

    def jacobian_logvolume(
        self,
        f: Function | Program,
        argnums: Argnums = 0,
        *,
        static_argnums: Numbers = (),
        static_argnames: Names = (),
        reproducible: bool = False,
    ) -> Any:
        """Return `log sqrt(det(J^T J))` of `J = dy/dx`: the logarithm of the factor by which f changes volumes.

        y and x are flattened row-major, and y is as large as x or larger, as where x are coordinates of a surface in space. It
        neither overflows nor underflows; where y and x are of one size, it is `log |det J|`.

        Args:
            f: a function whose result has at least as many elements as the argument, or a `Program`.
            argnums: the argument x, counted from 0; a tuple for several, flattened in order.
            static_argnums: the arguments that are no arrays but hashable values, such as a number of steps, counted from 0: each
                value has a trace of its own. Text and None always are.
            static_argnames: the same, by name.
            reproducible: whether answers repeat to the last bit, on every backend.

        Returns:
            A function of the arguments of `f` that returns a 0-d array. For a `Program`, a `Program`.

        Raises:
            ShapeError: when called, if y has fewer elements than x.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> gw.jacobian_logvolume(lambda t: np.stack([3 * t, 4 * t]))(1.0)  # the logarithm of 5
            array(1.60943791)
        """
        statics = Statics.of("jacobian_logvolume", f, static_argnums, static_argnames)
        return self._derivative(f, Form("jacobian_logvolume", argnums), statics, reproducible=reproducible)

    def vmap(
        self,
        f: Function | Program,
        in_axes: int | tuple[int | None, ...] | None = 0,
        *,
        axis_size: int | None = None,
        static_argnums: Numbers = (),
        static_argnames: Names = (),
        reproducible: bool = False,
    ) -> Any:
        """Return f over a batch axis: what f gives for each item, stacked along a first axis.

        Args:
            f: a function of arrays, such as another of these functions returns; or a `Program`.
            in_axes: the batch axis of every argument, or one an argument; None for an argument that is not batched. Keyword
                arguments are not batched.
            axis_size: the number of items; by default what the arguments say.
            static_argnums: the arguments that are no arrays but hashable values, such as a number of steps, counted from 0: each
                value has a trace of its own. Text and None always are.
            static_argnames: the same, by name.
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
        statics = Statics.of("vmap", f, static_argnums, static_argnames)
        if isinstance(f, Program) and axis_size is not None:
            axes, _ = batch_axes("vmap(program)", in_axes, None, f.traced.arguments, axis_size)
            return derive_program(f, Form("vmap", in_axes=axes, axis_size=axis_size))
        return Vmapped(self._answer, f, in_axes, axis_size, reproducible, statics)

    def trace(
        self, f: Function | Program, *args: Any, static_argnums: Numbers = (), static_argnames: Names = (), **kwargs: Any
    ) -> Program:
        """Return the program of a function, for arguments of the given shapes and dtypes.

        Args:
            f: a function of arrays; for a `Program`, it is returned itself.
            args: examples of the arguments; their values do not matter, but for static ones.
            static_argnums: the arguments that are no arrays but hashable values, such as a number of steps, counted from 0.
            static_argnames: the same, by name.
            kwargs: arguments that are passed by name.

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
        statics = Statics.of("trace", f, static_argnums, static_argnames)
        if isinstance(f, Program):
            return f
        trace, captured = _own_trace("trace", f, statics, args, kwargs)
        return Program.of(trace.program, captured, trace.names)

    def explain(
        self,
        f: Function | Program,
        *args: Any,
        transform: str = "evaluate",
        argnums: Argnums = 0,
        layout: Layout = "dense",
        format: Format = "text",
        static_argnums: Numbers = (),
        static_argnames: Names = (),
        **kwargs: Any,
    ) -> Any:
        """Return how a function or a derivative of it is derived and computed, for arguments of the given shapes and dtypes.

        Args:
            f: a function of arrays, or a `Program`, which needs no arguments.
            args: examples of the arguments; their values do not matter, but for static ones.
            transform: what is explained: `evaluate`, `grad`, `value_and_grad`, `jacobian`, `hessian`, `jacobian_det`,
                `jacobian_slogdet` or `jacobian_logvolume`.
            argnums: the arguments of the derivative, counted from 0.
            layout: of a Jacobian or Hessian.
            format: `text`, `latex` for LaTeX, or `data` for a dict of what JSON can hold.
            static_argnums: the arguments that are no arrays but hashable values, such as a number of steps, counted from 0.
            static_argnames: the same, by name.
            kwargs: arguments that are passed by name.

        Returns:
            The equations with their local derivatives, the plan with its predicted cost, and which strategies were chosen.

        Raises:
            ArgumentError: there is no such transform, layout or format, or the argnums do not fit.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> print(gw.explain(lambda x: np.sum(x * x), np.ones(3)))  # doctest: +ELLIPSIS
            inputs
              x[i]: float64[3]
            steps
              1. a[i] = x[i]^2                                          product rule
                   partial  da[i]/dx[i'] = 2 delta[i,i'] x[i]
              2. b = sum_i a[i]                                         linear
                   partial  db/da[i] = 1
                   total    db/dx[i] = 2 x[i]  (2 paths, through a)
            ...
        """
        form = Form(transform, argnums, layout)
        check_explained(form, format)
        statics = Statics.of("explain", f, static_argnums, static_argnames)
        trace = f.traced if isinstance(f, Program) else _own_trace("explain", f, statics, args, kwargs)[0]
        return self._explain(trace.program, prepare(trace, form).outputs, trace.names, format)

    def _derivative(self, f: Function | Program, form: Form, statics: Statics | None, *, reproducible: bool) -> Any:
        check_form(form)
        if not isinstance(f, Program):
            return Transformed(self._answer, f, form, reproducible, statics)
        if form.layout != "dense":
            text = (
                f"{form.kind}(program): needed layout='dense', as the derivative of a Program is a Program of arrays, "
                f"got {form.layout!r}; give the function evaluate(program)"
            )
            raise ArgumentError(text, given=form.layout)
        return derive_program(f, form)


def _own_trace(
    where: str, f: Function, statics: Statics | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Trace, list[Array]]:
    """Return the trace of a function for a call, and the arrays that it captured.

    Raises:
        ArgumentError: it reaches Values of another trace.
    """
    trace = bind(f, *(statics.flatten if statics else flatten_call)(args, kwargs)).trace
    captured = [item for item in trace.captures if not isinstance(item, Value)]
    if len(captured) != len(trace.captures):
        text = f"{where}: needed a function of its own arguments, got one that reaches arrays of another trace; pass them"
        raise ArgumentError(text)
    return trace, captured


def _only(values: Sequence[Any]) -> Any:
    return values[0]
