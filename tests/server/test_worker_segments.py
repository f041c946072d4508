"""Tensors that travel in segments: inputs and seeds read in place, results written, nothing left open."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from google.rpc.status_pb2 import Status

import gradwire as gw
from gradwire_core import engine, errors
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.program import encode_program
from gradwire_proto.status import decode_status
from gradwire_proto.tensor import decode_tensor, encode_name, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server import frames
from gradwire_server.config import ServerConfig
from gradwire_server.frames import Frame, Kind
from gradwire_server.segments import Segment, copy_elements
from gradwire_server.worker import Worker
from tests.server.descriptors import open_count
from tests.server.requests import product

SIZE = 5
VECTOR = TensorType(Dtype.FLOAT64, (SIZE,))
X = np.linspace(0.5, 2.0, SIZE)
CT = np.linspace(-1.0, 1.0, SIZE)


@pytest.fixture
def worker():
    return Worker(ServerConfig())


def ask(worker: Worker, request: pb.EvaluateRequest, *segments: Segment, kind: Kind = Kind.EVALUATE) -> Frame:
    return worker.answer(Frame(kind, (b"id", request.SerializeToString(), b"", *segments)))


def vjp_request(inputs, seeds) -> pb.EvaluateRequest:
    output = pb.Output(transforms=[{"vjp": {}}], seeds=seeds)
    return pb.EvaluateRequest(program=encode_program(product(VECTOR)), inputs=inputs, outputs=[output, pb.Output()])


def read(answer: Frame) -> list[np.ndarray]:
    """The results of an answer, those in segments as well."""
    assert answer.kind is Kind.RESULT, decode_status(Status.FromString(answer.parts[0]))
    segments = answer.segments
    found = []
    for output in pb.EvaluateResponse.FromString(answer.parts[1]).results:
        for result in output.results:
            tensor = result.dense
            apart = next(segments).buffer if not tensor.data and 0 not in tensor.shape else None
            found.append(decode_tensor(tensor, elements=apart).copy())
    assert next(segments, None) is None
    return found


def head(array: np.ndarray):
    tensor = encode_tensor(array)
    tensor.data = b""
    return tensor


@pytest.mark.parametrize("describe", [head, encode_name], ids=["in chunks", "named"])
def test_inputs_and_seeds_are_read_from_segments(worker, describe):
    expected = read(ask(worker, vjp_request([encode_tensor(X)], [encode_tensor(CT)])))
    before = open_count()
    with copy_elements(X) as x, copy_elements(CT) as ct:
        both = ask(worker, vjp_request([describe(X)], [describe(CT)]), x, ct)
        seed = ask(worker, vjp_request([encode_tensor(X)], [describe(CT)]), ct)
        for answer in (both, seed):
            for found, wanted in zip(read(answer), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)
        assert x.descriptor >= 0
        assert ct.descriptor >= 0
    del x, ct
    assert open_count() == before


def test_an_input_is_read_in_place_and_cannot_be_written(worker, monkeypatch):
    seen = []
    monkeypatch.setattr(engine.Executable, "run", lambda self, inputs, seeds, room: seen.extend(inputs) or [[inputs[0] * 1.0]])
    with copy_elements(X) as x:
        ask(worker, pb.EvaluateRequest(program=encode_program(product(VECTOR)), inputs=[head(X)], outputs=[{}]), x)
        assert not seen[0].flags.writeable
        np.frombuffer(x.buffer)[0] = 7.0
        assert seen[0][0] == 7.0


def test_a_segment_of_the_wrong_size_or_none_is_the_request_s_fault(worker):
    request = pb.EvaluateRequest(program=encode_program(product(VECTOR)), inputs=[head(X)], outputs=[{}])
    with copy_elements(X[1:]) as short:
        for segments in ((short,), ()):
            answer = ask(worker, request, *segments)
            assert answer.kind is Kind.ERROR
            found = decode_status(Status.FromString(answer.parts[0]))
            assert isinstance(found, errors.ArgumentError)
            assert "needed 40 bytes" in found.message


@pytest.mark.parametrize("layout", ["dense", "structured", "sparse"])
def test_large_results_come_in_segments_in_their_order(monkeypatch, layout):
    monkeypatch.setattr("gradwire_server.worker.CHUNKED_BYTES", 8 * SIZE - 1)
    output = pb.Output(transforms=[{"jacobian": {}}], layout=f"LAYOUT_{layout.upper()}")
    request = pb.EvaluateRequest(program=encode_program(product(VECTOR)), inputs=[encode_tensor(X)], outputs=[output, pb.Output()])
    whole = pb.EvaluateResponse.FromString(ask(Worker(ServerConfig()), request).parts[1])
    before = open_count()
    answer = ask(Worker(ServerConfig()), request, kind=Kind.EVALUATE_IN_CHUNKS)
    found, segments = pb.EvaluateResponse.FromString(answer.parts[1]), answer.segments
    left_out = 0
    for tensor, wanted in zip(tensors(found), tensors(whole), strict=True):
        if len(wanted.data) >= 8 * SIZE:
            assert not tensor.data
            tensor.data = bytes(next(segments).buffer)
            left_out += 1
    assert left_out >= 2
    assert found == whole
    assert next(segments, None) is None
    answer.close()
    del answer, segments
    assert open_count() == before


def tensors(response: pb.EvaluateResponse):
    for output in response.results:
        for result in output.results:
            if result.HasField("dense"):
                yield result.dense
            for term in result.structured.terms:
                yield from (factor.tensor for factor in term.factors)
            if result.HasField("sparse"):
                yield from (result.sparse.indptr, result.sparse.indices, result.sparse.data)


def test_results_in_chunks_may_be_larger_than_a_message():
    worker = Worker(ServerConfig(max_message_bytes=10 * frames.CHUNKED_BYTES))
    x = np.zeros(2 * frames.CHUNKED_BYTES)
    type = TensorType(Dtype.FLOAT64, x.shape)
    request = pb.EvaluateRequest(program=encode_program(product(type)), inputs=[head(x)], outputs=[{}])
    with copy_elements(x) as segment:
        assert ask(worker, request, segment).kind is Kind.ERROR
        answer = ask(worker, request, segment, kind=Kind.EVALUATE_IN_CHUNKS)
        assert [part.size for part in answer.segments] == [x.nbytes]
        np.testing.assert_array_equal(read(answer)[0], x)
        answer.close()


def test_what_an_evaluation_is_predicted_to_take_comes_with_its_results(worker):
    answer = ask(worker, vjp_request([encode_tensor(X)], [encode_tensor(CT)]))
    assert answer.prediction.seconds > 0
    assert answer.prediction.peak_bytes >= 2 * X.nbytes
    assert answer.timings.taken_s > 0


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE])
def test_no_room_for_results_is_the_request_s_limit_and_leaves_nothing_open(worker, monkeypatch, number):
    made = []

    def copy(array, _spare):
        if made:
            raise OSError(number, "")
        made.append(array.nbytes)
        return copy_elements(array)

    monkeypatch.setattr("gradwire_server.worker.CHUNKED_BYTES", 0)
    before = open_count()
    request = vjp_request([encode_tensor(X)], [encode_tensor(CT)])
    with monkeypatch.context() as patch:
        patch.setattr("gradwire_server.worker.copy_elements", copy)
        answer = ask(worker, request, kind=Kind.EVALUATE_IN_CHUNKS)
    found = decode_status(Status.FromString(answer.parts[0]))
    assert isinstance(found, errors.LimitError)
    assert found.metadata["limit"] == "worker_memory_bytes"
    assert len(made) == 1
    assert open_count() == before
    ask(worker, request, kind=Kind.EVALUATE_IN_CHUNKS).close()
    assert open_count() == before


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3).T, np.arange(4, dtype=">i4"), np.array(2.0), np.zeros((0, 3)), np.array([True, False])]
)
def test_elements_are_copied_row_major_and_little_endian(array):
    with copy_elements(array) as found:
        assert bytes(found.buffer) == encode_tensor(array).data


@pytest.mark.parametrize("array", [X, X.reshape(1, 5).T, X.astype(">f8"), X.astype(np.float32), X > 1.0])
def test_elements_are_copied_to_memory_that_is_as_large(array):
    expected = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    with Segment.create(array.nbytes, is_marked=True) as spare:
        spare.write(memoryview(b"x" * array.nbytes), 0)
        with copy_elements(array, spare) as found:
            assert found.mark == spare.mark
            assert bytes(spare.buffer) == expected
    for size, written in ((array.nbytes + 1, array.nbytes + 1), (array.nbytes, array.nbytes - 1)):
        with Segment.create(size, is_marked=True) as spare:
            spare.write(memoryview(b"x" * written), 0)
            with copy_elements(array, spare) as found:
                assert found.mark != spare.mark
                assert bytes(found.buffer) == expected


def test_results_are_written_to_the_memory_that_is_left_over(worker, monkeypatch):
    monkeypatch.setattr("gradwire_server.worker.CHUNKED_BYTES", 0)
    request = vjp_request([head(X)], [head(CT)])
    with copy_elements(X) as x, copy_elements(CT) as ct, copy_elements(CT) as one, copy_elements(X[1:]) as other:
        expected = read(ask(worker, request, x, ct, kind=Kind.EVALUATE_IN_CHUNKS))
        answer = ask(worker, request, x, ct, one, other, kind=Kind.EVALUATE_IN_CHUNKS)
        marks = [segment.mark for segment in answer.segments]
        assert marks[0] == one.mark
        assert other.mark not in marks
        for found, wanted in zip(read(answer), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        answer.close()
        assert one.descriptor >= 0


@pytest.mark.parametrize(("f", "count"), [(lambda x: 2.0 * x, 3), (lambda x: np.sin(x) * x + 1.0, 3), (lambda x: x.T, 6)])
def test_large_results_are_computed_where_they_are_sent_from(worker, monkeypatch, f, count):
    x = np.arange(2.0**18).reshape(2**9, 2**9)
    program = gw.trace(f, x)
    request = pb.EvaluateRequest(program=encode_program(program), inputs=[head(x)], outputs=[{}, {}])
    copied: list[int] = []
    monkeypatch.setattr("gradwire_server.worker.copy_elements", lambda *given: copied.append(1) or copy_elements(*given))
    before = open_count()
    with copy_elements(x) as given, copy_elements(0.0 * x) as one, copy_elements(0.0 * x) as other:
        for spares in ((), (one, other), (one,)):
            answer = ask(worker, request, given, *spares, kind=Kind.EVALUATE_IN_CHUNKS)
            assert [segment.mark for segment in answer.segments][: len(spares)] == [spare.mark for spare in spares]
            for found in read(answer):
                np.testing.assert_array_equal(found, f(x))
            answer.close()
        np.testing.assert_array_equal(np.frombuffer(given.buffer), x.ravel())
    assert len(copied) == count, "the second output is the first one again, a copy"
    del given, one, other, spares, answer
    assert open_count() == before


def test_no_memory_to_compute_results_in_is_the_request_s_limit(worker, monkeypatch):
    def fail(_descriptor, _start, _size):
        raise OSError(errno.ENOSPC, "")

    x = np.arange(2.0**18)
    request = pb.EvaluateRequest(program=encode_program(product(TensorType.of(x))), inputs=[head(x)], outputs=[{}])
    before = open_count()
    with copy_elements(x) as given, monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", fail)
        answer = ask(worker, request, given, kind=Kind.EVALUATE_IN_CHUNKS)
    found = decode_status(Status.FromString(answer.parts[0]))
    assert isinstance(found, errors.LimitError)
    assert found.metadata["limit"] == "worker_memory_bytes"
    del given
    assert open_count() == before
