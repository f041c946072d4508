"""Tensors across the wire: every layout in memory, every dtype, and bytes that are wrong."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradwire_core.errors import ArgumentError, DtypeError, GradwireError, ShapeError
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.tensor import (
    AXES_LIMIT,
    check_bools,
    check_tensor_name,
    decode_dtype,
    decode_tensor,
    decode_type,
    encode_dtype,
    encode_name,
    encode_tensor,
    encode_type,
)
from gradwire_proto.v1 import tensor_pb2 as pb

DTYPES = st.sampled_from([order + dtype for dtype in ("f8", "f4", "c16", "c8", "i8", "i4", "?") for order in "<>"])
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))


def wire(array):
    return decode_tensor(pb.Tensor.FromString(encode_tensor(array).SerializeToString()))


def bits(array):
    """The elements as little-endian bytes in row-major order, found without the codec."""
    return b"".join(np.asarray(array[index]).astype(array.dtype.newbyteorder("<")).tobytes() for index in np.ndindex(array.shape))


@given(ARRAYS, st.data())
def test_round_trip_keeps_every_bit(array, data):
    axes = data.draw(st.permutations(range(array.ndim)))
    steps = data.draw(st.tuples(*[st.sampled_from([1, -1, 2, -2])] * array.ndim))
    view = np.transpose(array, axes)[(*(slice(None, None, step) for step in steps), ...)]
    view.flags.writeable &= data.draw(st.booleans())
    given = wire(view)
    assert (given.shape, Dtype.of(given.dtype)) == (view.shape, Dtype.of(view.dtype))
    assert given.tobytes() == bits(view)


def test_round_trip_keeps_the_bits_of_nan_and_zero():
    array = np.array([0x7FF8000000000123, 0xFFF0000000000001, 0x8000000000000000], np.uint64).view(np.float64)
    assert wire(array).tobytes() == array.tobytes()


def test_broadcast_views_are_sent_in_full():
    assert wire(np.broadcast_to(np.float32(2), (2, 3))).tolist() == [[2, 2, 2]] * 2


@pytest.mark.parametrize("dtype", Dtype)
def test_dtypes_and_types_round_trip(dtype):
    assert decode_dtype(encode_dtype(dtype)) is dtype
    for shape in ((), (0,), (3, 1, 2), (2**50, 0)):
        type = TensorType(dtype, shape)
        assert decode_type(encode_type(type)) == type


def test_decoding_copies_nothing_and_gives_a_read_only_array():
    array = decode_tensor(encode_tensor(np.arange(3.0)))
    assert isinstance(array.base, bytes)
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    assert array.flags.c_contiguous
    assert array.dtype == np.float64


def test_decoding_allocates_the_bytes_once():
    message = encode_tensor(np.ones(1_000_000))
    tracemalloc.start()
    decode_tensor(message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000 + 10_000


MALFORMED = [
    ({"dtype": 1, "shape": [3], "data": bytes(23)}, ArgumentError, "tensor: needed 24 bytes for float64[3], got 23; "),
    ({"dtype": 1, "shape": [3], "data": bytes(25)}, ArgumentError, "tensor: needed 24 bytes for float64[3], got 25; "),
    ({"dtype": 1}, ArgumentError, "tensor: needed 8 bytes for float64[], got 0; "),
    ({"dtype": 2, "shape": [0, 5], "data": b"x"}, ArgumentError, "tensor: needed 0 bytes for float32[0,5], got 1; "),
    ({"dtype": 1, "shape": [10**18], "data": bytes(8)}, ArgumentError, "needed 8000000000000000000 bytes"),
    ({"dtype": 1, "shape": [10**18, 10], "data": bytes(8)}, ShapeError, "needed a tensor of less than 2^63 bytes"),
    ({"dtype": 7, "shape": [2**62, 2**62, 2**62, 0]}, ShapeError, "needed a tensor of less than 2^63 bytes"),
    ({"dtype": 7, "shape": [2**62, 4]}, ShapeError, "needed a tensor of less than 2^63 bytes"),
    ({"dtype": 1, "shape": [-1, -3], "data": bytes(24)}, ShapeError, "needed lengths of 0 or more, got float64[-1,-3]"),
    ({"dtype": 1, "shape": [-(2**63), 0]}, ShapeError, "needed lengths of 0 or more"),
    ({"dtype": 1, "shape": [1] * (AXES_LIMIT + 1), "data": bytes(8)}, ShapeError, "needed at most 64 axes, got 65"),
    ({"shape": [1], "data": bytes(8)}, DtypeError, "tensor: needed a dtype, one of DTYPE_FLOAT64, "),
    ({"dtype": 99, "shape": [1], "data": bytes(8)}, DtypeError, "got the unknown number 99"),
    ({"dtype": -1, "shape": [1], "data": bytes(8)}, DtypeError, "got the unknown number -1"),
    ({"dtype": 7, "shape": [2], "data": b"\x01\x02"}, ArgumentError, "tensor: needed a bool as a byte 0 or 1, got 2; "),
]


@pytest.mark.parametrize(("fields", "error", "text"), MALFORMED)
def test_malformed_tensors_are_refused_before_anything_is_allocated(fields, error, text):
    message = pb.Tensor(**fields)
    tracemalloc.start()
    with pytest.raises(error) as raised:
        decode_tensor(message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    assert text in raised.value.message
    assert raised.value.metadata["where"] == "tensor"


@given(
    st.builds(
        dict, dtype=st.integers(-1, 9), shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 4)), data=st.binary()
    )
)
def test_any_tensor_is_decoded_or_refused(fields):
    try:
        array = decode_tensor(pb.Tensor(**fields))
    except GradwireError:
        return
    assert array.tobytes() == fields["data"]


@pytest.mark.parametrize("dtype", ["f2", "u1", "u8", "i2", "S3", "M8[s]", "O", [("a", "f8")]])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(DtypeError, match=r"dtype: needed one of float64, .* convert with astype"):
        encode_tensor(np.zeros(2, dtype))


def test_the_largest_rank_decodes():
    assert wire(np.ones((1,) * AXES_LIMIT)).ndim == AXES_LIMIT


def test_a_shape_that_an_array_can_have_only_when_empty():
    assert decode_tensor(pb.Tensor(dtype=1, shape=[2**40, 0])).shape == (2**40, 0)


@given(ARRAYS, st.data())
def test_the_name_of_a_tensor_is_that_of_its_elements_in_any_layout(array, data):
    view = np.transpose(array, data.draw(st.permutations(range(array.ndim))))[..., ::-1] if array.ndim else array
    named, sent = encode_name(view), encode_tensor(view)
    head = struct.pack(f"<BB{view.ndim}q", sent.dtype, view.ndim, *view.shape)
    digest = hashlib.sha256(b"gradwire.v1.Tensor\0" + head + sent.data).hexdigest()
    assert named == pb.Tensor(dtype=sent.dtype, shape=sent.shape, name="tensors/" + digest)
    assert check_tensor_name(named.name) == digest


def test_elements_apart_are_read_in_place_and_checked():
    named, elements = encode_name(np.arange(3.0)), bytearray(np.arange(3.0).tobytes())
    array = decode_tensor(named, "x", elements)
    elements[:8] = np.float64(7).tobytes()
    assert array.tolist() == [7, 1, 2]
    assert not array.flags.writeable
    with pytest.raises(ArgumentError, match="x: needed 24 bytes"):
        decode_tensor(named, "x", elements[:16])
    with pytest.raises(ArgumentError, match="needed a bool as a byte 0 or 1, got 3"):
        decode_tensor(encode_name(np.array([True])), "x", b"\3")
    check_bools(b"\1\0", "x")


def test_a_name_is_refused_where_none_may_stand():
    with pytest.raises(ArgumentError, match="x: needed elements, got the name 'tensors/"):
        decode_tensor(encode_name(np.ones(0)), "x")


@pytest.mark.parametrize("name", ["", "tensors/", "tensors/" + "0" * 63, "tensors/" + "A" * 64, "programs/" + "0" * 64, "0" * 64])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ArgumentError, match=r"tensor name: needed tensors/ and 64 lower-case hexadecimal digits, got"):
        check_tensor_name(name)
