"""What a request asks of a program and what it is answered: transforms, outputs and results, between the core and messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gradwire_core.engine import Output
from gradwire_core.errors import ArgumentError
from gradwire_core.structure.structured import Pattern, StructuredJacobian
from gradwire_core.transforms import Transform
from gradwire_core.types import Array, Dtype, Shape
from gradwire_proto.sparse import decode_sparse, encode_sparse
from gradwire_proto.tensor import check_shape, decode_dtype, decode_tensor, encode_dtype, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import tensor_pb2, transform_pb2

if TYPE_CHECKING:
    from gradwire_proto.sparse import Sparse

KINDS = tuple(field.name for field in transform_pb2.Transform.DESCRIPTOR.oneofs_by_name["kind"].fields)
"""The names of the transforms: those of their fields in the message, and of `Transform` in the core."""

_LAYOUTS = {"dense": pb.LAYOUT_DENSE, "structured": pb.LAYOUT_STRUCTURED, "sparse": pb.LAYOUT_SPARSE}
_LAYOUT_NAMES: dict[int, str] = {pb.LAYOUT_UNSPECIFIED: "dense", **{number: name for name, number in _LAYOUTS.items()}}
_SHOWN = tuple(map(pb.Layout.Name, _LAYOUTS.values()))


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


def decode_output(message: pb.Output, where: str = "output") -> tuple[Output, list[Array]]:
    """Return the output of a message, and its seeds.

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
    seeds = [decode_tensor(item, f"{where}, seed {index}") for index, item in enumerate(message.seeds)]
    return Output(transforms, layout), seeds


def encode_result(result: Array | StructuredJacobian | Sparse, shapes: Shapes | None = None) -> pb.Result:
    """Return the message of a result in any layout; a sparse one needs the shapes that its matrix does not tell."""
    if isinstance(result, StructuredJacobian):
        return pb.Result(structured=encode_structured(result))
    if isinstance(result, np.ndarray):
        return pb.Result(dense=encode_tensor(result))
    assert shapes is not None
    return pb.Result(sparse=encode_sparse(result, shapes.shape_out, shapes.shape_in))


def decode_result(message: pb.Result, where: str = "result") -> Array | StructuredJacobian | Sparse:
    """Return the result of a message.

    Raises:
        ArgumentError: the message is of no kind that this version knows.
        GradwireError: as for `decode_tensor`, `decode_structured` and `decode_sparse`.
    """
    kind = message.WhichOneof("kind")
    if kind == "dense":
        return decode_tensor(message.dense, where)
    if kind == "structured":
        return decode_structured(message.structured, where)
    if kind == "sparse":
        return decode_sparse(message.sparse, where)
    text = f"{where}: needed a dense, structured or sparse result, got none that this version knows; use a newer version"
    raise ArgumentError(text, where=where)


def encode_structured(jacobian: StructuredJacobian) -> tensor_pb2.StructuredJacobian:
    """Return the message of a structured Jacobian."""
    message = tensor_pb2.StructuredJacobian(
        dtype=encode_dtype(jacobian.dtype), shape_out=jacobian.shape_out, shape_in=jacobian.shape_in
    )
    for pattern, factors in jacobian.terms:
        term = message.terms.add(label_sizes=pattern.sizes)
        for labels, factor in zip(pattern.factors, factors, strict=True):
            array = np.asarray(factor, jacobian.dtype.numpy)
            term.factors.add(tensor=encode_tensor(array), labels=labels)
        for runs, axes in ((term.out_axes, pattern.out_axes), (term.in_axes, pattern.in_axes)):
            for run in axes:
                runs.add(labels=run)
    return message


def decode_structured(message: tensor_pb2.StructuredJacobian, where: str = "jacobian") -> StructuredJacobian:
    """Return the structured Jacobian of a message; its factors share the memory of their bytes.

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
        arrays = tuple(decode_tensor(item.tensor, f"{place}, factor {number}") for number, item in enumerate(term.factors))
        pattern = Pattern(
            tuple(tuple(item.labels) for item in term.factors),
            tuple(tuple(run.labels) for run in term.out_axes),
            tuple(tuple(run.labels) for run in term.in_axes),
            sizes,
        )
        for number, (array, labels) in enumerate(zip(arrays, pattern.factors, strict=True)):
            _check_factor(array, labels, sizes, dtype, f"{place}, factor {number}")
        _check_runs(shape_out, pattern.out_axes, sizes, f"{place}, out_axes")
        _check_runs(shape_in, pattern.in_axes, sizes, f"{place}, in_axes")
        patterns.append(pattern)
        factors.append(arrays)
    return StructuredJacobian(shape_out, shape_in, dtype, tuple(patterns), tuple(factors))


def _check_factor(array: Array, labels: tuple[int, ...], sizes: tuple[int, ...], dtype: Dtype, where: str) -> None:
    """Check that a factor has the dtype of the Jacobian, and axes as long as their labels."""
    given = Dtype.of(array.dtype)
    if given is not dtype:
        text = f"{where}: needed {dtype}, got {given}; send factors in the dtype of the Jacobian"
        raise ArgumentError(text, where=where, needed=dtype, given=given)
    _check_runs(array.shape, [(label,) for label in labels], sizes, where)


def _check_runs(shape: Shape, runs: Sequence[tuple[int, ...]], sizes: tuple[int, ...], where: str) -> None:
    """Check that the labels exist and that the sizes of each run multiply to the length of its axis."""
    for label in (label for run in runs for label in run):
        if not 0 <= label < len(sizes):
            text = f"{where}: needed labels from 0 to {len(sizes) - 1}, got {label}; give its size in label_sizes"
            raise ArgumentError(text, where=where, given=label)
    given = tuple(math.prod(sizes[label] for label in run) for run in runs)
    if given != shape:
        text = f"{where}: needed runs whose sizes multiply to the shape {shape}, got {given}; correct the labels"
        raise ArgumentError(text, where=where, needed=shape, given=given)
