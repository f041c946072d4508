"""What a request asks of a program and what it is answered: transforms, outputs and results, between the core and messages."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gradwire_core.engine import Output
from gradwire_core.errors import ArgumentError
from gradwire_core.structure.structured import AxisPattern, PartPattern, Pattern, StructuredJacobian
from gradwire_core.transforms import Transform
from gradwire_core.types import Array, Dtype, Shape
from gradwire_proto.sparse import decode_sparse, encode_sparse
from gradwire_proto.tensor import Elements, check_shape, decode_dtype, decode_tensor, encode_dtype, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import tensor_pb2, transform_pb2

if TYPE_CHECKING:
    from gradwire_proto.sparse import Sparse

KINDS = tuple(field.name for field in transform_pb2.Transform.DESCRIPTOR.oneofs_by_name["kind"].fields)
"""The names of the transforms: those of their fields in the message, and of `Transform` in the core."""

_LAYOUTS = {"dense": pb.LAYOUT_DENSE, "structured": pb.LAYOUT_STRUCTURED, "sparse": pb.LAYOUT_SPARSE}
_LAYOUT_NAMES: dict[int, str] = {pb.LAYOUT_UNSPECIFIED: "dense", **{number: name for name, number in _LAYOUTS.items()}}
_SHOWN = tuple(map(pb.Layout.Name, _LAYOUTS.values()))

Encode = Callable[[Array], tensor_pb2.Tensor]


class Shapes(Protocol):
    """The shapes of what a Jacobian is of and in, as the static half of a structured or sparse one has them."""

    @property
    def shape_out(self) -> Shape:
        """The shape of the output."""

    @property
    def shape_in(self) -> Shape:
        """The shape of the input."""


def encode_transform(transform: Transform) -> transform_pb2.Transform:
    """Return the message of a transform.

    Raises:
        ArgumentError: there is no such transform, or it has no argnums.
    """
    if transform.name not in KINDS:
        text = f"transform: needed one of {', '.join(KINDS)}, got {transform.name}; choose one of those"
        raise ArgumentError(text, given=transform.name)
    if transform.name == "vmap":
        axes = (transform_pb2.BatchAxis(axis=axis) for axis in transform.in_axes)
        return transform_pb2.Transform(vmap=transform_pb2.Vmap(in_axes=axes, axis_size=transform.axis_size))
    if not transform.argnums:
        raise ArgumentError(f"{transform.name}: needed at least one argnum, got none; name the inputs", given=())
    message = transform_pb2.Transform()
    getattr(message, transform.name).argnums.extend(transform.argnums)
    return message


def decode_transform(message: transform_pb2.Transform, where: str = "transform") -> Transform:
    """Return the transform of a message. What its positions mean to the program is for the transform to check.

    Raises:
        ArgumentError: the message is of no kind that this version knows.
    """
    kind = message.WhichOneof("kind")
    if kind is None:
        text = f"{where}: needed one of {', '.join(KINDS)}, got none that this version knows; set one, or use a newer version"
        raise ArgumentError(text, where=where)
    if kind == "vmap":
        axes = tuple(item.axis if item.HasField("axis") else None for item in message.vmap.in_axes)
        return Transform(kind, in_axes=axes, axis_size=message.vmap.axis_size)
    return Transform(kind, tuple(getattr(message, kind).argnums) or (0,))


def encode_layout(name: str) -> pb.Layout.ValueType:
    """Return the number of a layout."""
    return _LAYOUTS[name]


def encode_output(output: Output, seeds: Iterable[Array] = ()) -> pb.Output:
    """Return the message of an output and its seeds: the tangents and cotangents that its transforms add as inputs."""
    return pb.Output(
        transforms=map(encode_transform, output.transforms),
        layout=encode_layout(output.layout),
        seeds=map(encode_tensor, seeds),
    )


def decode_output(
    message: pb.Output, where: str = "output", elements: Iterator[Elements | None] | None = None
) -> tuple[Output, list[Array]]:
    """Return the output of a message, and its seeds.

    Args:
        message: the message.
        where: what errors call it.
        elements: for each seed its elements, where they are apart from it, or None; as many are taken as there are seeds.

    Raises:
        ArgumentError: the layout is unknown, or asked for where the chain does not end in a Jacobian or a Hessian.
        GradwireError: as for `decode_transform` and `decode_tensor`.
    """
    transforms = tuple(decode_transform(item, f"{where}, transform {index}") for index, item in enumerate(message.transforms))
    layout = _LAYOUT_NAMES.get(message.layout)
    if layout is None:
        text = f"{where}: needed one of {', '.join(_SHOWN)}, got the unknown number {message.layout}; set one of those"
        raise ArgumentError(text, where=where, given=message.layout)
    if layout != "dense" and (not transforms or transforms[-1].name not in {"jacobian", "hessian"}):
        given = transforms[-1].name if transforms else "no transform"
        shown = pb.Layout.Name(message.layout)
        text = f"{where}: needed jacobian or hessian as the last transform for {shown}, got {given}; use LAYOUT_DENSE"
        raise ArgumentError(text, where=where, given=given)
    apart = itertools.repeat(None) if elements is None else elements
    seeds = [decode_tensor(item, f"{where}, seed {index}", next(apart)) for index, item in enumerate(message.seeds)]
    return Output(transforms, layout), seeds


def encode_result(
    result: Array | StructuredJacobian | Sparse, shapes: Shapes | None = None, encode: Encode = encode_tensor
) -> pb.Result:
    """Return the message of a result in any layout.

    Args:
        result: the result.
        shapes: what a sparse one is of and in, which its matrix does not tell.
        encode: makes the message of each array, in the order in which the message holds them.
    """
    if isinstance(result, StructuredJacobian):
        return pb.Result(structured=encode_structured(result, encode))
    if isinstance(result, np.ndarray):
        return pb.Result(dense=encode(result))
    assert shapes is not None
    return pb.Result(sparse=encode_sparse(result, shapes.shape_out, shapes.shape_in, encode))


def decode_result(
    message: pb.Result, where: str = "result", read: Callable[[tensor_pb2.Tensor, str], Array] = decode_tensor
) -> Array | StructuredJacobian | Sparse:
    """Return the result of a message.

    Args:
        message: the message.
        where: what errors call it.
        read: gives the arrays of its tensors, which it is asked for in the order in which the message holds them.

    Raises:
        ArgumentError: the message is of no kind that this version knows.
        GradwireError: as for `decode_tensor`, `decode_structured` and `decode_sparse`.
    """
    kind = message.WhichOneof("kind")
    if kind == "dense":
        return read(message.dense, where)
    if kind == "structured":
        return decode_structured(message.structured, where, read)
    if kind == "sparse":
        return decode_sparse(message.sparse, where, read)
    text = f"{where}: needed a dense, structured or sparse result, got none that this version knows; use a newer version"
    raise ArgumentError(text, where=where)


def encode_structured(jacobian: StructuredJacobian, encode: Encode = encode_tensor) -> tensor_pb2.StructuredJacobian:
    """Return the message of a structured Jacobian; `encode` as for `encode_result`."""
    message = tensor_pb2.StructuredJacobian(
        dtype=encode_dtype(jacobian.dtype), shape_out=jacobian.shape_out, shape_in=jacobian.shape_in
    )
    for pattern, factors in jacobian.terms:
        term = message.terms.add(label_sizes=pattern.sizes)
        tables = pattern.tables
        for index, (labels, factor) in enumerate(zip(pattern.factors, factors, strict=True)):
            array = np.asarray(factor, np.int64 if index in tables else jacobian.dtype.numpy)
            term.factors.add(tensor=encode(array), labels=labels, input=pattern.source_of(index))
        for sides, axes in ((term.out_axes, pattern.out_axes), (term.in_axes, pattern.in_axes)):
            for axis in axes:
                side = sides.add(offset=axis.offset)
                for part in axis.parts:
                    side.parts.add(stride=part.stride, label=part.label, table=part.table)
    return message


def decode_structured(
    message: tensor_pb2.StructuredJacobian,
    where: str = "jacobian",
    read: Callable[[tensor_pb2.Tensor, str], Array] = decode_tensor,
) -> StructuredJacobian:
    """Return the structured Jacobian of a message; its factors share the memory of their bytes. `read` is that of `decode_result`.

    Raises:
        ArgumentError: the labels of a term do not fit the shapes.
        GradwireError: as for `decode_tensor`.
    """
    dtype = decode_dtype(message.dtype, where)
    shape_out, shape_in = tuple(message.shape_out), tuple(message.shape_in)
    for shape in (shape_out, shape_in):
        check_shape(shape, dtype, where)
    patterns, factors = [], []
    for index, term in enumerate(message.terms):
        place = f"{where}, term {index}"
        sizes = tuple(term.label_sizes)
        if sizes and min(sizes) < 0:
            raise ArgumentError(f"{place}: needed label_sizes of 0 or more, got {sizes}; correct them", where=place, given=sizes)
        arrays = tuple(read(item.tensor, f"{place}, factor {number}") for number, item in enumerate(term.factors))
        pattern = Pattern(
            tuple(tuple(item.labels) for item in term.factors),
            _decode_axes(term.out_axes, shape_out, f"{place}, out_axes"),
            _decode_axes(term.in_axes, shape_in, f"{place}, in_axes"),
            sizes,
            _decode_sources(term.factors),
        )
        _check_parts(pattern, f"{place}")
        tables = pattern.tables
        for number, (array, labels) in enumerate(zip(arrays, pattern.factors, strict=True)):
            needed = Dtype.INT64 if number in tables else dtype
            _check_factor(array, labels, sizes, needed, f"{place}, factor {number}")
        _check_positions(pattern.out_axes, pattern, arrays, f"{place}, out_axes")
        _check_positions(pattern.in_axes, pattern, arrays, f"{place}, in_axes")
        patterns.append(pattern)
        factors.append(arrays)
    return StructuredJacobian(shape_out, shape_in, dtype, tuple(patterns), tuple(factors))


def _decode_sources(factors: Sequence[tensor_pb2.Factor]) -> tuple[int | None, ...]:
    """Return which input of the program each factor is; nothing where none is one."""
    found = tuple(factor.input if factor.HasField("input") and factor.input >= 0 else None for factor in factors)
    return found if any(source is not None for source in found) else ()


def _decode_axes(axes: Sequence[tensor_pb2.TermAxis], shape: Shape, where: str) -> tuple[AxisPattern, ...]:
    """Return the axes of one side of a term."""
    if len(axes) != len(shape):
        text = f"{where}: needed {len(shape)} axes as the shape has, got {len(axes)}; send one for each"
        raise ArgumentError(text, where=where, needed=len(shape), given=len(axes))
    return tuple(
        AxisPattern(length, axis.offset, tuple(_decode_part(part, where) for part in axis.parts))
        for length, axis in zip(shape, axes, strict=True)
    )


def _decode_part(part: tensor_pb2.AxisPart, where: str) -> PartPattern:
    kind = part.WhichOneof("index")
    if kind is None:
        raise ArgumentError(f"{where}: needed a label or a table in every part, got neither; set one", where=where)
    return PartPattern(part.label, part.stride) if kind == "label" else PartPattern(None, part.stride, part.table)


def _check_parts(pattern: Pattern, where: str) -> None:
    """Check that the labels and tables of all parts exist."""
    for part in (part for axis in (*pattern.out_axes, *pattern.in_axes) for part in axis.parts):
        if part.label is not None:
            _check_label(part.label, pattern.sizes, where)
        elif part.table is not None and not 0 <= part.table < len(pattern.factors):
            text = f"{where}: needed tables from 0 to {len(pattern.factors) - 1}, got {part.table}; send the factor"
            raise ArgumentError(text, where=where, given=part.table)


def _check_label(label: int, sizes: tuple[int, ...], where: str) -> None:
    if not 0 <= label < len(sizes):
        text = f"{where}: needed labels from 0 to {len(sizes) - 1}, got {label}; give its size in label_sizes"
        raise ArgumentError(text, where=where, given=label)


def _check_factor(array: Array, labels: tuple[int, ...], sizes: tuple[int, ...], dtype: Dtype, where: str) -> None:
    """Check that a factor has the dtype it must have, and axes as long as their labels."""
    given = Dtype.of(array.dtype)
    if given is not dtype:
        text = f"{where}: needed {dtype}, got {given}; send factors in the dtype of the Jacobian, tables as int64"
        raise ArgumentError(text, where=where, needed=dtype, given=given)
    for label in labels:
        _check_label(label, sizes, where)
    lengths = tuple(sizes[label] for label in labels)
    if lengths != array.shape:
        text = f"{where}: needed labels of the sizes {array.shape} of its axes, got {lengths}; correct the labels"
        raise ArgumentError(text, where=where, needed=array.shape, given=lengths)


def _check_positions(axes: Sequence[AxisPattern], pattern: Pattern, arrays: Sequence[Array], where: str) -> None:
    """Check that all positions along axes lie within them."""
    for place, axis in enumerate(axes):
        strides: dict[int, int] = {}
        low = high = axis.offset
        is_empty = False
        for part in axis.parts:
            if part.label is not None:
                strides[part.label] = strides.get(part.label, 0) + part.stride
            elif part.table is not None:
                array = arrays[part.table]
                is_empty = is_empty or array.size == 0
                ends = [int(array.min()) * part.stride, int(array.max()) * part.stride] if array.size else [0]
                low, high = low + min(ends), high + max(ends)
        for label, stride in strides.items():
            is_empty = is_empty or pattern.sizes[label] == 0
            reach = stride * (pattern.sizes[label] - 1)
            low, high = low + min(reach, 0), high + max(reach, 0)
        if not is_empty and not 0 <= low <= high < axis.length:
            text = f"{where}: needed positions from 0 to {axis.length - 1} along axis {place}, got {low} to {high}"
            raise ArgumentError(f"{text}; correct its offset and parts", where=where, needed=axis.length, given=(low, high))
