"""Operations that move elements and compute nothing: reshape, transpose, broadcast, concatenate, pad, slice, diagonals.

All are linear, and each is the transpose of another: broadcast of sum, slice of pad, diagonal of embed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import Builder, Value, builder_of, implements
from gradwire_core.errors import ArgumentError, DtypeError, ProgramError, ShapeError
from gradwire_core.ops._declare import (
    Linear,
    Sample,
    by_position,
    call,
    convert,
    declare,
    draw,
    is_scalar,
    no_flops,
    normalize_axes,
    size_flops,
)
from gradwire_core.program import Primitive
from gradwire_core.types import Array, Dtype, Shape, TensorType

Integers = tuple[int, ...]
MOST_LABELS = 52  # as many as numpy.einsum tells apart

# -- reshape -----------------------------------------------------------------------------------------------------------------


def _infer_reshape(x: TensorType, *, shape: Shape) -> tuple[TensorType, ...]:
    check_shape("reshape", shape)
    if math.prod(shape) != x.size:
        raise ShapeError(
            f"reshape: needed {x.size} elements as {x} has, got shape {list(shape)}; correct the shape", given=shape, size=x.size
        )
    return (x.with_shape(shape),)


def check_shape(where: str, shape: Sequence[int]) -> None:
    """Check that a shape param is made of non-negative integers.

    Raises:
        ProgramError: it is not.
    """
    if not isinstance(shape, tuple) or any(type(item) is not int or item < 0 for item in shape):
        raise ProgramError(f"{where}: needed a shape of non-negative integers, got {shape}; correct the param", given=shape)


_reshape: Primitive = declare(
    Primitive(
        name="reshape",
        kernel=np.reshape,
        infer=_infer_reshape,
        derivative=by_position(Linear(lambda ct, x, *, shape: call(_reshape, ct, shape=x.shape))),
        batch=lambda batched, operands, params: call(_reshape, operands[0], shape=(operands[0].shape[0], *params["shape"])),
        arity=1,
        params=("shape",),
        doc="The elements of x, row-major, in another shape.",
        samples=lambda rng: [
            Sample((draw(rng, 4, 3),), {"shape": (2, 6)}),
            Sample((draw(rng, 6),), {"shape": (2, 1, 3)}),
            Sample((draw(rng, 1, 1),), {"shape": ()}),
        ],
        flops=no_flops,
    )
)


@implements(np.reshape)
def reshape(x: Any, shape: Any = None, order: str = "C", *, newshape: Any = None, copy: Any = None) -> Any:
    """Return x in another shape; one length may be -1."""
    wanted = newshape if shape is None else shape
    lengths = tuple(map(int, wanted)) if isinstance(wanted, (tuple, list)) else (int(wanted),)
    if -1 in lengths:
        known = math.prod(item for item in lengths if item != -1)
        if lengths.count(-1) > 1 or known == 0 or x.size % known:
            raise ShapeError(f"reshape: needed a shape of {x.size} elements, got {list(lengths)}; correct the shape", given=lengths)
        lengths = tuple(x.size // known if item == -1 else item for item in lengths)
    if order == "F":
        return transpose(reshape(transpose(x), lengths[::-1]))
    return x if lengths == x.shape else call(_reshape, x, shape=lengths)


# -- transpose ---------------------------------------------------------------------------------------------------------------


def _infer_transpose(x: TensorType, *, axes: Integers) -> tuple[TensorType, ...]:
    if sorted(axes) != list(range(x.ndim)):
        raise ShapeError(f"transpose: needed a permutation of the axes of {x}, got {list(axes)}; name each axis once", given=axes)
    return (x.with_shape(tuple(x.shape[axis] for axis in axes)),)


_transpose: Primitive = declare(
    Primitive(
        name="transpose",
        kernel=lambda x, *, axes: np.transpose(x, axes),
        infer=_infer_transpose,
        derivative=by_position(
            Linear(lambda ct, x, *, axes: call(_transpose, ct, axes=tuple(int(axis) for axis in np.argsort(axes))))
        ),
        batch=lambda batched, operands, params: call(_transpose, operands[0], axes=(0, *[axis + 1 for axis in params["axes"]])),
        arity=1,
        params=("axes",),
        doc="Axis k of the result is axis axes[k] of x.",
        samples=lambda rng: [Sample((draw(rng, 2, 3, 4),), {"axes": (2, 0, 1)}), Sample((draw(rng, 2, 3),), {"axes": (1, 0)})],
        flops=no_flops,
    )
)


@implements(np.transpose, np.permute_dims)
def transpose(x: Any, axes: Any = None) -> Any:
    """Return x with its axes permuted, by default reversed."""
    given = range(x.ndim)[::-1] if axes is None else [int(axis) for axis in axes]
    order = tuple(axis + x.ndim if axis < 0 else axis for axis in given)
    return x if order == tuple(range(x.ndim)) else call(_transpose, x, axes=order)


# -- broadcast ---------------------------------------------------------------------------------------------------------------


def _infer_broadcast(x: TensorType, *, shape: Shape) -> tuple[TensorType, ...]:
    check_shape("broadcast_to", shape)
    lead = len(shape) - x.ndim
    if lead < 0 or any(one not in (1, other) for one, other in zip(x.shape, shape[lead:], strict=True)):
        raise ShapeError(
            f"broadcast_to: {x} does not broadcast to shape {list(shape)}; make its lengths agree or 1", given=x, shape=shape
        )
    return (x.with_shape(shape),)


def _sum_broadcast(ct: Any, x: TensorType, *, shape: Shape) -> Any:
    lead = len(shape) - x.ndim
    stretched = [axis for axis in range(lead, len(shape)) if x.shape[axis - lead] != shape[axis]]
    return reshape(sum_axes(ct, (*range(lead), *stretched)), x.shape)


def sum_axes(x: Any, axes: Integers) -> Any:
    """Return the sum of x over axes, which are removed."""
    from gradwire_core.ops._declare import PRIMITIVES

    return call(PRIMITIVES["sum"], x, axes=axes) if axes else x


def _batch_broadcast(batched: Any, operands: Any, params: Any) -> Any:
    (x,), shape = operands, params["shape"]
    ones = (1,) * (len(shape) - x.ndim + 1)
    return broadcast_to(reshape(x, (x.shape[0], *ones, *x.shape[1:])), (x.shape[0], *shape))


_broadcast: Primitive = declare(
    Primitive(
        name="broadcast_to",
        kernel=np.broadcast_to,
        infer=_infer_broadcast,
        derivative=by_position(Linear(_sum_broadcast)),
        batch=_batch_broadcast,
        arity=1,
        params=("shape",),
        doc="x repeated along new leading axes and along axes of length 1.",
        samples=lambda rng: [
            Sample((draw(rng, 3),), {"shape": (2, 3)}),
            Sample((draw(rng, 2, 1),), {"shape": (4, 2, 3)}),
            Sample((draw(rng),), {"shape": (2,)}),
        ],
        flops=no_flops,
    )
)


@implements(np.broadcast_to)
def broadcast_to(x: Any, shape: Any, subok: bool = False) -> Any:  # NumPy's signature
    """Return x repeated to a shape."""
    lengths = tuple(map(int, shape)) if isinstance(shape, (tuple, list)) else (int(shape),)
    return x if lengths == x.shape else call(_broadcast, x, shape=lengths)


@implements(np.expand_dims)
def expand_dims(x: Any, axis: Any) -> Any:
    """Return x with axes of length 1 inserted at the given positions of the result."""
    count = len(axis) if isinstance(axis, (tuple, list)) else 1
    places = normalize_axes("expand_dims", axis, x.ndim + count)
    lengths = list(x.shape)
    for place in places:
        lengths.insert(place, 1)
    return reshape(x, tuple(lengths))


@implements(np.squeeze)
def squeeze(x: Any, axis: Any = None) -> Any:
    """Return x without axes of length 1: all of them, or the given ones."""
    if axis is None:
        return reshape(x, tuple(length for length in x.shape if length != 1))
    axes = normalize_axes("squeeze", axis, x.ndim)
    if any(x.shape[item] != 1 for item in axes):
        raise ShapeError(f"squeeze: needed axes of length 1, got axis {axis} of shape {list(x.shape)}; name other axes", given=axis)
    return reshape(x, tuple(length for item, length in enumerate(x.shape) if item not in axes))


# -- slice and pad -----------------------------------------------------------------------------------------------------------


def _slice(x: Array, *, starts: Integers, stops: Integers, steps: Integers) -> Array:
    return x[tuple([slice(start, stop, step) for start, stop, step in zip(starts, stops, steps, strict=True)])]


def _infer_slice(x: TensorType, *, starts: Integers, stops: Integers, steps: Integers) -> tuple[TensorType, ...]:
    if not len(starts) == len(stops) == len(steps) == x.ndim:
        raise ProgramError(
            f"slice: needed one start, stop and step for each axis of {x}, got {len(starts)}, {len(stops)}, {len(steps)}"
        )
    for start, stop, step, length in zip(starts, stops, steps, x.shape, strict=True):
        if not (0 <= start <= stop <= length and step >= 1):
            given = f"{start}:{stop}:{step}"
            raise ShapeError(
                f"slice: needed 0 <= start <= stop <= {length} and step >= 1, got {given}; correct the slice", given=given
            )
    return (x.with_shape(tuple(len(range(*item)) for item in zip(starts, stops, steps, strict=True))),)


def _pad_slice(ct: Any, x: TensorType, *, starts: Integers, stops: Integers, steps: Integers) -> Any:
    spans = [(count - 1) * step + 1 if count else 0 for count, step in zip(ct.shape, steps, strict=True)]
    high = tuple(length - start - span for length, start, span in zip(x.shape, starts, spans, strict=True))
    return pad_with_zeros(ct, starts, high, tuple(step - 1 for step in steps))


def _batch_slice(batched: Any, operands: Any, params: Any) -> Any:
    lead = {"starts": 0, "stops": operands[0].shape[0], "steps": 1}
    return call(_slice_primitive, operands[0], **{key: (lead[key], *value) for key, value in params.items()})


_slice_primitive: Primitive = declare(
    Primitive(
        name="slice",
        kernel=_slice,
        infer=_infer_slice,
        derivative=by_position(Linear(_pad_slice)),
        batch=_batch_slice,
        arity=1,
        params=("starts", "stops", "steps"),
        doc="The elements of x from start to before stop, every step, along each axis.",
        samples=lambda rng: [
            Sample((draw(rng, 5, 4),), {"starts": (1, 0), "stops": (5, 3), "steps": (2, 1)}),
            Sample((draw(rng, 4),), {"starts": (2,), "stops": (2,), "steps": (1,)}),
        ],
        flops=no_flops,
    )
)


def slice_axes(x: Any, starts: Integers, stops: Integers, steps: Integers) -> Any:
    """Return the elements of x from start to before stop, every step, along each axis."""
    if all(item == (0, length, 1) for item, length in zip(zip(starts, stops, steps, strict=True), x.shape, strict=True)):
        return x
    return call(_slice_primitive, x, starts=starts, stops=stops, steps=steps)


def _pad(x: Array, *, low: Integers, high: Integers, interior: Integers) -> Array:
    spans = [(n - 1) * (gap + 1) + 1 if n else 0 for n, gap in zip(x.shape, interior, strict=True)]
    out = np.zeros([before + span + after for before, span, after in zip(low, spans, high, strict=True)], x.dtype)
    inner = [slice(before, before + span, gap + 1) for before, span, gap in zip(low, spans, interior, strict=True)]
    out[tuple(inner)] = x
    return out


def _infer_pad(x: TensorType, *, low: Integers, high: Integers, interior: Integers) -> tuple[TensorType, ...]:
    if not len(low) == len(high) == len(interior) == x.ndim or any(item < 0 for item in (*low, *high, *interior)):
        given = f"{low}, {high}, {interior}"
        raise ShapeError(
            f"pad: needed non-negative low, high and interior for each axis of {x}, got {given}; correct them", given=given
        )
    spans = [(length - 1) * (gap + 1) + 1 if length else 0 for length, gap in zip(x.shape, interior, strict=True)]
    return (x.with_shape(tuple(before + span + after for before, span, after in zip(low, spans, high, strict=True))),)


def _slice_pad(ct: Any, x: TensorType, *, low: Integers, high: Integers, interior: Integers) -> Any:
    steps = tuple(gap + 1 for gap in interior)
    spans = [(length - 1) * step + 1 if length else 0 for length, step in zip(x.shape, steps, strict=True)]
    return slice_axes(ct, low, tuple(before + span for before, span in zip(low, spans, strict=True)), steps)


_pad_primitive: Primitive = declare(
    Primitive(
        name="pad",
        kernel=_pad,
        infer=_infer_pad,
        derivative=by_position(Linear(_slice_pad)),
        batch=lambda batched, operands, params: pad_with_zeros(
            operands[0], *[(0, *params[key]) for key in ("low", "high", "interior")]
        ),
        arity=1,
        params=("low", "high", "interior"),
        doc="x with zeros before, after and between its elements along each axis.",
        samples=lambda rng: [
            Sample((draw(rng, 3, 2),), {"low": (1, 0), "high": (0, 2), "interior": (1, 0)}),
            Sample((draw(rng, 0),), {"low": (2,), "high": (1,), "interior": (1,)}),
        ],
        flops=size_flops,
    )
)


def pad_with_zeros(x: Any, low: Integers, high: Integers, interior: Integers) -> Any:
    """Return x with zeros before, after and between its elements along each axis."""
    return call(_pad_primitive, x, low=low, high=high, interior=interior) if any((*low, *high, *interior)) else x


# -- flip --------------------------------------------------------------------------------------------------------------------


def _infer_flip(x: TensorType, *, axes: Integers) -> tuple[TensorType, ...]:
    normalize_axes("flip", axes, x.ndim)
    return (x,)


_flip: Primitive = declare(
    Primitive(
        name="flip",
        kernel=lambda x, *, axes: np.flip(x, axes),
        infer=_infer_flip,
        derivative=by_position(Linear(lambda ct, x, *, axes: call(_flip, ct, axes=axes))),
        batch=lambda batched, operands, params: call(_flip, operands[0], axes=tuple(axis + 1 for axis in params["axes"])),
        arity=1,
        params=("axes",),
        doc="x with the order of elements along the given axes reversed.",
        samples=lambda rng: [Sample((draw(rng, 3, 2),), {"axes": (0,)}), Sample((draw(rng, 3, 2),), {"axes": (0, 1)})],
        flops=no_flops,
    )
)


@implements(np.flip)
def flip(x: Any, axis: Any = None) -> Any:
    """Return x with the order of elements along axes reversed, by default all axes."""
    return call(_flip, x, axes=normalize_axes("flip", axis, x.ndim))


# -- concatenate -------------------------------------------------------------------------------------------------------------


def _infer_concatenate(*operands: TensorType, axis: int) -> tuple[TensorType, ...]:
    names = ", ".join(map(str, operands))
    if not operands or not 0 <= axis < operands[0].ndim:
        raise ShapeError(f"concatenate: needed operands with an axis {axis}, got {names or 'none'}; correct the axis", given=names)
    first = operands[0]
    for item in operands:
        if item.dtype is not first.dtype:
            raise DtypeError(f"concatenate: needed operands of one dtype, got {names}; convert them", given=names)
        if item.ndim != first.ndim or any(
            one != other for k, (one, other) in enumerate(zip(item.shape, first.shape, strict=True)) if k != axis
        ):
            raise ShapeError(f"concatenate: needed equal lengths except along axis {axis}, got {names}; reshape them", given=names)
    length = sum(item.shape[axis] for item in operands)
    return (first.with_shape((*first.shape[:axis], length, *first.shape[axis + 1 :])),)


def _concatenate_derivative(position: int) -> Linear:
    def transpose_rule(ct: Any, *operands: Any, axis: int) -> Any:
        start = sum(item.shape[axis] for item in operands[:position])
        starts, stops = [0] * ct.ndim, list(ct.shape)
        starts[axis], stops[axis] = start, start + operands[position].shape[axis]
        return slice_axes(ct, tuple(starts), tuple(stops), (1,) * ct.ndim)

    return Linear(transpose_rule, joint=True)


def _batch_concatenate(batched: Any, operands: Any, params: Any) -> Any:
    count = next(item.shape[0] for item, is_batched in zip(operands, batched, strict=True) if is_batched)
    full = [
        item if is_batched else broadcast_to(item, (count, *item.shape)) for item, is_batched in zip(operands, batched, strict=True)
    ]
    return call(_concatenate, *full, axis=params["axis"] + 1)


_concatenate: Primitive = declare(
    Primitive(
        name="concatenate",
        kernel=lambda *operands, axis: np.concatenate(operands, axis),
        infer=_infer_concatenate,
        derivative=_concatenate_derivative,
        batch=_batch_concatenate,
        arity=None,
        params=("axis",),
        doc="Operands joined along an axis.",
        samples=lambda rng: [
            Sample((draw(rng, 2, 3), draw(rng, 1, 3)), {"axis": 0}),
            Sample((draw(rng, 2, 1), draw(rng, 2, 0), draw(rng, 2, 2)), {"axis": 1}),
        ],
        flops=lambda *operands, axis: float(sum(item.size for item in operands)),
    )
)


@implements(np.concatenate, np.concat)
def concatenate(arrays: Any, axis: int | None = 0, **kwargs: Any) -> Any:
    """Return arrays joined along an axis; with None, each is flattened first."""
    refuse("concatenate", kwargs)
    values = promote("concatenate", arrays)
    if axis is None:
        values, axis = [reshape(item, (item.size,)) for item in values], 0
    (place,) = normalize_axes("concatenate", axis, values[0].ndim)
    return values[0] if len(values) == 1 else call(_concatenate, *values, axis=place)


@implements(np.stack)
def stack(arrays: Any, axis: int = 0, **kwargs: Any) -> Any:
    """Return arrays of one shape joined along a new axis."""
    refuse("stack", kwargs)
    values = promote("stack", arrays)
    return concatenate([expand_dims(item, axis) for item in values], axis)


def refuse(where: str, kwargs: dict[str, Any]) -> None:
    """Check that no further argument was given.

    Raises:
        ArgumentError: there are some.
    """
    if kwargs:
        names = ", ".join(kwargs)
        raise ArgumentError(
            f"{where}: needed no further arguments, got {names}; leave them out, use astype for a dtype", given=names
        )


def promote(where: str, arrays: Any) -> list[Any]:
    """Return arrays, Values, lists and scalars as Values (or arrays) of one dtype."""
    items = [item if isinstance(item, Value) or is_scalar(item) else np.asarray(item) for item in arrays]
    if not items:
        raise ShapeError(f"{where}: needed at least one array, got none; pass some")
    builder = builder_of(items)
    dtype = np.result_type(*[item.dtype if isinstance(item, Value) else item for item in items])
    lifted = [np.asarray(item) if builder is None else lift_plain(builder, item) for item in items]
    return [convert(item, Dtype.of(dtype)) for item in lifted]


def lift_plain(builder: Builder, item: Any) -> Value:
    """Return an item as a Value; scalars and arrays alike."""
    return builder.lift(item if isinstance(item, Value) else np.asarray(item))


# -- diagonal and embed ------------------------------------------------------------------------------------------------------


def _diagonal(x: Array, *, labels: Integers) -> Array:
    return np.asarray(np.einsum(x, labels, tuple(dict.fromkeys(labels))))


def _embed(x: Array, *, labels: Integers) -> Array:
    names = tuple(dict.fromkeys(labels))
    sizes = dict(zip(names, x.shape, strict=True))
    out = np.zeros([sizes[label] for label in labels], x.dtype)
    np.einsum(out, labels, names)[...] = x
    return out


def _infer_diagonal(x: TensorType, *, labels: Integers) -> tuple[TensorType, ...]:
    sizes: dict[int, int] = {}
    agree = (
        len(labels) == x.ndim
        and all(0 <= label < MOST_LABELS for label in labels)
        and all(sizes.setdefault(*item) == item[1] for item in zip(labels, x.shape, strict=True))
    )
    if not agree:
        raise ShapeError(
            f"diagonal: needed one label an axis and equal lengths for equal labels, got {labels} for {x}", given=labels
        )
    return (x.with_shape(tuple(sizes.values())),)


def _infer_embed(x: TensorType, *, labels: Integers) -> tuple[TensorType, ...]:
    names = dict.fromkeys(labels)
    if len(names) != x.ndim or any(not 0 <= label < MOST_LABELS for label in names):
        text = f"embed: needed one distinct label an axis of {x}, from 0 to {MOST_LABELS - 1}, got {labels}; correct the labels"
        raise ShapeError(text, given=labels)
    sizes = dict(zip(names, x.shape, strict=True))
    return (x.with_shape(tuple(sizes[label] for label in labels)),)


def _with_batch(labels: Integers) -> Integers:
    return (next(label for label in range(MOST_LABELS) if label not in labels), *labels)


_diagonal_primitive: Primitive = declare(
    Primitive(
        name="diagonal",
        kernel=_diagonal,
        infer=_infer_diagonal,
        derivative=by_position(Linear(lambda ct, x, *, labels: call(_embed_primitive, ct, labels=labels))),
        batch=lambda batched, operands, params: call(_diagonal_primitive, operands[0], labels=_with_batch(params["labels"])),
        arity=1,
        params=("labels",),
        doc="The elements of x at which axes of equal label have equal index; one axis for each distinct label, in order.",
        samples=lambda rng: [Sample((draw(rng, 3, 3),), {"labels": (0, 0)}), Sample((draw(rng, 2, 3, 2),), {"labels": (0, 1, 0)})],
        flops=size_flops,
    )
)
_embed_primitive: Primitive = declare(
    Primitive(
        name="embed",
        kernel=_embed,
        infer=_infer_embed,
        derivative=by_position(Linear(lambda ct, x, *, labels: call(_diagonal_primitive, ct, labels=labels))),
        batch=lambda batched, operands, params: embed(operands[0], _with_batch(params["labels"])),
        arity=1,
        params=("labels",),
        doc="Zeros, and x where axes of equal label have equal index: a Kronecker delta for each repeated label.",
        samples=lambda rng: [Sample((draw(rng, 3),), {"labels": (0, 0)}), Sample((draw(rng, 2, 3),), {"labels": (0, 1, 0)})],
        flops=lambda x, *, labels: float(_infer_embed(x, labels=labels)[0].size),
    )
)


def take_diagonal(x: Any, labels: Integers) -> Any:
    """Return the elements of x at which axes of equal label have equal index."""
    return x if len(set(labels)) == len(labels) else call(_diagonal_primitive, x, labels=labels)


def embed(x: Any, labels: Integers) -> Any:
    """Return zeros, and x where axes of equal label have equal index; repeated axes of length 1 leave no room for zeros."""
    repeated = {label for label in labels if labels.count(label) > 1}
    sizes = dict(zip(dict.fromkeys(labels), x.shape, strict=True))
    if all(sizes[label] == 1 for label in repeated):
        return reshape(x, tuple(sizes[label] for label in labels))
    return call(_embed_primitive, x, labels=labels)


# -- the identity ------------------------------------------------------------------------------------------------------------


def _eye(*, rows: int, columns: int, dtype: Dtype) -> Array:
    return np.eye(rows, columns, dtype=dtype.numpy)


def _infer_eye(*, rows: int, columns: int, dtype: Dtype) -> tuple[TensorType, ...]:
    check_shape("eye", (rows, columns))
    return (TensorType(dtype, (rows, columns)),)


_eye_primitive: Primitive = declare(
    Primitive(
        name="eye",
        kernel=_eye,
        infer=_infer_eye,
        derivative=by_position(),
        batch=lambda batched, operands, params: None,
        arity=0,
        params=("rows", "columns", "dtype"),
        doc="Ones on the main diagonal, zeros elsewhere.",
        samples=lambda rng: [Sample((), {"rows": 2, "columns": 3, "dtype": Dtype.FLOAT64})],
        flops=lambda *, rows, columns, dtype: float(rows * columns),
    )
)


def eye(builder: Builder, rows: int, columns: int, dtype: Dtype) -> Value:
    """Return a matrix of ones on the main diagonal, zeros elsewhere."""
    return builder.emit(_eye_primitive, (), {"rows": rows, "columns": columns, "dtype": dtype})[0]


# -- what is known of a traced array -----------------------------------------------------------------------------------------


@implements(np.shape)
def shape_of(x: Any) -> Shape:
    """Return the lengths of the axes."""
    lengths: Shape = x.shape
    return lengths


@implements(np.ndim)
def rank_of(x: Any) -> int:
    """Return the number of axes."""
    return len(x.shape)


@implements(np.size)
def size_of(x: Any, axis: int | None = None) -> int:
    """Return the number of elements, or the length of one axis."""
    return math.prod(x.shape) if axis is None else int(x.shape[axis])
