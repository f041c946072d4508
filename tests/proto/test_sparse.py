"""Sparse Jacobians across the wire: they mean what the manual says, and indices that lead astray are refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array

from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_proto.evaluation import decode_result
from gradwire_proto.sparse import decode_sparse, encode_sparse
from gradwire_proto.tensor import encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import tensor_pb2


def travel(jacobian, shape_out, shape_in):
    message = pb.Result(sparse=encode_sparse(jacobian, shape_out, shape_in))
    return decode_result(pb.Result.FromString(message.SerializeToString()))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128])
@pytest.mark.parametrize(("shape_out", "shape_in"), [((2, 3), (4,)), ((), (5,)), ((7,), ()), ((0, 3), (2,)), ((3,), (0,))])
def test_sparse_jacobians_round_trip(dtype, shape_out, shape_in):
    size = (int(np.prod(shape_out)), int(np.prod(shape_in)))
    given = csr_array(random_array(size, density=0.4, rng=np.random.default_rng(0), format="csr"), dtype=dtype)
    given.sort_indices()
    found = travel(given, shape_out, shape_in)
    assert isinstance(found, csr_array)
    assert found.shape == size
    for name in ("data", "indices", "indptr"):
        one, other = getattr(found, name), getattr(given, name)
        assert one.dtype == other.dtype, name
        assert np.array_equal(one, other), name


def test_entries_that_are_zero_by_chance_stay():
    given = csr_array((np.array([0.0, -0.0, np.nan]), np.array([0, 2, 1]), np.array([0, 2, 3])), shape=(2, 3))
    found = travel(given, (2,), (3,))
    assert found.nnz == 3
    assert found.data.tobytes() == given.data.tobytes()


def meaning(message):
    """The dense value of a sparse Jacobian, entry by entry, as the comment of the message defines it."""
    indptr, indices, data = (
        np.frombuffer(part.data, kind) for part, kind in ((message.indptr, "<i8"), (message.indices, "<i8"), (message.data, "<f8"))
    )
    dense = np.zeros((int(np.prod(message.shape_out)), int(np.prod(message.shape_in))))
    for row in range(len(dense)):
        for entry in range(indptr[row], indptr[row + 1]):
            dense[row, indices[entry]] = data[entry]
    return dense


def banded(**changes):
    """The example of the manual, at x = (2, 3, 5, 7)."""
    parts = {
        "indptr": np.array([0, 2, 4, 6]),
        "indices": np.array([0, 1, 1, 2, 2, 3]),
        "data": np.array([3.0, 2.0, 5.0, 3.0, 7.0, 5.0]),
    } | changes
    tensors = {name: encode_tensor(part) for name, part in parts.items()}
    return tensor_pb2.SparseJacobian(dtype=tensor_pb2.DTYPE_FLOAT64, shape_out=[3], shape_in=[4], **tensors)


def test_the_example_of_the_manual():
    dense = decode_sparse(banded()).toarray()
    assert dense.tolist() == [[3, 2, 0, 0], [0, 5, 3, 0], [0, 0, 7, 5]]
    assert dense.tolist() == meaning(banded()).tolist()


def test_rows_may_be_empty_and_begin_anywhere():
    message = banded(indptr=np.array([0, 0, 0, 2]), indices=np.array([0, 3]), data=np.array([1.0, 2.0]))
    assert decode_sparse(message).toarray().tolist() == [[0] * 4, [0] * 4, [1, 0, 0, 2]]
    message = banded(indptr=np.array([0, 2, 2, 2]), indices=np.array([0, 3]), data=np.array([1.0, 2.0]))
    assert decode_sparse(message).toarray().tolist() == [[1, 0, 0, 2], [0] * 4, [0] * 4]


MALFORMED = [
    ({"indptr": np.array([0, 2, 4])}, "indptr: needed int64[4], got int64[3]"),
    ({"indptr": np.array([[0, 2, 4, 6]])}, "indptr: needed int64[4], got int64[1,4]"),
    ({"indptr": np.array([0.0, 2.0, 4.0, 6.0])}, "indptr: needed int32 or int64, got float64"),
    ({"indptr": np.array([1, 2, 4, 6])}, "indptr: needed rows from 0 to 6, the number of entries, got 1 to 6"),
    ({"indptr": np.array([0, 2, 4, 7])}, "indptr: needed rows from 0 to 6, the number of entries, got 0 to 7"),
    ({"indptr": np.array([0, 4, 2, 6])}, "got row 1 that ends before it begins"),
    ({"indptr": np.array([0, 9, 2, 6])}, "got row 1 that ends before it begins"),
    ({"indices": np.array([0, 1, 1, 2, 2, 3], np.int32)}, "indices: needed int64[6], got int32[6]"),
    ({"indices": np.array([0, 1, 1, 2, 2])}, "indices: needed int64[6], got int64[5]"),
    ({"indices": np.array([0, 1, 1, 2, 2, 4])}, "indices: needed columns from 0 to 3, got 4"),
    ({"indices": np.array([-1, 1, 1, 2, 2, 3])}, "indices: needed columns from 0 to 3, got -1"),
    ({"indices": np.array([1, 0, 1, 2, 2, 3])}, "indices: needed columns that increase within each row, got entry 1 that does not"),
    ({"indices": np.array([0, 1, 1, 2, 3, 3])}, "indices: needed columns that increase within each row, got entry 5 that does not"),
    ({"data": np.ones(6, np.float32)}, "data: needed float64[6], got float32[6]"),
    ({"data": np.ones(5)}, "indptr: needed rows from 0 to 5"),
    ({"data": np.ones((2, 3))}, "data: needed float64[6], got float64[2,3]"),
]


@pytest.mark.parametrize(("changes", "text"), MALFORMED)
def test_malformed_sparse_jacobians_are_refused(changes, text):
    with pytest.raises(ArgumentError) as raised:
        decode_sparse(banded(**changes), "result 1")
    assert raised.value.message.startswith("result 1, ")
    assert text in raised.value.message


def test_shapes_and_dtypes_that_cannot_be_are_refused():
    message = banded()
    message.shape_in.extend([2**40, 2**40])
    with pytest.raises(ShapeError, match=r"jacobian: needed a tensor of less than 2\^63 bytes"):
        decode_sparse(message)
    message = banded()
    message.ClearField("dtype")
    with pytest.raises(DtypeError, match="jacobian: needed a dtype"):
        decode_sparse(message)
    with pytest.raises(DtypeError, match="jacobian, indptr: needed a dtype"):
        decode_sparse(tensor_pb2.SparseJacobian(dtype=tensor_pb2.DTYPE_FLOAT64))


def test_a_sparse_jacobian_is_sent_at_the_size_of_its_entries():
    n = 100_000
    diagonal = csr_array((np.ones(n), np.arange(n, dtype=np.int32), np.arange(n + 1, dtype=np.int32)), shape=(n, n))
    assert encode_sparse(diagonal, (n,), (n,)).ByteSize() < 16 * n + 200


def test_scipy_is_imported_when_a_sparse_result_comes():
    code = "import sys, gradwire_proto.evaluation; print('scipy.sparse' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
