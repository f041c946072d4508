"""Tensors and their types, between arrays and messages.

Decoding trusts nothing: every length is checked before anything is allocated. An array shares the memory of the bytes of its
message and is read-only. Where a message names a tensor, or its elements travel apart from it, its reader must pass them.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.types import Array, Dtype, Shape, TensorType
from gradwire_proto.v1 import tensor_pb2 as pb

if TYPE_CHECKING:
    from hashlib import _Hash

Elements: TypeAlias = bytes | bytearray | memoryview
"""What elements can be read from."""

AXES_LIMIT = 64
"""The most axes of a tensor: NumPy's limit."""

_NUMBERS = {item: pb.Dtype.Value(f"DTYPE_{item.name}") for item in Dtype}
_DTYPES: dict[int, Dtype] = {number: item for item, number in _NUMBERS.items()}
_LITTLE = {number: item.numpy.newbyteorder("<") for item, number in _NUMBERS.items()}
_FROM_LITTLE = {dtype: number for number, dtype in _LITTLE.items()}
_BOOL = _NUMBERS[Dtype.BOOL]
_NAME_PREFIX = "tensors/"
_DIGEST_DOMAIN = b"gradwire.v1.Tensor\0"
_SHOWN_LENGTH = 100
_is_digest = re.compile("[0-9a-f]{64}").fullmatch


def encode_dtype(dtype: Dtype) -> pb.Dtype.ValueType:
    """Return the number of a dtype."""
    return _NUMBERS[dtype]


def decode_dtype(number: int, where: str = "dtype") -> Dtype:
    """Return the dtype of a number.

    Raises:
        DtypeError: the number is 0 or one this version does not know.
    """
    found = _DTYPES.get(number)
    if found is None:
        names = ", ".join(f"DTYPE_{item.name}" for item in Dtype)
        given = "none" if number == 0 else f"the unknown number {number}"
        raise DtypeError(f"{where}: needed a dtype, one of {names}, got {given}; set one of those", where=where, given=number)
    return found


def encode_type(type: TensorType) -> pb.TensorType:
    """Return the message of a tensor type."""
    return pb.TensorType(dtype=_NUMBERS[type.dtype], shape=type.shape)


def decode_type(message: pb.TensorType, where: str = "type") -> TensorType:
    """Return the tensor type of a message.

    Raises:
        DtypeError: the dtype is unset or unknown.
        ShapeError: there are too many axes, a length is negative, or the bytes do not fit 63 bits.
    """
    dtype = decode_dtype(message.dtype, where)
    shape = tuple(message.shape)
    check_shape(shape, dtype, where)
    return TensorType(dtype, shape)


def check_shape(shape: Shape, dtype: Dtype, where: str) -> None:
    """Check that an array of a shape can exist.

    Raises:
        ShapeError: there are too many axes, a length is negative, or the bytes do not fit 63 bits.
    """
    if len(shape) > AXES_LIMIT:
        text = f"{where}: needed at most {AXES_LIMIT} axes, got {len(shape)}; reshape to fewer"
        raise ShapeError(text, where=where, needed=AXES_LIMIT, given=len(shape))
    if shape and min(shape) < 0:
        text = f"{where}: needed lengths of 0 or more, got {TensorType(dtype, shape)}; correct the shape"
        raise ShapeError(text, where=where, given=shape)
    if math.prod(filter(None, shape)) * dtype.numpy.itemsize >= 2**63:
        text = f"{where}: needed a tensor of less than 2^63 bytes, got {TensorType(dtype, shape)}; make it smaller"
        raise ShapeError(text, where=where, given=shape)


def tensor_hash(type: TensorType) -> _Hash:
    """Return what the digest of a tensor begins with; fed all elements, as in Tensor.data, it gives the digest."""
    shape = type.shape
    head = struct.pack(f"<BB{len(shape)}q", _NUMBERS[type.dtype], len(shape), *shape)
    return hashlib.sha256(_DIGEST_DOMAIN + head)


def tensor_name(digest: str) -> str:
    """Return the name of a tensor on the wire."""
    return _NAME_PREFIX + digest


def check_tensor_name(name: str, where: str = "tensor name") -> str:
    """Return the digest in the name of a tensor.

    Raises:
        ArgumentError: the text is no such name.
    """
    digest = name.removeprefix(_NAME_PREFIX)
    if name == digest or not _is_digest(digest):
        shown = name[:_SHOWN_LENGTH]
        text = f"{where}: needed {_NAME_PREFIX} and 64 lower-case hexadecimal digits, got {shown!r}; take it from CreateTensor"
        raise ArgumentError(text, where=where, given=shown)
    return digest


def encode_name(array: Array) -> pb.Tensor:
    """Return the message that names an array, of any memory order, strides and byte order, as CreateTensor does.

    Raises:
        DtypeError: gradwire has no such dtype.
    """
    dtype = Dtype.of(array.dtype)
    little = array.astype(_LITTLE[_NUMBERS[dtype]], order="C", copy=False)
    hash = tensor_hash(TensorType(dtype, array.shape))
    if little.size:
        hash.update(little.reshape(-1).view(np.uint8).data)
    return pb.Tensor(dtype=_NUMBERS[dtype], shape=array.shape, name=tensor_name(hash.hexdigest()))


def encode_tensor(array: Array) -> pb.Tensor:
    """Return the message of an array of any memory order, strides and byte order.

    Raises:
        DtypeError: gradwire has no such dtype.
    """
    number = _FROM_LITTLE.get(array.dtype)
    if number is None:
        number = _NUMBERS[Dtype.of(array.dtype)]
        array = array.astype(_LITTLE[number])
    return pb.Tensor(dtype=number, shape=array.shape, data=array.tobytes())


def encode_head(array: Array) -> pb.Tensor:
    """Return the message of an array without its elements, which travel apart from it."""
    return pb.Tensor(dtype=_NUMBERS[Dtype.of(array.dtype)], shape=array.shape)


def decode_tensor(message: pb.Tensor, where: str = "tensor", elements: Elements | None = None) -> Array:
    """Return the array of a message: read-only, in row-major order, sharing the memory of the bytes.

    Args:
        message: the message.
        where: what errors call it.
        elements: its elements, where they are apart from it: named, or in chunks. None: they are its data, and it has no name.

    Raises:
        DtypeError: the dtype is unset or unknown.
        ShapeError: the shape cannot exist.
        ArgumentError: there are too few or too many bytes, or a bool is neither 0 nor 1; or it has a name where none may stand.
    """
    number = message.dtype
    little = _LITTLE.get(number)
    if little is None:
        decode_dtype(number, where)
        raise AssertionError
    shape = tuple(message.shape)
    if elements is None:
        elements = message.data
        if message.name:
            shown = message.name[:_SHOWN_LENGTH]
            text = f"{where}: needed elements, got the name {shown!r}; only inputs and seeds may be named"
            raise ArgumentError(text, where=where, given=shown)
    check_shape(shape, _DTYPES[number], where)
    needed, given = math.prod(shape) * little.itemsize, len(elements)
    if given != needed:
        type = TensorType(_DTYPES[number], shape)
        text = f"{where}: needed {needed} bytes for {type}, got {given}; send every element once, without padding"
        raise ArgumentError(text, where=where, needed=needed, given=given)
    array: Array = np.ndarray(shape, little, elements)
    array.flags.writeable = False
    if number == _BOOL and needed:
        check_bools(elements, where)
    return array


def check_bools(elements: Elements, where: str) -> None:
    """Check that some elements of dtype bool, at least one, are 0 or 1.

    Raises:
        ArgumentError: one is neither.
    """
    given = int(np.frombuffer(elements, np.uint8).max())
    if given > 1:
        raise ArgumentError(f"{where}: needed a bool as a byte 0 or 1, got {given}; send 1 for true", where=where, given=given)
