"""Control flow for traced functions: a branch or a loop is one equation, however long it runs.

Where nothing is traced, the same functions run as plain Python. Functions given here may use values from outside; what they use is
found while they are traced, and becomes an operand.
"""

from __future__ import annotations

import contextvars
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradwire._nest import Branch, Structure, flatten, flatten_call, unflatten_call
from gradwire._tracing import Trace, name_of, to_array, trace
from gradwire_core.builder import Builder, Value, builder_of
from gradwire_core.errors import ArgumentError, ShapeError, TracingError
from gradwire_core.ops.control import cond_primitive, custom_primitive, scan_primitive
from gradwire_core.ops.rounding import stop_gradient as stop
from gradwire_core.program import Primitive, Program
from gradwire_core.transforms.dependence import is_linear
from gradwire_core.types import TensorType


def cond(condition: Any, on_true: Callable[..., Any], on_false: Callable[..., Any], *operands: Any) -> Any:
    """Return `on_true(*operands)` where a condition holds, else `on_false(*operands)`; only the one chosen is computed.

    Under `vmap` with a batched condition both are computed, and their results selected.

    Args:
        condition: a scalar bool, traced or not.
        on_true: a function of the operands.
        on_false: a function of the operands, whose results have the same structure, shapes and dtypes.
        operands: arrays, nested as the functions take them.

    Returns:
        What the chosen function returns.

    Raises:
        ArgumentError: the results are nested differently.
        DtypeError: the condition is not a scalar bool.
        ShapeError: the results differ in shape or dtype.

    Example:
        >>> import numpy as np, gradwire as gw
        >>> f = lambda x: gw.cond(x > 0, np.sin, lambda x: x * x, x)
        >>> float(gw.grad(f)(-3.0))
        -6.0
    """
    if not isinstance(condition, Value):
        return (on_true if condition else on_false)(*operands)
    leaves, arguments = flatten_call(operands, {})
    items = [_as_operand(leaf, "cond") for leaf in leaves]
    traces = [_trace(branch, arguments, items) for branch in (on_true, on_false)]
    _check_alike(f"cond: {name_of(on_false)}", traces[0].results, traces[1].results)
    captures = [item for one in traces for item in one.captures]
    builder = _innermost([condition, *items, *captures])
    starts = (0, len(traces[0].captures))
    programs = [_widened(one, len(items), starts[index], captures) for index, one in enumerate(traces)]
    results = _emit(builder, cond_primitive, [condition, *items, *captures], on_true=programs[0], on_false=programs[1])
    return traces[0].results.unflatten(results)


def scan(
    f: Callable[..., Any], init: Any, xs: Any = None, length: int | None = None, *, reverse: bool = False, checkpoint: bool = False
) -> tuple[Any, Any]:
    """Run `carry, y = f(carry, x)` over the elements of xs along axis 0; return the last carry and all y, stacked.

    Args:
        f: a function of (carry, x) that returns (carry, y); the carry keeps its structure, shapes and dtypes.
        init: the first carry.
        xs: arrays, nested as f takes them, all of one length along axis 0; None for x = None.
        length: the number of steps, where xs is None.
        reverse: whether to go from the last element to the first; y stays in the order of xs.
        checkpoint: whether reverse mode keeps the carries alone and computes the rest of each step again: less memory, one
            more evaluation.

    Returns:
        The last carry, and y with a new axis 0; y may be None.

    Raises:
        ArgumentError: the carry changes its structure, or no length is known.
        ShapeError: the carry changes a shape, or the lengths of xs differ.
        DtypeError: the carry changes a dtype.

    Example:
        >>> import numpy as np, gradwire as gw
        >>> step = lambda total, x: (total + x, total)
        >>> gw.grad(lambda xs: gw.scan(step, 0.0, xs)[0] ** 2)(np.array([1.0, 2.0]))
        array([6., 6.])
    """
    carry, carry_structure = flatten(init)
    rows, row_structure = flatten(xs)
    carry = [_as_operand(leaf, "scan init") for leaf in carry]
    rows = [_as_operand(leaf, "scan xs") for leaf in rows]
    count = _scan_length(rows, length)
    arguments = Branch(tuple, (0, 1), (carry_structure, row_structure))
    types = [*[_type(item) for item in carry], *[_type(row).with_shape(row.shape[1:]) for row in rows]]
    found = trace(f, arguments, types, declares_zeros=False)
    split = _split_results(f, found, carry_structure, types[: len(carry)])
    builder = builder_of([*carry, *rows, *found.captures])
    if builder is None:
        return _run_scan(f, init, xs, count, reverse, row_structure, rows)
    body = _constants_first(found)
    results = _emit(
        builder,
        scan_primitive,
        [*found.captures, *carry, *rows],
        body=body,
        length=count,
        const_count=len(found.captures),
        carry_count=len(carry),
        is_reversed=bool(reverse),
        is_checkpointed=bool(checkpoint),
    )
    return carry_structure.unflatten(results[: len(carry)]), split.unflatten(results[len(carry) :])


def fori_loop(lower: int, upper: int, body: Callable[..., Any], init: Any) -> Any:
    """Return the carry after `carry = body(i, carry)` for i from lower to before upper.

    Args:
        lower: the first i, a Python int.
        upper: the i before which to stop, a Python int.
        body: a function of (i, carry), where i is an int64 scalar; the carry keeps its structure, shapes and dtypes.
        init: the first carry.

    Returns:
        The last carry.

    Example:
        >>> import gradwire as gw
        >>> float(gw.grad(lambda x: gw.fori_loop(0, 3, lambda i, c: c * x, 1.0))(2.0))
        12.0
    """
    numbers = np.arange(operator.index(lower), max(operator.index(lower), operator.index(upper)), dtype=np.int64)
    return scan(lambda carry, i: (body(i, carry), None), init, numbers)[0]


def map(f: Callable[..., Any], xs: Any) -> Any:
    """Return f of each element of xs along axis 0, stacked: one after the other, where `vmap` takes all at once.

    Args:
        f: a function of one element, nested as xs is.
        xs: arrays, nested, all of one length along axis 0.

    Returns:
        What f returns, with a new axis 0.

    Example:
        >>> import numpy as np, gradwire as gw
        >>> gw.map(lambda x: x * x, np.array([1.0, 2.0]))
        array([1., 4.])
    """
    return scan(lambda carry, x: (carry, f(x)), (), xs)[1]


def custom_derivative(f: Callable[..., Any], tangent: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with the values of f, and the derivative that `tangent` gives.

    Args:
        f: a function of arrays.
        tangent: a function of (primals, tangents), tuples as the arguments of f, that returns the tangent of f's result,
            nested as the result; it must be linear in the tangents. Arguments that are not floating have the tangent None.
            Where it calls the returned function, that is f, differentiated as it is written.

    Returns:
        A function that is called as f is, by position.

    Raises:
        ArgumentError: when called: what `tangent` returns is nested differently from the result, or not linear.
        TracingError: when called: f uses a traced value that is not among its arguments.
        ShapeError: when called: a tangent has another shape than its result.

    Example:
        >>> import numpy as np, gradwire as gw
        >>> clipped = gw.custom_derivative(lambda x: np.minimum(x, 1.0), lambda primals, tangents: tangents[0])
        >>> float(gw.grad(clipped)(3.0))
        1.0
    """
    is_inside = contextvars.ContextVar("is_inside", default=False)

    @functools.wraps(f)
    def call(*args: Any) -> Any:
        if is_inside.get():
            return f(*args)
        leaves, arguments = flatten_call(args, {})
        items = [_as_operand(leaf, name_of(f)) for leaf in leaves]
        body = _trace(f, arguments, items)
        if any(isinstance(item, Value) and item.type.dtype.is_inexact for item in body.captures):
            text = f"custom_derivative: needed {name_of(f)} to take traced values as arguments, got one from outside; pass it"
            raise TracingError(text)
        builder = builder_of(items)
        if builder is None:
            return f(*args)
        token = is_inside.set(True)
        try:
            rule = _trace_tangent(tangent, arguments, items, body)
        finally:
            is_inside.reset(token)
        captures = [*body.captures, *rule.captures]
        body_program = _widened(body, len(items), 0, captures)
        results = _emit(
            builder, custom_primitive, [*items, *captures], body=body_program, tangent=_tangent_program(items, rule, body, captures)
        )
        return body.results.unflatten(results)

    return call


def stop_gradient(x: Any) -> Any:
    """Return x, of which every derivative is taken as 0.

    Args:
        x: an array.

    Returns:
        The same array.

    Example:
        >>> import gradwire as gw
        >>> float(gw.grad(lambda x: x * gw.stop_gradient(x))(3.0))
        3.0
    """
    return stop(x)


# -- tracing what is given -----------------------------------------------------------------------------------------------------


def _type(item: Any) -> TensorType:
    return item.type if isinstance(item, Value) else TensorType.of(item)


def _as_operand(leaf: Any, where: str) -> Any:
    return leaf if isinstance(leaf, Value) else to_array(leaf, where)


def _trace(function: Callable[..., Any], arguments: Branch, items: Sequence[Any]) -> Trace:
    return trace(function, arguments, [_type(item) for item in items], declares_zeros=False)


def _innermost(items: Sequence[Any]) -> Builder:
    builder = builder_of(items)
    assert builder is not None
    return builder


def _emit(builder: Builder, primitive: Primitive, operands: Sequence[Any], **params: Any) -> list[Value]:
    return list(builder.emit(primitive, [builder.lift(item) for item in operands], params))


def _check_alike(where: str, needed: Structure, given: Structure) -> None:
    if needed != given:
        raise ArgumentError(
            f"{where}: needed a result nested as {needed!r}, got {given!r}; return it alike", needed=needed, given=given
        )


def _widened(one: Trace, count: int, start: int, captures: Sequence[Any]) -> Program:
    """Return a traced function as a program of its arguments, then of the captures of several functions."""
    builder = Builder()
    inputs = [builder.input(type) for type in one.program.input_types[:count]]
    shared = [builder.input(_type(item)) for item in captures]
    return builder.build(builder.inline(one.program, [*inputs, *shared[start : start + len(one.captures)]]))


def _constants_first(one: Trace) -> Program:
    """Return a traced function as a program of its captures, then of its arguments."""
    builder = Builder()
    captured = [builder.input(_type(item)) for item in one.captures]
    inputs = [builder.input(type) for type in one.program.input_types[: len(one.program.inputs) - len(captured)]]
    return builder.build(builder.inline(one.program, [*inputs, *captured]))


# -- scan ----------------------------------------------------------------------------------------------------------------------


def _scan_length(rows: Sequence[Any], length: int | None) -> int:
    found = {row.shape[0] if row.shape else None for row in rows}
    if length is not None:
        found.add(operator.index(length))
    if None in found:
        raise ShapeError("scan: needed xs with an axis 0 to go along, got a scalar; stack the elements")
    if len(found) > 1:
        lengths = sorted(item for item in found if item is not None)
        raise ShapeError(f"scan: needed xs of one length along axis 0, got {lengths}; make them agree", given=lengths)
    if not found:
        raise ArgumentError("scan: needed xs or a length, got neither; pass one")
    count = found.pop()
    assert isinstance(count, int)
    return count


def _split_results(f: Callable[..., Any], found: Trace, carry: Structure, types: Sequence[TensorType]) -> Structure:
    """Return the structure of y, after checks of the carry."""
    results = found.results
    if not isinstance(results, Branch) or results.kind is not tuple or len(results.children) != 2:
        raise ArgumentError(f"scan: needed {name_of(f)} to return (carry, y), got {results!r}; return both", given=results)
    _check_alike(f"scan: carry of {name_of(f)}", carry, results.children[0])
    for index, (needed, given) in enumerate(zip(types, found.program.output_types, strict=False)):
        if needed != given:
            text = f"scan: needed carry {index} to stay {needed}, got {given} from {name_of(f)}; start with that type or convert it"
            raise ShapeError(text, needed=needed, given=given)
    return results.children[1]


def _run_scan(
    f: Callable[..., Any], init: Any, xs: Any, count: int, reverse: bool, row_structure: Structure, rows: Sequence[Any]
) -> tuple[Any, Any]:
    """Run a scan of arrays as a Python loop."""
    carry, found, structure = init, {}, None
    for index in range(count)[::-1] if reverse else range(count):
        carry, y = f(carry, row_structure.unflatten([row[index] for row in rows]))
        found[index], structure = flatten(y)
    if structure is None:
        return carry, xs
    stacked = [np.stack([found[index][place] for index in range(count)]) for place in range(structure.count)]
    return carry, structure.unflatten(stacked)


# -- custom derivatives ----------------------------------------------------------------------------------------------------------


def _trace_tangent(tangent: Callable[..., Any], arguments: Branch, items: Sequence[Any], body: Trace) -> Trace:
    """Trace the tangent as a function of the primals, then of the tangents of the floating ones."""
    is_inexact = [_type(item).dtype.is_inexact for item in items]

    def rule(*leaves: Any) -> Any:
        primals, _ = unflatten_call(arguments, leaves[: len(items)])
        given = iter(leaves[len(items) :])
        tangents, _ = unflatten_call(arguments, [next(given) if flag else None for flag in is_inexact])
        return tangent(primals, tangents)

    inexact = [item for item, flag in zip(items, is_inexact, strict=True) if flag]
    found = _trace(rule, flatten_call((*items, *inexact), {})[1], [*items, *inexact])
    _check_alike(f"custom_derivative: tangent of {body.name}", body.results, found.results)
    first = len(items)
    if not is_linear(found.program, range(first, first + len(inexact))):
        text = f"custom_derivative: needed a tangent of {body.name} that is linear in the tangents, got one that is not; correct it"
        raise ArgumentError(text)
    return found


def _tangent_program(items: Sequence[Any], rule: Trace, body: Trace, captures: Sequence[Any]) -> Program:
    """Return the tangent as a program of the primals, the captures, and the tangents of the floating ones of both."""
    builder = Builder()
    primals = [builder.input(_type(item)) for item in items]
    captured = [builder.input(_type(item)) for item in captures]
    tangents = [builder.input(_type(item)) for item in items if _type(item).dtype.is_inexact]
    for item in captures:
        if _type(item).dtype.is_inexact:
            builder.input(_type(item))
    outputs = builder.inline(rule.program, [*primals, *tangents, *captured[len(body.captures) :]])
    kept = [value for value, type in zip(outputs, body.program.output_types, strict=True) if type.dtype.is_inexact]
    return builder.build(kept)
