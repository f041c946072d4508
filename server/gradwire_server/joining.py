"""The results of an evaluation, joined from those of its shards as these come in. Called by threads: it takes as long as copying.

Each piece is copied to its place, and let go of; so beside the results no more is held than what is on its way. Nothing else may
live here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gradwire_core.cutting import Joint, Piece
from gradwire_core.types import Array, TensorType
from gradwire_proto import evaluation
from gradwire_proto.tensor import decode_tensor, encode_head, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import tensor_pb2
from gradwire_server.frames import CHUNKED_BYTES, Frame
from gradwire_server.segments import Segment, copy_elements


class Joining:
    """The results of an evaluation.

    Args:
        results: for each output, how each of its results is made.
        in_chunks: whether large elements travel apart from the response.

    Raises:
        OSError: there is not enough memory.
    """

    def __init__(self, results: Sequence[Sequence[Joint]], *, in_chunks: bool) -> None:
        self._results = results
        self._in_chunks = in_chunks
        self._arrays: dict[tuple[int, int], Array] = {}
        self._alone: dict[tuple[int, int], tuple[Any, Any]] = {}
        self._segments: dict[int, Segment] = {}
        self._wanted: dict[int, list[tuple[Piece, tuple[int, int], int]]] = defaultdict(list)
        for place, joint in _enumerate(results):
            for piece in joint.pieces:
                self._wanted[piece.shard].append((piece, place, joint.axis))
            if joint.type is not None:
                self._arrays[place] = self._make(joint.type)

    def add(self, shard: int, answer: Frame) -> None:
        """Take the results of a shard; the segments of its answer stay the caller's."""
        _, response = (part for part in answer.parts[:2] if not isinstance(part, Segment))
        read = _reader(answer.segments)
        found: dict[tuple[int, int], tuple[Any, Any]] = {}
        for output, result, message in _messages(pb.EvaluateResponse.FromString(bytes(response))):
            shapes = message.sparse if message.HasField("sparse") else None
            found[output, result] = evaluation.decode_result(message, read=read), shapes
        for piece, place, axis in self._wanted[shard]:
            made = found[piece.output, piece.result]
            if place in self._arrays:
                array, _ = made
                stop = piece.start + array.shape[axis]
                self._arrays[place][(slice(None),) * axis + (slice(piece.start, stop),)] = array
            else:
                self._alone[place] = made

    def finish(self, name: str) -> tuple[bytes, list[Segment]]:
        """Return the response, once all shards were added, and the segments of large elements.

        Args:
            name: of the program, on the wire.

        Raises:
            OSError: there is not enough memory.
        """
        segments: list[Segment] = []

        def encode(array: Array) -> tensor_pb2.Tensor:
            if not self._in_chunks or array.nbytes <= CHUNKED_BYTES:
                return encode_tensor(array)
            segment = self._segments.pop(id(array), None)
            segments.append(copy_elements(array) if segment is None else segment)
            return encode_head(array)

        response = pb.EvaluateResponse(program_name=name)
        for number, output in enumerate(self._results):
            message = response.results.add()
            for index in range(len(output)):
                place = number, index
                joined = self._arrays.get(place)
                result, shapes = self._alone[place] if joined is None else (joined, None)
                message.results.append(evaluation.encode_result(result, shapes, encode))
        return response.SerializeToString(), segments

    def close(self) -> None:
        """Let go of what has not been given away."""
        for segment in self._segments.values():
            segment.close()
        for kept in (self._arrays, self._alone, self._segments):
            kept.clear()

    def _make(self, type: TensorType) -> Array:
        if not self._in_chunks or type.nbytes <= CHUNKED_BYTES:
            return np.empty(type.shape, type.dtype.numpy)
        segment = Segment.create(type.nbytes)
        array: Array = np.ndarray(type.shape, type.dtype.numpy, segment.buffer)
        self._segments[id(array)] = segment
        return array


def _enumerate(results: Sequence[Sequence[Joint]]) -> Iterator[tuple[tuple[int, int], Joint]]:
    for number, output in enumerate(results):
        for index, joint in enumerate(output):
            yield (number, index), joint


def _messages(response: pb.EvaluateResponse) -> Iterator[tuple[int, int, pb.Result]]:
    for number, output in enumerate(response.results):
        for index, message in enumerate(output.results):
            yield number, index, message


def _reader(segments: Iterator[Segment]) -> Any:
    """Return what gives the array of a tensor of an answer in chunks."""

    def read(tensor: tensor_pb2.Tensor, where: str) -> Array:
        is_apart = not tensor.data and 0 not in tensor.shape
        return decode_tensor(tensor, where, next(segments).buffer if is_apart else None)

    return read
