"""Transforms, outputs and results across the wire, and structured Jacobians that mean what the manual says."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwire_core.engine import Output
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.structure.structured import AxisPattern, PartPattern, Pattern, StructuredJacobian, run_pattern
from gradwire_core.transforms import Transform
from gradwire_core.types import Dtype
from gradwire_proto.evaluation import (
    KINDS,
    decode_output,
    decode_result,
    decode_structured,
    decode_transform,
    encode_output,
    encode_result,
    encode_structured,
    encode_transform,
)
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import tensor_pb2, transform_pb2

ARGNUMS = [kind for kind in KINDS if kind != "vmap"]


def test_the_core_has_the_transforms_of_the_wire():
    from gradwire_core.transforms import NAMES

    assert sorted(KINDS) == sorted(NAMES)


@pytest.mark.parametrize("kind", ARGNUMS)
def test_transforms_round_trip(kind):
    for argnums in ((0,), (2, 0, 1)):
        message = encode_transform(Transform(kind, argnums))
        assert message.WhichOneof("kind") == kind
        assert decode_transform(transform_pb2.Transform.FromString(message.SerializeToString())) == Transform(kind, argnums)


@pytest.mark.parametrize("kind", ARGNUMS)
def test_no_argnums_on_the_wire_mean_input_0(kind):
    message = transform_pb2.Transform()
    getattr(message, kind).SetInParent()
    assert decode_transform(message) == Transform(kind, (0,))
    with pytest.raises(ArgumentError, match=f"{kind}: needed at least one argnum, got none"):
        encode_transform(Transform(kind, ()))


def test_vmap_round_trips():
    for in_axes in ((0,), (None, 1, -1), (0, None)):
        transform = Transform("vmap", in_axes=in_axes, axis_size=5)
        assert decode_transform(encode_transform(transform)) == transform


def test_transforms_that_do_not_exist_are_refused():
    with pytest.raises(ArgumentError, match=r"transform: needed one of grad, .*, got laplacian"):
        encode_transform(Transform("laplacian"))
    with pytest.raises(ArgumentError, match=r"transform 3: needed one of grad, .*, got none that this version knows"):
        decode_transform(transform_pb2.Transform(), "transform 3")


@pytest.mark.parametrize("layout", ["dense", "structured", "sparse"])
def test_outputs_round_trip(layout):
    output = Output((Transform("vmap", in_axes=(0, None), axis_size=2), Transform("jvp", (1,)), Transform("jacobian")), layout)
    seeds = [np.arange(6.0).reshape(2, 3), np.float32(2)[None]]
    decoded, given = decode_output(pb.Output.FromString(encode_output(output, seeds).SerializeToString()))
    assert decoded == output
    assert hash(decoded) == hash(output)
    assert [array.tolist() for array in given] == [array.tolist() for array in seeds]
    assert [array.dtype for array in given] == [array.dtype for array in seeds]


def test_an_empty_output_is_the_value_dense():
    assert decode_output(pb.Output()) == (Output(), [])


def test_malformed_outputs_are_refused():
    grad = transform_pb2.Transform(grad=transform_pb2.Grad())
    with pytest.raises(
        ArgumentError, match="needed jacobian or hessian as the last transform for LAYOUT_STRUCTURED, got no transform"
    ):
        decode_output(pb.Output(layout=pb.LAYOUT_STRUCTURED))
    with pytest.raises(ArgumentError, match="for LAYOUT_SPARSE, got grad; use LAYOUT_DENSE"):
        decode_output(pb.Output(layout=pb.LAYOUT_SPARSE, transforms=[grad]))
    with pytest.raises(ArgumentError, match=r"output 2: needed one of LAYOUT_DENSE, .*, got the unknown number 99"):
        decode_output(pb.Output(layout=99), "output 2")
    with pytest.raises(ArgumentError, match="output, transform 1: needed one of"):
        decode_output(pb.Output(transforms=[grad, transform_pb2.Transform()]))
    with pytest.raises(ArgumentError, match=r"output, seed 1: needed 8 bytes for float64\[\], got 0"):
        decode_output(pb.Output(seeds=[tensor_pb2.Tensor(dtype=1, data=bytes(8)), tensor_pb2.Tensor(dtype=1)]))


def meaning(message):
    """The dense value of a structured Jacobian, entry by entry, as the comment of the message defines it."""
    dense = np.zeros((*message.shape_out, *message.shape_in))
    for term in message.terms:
        axes = [*term.out_axes, *term.in_axes]
        tables = {part.table for axis in axes for part in axis.parts if part.HasField("table")}
        arrays = [
            np.frombuffer(factor.tensor.data, "<i8" if index in tables else "<f8").reshape(factor.tensor.shape)
            for index, factor in enumerate(term.factors)
        ]
        for values in itertools.product(*map(range, term.label_sizes)):
            at = [
                array[tuple(values[label] for label in factor.labels)] for array, factor in zip(arrays, term.factors, strict=True)
            ]
            place = tuple(
                axis.offset
                + sum(part.stride * (int(at[part.table]) if part.HasField("table") else values[part.label]) for part in axis.parts)
                for axis in axes
            )
            dense[place] += math.prod(entry for index, entry in enumerate(at) if index not in tables)
    return dense


@st.composite
def jacobians(draw):
    """Sums of terms of one shape. Axes share labels or not, windows and tables among them; factors overlap."""
    shape_out, shape_in = (draw(st.lists(st.integers(0, 3), max_size=2).map(tuple)) for _ in range(2))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    patterns, factors = [], []
    for _ in range(draw(st.integers(0, 3))):
        sizes: list[int] = []
        axes, tables = [], []
        for length in (*shape_out, *shape_in):
            kind = draw(st.sampled_from(["known", "run", "window", "backward", "table"]))
            known = [label for label, size in enumerate(sizes) if size == length]
            fresh = len(sizes)
            if kind == "known" and known:
                axes.append(run_pattern((draw(st.sampled_from(known)),), sizes))
            elif kind == "run" or length == 0:
                sizes += [1, length]
                axes.append(run_pattern((fresh, fresh + 1), sizes))
            elif kind == "window":
                sizes.append(1)
                axes.append(AxisPattern(length, draw(st.integers(0, length - 1)), (PartPattern(fresh, 1),)))
            elif kind == "table":
                sizes.append(2)
                axes.append(AxisPattern(length, 0, (PartPattern(None, 1, len(tables)),)))
                tables.append(((fresh,), rng.integers(0, length, 2)))
            else:
                sizes.append(length)
                axes.append(AxisPattern(length, length - 1, (PartPattern(fresh, -1),)))
        sides = range(len(sizes))
        sizes += draw(st.lists(st.integers(1, 3), max_size=2))
        labels = [draw(st.permutations(sides).map(lambda items: tuple(items[:2]))) for _ in range(draw(st.integers(0, 2)))]
        labels += [(label,) for label in range(len(sides), len(sizes))]
        arrays = [rng.standard_normal([sizes[label] for label in item]) for item in labels]
        count = len(shape_out)
        pattern = (*[item for item, _ in tables], *labels), tuple(axes[:count]), tuple(axes[count:]), tuple(sizes)
        patterns.append(Pattern(*pattern))
        factors.append((*[array for _, array in tables], *arrays))
    return StructuredJacobian(shape_out, shape_in, Dtype.FLOAT64, tuple(patterns), tuple(factors))


@given(jacobians())
def test_structured_jacobians_round_trip_and_mean_what_the_manual_says(jacobian):
    message = tensor_pb2.StructuredJacobian.FromString(encode_structured(jacobian).SerializeToString())
    given = decode_structured(message)
    assert (given.shape_out, given.shape_in, given.dtype) == (jacobian.shape_out, jacobian.shape_in, jacobian.dtype)
    assert given.patterns == jacobian.patterns
    for ours, theirs in zip(given.factors, jacobian.factors, strict=True):
        assert all(map(np.array_equal, ours, theirs))
    assert np.array_equal(given.todense(), jacobian.todense())
    np.testing.assert_allclose(given.todense(), meaning(message), rtol=1e-12, atol=1e-12)


MATRIX = Pattern.of_runs(((1, 2),), ((0,), (1,)), ((0,), (2,)), (4, 3, 2))


def product():
    """dY/dX of Y = X W^T."""
    return StructuredJacobian((4, 3), (4, 2), Dtype.FLOAT64, (MATRIX,), ((np.arange(6.0).reshape(3, 2),),))


def test_results_round_trip():
    dense = decode_result(pb.Result.FromString(encode_result(np.arange(6, dtype=np.int32).reshape(2, 3)).SerializeToString()))
    assert dense.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert dense.dtype == np.int32
    structured = decode_result(pb.Result.FromString(encode_result(product()).SerializeToString()))
    assert structured.pattern == product().pattern
    assert structured.nbytes == 48
    assert isinstance(structured.factors[0][0].base, bytes)
    with pytest.raises(
        ArgumentError, match="result 1: needed a dense, structured or sparse result, got none that this version knows"
    ):
        decode_result(pb.Result(), "result 1")


def test_a_structured_jacobian_is_sent_without_its_zeros():
    n = 100_000
    diagonal = StructuredJacobian((n,), (n,), Dtype.FLOAT64, (Pattern.of_runs(((0,),), ((0,),), ((0,),), (n,)),), ((np.ones(n),),))
    assert encode_result(diagonal).ByteSize() < 8 * n + 100


def test_factors_are_sent_in_the_dtype_of_the_jacobian():
    pattern = Pattern.of_runs(((0,),), ((0,),), ((0,),), (2,))
    jacobian = StructuredJacobian((2,), (2,), Dtype.FLOAT32, (pattern,), ((np.array([True, False]),),))
    assert decode_structured(encode_structured(jacobian)).factors[0][0].dtype == np.float32


def broken(change):
    message = encode_structured(product())
    change(message)
    return message


def set_labels(factor, *labels):
    del factor.labels[:]
    factor.labels.extend(labels)


def part(item):
    return item.terms[0].in_axes[1].parts[0]


MALFORMED = [
    (lambda item: item.ClearField("dtype"), DtypeError, "jacobian: needed a dtype"),
    (lambda item: item.shape_in.append(-1), ShapeError, "jacobian: needed lengths of 0 or more"),
    (lambda item: item.shape_in.extend([2**40, 2**40]), ShapeError, "jacobian: needed a tensor of less than 2^63 bytes"),
    (lambda item: item.shape_out.append(2), ArgumentError, "term 0, out_axes: needed 3 axes as the shape has, got 2"),
    (
        lambda item: setattr(part(item), "label", 1),
        ArgumentError,
        "term 0, in_axes: needed positions from 0 to 1 along axis 1, got 0 to 2",
    ),
    (
        lambda item: setattr(part(item), "stride", -1),
        ArgumentError,
        "term 0, in_axes: needed positions from 0 to 1 along axis 1, got -1 to 0",
    ),
    (
        lambda item: setattr(item.terms[0].in_axes[1], "offset", 2**62),
        ArgumentError,
        "term 0, in_axes: needed positions from 0 to 1 along axis 1, got",
    ),
    (lambda item: setattr(part(item), "label", 3), ArgumentError, "term 0: needed labels from 0 to 2, got 3"),
    (lambda item: setattr(part(item), "label", -1), ArgumentError, "term 0: needed labels from 0 to 2, got -1"),
    (lambda item: setattr(part(item), "table", 1), ArgumentError, "term 0: needed tables from 0 to 0, got 1"),
    (lambda item: setattr(part(item), "table", 0), ArgumentError, "term 0, factor 0: needed int64, got float64"),
    (lambda item: part(item).ClearField("label"), ArgumentError, "needed a label or a table in every part, got neither"),
    (
        lambda item: set_labels(item.terms[0].factors[0], 2, 1),
        ArgumentError,
        "term 0, factor 0: needed labels of the sizes (3, 2) of its axes, got (2, 3)",
    ),
    (
        lambda item: set_labels(item.terms[0].factors[0], 1),
        ArgumentError,
        "term 0, factor 0: needed labels of the sizes (3, 2) of its axes, got (3,)",
    ),
    (lambda item: set_labels(item.terms[0].factors[0], 1, 7), ArgumentError, "term 0, factor 0: needed labels from 0 to 2, got 7"),
    (
        lambda item: item.terms[0].factors[0].tensor.ClearField("data"),
        ArgumentError,
        "jacobian, term 0, factor 0: needed 48 bytes for float64[3,2], got 0",
    ),
    (
        lambda item: item.terms[0].label_sizes.append(-2),
        ArgumentError,
        "term 0: needed label_sizes of 0 or more, got (4, 3, 2, -2)",
    ),
    (lambda item: setattr(item, "dtype", 2), ArgumentError, "term 0, factor 0: needed float32, got float64"),
]


@pytest.mark.parametrize(("change", "error", "text"), MALFORMED)
def test_malformed_structured_jacobians_are_refused(change, error, text):
    with pytest.raises(error) as raised:
        decode_structured(broken(change))
    assert text in raised.value.message


def test_labels_may_multiply_to_more_than_any_array_holds():
    pattern = Pattern.of_runs((), ((0, 1),), ((2, 3),), (10**9,) * 4)
    jacobian = StructuredJacobian((10**18,), (10**18,), Dtype.FLOAT32, (pattern,), ((),))
    assert decode_structured(encode_structured(jacobian)).shape_in == (10**18,)
    assert math.prod(pattern.sizes) > 2**63
